package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"hostmanager/protocol"
)

// tender puts right what went astray between commands: a proxy that lost its target, a container that was stopped by hand. It looks every interval,
// and acts in the exclusive lane, so never beside a flip. Restarts of an application that ends by itself are the Engine's affair, not its.
type tender struct {
	every time.Duration
	lane  *lane
	look  func(context.Context) (astray string, err error)
	mend  func(context.Context) error
	event func(protocol.Event)

	says  *outages
	owed  *atomic.Bool // what an earlier agent left was not put right yet
	blind *patience    // with a look that finds nothing out
	again *patience    // with what was put right, or could not be, and is astray again
	acted time.Time    // last
	next  time.Time    // no look before
}

// Times of tending.
const (
	lookTimeout = 10 * time.Second
	// mendPause is the least time between two attempts.
	mendPause = time.Minute
	// mendPauseMost is the least time between them where they do not help.
	mendPauseMost = 10 * time.Minute
	// mendedAfter is how long nothing must have been astray for the next time to be a new matter.
	mendedAfter = 5 * time.Minute
)

func newTender(every time.Duration, l *lane, says *outages) *tender {
	return &tender{every: every, lane: l, says: says, owed: &atomic.Bool{}, blind: newPatience(every, 3*every), again: newPatience(mendPause, mendPauseMost)}
}

// tend looks after the platform until ctx ends.
func (a *Agent) tend(ctx context.Context) {
	a.awaitRecovery(ctx)
	t := newTender(a.LookEvery, a.exclusive, a.outages)
	t.owed = &a.owed
	t.look, t.event = a.Platform.Astray, a.event
	t.mend = a.putRight
	t.run(ctx)
}

// putRight has the platform put right what it can. What it cannot, a container that somebody removed, start-up can: it brings the environment's
// version where that does not serve.
func (a *Agent) putRight(ctx context.Context) error {
	defer a.workDone()
	bounded, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	err := a.Platform.Recover(bounded)
	if err == nil {
		return nil
	}
	if errBoot := a.boot(ctx); errBoot != nil {
		return errors.Join(err, errBoot)
	}
	if astray, errLook := a.Platform.Astray(ctx); astray != "" || errLook != nil {
		return err // there is no version of the environment's to bring
	}
	return nil
}

// workDone tells those who wait that something was done outside any command.
func (a *Agent) workDone() {
	a.registrar.poke()
	select {
	case a.worked <- struct{}{}:
	default:
	}
}

func (t *tender) run(ctx context.Context) {
	tick := time.NewTicker(t.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if waiting, running := t.lane.depth(); waiting+running == 0 && !time.Now().Before(t.next) {
			t.pass(ctx)
		}
	}
}

// pass looks once, and acts where that is called for.
func (t *tender) pass(ctx context.Context) {
	astray, err := t.lookOnce(ctx)
	if err == nil {
		t.says.answered(onPlatform)
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		t.says.failed(onPlatform, err, 1)
		t.next = time.Now().Add(t.blind.next())
	case astray == "" && t.owed.Load():
		t.blind.reset()
		t.settle(ctx)
	case astray == "":
		t.blind.reset()
		if time.Since(t.acted) > mendedAfter {
			t.again.reset()
		}
	default:
		t.blind.reset()
		if !t.act(ctx) {
			return
		}
		t.acted = time.Now()
		t.next = t.acted.Add(max(mendPause, t.again.next()))
	}
}

func (t *tender) lookOnce(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	return t.look(ctx)
}

// act waits for its turn in the lane, looks again, because what ran before it may have changed everything, and has the platform put it right. It
// returns false when ctx ended first: then the lane may still be at it.
func (t *tender) act(ctx context.Context) bool {
	return t.inLane(ctx, "tend", func(ctx context.Context) {
		astray, err := t.lookOnce(ctx)
		if astray == "" || err != nil {
			return
		}
		t.tell(astray, t.mend(ctx))
	})
}

// inLane has the lane do something and waits for it; false when ctx ended first: the lane may be closed, and what it does never comes.
func (t *tender) inLane(ctx context.Context, what string, do func(context.Context)) bool {
	done := make(chan struct{})
	t.lane.push(job{identity: what, do: func(ctx context.Context) {
		defer close(done)
		do(ctx)
	}}, false)
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

// settle puts right what the agent could not when it started, because the platform did not answer then.
func (t *tender) settle(ctx context.Context) {
	if !t.inLane(ctx, "settle", func(ctx context.Context) {
		if err := t.mend(ctx); err == nil {
			t.owed.Store(false)
		}
	}) {
		return
	}
	t.next = time.Now().Add(max(mendPause, t.again.next()))
}

// tell says every success, and of failures in a row the first and one from time to time.
func (t *tender) tell(astray string, err error) {
	switch speaks := t.again.speaks(); {
	case err == nil:
		t.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("Outside any deployment, %s. It was put right.", astray)})
	case speaks:
		t.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("Outside any deployment, %s. It could not be put right: %v. It is tried again.", astray, err)})
	}
}
