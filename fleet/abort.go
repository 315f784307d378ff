package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hostmanager/environment"
	"hostmanager/protocol"
)

// Times of an abort.
const (
	// DefaultAbortTimeout is how long an instance may take to undo what it was doing: its own bound of that and some more.
	DefaultAbortTimeout = 150 * time.Second
	// abortPickup is how long an instance may take to receive an abort, which waits behind nothing there.
	abortPickup = 30 * time.Second
	// abortValidity is how long an abort waits for an instance that is away: what it was told before must not be carried on when it comes back.
	abortValidity = 24 * time.Hour
)

var (
	// ErrNothingToAbort: no operation is under way, or it has ended.
	ErrNothingToAbort = errors.New("nothing to abort")
	// ErrTooLate: all instances had carried the operation out before the abort reached them.
	ErrTooLate = errors.New("too late to abort")
	// ErrNotUniform: the operation is aborted, and instances run different versions, or it is not known what they run. The lines said what and where.
	ErrNotUniform = errors.New("the instances do not all run the same")
)

// AbortRequest ends the operation under way.
type AbortRequest struct {
	Reason  string
	Timeout time.Duration // how long an instance may take; 0: DefaultAbortTimeout
}

// AbortReport is what became of an abort.
type AbortReport struct {
	OperationID string          `json:"operation_id"`
	Command     string          `json:"command"`
	Aborted     bool            `json:"aborted"` // false: it was too late
	Uniform     bool            `json:"uniform"` // no instance has what the others have not, as far as all were asked
	Instances   []AfterAbort    `json:"instances"`
	Rollback    *Report         `json:"rollback,omitempty"` // of the instances that had the new version
	Abort       *abortInitiator `json:"abort,omitempty"`
}

type abortInitiator = environment.Abort

// AfterAbort is one instance once the abort is over there.
type AfterAbort struct {
	InstanceID   string `json:"instance_id"`
	Answered     bool   `json:"answered"`
	Serial       int64  `json:"serial,omitempty"` // what it runs; of one that did not answer, what it ran when it was last seen
	VersionLabel string `json:"version_label,omitempty"`
	Msg          string `json:"msg,omitempty"`
	New          bool   `json:"new,omitempty"` // it runs what was to be aborted; one that did not answer had it for good when it was last seen
}

// victim is the operation that is to be aborted.
type victim struct {
	d        environment.Deployment // of an operation that keeps no record only what the lock tells
	etag     string
	kind     operationKind
	lock     environment.LockInfo // as it was when the victim was found
	recorded bool
}

// Abort ends the operation under way, whoever drives it and whether they still do: marks its record, so that no further stage is sent, has every instance
// it went to end and undo it, and puts those that already had the new version back to the desired state. The error is ErrNothingToAbort, ErrTooLate,
// ErrNotUniform or a *environment.LockedError, where it is none of AWS.
func (f *Fleet) Abort(ctx context.Context, q AbortRequest) (AbortReport, error) {
	if err := errors.Join(f.validate(), checkTimeout(q.Timeout)); err != nil {
		return AbortReport{}, err
	}
	mark := environment.Abort{By: f.Holder, Reason: q.Reason, At: now()}
	v, err := f.markVictim(ctx, mark)
	if err != nil {
		return AbortReport{}, err
	}
	if v.d.Abort != nil {
		mark = *v.d.Abort
	}
	f.say(protocol.Warn, "Aborting %s (request %s).", v, v.d.RequestID)
	report := AbortReport{OperationID: v.d.RequestID, Command: v.d.Command, Abort: &mark, Instances: []AfterAbort{}}
	err = f.lockedAs(ctx, f.takeFrom(ctx, v), func(ctx context.Context) error {
		if v, err = f.reread(ctx, v); err != nil {
			return err
		}
		return f.abort(ctx, q, v, &report)
	})
	if err != nil && ctx.Err() != nil && !report.over() {
		next := "hmctl abort"
		if report.Aborted {
			next = "hmctl deploy --resume"
		}
		f.say(protocol.Warn, "Stopped in the middle of the abort: `%s` carries it on.", next)
		err = fmt.Errorf("abort: %w", ErrInterrupted)
	}
	return report, err
}

