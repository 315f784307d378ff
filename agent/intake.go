package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	hostaws "hostmanager/aws"
	"hostmanager/aws/queue"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// pollPatience is how long it takes at most to notice that a queue which did not answer does so again.
const pollPatience = 10 * time.Second

// pollWait is how long one poll waits for a first message.
const pollWait = queue.MaxWait

// Bounds of patience with the command queue.
const (
	// refusedPatience is how long it takes at most to notice that a queue which may not be read may be read now: somebody has to allow it first.
	refusedPatience = time.Minute
	// pollTolerance is how many polls in a row have to fail for it to be worth a word: a poll is tried once, and the network loses a packet now and then.
	pollTolerance = 3
	// shortWait is how long a poll waits for a first message after one that failed, so that its success is soon known.
	shortWait = time.Second
)

// intake polls the command queue until ctx ends: the next poll begins at once, after an error with growing waits.
func (a *Agent) intake(ctx context.Context) {
	again, refused := newPatience(250*time.Millisecond, pollPatience), newPatience(time.Second, refusedPatience)
	ready, missing, wait := false, false, pollWait
	for ctx.Err() == nil {
		a.beat()
		if !ready {
			ready = true
			a.notify("READY=1")
		}
		err := a.poll(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		a.polled(err)
		a.checkClock()
		if err == nil {
			again.reset()
			refused.reset()
			missing, wait = false, pollWait
			continue
		}
		wait = shortWait
		// A queue that is gone is made anew at once; only when that does not help is it waited.
		if first := errors.Is(err, queue.ErrQueueMissing) && !missing; first {
			missing = true
			continue
		}
		if errors.Is(err, queue.ErrAccessDenied) {
			refused.wait(ctx, nil)
			continue
		}
		again.wait(ctx, nil)
	}
}

// polled notes how a poll went, and says when that changes for good.
func (a *Agent) polled(err error) {
	a.mu.Lock()
	a.lastPoll, a.pollErr = a.Now(), err
	a.mu.Unlock()
	if err != nil {
		tolerance := pollTolerance
		if queue.Permanent(err) {
			tolerance = 2 // it is not the network; the first is for a queue that is made anew
		}
		a.outages.failed(onCommands, err, tolerance)
		return
	}
	if a.outages.answered(onCommands) {
		a.outbox.hurry()
		a.registrar.poke()
	}
}

// poll receives, waiting for a first message, and takes what came. No command of the exclusive lane begins before all of it is accepted: of
// deployments that waited in the queue, as after an outage, only the newest is to run. Where commands gathered SQS hands them out in parts, so it
// is asked for more until nothing comes or can be taken; the lane is held for holdMost at most.
func (a *Agent) poll(ctx context.Context, wait time.Duration) error {
	a.awaitRoom(ctx)
	url, err := a.commandQueue(ctx)
	if err != nil {
		return err
	}
	messages, err := a.receive(ctx, url, wait)
	if err != nil {
		return err
	}
	gathered := a.gathered(messages)
	if gathered || len(messages) > 1 {
		a.exclusive.hold()
		defer a.exclusive.release()
		defer time.AfterFunc(holdMost, a.exclusive.release).Stop()
	}
	took, err := a.acceptBatch(ctx, url, messages)
	for range morePolls {
		if err != nil || !gathered || took == 0 {
			return err
		}
		a.beat()
		if messages, err = a.receive(ctx, url, shortWait); err != nil || len(messages) == 0 {
			return err
		}
		took, err = a.acceptBatch(ctx, url, messages)
	}
	return err
}

const (
	// holdMost is how long the lane is held: a refusal may wait for room on the disk, and it is the lane's jobs that can make some.
	holdMost = 3 * time.Second
	// morePolls bounds how often a queue in which commands gathered is asked for more before the first of them begins.
	morePolls = 2 * laneRoom / queue.MaxBatch
	// gatheredAge is how long a message waits at most in the queue of an agent that listens.
	gatheredAge = 5 * time.Second
)

// gathered tells whether more commands may wait behind these: they are as many as one poll brings, or one of them waited for long. Ages are told by
// AWS's clock.
func (a *Agent) gathered(messages []queue.Message) bool {
	now := a.Now()
	if a.Skew != nil {
		if skew := a.Skew(); skew.Abs() <= hostaws.MaxSkew { // beyond it Now is AWS's already
			now = now.Add(-skew)
		}
	}
	return len(messages) == queue.MaxBatch || slices.ContainsFunc(messages, func(m queue.Message) bool {
		return !m.Sent.IsZero() && now.Sub(m.Sent) > gatheredAge
	})
}

func (a *Agent) receive(ctx context.Context, url string, wait time.Duration) ([]queue.Message, error) {
	a.Logs.Listener.Debugf("Receiving messages for queue %s", url)
	messages, err := a.Queue.Receive(ctx, url, queue.MaxBatch, wait)
	if errors.Is(err, queue.ErrQueueMissing) {
		a.forgetQueue()
	}
	if err != nil {
		return nil, fmt.Errorf("receive commands: %w", err)
	}
	return messages, nil
}

// acceptBatch takes what one poll brought and deletes what was taken, and tells how much that was.
func (a *Agent) acceptBatch(ctx context.Context, url string, messages []queue.Message) (took int, err error) {
	taken, err := a.takeAll(messages)
	for _, m := range taken {
		done, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
		err := a.Queue.Delete(done, url, m.Receipt)
		cancel()
		if err != nil { // it comes again and is known as a duplicate
			a.Logs.Listener.Errorf("Could not delete message for handle %s", m.Receipt)
			a.log.Warn("message not deleted", slog.Any("error", err))
		}
	}
	if errors.Is(err, journal.ErrFull) { // no fault of the queue's; it comes again when its visibility ends
		a.disk.noJournal(err)
		return 0, nil
	}
	if err != nil {
		// What was not taken comes again when its visibility ends.
		return len(taken), fmt.Errorf("accept command: %w", err)
	}
	if len(taken) == 0 && len(messages) > 0 { // all of it is for a lane that is full
		a.breathe(ctx, fullPause)
	}
	return len(taken), nil
}

// takeAll returns the messages that may be deleted; the others stay in the queue.
func (a *Agent) takeAll(messages []queue.Message) (taken []queue.Message, err error) {
	for _, m := range messages {
		if a.mustWait(m) {
			continue
		}
		if err := a.take(m); err != nil {
			return taken, err
		}
		taken = append(taken, m)
	}
	return taken, nil
}

// fullPause is between polls that bring only commands whose lane is full.
const fullPause = time.Second

// awaitRoom waits until a lane takes more, or ctx ends. To wait is right then: the pulse goes on, or a restart would meet the same full lanes.
func (a *Agent) awaitRoom(ctx context.Context) {
	for ctx.Err() == nil && a.exclusive.full() && a.shared.full() {
		a.beat()
		a.breathe(ctx, fullPause)
	}
}

// breathe waits for d, or until a lane has room again, or ctx ends.
func (a *Agent) breathe(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	a.exclusive.room(ctx)
}

// mustWait tells whether a command's lane is full. Its message then stays in the queue, which is durable as well, and comes again when its
// visibility ends; commands for the other lane pass it.
func (a *Agent) mustWait(m queue.Message) bool {
	if !a.exclusive.full() && !a.shared.full() {
		return false
	}
	c, err := protocol.DecodeCommand([]byte(m.Body))
	if err != nil || a.checkSigned(c) != nil { // it is refused at once
		return false
	}
	request, err := protocol.DecodeRequest(c.Data)
	if err != nil {
		return false
	}
	if _, known := a.Journal.Command(c.Identity()); known {
		return false
	}
	return a.laneOf(request.CommandName).full()
}

// checkClock says once that this machine's clock is off, and once that it is right again.
func (a *Agent) checkClock() {
	if a.Skew == nil {
		return
	}
	skew := a.Skew()
	off := skew > hostaws.MaxSkew || skew < -hostaws.MaxSkew
	switch {
	case off && !a.clockOff:
		word := "ahead of"
		if skew < 0 {
			word, skew = "behind", -skew
		}
		a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
			"This machine's clock is %s %s AWS's. Whether a command expired is judged by AWS's until the clock is right: set it (chronyc makestep).", skew.Round(time.Second), word)})
	case !off && a.clockOff:
		a.event(protocol.Event{Severity: protocol.Info, Msg: "This machine's clock agrees with AWS's again."})
	}
	a.clockOff = off
}

const deleteTimeout = 15 * time.Second

// commandQueue returns the URL of the instance's queue. Where none is configured the queue has its default name and is made when missing: an
// instance that joins at night has nobody to make it.
func (a *Agent) commandQueue(ctx context.Context) (string, error) {
	if url := a.knownQueue(); url != "" {
		return url, nil
	}
	name := protocol.CommandQueue(a.Config.EnvironmentID, a.InstanceID)
	url, err := a.Queue.URL(ctx, name)
	if errors.Is(err, queue.ErrQueueMissing) {
		url, err = a.Queue.Create(ctx, name, map[string]string{"MessageRetentionPeriod": "345600", "ReceiveMessageWaitTimeSeconds": "20"})
	}
	if err != nil {
		return "", fmt.Errorf("find command queue %s: %w", name, err)
	}
	a.mu.Lock()
	a.queueURL = url
	a.mu.Unlock()
	a.registrar.poke()
	return url, nil
}

func (a *Agent) knownQueue() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.queueURL
}

// forgetQueue makes the next poll look for the queue anew, unless the operator named it.
func (a *Agent) forgetQueue() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queueURL = a.Config.CommandQueueURL
}
