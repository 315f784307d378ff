package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/protocol"
)

// Resume finishes the latest deployment from its record. One that has ended, or is being aborted, is ErrNothingToResume.
func (f *Fleet) Resume(ctx context.Context) (Report, error) {
	var report Report
	err := f.lockedAs(ctx, environment.LockRequest{Reason: "resume a deployment", TakeDead: true}, func(ctx context.Context) error {
		o, err := f.unfinished(ctx)
		if err != nil {
			return err
		}
		if o.d.Abort != nil {
			return fmt.Errorf("%w: deployment %d (%s) is being aborted by %s; `hmctl abort` carries that on", ErrNothingToResume, o.d.ID, o.d.VersionLabel, o.d.Abort)
		}
		if err := o.checkManifest(ctx); err != nil {
			return err
		}
		if !protocol.IsResultQueue(f.Record.EnvironmentID(), o.d.ResultQueue) { // what is no answer would be taken out of it
			return fmt.Errorf("%w: the record of deployment %d names the queue %.80q for results; somebody changed it: deploy anew", environment.ErrCorrupt, o.d.ID, o.d.ResultQueue)
		}
		if err := o.endUndone(ctx); err != nil {
			return err
		}
		f.say(protocol.Info, "Resuming deployment %d (%s), begun by %s at %s.", o.d.ID, o.d.VersionLabel, o.d.Holder, o.d.StartedAt.Format(time.RFC3339))
		o.sayStarting()
		report, err = o.execute(ctx)
		return err
	})
	return report, err
}

// unfinished makes an operation of the latest deployment's record.
func (f *Fleet) unfinished(ctx context.Context) (*operation, error) {
	d, etag, err := f.Record.LastDeployment(ctx)
	if errors.Is(err, environment.ErrNotFound) {
		return nil, fmt.Errorf("%w: there is no deployment", ErrNothingToResume)
	}
	if err != nil {
		return nil, err
	}
	if d.State.Terminal() {
		// An operator who died right after the last write left its queue.
		f.removeResultQueue(ctx, d.ResultQueue)
		return nil, fmt.Errorf("%w: deployment %d (%s) has ended: %s", ErrNothingToResume, d.ID, d.VersionLabel, d.State)
	}
	kind, ok := recordedKind(d)
	if !ok || d.State != environment.Running || len(d.Stages) == 0 || len(d.Targets) == 0 || d.Timeout <= 0 {
		return nil, fmt.Errorf("%w: deployment %d is of a kind this hmctl does not know", environment.ErrCorrupt, d.ID)
	}
	return &operation{Fleet: f, kind: kind, d: d, etag: etag}, nil
}

// giveUpUnfinished ends a deployment that nobody finished, because a new one takes its place.
func (f *Fleet) giveUpUnfinished(ctx context.Context) error {
	o, err := f.unfinished(ctx)
	if errors.Is(err, ErrNothingToResume) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := o.giveUp(ctx, "superseded by a later deployment"); err != nil {
		return err
	}
	o.removeResultQueue(ctx, o.d.ResultQueue)
	return nil
}

// giveUp ends the deployment as aborted, and before that the one it undoes: once this one has ended nobody comes to that any more.
func (o *operation) giveUp(ctx context.Context, why string) error {
	if err := o.endUndone(ctx); err != nil {
		return err
	}
	o.d.State, o.d.Failure = environment.Aborted, why
	if err := o.save(ctx); err != nil {
		return err
	}
	o.judged(ctx)
	o.line(protocol.Warn, KindNotice, "", "Deployment %d (%s) of %s was not finished and is given up: %s.", o.d.ID, o.d.VersionLabel, o.d.Holder, why)
	if last := o.d.Stages[len(o.d.Stages)-1]; (o.kind.back || !last.SentAt.IsZero()) && o.kind.mixed != "" {
		o.line(protocol.Warn, KindFailure, "", "%s", o.kind.mixed)
	}
	return nil
}

// removeResultQueue removes a queue nobody will read any more. One that cannot be removed is swept later. The name may come from a record that somebody
// changed, and what is none of ours stays.
func (f *Fleet) removeResultQueue(ctx context.Context, name string) {
	if !protocol.IsResultQueue(f.Record.EnvironmentID(), name) {
		f.say(protocol.Warn, "The queue %.80q, which a record names for results, is no result queue of environment %s and is left as it is.", name, f.Record.EnvironmentID())
		return
	}
	err := persist(ctx, func() error {
		url, err := f.Queues.URL(ctx, name)
		if err != nil {
			return err
		}
		return f.Queues.DeleteQueue(ctx, url)
	})
	if err != nil && !errors.Is(err, queue.ErrQueueMissing) {
		f.say(protocol.Warn, "The result queue %s could not be removed and is left to a later operation: %v.", name, err)
	}
}

// maxSwept bounds how many queues one operation looks at.
const maxSwept = 200

// sweep removes result queues of operations that ended without doing so, by age.
func (o *operation) sweep(ctx context.Context) {
	urls, err := o.Queues.List(ctx, protocol.ResultQueuePrefix(o.Record.EnvironmentID()))
	if err != nil {
		return // the next operation tries again
	}
	urls = slices.DeleteFunc(urls, func(url string) bool {
		return !protocol.IsResultQueue(o.Record.EnvironmentID(), queueName(url))
	})
	for _, url := range urls[:min(len(urls), maxSwept)] {
		attrs, err := o.Queues.Attributes(ctx, url)
		if err != nil {
			continue
		}
		made, err := strconv.ParseInt(attrs["CreatedTimestamp"], 10, 64)
		if err != nil || time.Since(time.Unix(made, 0)) < resultQueueAge {
			continue
		}
		_ = o.Queues.DeleteQueue(ctx, url)
	}
}