// over tells whether nothing of the abort is left to be carried on.
func (r AbortReport) over() bool {
	return r.Aborted && (r.Rollback == nil || r.Rollback.State.Terminal())
}

func (v victim) String() string {
	if v.recorded {
		return fmt.Sprintf("deployment %d (%s), begun by %s", v.d.ID, v.d.VersionLabel, v.d.Holder)
	}
	return fmt.Sprintf("%s, begun by %s", v.d.Command, v.lock.Holder)
}

// markVictim finds the operation under way and marks its record. Whoever drives it cannot write the record any more, and so sends no further stage.
func (f *Fleet) markVictim(ctx context.Context, mark environment.Abort) (victim, error) {
	for {
		v, err := f.findVictim(ctx)
		if err != nil || !v.recorded || v.d.Abort != nil {
			return v, err
		}
		v.d.Abort = &mark
		v.etag, err = f.Record.PutDeployment(ctx, &v.d, v.etag)
		if errors.Is(err, environment.ErrChanged) && ctx.Err() == nil {
			continue // it went on in the meantime
		}
		return v, err
	}
}

// findVictim looks what is under way: what the holder of the lock does, else a deployment that nobody drives any more.
func (f *Fleet) findVictim(ctx context.Context) (victim, error) {
	lock, err := f.Record.LockState(ctx)
	if err != nil {
		return victim{}, err
	}
	d, etag, err := f.Record.LastDeployment(ctx)
	if err != nil && !errors.Is(err, environment.ErrNotFound) {
		return victim{}, err
	}
	recorded := err == nil && d.State == environment.Running
	ended := err == nil && d.State.Terminal() && lock.Operation != nil && lock.Operation.RequestID == d.RequestID
	atWork := lock.Held() && !lock.Expired(now()) && !lock.HolderDead()
	switch op := lock.Operation; {
	case atWork && op != nil && op.Command == protocol.CmdAbort, atWork && lock.Manual():
		return victim{}, &environment.LockedError{EnvironmentID: f.Record.EnvironmentID(), Lock: lock}
	case ended && atWork: // whoever drove it is about to let go of the lock
		return victim{}, fmt.Errorf("%w: deployment %d (%s) has ended: %s", ErrNothingToAbort, d.ID, d.VersionLabel, d.State)
	case ended: // and whoever drove it died before they let go
		return victim{}, f.nothingBegun(ctx, lock)
	case lock.Held() && op != nil && op.Command != protocol.CmdAbort && (!recorded || op.RequestID != d.RequestID) && (atWork || !recorded):
		return f.unrecordedVictim(ctx, lock)
	case !recorded:
		return victim{}, f.nothingBegun(ctx, lock)
	}
	if d.Restores > 0 {
		return victim{}, fmt.Errorf("%w: deployment %d puts instances back after an abort; if nobody drives it any more, `hmctl deploy --resume` carries it on", ErrNothingToAbort, d.ID)
	}
	kind, ok := recordedKind(d)
	if !ok {
		return victim{}, fmt.Errorf("%w: deployment %d is of a kind this hmctl does not know", environment.ErrCorrupt, d.ID)
	}
	if n := len(d.Steps); n > 0 && d.Steps[n-1].Name == stepMove {
		return victim{}, fmt.Errorf("%w: all instances have deployment %d (%s); only the desired state is left to move, by `hmctl deploy --resume`",
			ErrNothingToAbort, d.ID, d.VersionLabel)
	}
	return victim{d: d, etag: etag, kind: kind, lock: lock, recorded: true}, nil
}

