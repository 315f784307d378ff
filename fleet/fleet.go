package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"time"

	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/internal/procid"
	"hostmanager/protocol"
)

// Times of an operation.
const (
	// DefaultPickupWindow is how long an instance may take to pick a command up, in which it may be busy with another one. A command not picked
	// up by then expires. Elastic Beanstalk adds the same four minutes to a command's timeout.
	DefaultPickupWindow = 240 * time.Second
	// resultQueueAge is when a result queue that no running operation uses is swept.
	resultQueueAge = 48 * time.Hour
	// tidyTimeout bounds what is tidied up after an operation, also an interrupted one.
	tidyTimeout = 15 * time.Second
)

// What an operation can end with, besides errors of AWS.
var (
	// ErrFailed: the operation ran and failed on instances. Every such error is a *FailedError.
	ErrFailed = errors.New("failed on the instances")
	// ErrInterrupted: the operation was cancelled before its end; its record can be resumed.
	ErrInterrupted = errors.New("interrupted")
	// ErrNoTargets: there is no instance to send to.
	ErrNoTargets = errors.New("no instance to send to")
	// ErrNothingToResume: the latest deployment has ended.
	ErrNothingToResume = errors.New("nothing to resume")
	// ErrRefused: the request as it stands is not carried out; nothing was changed.
	ErrRefused = errors.New("refused")
)

// FailedError names the instances an operation failed on.
type FailedError struct {
	Operation string   // what was attempted: "deploy application"
	Failed    []string // instance ids that answered FAILURE
	TimedOut  []string // instance ids that did not answer
	Unreached []string // instance ids among Failed that have no queue, so that nothing was sent to them
	Reason    string   // set when the failure is none of a single instance
}

func (e *FailedError) Error() string {
	switch {
	case e.Reason != "":
		return e.Operation + ": " + e.Reason
	case e.OnlyUnreached():
		return fmt.Sprintf("%s: the command queue of %s does not exist", e.Operation, listed(e.Unreached))
	case len(e.TimedOut) == 0:
		return fmt.Sprintf("%s: failed on %s", e.Operation, listed(e.Failed))
	case len(e.Failed) == 0:
		return fmt.Sprintf("%s: no answer from %s", e.Operation, listed(e.TimedOut))
	}
	return fmt.Sprintf("%s: failed on %s, no answer from %s", e.Operation, listed(e.Failed), listed(e.TimedOut))
}

// OnlyUnreached tells whether no instance failed, and only some could not be sent to.
func (e *FailedError) OnlyUnreached() bool {
	return len(e.Unreached) > 0 && len(e.Unreached) == len(e.Failed) && len(e.TimedOut) == 0
}

// Unwrap makes errors.Is(err, ErrFailed) hold.
func (e *FailedError) Unwrap() error { return ErrFailed }

// Fleet runs operations over one environment. Its fields are set before first use; its methods may be called one at a time.
type Fleet struct {
	Record  *environment.Record
	Queues  *queue.Client
	Objects *objects.Client
	Bucket  string
	Holder  string // who, for the lock and the records: "anna@laptop"
	Printer Printer
	Check   func(protocol.OptionSettings) error // refuses settings instances cannot use, before anything is done; nil: all pass
	Known   func(namespace, option string) bool // tells which options anything reads; others are stored with a warning. nil: all
	// Unsigned lets orders go out unsigned where Record has no signer, for agents with insecure_unsigned. Without it nothing is begun then.
	Unsigned bool

	PickupWindow time.Duration // 0: DefaultPickupWindow
	LockTTL      time.Duration // 0: environment.DefaultLockTTL
	QuietAfter   time.Duration // 0: DefaultQuietAfter

	lock *environment.HeldLock // while an operation runs
}

// maxQueueName is the longest name SQS takes.
const maxQueueName = 80

