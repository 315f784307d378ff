package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"hostmanager/environment"
)

// ErrAborted: somebody else ended the operation. Every such error is an *AbortedError.
var ErrAborted = errors.New("aborted")

// AbortedError says who ended an operation and why.
type AbortedError struct {
	Operation string
	Abort     environment.Abort
}

func (e *AbortedError) Error() string {
	return fmt.Sprintf("%s: aborted by %s; `hmctl status` tells what became of it", e.Operation, e.Abort)
}

// Unwrap makes errors.Is(err, ErrAborted) hold.
func (e *AbortedError) Unwrap() error { return ErrAborted }

// maxHandover is how long whoever drives an operation has to let go of it once it is being aborted.
const maxHandover = 10 * time.Second

// handover is a part of the lock's life, so that both sides, who have the same one, agree.
func (f *Fleet) handover() time.Duration {
	ttl := f.LockTTL
	if ttl <= 0 {
		ttl = environment.DefaultLockTTL
	}
	return min(maxHandover, ttl/12)
}

// maxOthers bounds what of an operation's targets stands in the lock, which is read with a bound.
const maxOthers = 50

// announce says in the lock what is about to be done on instances, so that others can end it.
func (o *operation) announce() error {
	if o.lock == nil {
		return nil
	}
	op := environment.Operation{RequestID: o.d.RequestID, Command: o.d.Command, Purpose: o.kind.purpose}
	if !o.kind.versions {
		op.Others = o.others[:min(len(o.others), maxOthers)]
	}
	return o.lock.SetOperation(op)
}

// watchAbort looks after the record while the operation runs: once somebody marked it as aborted the context it returns ends. stop ends the watch and
// returns an *AbortedError where err, or the end of the context, came of that.
func (o *operation) watchAbort(ctx context.Context) (_ context.Context, stop func(err error) error) {
	if !o.kind.versions {
		return ctx, func(error) error { return nil }
	}
	watched, cancel := context.WithCancelCause(ctx)
	id := o.d.ID
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(max(o.handover()/4, time.Millisecond))
		defer tick.Stop()
		for {
			select {
			case <-watched.Done():
				return
			case <-tick.C:
			}
			if a := o.abortOf(watched, id); a != nil {
				cancel(&AbortedError{o.kind.purpose, *a})
				return
			}
		}
	})
	return watched, func(err error) error {
		cancel(nil)
		wg.Wait()
		var aborted *AbortedError
		switch {
		case o.d.State.Terminal(): // its end was written before anybody could abort it
		case errors.As(context.Cause(watched), &aborted):
			return aborted
		case errors.Is(err, environment.ErrChanged), errors.Is(context.Cause(ctx), environment.ErrLockLost):
			ctx, cancel := afterwards(ctx)
			defer cancel()
			if a := o.abortOf(ctx, id); a != nil {
				return &AbortedError{o.kind.purpose, *a}
			}
		}
		return nil
	}
}

// abortOf reads whether a deployment is being aborted. What cannot be read now is read the next time.
func (f *Fleet) abortOf(ctx context.Context, id int64) *environment.Abort {
	d, _, err := f.Record.Deployment(ctx, id)
	if err != nil {
		return nil
	}
	return d.Abort
}