// nothingBegun is the end of an abort that found nothing. Whoever died before they sent anything left their lock, which nobody needs any more.
func (f *Fleet) nothingBegun(ctx context.Context, lock environment.LockInfo) error {
	if lock.Held() && !lock.HolderDead() && !lock.Expired(now()) {
		return fmt.Errorf("%w: %s (%s) has sent nothing to the instances of environment %s yet; run `hmctl abort` again once that is under way, or stop it with `hmctl unlock --force`",
			ErrNothingToAbort, lock.Holder, lock.Reason, f.Record.EnvironmentID())
	}
	if !lock.Held() {
		return fmt.Errorf("%w: no operation is under way in environment %s", ErrNothingToAbort, f.Record.EnvironmentID())
	}
	if err := f.Record.ReleaseLock(ctx, lock.ID); err != nil && !errors.Is(err, environment.ErrChanged) {
		return fmt.Errorf("abort: free the lock of %s: %w", lock.Holder, err)
	}
	return fmt.Errorf("%w: no operation is under way in environment %s; the lock of %s (%s), who is gone, is free now",
		ErrNothingToAbort, f.Record.EnvironmentID(), lock.Holder, lock.Reason)
}

// unrecordedVictim is an operation of which only the lock tells: it went to some of the registered instances, and to those that the lock names.
func (f *Fleet) unrecordedVictim(ctx context.Context, lock environment.LockInfo) (victim, error) {
	instances, _, err := f.Record.Instances(ctx)
	if err != nil {
		return victim{}, err
	}
	v := victim{lock: lock, d: environment.Deployment{RequestID: lock.Operation.RequestID, Command: lock.Operation.Command, Holder: lock.Holder}}
	v.d.ResultQueue = protocol.ResultQueue(f.Record.EnvironmentID(), v.d.RequestID)
	v.d.Targets = slices.Clone(lock.Operation.Others)
	for _, i := range instances {
		if !i.Silent(now()) && !slices.ContainsFunc(v.d.Targets, func(t environment.Target) bool { return targetID(t) == i.InstanceID }) {
			v.d.Targets = append(v.d.Targets, environment.Target{InstanceID: i.InstanceID, Queue: i.Queue})
		}
	}
	if len(v.d.Targets) == 0 {
		return victim{}, fmt.Errorf("%w: no instance is registered that is not silent", ErrNoTargets)
	}
	return v, nil
}

// takeFrom waits a moment for whoever drives the operation to let go of the lock, and says from whom it may be taken then.
func (f *Fleet) takeFrom(ctx context.Context, v victim) environment.LockRequest {
	q := environment.LockRequest{Reason: environment.AbortReason + v.d.Command, TakeDead: true}
	driven := v.lock.Held() && v.lock.Operation != nil && v.lock.Operation.RequestID == v.d.RequestID
	for deadline := now().Add(f.handover()); v.recorded && v.lock.Held() && now().Before(deadline); {
		l, err := f.Record.LockState(ctx)
		if err == nil && (l.ID != v.lock.ID || l.Expired(now()) || l.HolderDead()) {
			return q
		}
		if wait(ctx, f.handover()/20) != nil {
			return q
		}
	}
	if driven {
		q.TakeFrom = v.lock.ID
	}
	return q
}

// reread takes the record up as it is under the lock.
func (f *Fleet) reread(ctx context.Context, v victim) (victim, error) {
	if !v.recorded {
		return v, nil
	}
	d, etag, err := f.Record.Deployment(ctx, v.d.ID)
	if err == nil && d.State.Terminal() {
		err = fmt.Errorf("%w: deployment %d (%s) has ended: %s", ErrNothingToAbort, d.ID, d.VersionLabel, d.State)
	}
	v.d, v.etag = d, etag
	return v, err
}