func (f *Fleet) validate() error {
	switch {
	case f.Record == nil || f.Queues == nil || f.Objects == nil || f.Printer == nil:
		return errors.New("fleet needs a record, queues, objects and a printer")
	case f.Bucket == "" || f.Holder == "":
		return errors.New("fleet needs a bucket and a holder")
	case !f.Record.Signs() && !f.Unsigned:
		return errNoKey
	}
	env := f.Record.EnvironmentID()
	if over := len(protocol.ResultQueue(env, newRequestID())) - maxQueueName; over > 0 {
		return fmt.Errorf("%w: environment id %s is %d characters too long for the names of its queues", ErrRefused, env, over)
	}
	return nil
}

func (f *Fleet) pickup() time.Duration {
	if f.PickupWindow > 0 {
		return f.PickupWindow
	}
	return DefaultPickupWindow
}

// now is the wall clock as records keep it.
func now() time.Time { return time.Now().Round(0).UTC().Truncate(time.Millisecond) }

// locked runs fn under the operation lock; fn's context ends when the lock is lost.
func (f *Fleet) locked(ctx context.Context, reason string, fn func(ctx context.Context) error) error {
	return f.lockedAs(ctx, environment.LockRequest{Reason: reason}, fn)
}

// lockedAs is locked with a say in which lock may be taken over.
func (f *Fleet) lockedAs(ctx context.Context, q environment.LockRequest, fn func(ctx context.Context) error) error {
	if err := f.validate(); err != nil {
		return err
	}
	q.Holder, q.TTL, q.Process = f.Holder, f.LockTTL, procid.Self()
	lock, err := f.Record.Lock(ctx, q)
	if err != nil {
		return err
	}
	f.sayTookOver(lock.TookOver())
	f.lock = lock
	defer func() { f.lock = nil }()
	err = fn(lock.Context())
	if lost := context.Cause(lock.Context()); err != nil && errors.Is(lost, environment.ErrLockLost) {
		// Whoever has the lock now may be at work: the record is theirs.
		return errors.Join(lost, err)
	}
	f.sayUnlocked(lock.Unlock(ctx), lock.Info())
	return err
}

// sayUnlocked says what kept the lock from being released. That is no failure of what was done under it.
func (f *Fleet) sayUnlocked(err error, lock environment.LockInfo) {
	switch {
	case err == nil:
	case errors.Is(err, environment.ErrChanged):
		f.say(protocol.Warn, "The lock was somebody else's, or free, before this operation let go of it.")
	default:
		f.say(protocol.Warn, "The lock could not be released: %v. It is free at %s; `hmctl unlock` frees it at once.", err, lock.FreeAt().Format(time.RFC3339))
	}
}

// CheckFree tells whether an operation could begin now: an environment that somebody holds is a *environment.LockedError. It spares work in vain and
// promises nothing: the lock is taken later.
func (f *Fleet) CheckFree(ctx context.Context) error {
	l, err := f.Record.LockState(ctx)
	if err == nil && l.Held() && !l.Expired(now()) {
		err = &environment.LockedError{EnvironmentID: f.Record.EnvironmentID(), Lock: l}
	}
	return err
}

func (f *Fleet) sayTookOver(dead environment.LockInfo) {
	switch {
	case !dead.Held():
	case dead.HolderDead():
		f.say(protocol.Warn, "Took over the lock of %s (%s), whose process %d on this host has ended.", dead.Holder, dead.Reason, dead.Process.PID)
	default:
		f.say(protocol.Warn, "Took over the lock of %s (%s), whose last heartbeat was at %s.", dead.Holder, dead.Reason, dead.Heartbeat.Format(time.RFC3339))
	}
}

// say prints a sentence of our own.
func (f *Fleet) say(severity protocol.Severity, format string, args ...any) {
	f.Printer.Line(Line{Severity: severity, Kind: KindNotice, Text: fmt.Sprintf(format, args...), At: now()})
}

// afterwards returns a context for tidying up that outlives an interrupted operation, for a bounded time.
func afterwards(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
}

// newRequestID returns a random UUID (RFC 9562, version 4).
func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// version labels and application names stand in keys.
var labelForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)

func checkLabel(what, label string) error {
	if !labelForm.MatchString(label) {
		return fmt.Errorf("%w: %s %.120q: want up to 100 letters, digits and ._-", ErrRefused, what, label)
	}
	return nil
}
