package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"hostmanager/aws/queue"
	"hostmanager/protocol"
)

// pollPatience is how long it takes at most to notice that a queue which did not answer does so again.
const pollPatience = 10 * time.Second

// pollWait is how long one poll waits for a first message.
const pollWait = queue.MaxWait

// intake polls the command queue until ctx ends: the next poll begins at once, after an error with growing waits.
func (a *Agent) intake(ctx context.Context) {
	again := newPatience(250*time.Millisecond, pollPatience)
	ready, missing := false, false
	for ctx.Err() == nil {
		a.pulse.Store(a.Now().UnixNano())
		if !ready {
			ready = true
			a.notify("READY=1")
		}
		err := a.poll(ctx)
		if ctx.Err() != nil {
			return
		}
		a.polled(err)
		if err == nil {
			if again.failed() {
				a.log.Info("command queue answers again")
			}
			again.reset()
			missing = false
			continue
		}
		if again.speaks() {
			a.Logs.Listener.Errorf("%s", err)
			a.log.Warn("command queue does not answer", slog.Any("error", err))
		}
		// A queue that is gone is made anew at once; only when that does not help is it waited.
		if first := errors.Is(err, queue.ErrQueueMissing) && !missing; first {
			missing = true
			continue
		}
		again.wait(ctx, nil)
	}
}

func (a *Agent) polled(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lastPoll, a.pollErr = a.Now(), err
}

// poll receives once and takes what came.
func (a *Agent) poll(ctx context.Context) error {
	a.awaitRoom(ctx)
	url, err := a.commandQueue(ctx)
	if err != nil {
		return err
	}
	a.Logs.Listener.Debugf("Receiving messages for queue %s", url)
	messages, err := a.Queue.Receive(ctx, url, queue.MaxBatch, pollWait)
	if errors.Is(err, queue.ErrQueueMissing) {
		a.forgetQueue()
		return fmt.Errorf("receive commands: %w", err)
	}
	if err != nil {
		return fmt.Errorf("receive commands: %w", err)
	}
	for _, m := range messages {
		if err := a.take(m); err != nil {
			// What was not taken comes again when its visibility ends.
			return fmt.Errorf("accept command: %w", err)
		}
		done, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
		err := a.Queue.Delete(done, url, m.Receipt)
		cancel()
		if err != nil { // it comes again and is known as a duplicate
			a.Logs.Listener.Errorf("Could not delete message for handle %s", m.Receipt)
			a.log.Warn("message not deleted", slog.Any("error", err))
		}
	}
	return nil
}

// awaitRoom waits until both lanes take more, or ctx ends. To wait is right then: the pulse goes on, or a restart would meet the same full lane.
func (a *Agent) awaitRoom(ctx context.Context) {
	for _, l := range []*lane{a.exclusive, a.shared} {
		for full := true; full && ctx.Err() == nil; {
			a.pulse.Store(a.Now().UnixNano())
			short, cancel := context.WithTimeout(ctx, intakeStall/3)
			full = !l.room(short)
			cancel()
		}
	}
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