// abort does the work under the lock.
func (f *Fleet) abort(ctx context.Context, q AbortRequest, v victim, report *AbortReport) error {
	var err error
	sent := !v.recorded || slices.ContainsFunc(v.d.Stages, func(s environment.Stage) bool { return !s.SentAt.IsZero() })
	if sent {
		if report.Instances, err = f.abortOnInstances(ctx, q, v, *report.Abort); err != nil {
			return err
		}
	}
	if !v.recorded {
		f.removeResultQueue(ctx, v.d.ResultQueue)
		return f.endUnrecorded(ctx, v, report)
	}
	o := &operation{Fleet: f, kind: v.kind, d: v.d, etag: v.etag}
	if tooLate(report.Instances) {
		return f.endTooLate(ctx, o)
	}
	return f.makeUniform(ctx, o, report)
}

// endAborted writes the end of an aborted deployment. Until then a second abort carries the first one on.
func (o *operation) endAborted(ctx context.Context) error {
	o.d.State, o.d.Failure = environment.Aborted, "aborted by "+o.d.Abort.String()
	if err := o.save(ctx); err != nil {
		return err
	}
	o.judged(ctx)
	o.removeResultQueue(ctx, o.d.ResultQueue)
	o.line(protocol.Warn, KindNotice, "", "Deployment %d (%s) was aborted by %s.", o.d.ID, o.d.VersionLabel, o.d.Abort)
	return nil
}

// endUndone writes the end of the aborted deployment after which this one brings instances back, where whoever aborted it did not come to it.
func (o *operation) endUndone(ctx context.Context) error {
	if o.d.Undoes == 0 {
		return nil
	}
	d, etag, err := o.Record.Deployment(ctx, o.d.Undoes)
	if errors.Is(err, environment.ErrNotFound) || errors.Is(err, environment.ErrCorrupt) { // it would be in the way for ever
		o.line(protocol.Warn, KindNotice, "", "The end of deployment %d, which was aborted, could not be written down: %v.", o.d.Undoes, err)
		return nil
	}
	if err != nil || d.State.Terminal() || d.Abort == nil {
		return err
	}
	return (&operation{Fleet: o.Fleet, kind: o.kind, d: d, etag: etag}).endAborted(ctx)
}

// tooLate tells whether every instance answered, and runs what was to be aborted.
func tooLate(all []AfterAbort) bool {
	return len(all) > 0 && !slices.ContainsFunc(all, func(i AfterAbort) bool { return !i.Answered || !i.New })
}

// endTooLate ends a deployment that all instances had already. Its record was read back, and what it names becomes the signed desired state.
func (f *Fleet) endTooLate(ctx context.Context, o *operation) error {
	if err := o.checkManifest(ctx); err != nil {
		return fmt.Errorf("too late to abort, and the desired state was not moved: %w", err)
	}
	o.d.Abort = nil
	if err := o.succeed(ctx); err != nil {
		return err
	}
	f.removeResultQueue(ctx, o.d.ResultQueue)
	return fmt.Errorf("%w: all instances had deployment %d (%s), which is the desired state now; deploy the version before to go back to it", ErrTooLate, o.d.ID, o.d.VersionLabel)
}

// endUnrecorded says what became of an operation that keeps no record. A raw command may have brought a version to some instances all the same.
func (f *Fleet) endUnrecorded(ctx context.Context, v victim, report *AbortReport) error {
	away, differ := unanswered(report.Instances), f.sayDiffering(ctx, report)
	report.Uniform = len(away) == 0 && !differ
	report.Aborted = true
	f.say(protocol.Warn, "%s was aborted by %s. It is carried out where an instance said that it had ended.", v.d.Command, report.Abort)
	switch {
	case len(away) > 0:
		return fmt.Errorf("%w: no answer from %s; the abort waits in their queues for %s", ErrNotUniform, listed(away), abortValidity)
	case differ:
		return ErrNotUniform
	}
	return nil
}

