package fleet

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/protocol"
)

// outerCommand is the outer CommandName: the name Elastic Beanstalk's own dispatcher uses, opaque to instances.
const outerCommand = "ElasticBeanstalkCommand-AWSEBAutoScalingGroup"

// resourceName is the resource_name of every request.
const resourceName = "AWSEBAutoScalingGroup"

// senders is how many queues are sent to at once.
const senders = 16

// Waits between receives that failed.
const (
	receivePause    = time.Second
	maxReceivePause = 15 * time.Second
	minReceiveWait  = time.Second
)

func (o *operation) timeout() time.Duration { return time.Duration(o.d.Timeout) * time.Second }

// send tells every instance that has not answered the stage yet. It may be told twice: the second message has the identity of the first.
func (o *operation) send(ctx context.Context, i int, waiting []environment.Target, orders []order) error {
	gone := make([]bool, len(waiting))
	var group errgroup.Group
	group.SetLimit(senders)
	for n, t := range waiting {
		body := orders[n/maxNamed].body
		group.Go(func() error {
			err := persist(ctx, func() error { return o.Queues.Send(ctx, t.Queue, body) })
			if errors.Is(err, queue.ErrQueueMissing) {
				gone[n] = true
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return o.withoutQueue(ctx, i, waiting, gone)
}

// queueTries is how often a call is made that SQS did not answer. What the SDK does not try again by itself is an answer that was cut off.
const queueTries = 3

// persist makes a call that may be made twice until it is answered.
func persist(ctx context.Context, call func() error) error {
	for try := 1; ; try++ {
		err := call()
		if err == nil || queue.Permanent(err) || try == queueTries || ctx.Err() != nil {
			return err
		}
		if err := wait(ctx, time.Duration(try)*receivePause/4); err != nil {
			return err
		}
	}
}

// causeNoQueue is the cause we give an instance that could not be sent to.
const causeNoQueue = "no_queue"

// withoutQueue takes instances whose queue is gone for failed ones.
func (o *operation) withoutQueue(ctx context.Context, i int, waiting []environment.Target, gone []bool) error {
	var answers []answer
	for n, t := range waiting {
		if gone[n] {
			answers = append(answers, answer{outcome: environment.Outcome{
				InstanceID: targetID(t), Status: protocol.Failure, ReturnCode: 1, Cause: causeNoQueue, At: now(),
				Msg: "Its command queue " + t.Queue + " does not exist",
			}})
		}
	}
	return o.take(ctx, i, answers)
}

// targetID names a target, also one of which only the queue is known.
func targetID(t environment.Target) string {
	if t.InstanceID != "" {
		return t.InstanceID
	}
	return queueName(t.Queue)
}

// waiting returns the targets without an outcome in the stage. Those an earlier stage was not for are not asked again.
func (o *operation) waiting(s environment.Stage) []environment.Target {
	return slices.DeleteFunc(slices.Clone(o.d.Targets), func(t environment.Target) bool {
		_, ok := s.Outcomes[targetID(t)]
		return ok || o.ignored(t)
	})
}

// ignored tells whether the instance said that the operation is not for it.
func (o *operation) ignored(t environment.Target) bool {
	return slices.ContainsFunc(o.d.Stages, func(s environment.Stage) bool { return s.Outcomes[targetID(t)].Ignored })
}

// collect waits until every target answered the stage or its time is over.
func (o *operation) collect(ctx context.Context, i int) error {
	s := &o.d.Stages[i]
	deadline := s.SentAt.Add(o.timeout() + o.pickup())
	quiet := o.watchQuiet(s.SentAt)
	pause := &backoff.ExponentialBackOff{InitialInterval: receivePause, MaxInterval: maxReceivePause, Multiplier: 2, RandomizationFactor: 0.2}
	for {
		waiting := o.waiting(*s)
		if len(waiting) == 0 {
			return nil
		}
		o.look(ctx, quiet, s.SentAt, waiting)
		left := deadline.Sub(now())
		messages, err := o.Queues.Receive(ctx, o.results, queue.MaxBatch, min(max(min(left, quiet.left()), minReceiveWait), queue.MaxWait))
		if err != nil {
			if ctx.Err() != nil || queue.Permanent(err) || left <= 0 {
				return err
			}
			if err := wait(ctx, pause.NextBackOff()); err != nil {
				return err
			}
			continue
		}
		pause.Reset()
		// What came in time and was not read yet is read; a flood of what is no answer does not put the end off for ever.
		if left <= 0 && (len(messages) == 0 || left < -o.pickup()) {
			o.timedOut(i, waiting)
			return nil
		}
		if err := o.receive(ctx, i, messages); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *operation) timedOut(i int, waiting []environment.Target) {
	s := &o.d.Stages[i]
	for _, t := range waiting {
		s.TimedOut = append(s.TimedOut, targetID(t))
	}
	slices.Sort(s.TimedOut)
	o.line(protocol.Warn, KindTimeout, "", textTimeout, listed(s.TimedOut))
}

// receive takes what the messages answer and then deletes them: first the record knows, then the queue forgets.
func (o *operation) receive(ctx context.Context, i int, messages []queue.Message) error {
	var answers []answer
	for _, m := range messages {
		a, err := o.judge(ctx, i, m.Body)
		switch {
		case errors.Is(err, errForeign):
			o.sayForeign(err)
		case err != nil:
			return err
		case a != nil:
			answers = append(answers, *a)
		}
	}
	if err := o.take(ctx, i, answers); err != nil {
		return err
	}
	for _, m := range messages {
		// One that stays comes again and is known by its ResultId.
		if err := o.Queues.Delete(ctx, o.results, m.Receipt); err != nil && ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// maxForeign is how many messages that are no answers are told one by one.
const maxForeign = 10

func (o *operation) sayForeign(err error) {
	o.foreign++
	switch {
	case o.foreign <= maxForeign:
		o.line(protocol.Warn, KindNotice, "", "Ignored a message on the result queue: %v.", err)
	case o.foreign == maxForeign+1:
		o.line(protocol.Warn, KindNotice, "", "More such messages come on the result queue %s and are ignored without a word: somebody else sends to it.", o.d.ResultQueue)
	}
}

// take writes answers into the record and then tells them.
func (o *operation) take(ctx context.Context, i int, answers []answer) error {
	if len(answers) == 0 {
		return nil
	}
	s := &o.d.Stages[i]
	if s.Outcomes == nil {
		s.Outcomes = map[string]environment.Outcome{}
	}
	before := len(tally(*s).succeeded)
	answers = slices.DeleteFunc(answers, func(a answer) bool {
		_, again := s.Outcomes[a.outcome.InstanceID]
		if !again {
			s.Outcomes[a.outcome.InstanceID] = a.outcome
		}
		return again
	})
	if err := o.save(ctx); err != nil {
		return err
	}
	for _, a := range answers {
		if a.outcome.Status == protocol.Success {
			before++
		}
		o.tell(i, a, before)
	}
	return nil
}

// tell prints an answer: its events, its failure, and in the last stage how many instances are through.
func (o *operation) tell(i int, a answer, succeeded int) {
	id := a.outcome.InstanceID
	if o.told == nil {
		o.told = map[int][]string{}
	}
	o.told[i] = append(o.told[i], id)
	for _, e := range a.events {
		o.line(e.Severity, KindEvent, id, "%s", e.Msg)
	}
	if a.notice != "" {
		o.line(protocol.Warn, KindNotice, id, "%s", a.notice)
	}
	last := i == len(o.d.Stages)-1
	switch {
	case a.outcome.Ignored:
		o.line(protocol.Info, KindNotice, id, "[Instance: %s] %s", id, ignoredMsg)
	case a.outcome.Cause == causeNoQueue:
		o.line(protocol.Error, KindFailed, id, "Instance %s was not reached. %s: its agent makes it anew when it starts; if the instance is gone, take it out with `hmctl forget %s`.",
			id, a.outcome.Msg, id)
	case a.outcome.Status != protocol.Success:
		o.line(protocol.Error, KindFailed, id, textInstanceFail, id, a.outcome.ReturnCode, a.msg())
	case o.kind.speaks:
		o.line(protocol.Info, KindDone, id, "[Instance: %s] %s", id, a.msg())
	case last:
		o.line(protocol.Info, KindDone, id, textCompleted, succeeded, o.applicable())
	}
}

// applicable is how many targets the operation is for.
func (o *operation) applicable() int {
	return len(slices.DeleteFunc(slices.Clone(o.d.Targets), o.ignored))
}