// sayDiffering tells whether the instances that answered run different versions, and which. The desired version counts as one under all its serials.
func (f *Fleet) sayDiffering(ctx context.Context, report *AbortReport) bool {
	current, m, err := f.Record.CurrentManifest(ctx)
	var same []int64
	if err == nil {
		same, _ = f.sameContent(ctx, current, m) // what cannot be read makes no difference go away
	}
	serials := map[int64]bool{}
	var all []string
	for _, i := range report.Instances {
		if !i.Answered {
			continue
		}
		all = append(all, i.InstanceID+": "+version(i))
		if slices.Contains(same, i.Serial) {
			i.Serial = current.Serial
		}
		serials[i.Serial] = true
	}
	if len(serials) < 2 {
		return false
	}
	f.say(protocol.Warn, "The instances run different versions: %s. Deploy one to all of them with `hmctl deploy`.", strings.Join(all, "; "))
	return true
}

func unanswered(all []AfterAbort) []string {
	var ids []string
	for _, i := range all {
		if !i.Answered {
			ids = append(ids, i.InstanceID)
		}
	}
	return ids
}

// abortOnInstances has every instance the operation went to end it, and returns what each runs then.
func (f *Fleet) abortOnInstances(ctx context.Context, q AbortRequest, v victim, mark environment.Abort) ([]AfterAbort, error) {
	timeout := q.Timeout
	if timeout == 0 {
		timeout = DefaultAbortTimeout
	}
	g := *f
	g.PickupWindow = min(f.pickup(), abortPickup)
	o := g.newOperation(abortKind(), targets{chosen: v.d.Targets}, timeout, allStages)
	o.validity = abortValidity
	o.raw = &SendRequest{Command: protocol.CmdAbort, Data: v.d.RequestID, ExecutionData: protocol.AbortOrder{By: mark.By, Reason: mark.Reason}.Encode()}
	if err := o.announce(); err != nil {
		return nil, err
	}
	err := persist(ctx, func() (err error) {
		o.results, err = o.Queues.Create(ctx, o.d.ResultQueue, nil)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("abort: make the result queue: %w", err)
	}
	defer o.tidy(ctx)
	if err := o.stage(ctx, 0); err != nil {
		return nil, fmt.Errorf("abort: %w", err)
	}
	return f.after(ctx, v, o)
}

// after sorts out what the instances answered. Of one that did not, its registration is all there is.
func (f *Fleet) after(ctx context.Context, v victim, o *operation) ([]AfterAbort, error) {
	registered, _, err := f.Record.Instances(ctx)
	if err != nil {
		return nil, err
	}
	var all []AfterAbort
	for _, t := range o.d.Targets {
		id := targetID(t)
		out, ok := o.d.Stages[0].Outcomes[id]
		a := AfterAbort{InstanceID: id, Answered: ok && out.Status == protocol.Success, Serial: out.Serial, VersionLabel: out.VersionLabel, Msg: out.Msg}
		a.New = a.Answered && v.recorded && a.Serial == v.d.Serial
		if !a.Answered {
			v.lastSeen(&a, registered)
		}
		all = append(all, a)
	}
	return all, nil
}

// lastSeen fills in what an instance ran that did not answer. One that had answered the last stage well ended the command: an abort that reaches it later
// finds nothing to undo, whether its registration told of the new version yet or not.
func (v victim) lastSeen(a *AfterAbort, registered []environment.Instance) {
	rests := false
	if n := slices.IndexFunc(registered, func(i environment.Instance) bool { return i.InstanceID == a.InstanceID }); n >= 0 {
		a.Serial, a.VersionLabel, rests = registered[n].Serial, registered[n].VersionLabel, registered[n].AtRest()
	}
	if !v.recorded {
		return
	}
	if n := len(v.d.Stages); n > 0 && a.Serial <= v.d.Serial && v.d.Stages[n-1].Outcomes[a.InstanceID].Status == protocol.Success {
		a.Serial, a.VersionLabel, rests = v.d.Serial, v.d.VersionLabel, true
	}
	a.New = rests && a.Serial == v.d.Serial
}
