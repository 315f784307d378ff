package proc

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"hostmanager/internal/proc/cgroup"
)

// ErrExchanged says that a file was not what had been checked any more when it was to run.
var ErrExchanged = errors.New("file was exchanged between its check and its start")

// ExitError says that the process ran and did not end well.
type ExitError struct {
	Path   string
	Code   int            // exit status; -1 when a signal ended it
	Signal syscall.Signal // 0 when it exited
	Tail   string         // the end of its output, valid UTF-8
	Cause  error          // why it was stopped from here (context.Cause), nil when it ended by itself
	Why    error          // *OOMError, *PIDsError, *TimeoutError, *StoppedError, *SignalError or *StatusError
}

func (e *ExitError) Error() string {
	end := "exited with status " + strconv.Itoa(e.Code)
	if e.Signal != 0 {
		end = "was ended by signal " + e.Signal.String()
	}
	if e.Cause != nil {
		end = fmt.Sprintf("was stopped (%v) and %s", e.Cause, end)
	}
	if s := e.Sentence(); s != "" {
		end += ": " + s
	}
	return e.Path + " " + end
}

// Unwrap returns why, so that errors.Is(err, context.DeadlineExceeded) tells of a timeout.
func (e *ExitError) Unwrap() []error {
	var all []error
	for _, err := range []error{e.Cause, e.Why} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}

// TimedOut tells whether a deadline ended the process.
func (e *ExitError) TimedOut() bool { return errors.Is(e.Cause, context.DeadlineExceeded) }

// Sentence says why in words that follow a colon, without a full stop; empty where the exit status says it all.
func (e *ExitError) Sentence() string {
	if e.Why == nil {
		return ""
	}
	return e.Why.Error()
}

// OOMError says that the limit of memory was reached.
type OOMError struct {
	Limit   int64 // bytes; 0: not known
	Kills   int64 // processes the kernel ended
	Sampled bool  // measured from outside, not held by the kernel
}

func (e *OOMError) Error() string {
	if e.Sampled {
		return fmt.Sprintf("it used more memory than the limit of %s (HookMemoryMax) allows", bytesText(e.Limit))
	}
	return fmt.Sprintf("it ran out of memory: it needed more than its limit of %s (HookMemoryMax), and the kernel ended %d of its processes", bytesText(e.Limit), e.Kills)
}

// PIDsError says that the limit of processes was reached.
type PIDsError struct {
	Limit   int64
	Sampled bool // counted from outside, not held by the kernel
}

func (e *PIDsError) Error() string {
	return fmt.Sprintf("it started more processes and threads than its limit of %d (HookPidsMax) allows", e.Limit)
}

// TimeoutError says that its time was over.
type TimeoutError struct{}

func (*TimeoutError) Error() string {
	return "its time was over, and it was ended with everything it had started"
}

// StoppedError says that it was stopped from here.
type StoppedError struct{ Cause error }

func (e *StoppedError) Error() string {
	return fmt.Sprintf("it was stopped with everything it had started (%v)", e.Cause)
}

// SignalError says that a signal ended it that was not sent from here.
type SignalError struct{ Signal syscall.Signal }

func (e *SignalError) Error() string {
	return fmt.Sprintf("it was ended by the signal %s, which hostmanager did not send", unix.SignalName(e.Signal))
}

// StatusError explains an exit status.
type StatusError struct {
	Code int
	Hint string
}

func (e *StatusError) Error() string { return e.Hint }

// statusError explains the statuses that say more than that it failed, as shells use them.
func statusError(code int) error {
	e := &StatusError{Code: code}
	switch {
	case code == 126:
		e.Hint = "it exited with status 126: a command in it was found but could not be executed; check its exec bit and its first line"
	case code == 127:
		e.Hint = "it exited with status 127: a command in it was not found; check its name, and PATH, which is not the one of a login shell"
	case code > 128 && code <= 128+64 && unix.SignalName(syscall.Signal(code-128)) != "":
		e.Hint = fmt.Sprintf("it exited with status %d: a program it ran was ended by the signal %s", code, unix.SignalName(syscall.Signal(code-128)))
	default:
		return nil
	}
	return e
}

// StuckError says that a process did not end when it was killed: the kernel holds it (a dead disk or network file system). It still runs.
type StuckError struct {
	Path  string
	PID   int
	Cause error // why it was to end
}

func (e *StuckError) Error() string { return e.Path + " was stopped: " + e.Sentence() }

// Sentence says why in words that follow a colon.
func (e *StuckError) Sentence() string {
	return fmt.Sprintf("its process %d does not end though it was killed; the kernel waits for a device, as a look at /proc/%d/wchan or a restart of the instance may show (%v)",
		e.PID, e.PID, e.Cause)
}

// Unwrap returns why it was to end.
func (e *StuckError) Unwrap() error { return e.Cause }

// StartError says that the process never ran. Hint is a sentence that says what is missing.
type StartError struct {
	Path string
	Err  error
	Hint string
}

func (e *StartError) Error() string { return fmt.Sprintf("start %s: %v: %s", e.Path, e.Err, e.Hint) }

// Unwrap returns the error of the system.
func (e *StartError) Unwrap() error { return e.Err }

// factsOf are the kernel's counters as reasons.
type factsOf struct{ cgroup.Facts }

// judge puts the reason the kernel knows in the place of what could only be seen from outside. A limit that was met, and lived with, is no failure,
// but for one: a process that ended well and left behind what was refused to grow.
func (f factsOf) judge(err error, sp *spawn) error {
	var exit *ExitError
	failed := errors.As(err, &exit)
	l := sp.c.Limits
	switch {
	case failed && f.OOMKills > 0:
		exit.Why = &OOMError{Limit: l.Memory, Kills: f.OOMKills}
	case failed && f.PIDsHits > 0:
		exit.Why = &PIDsError{Limit: l.PIDs}
	case err == nil && f.PIDsHits > 0 && sp.left > 0:
		return &ExitError{Path: sp.c.Path, Why: &PIDsError{Limit: l.PIDs}}
	}
	over := sp.over.Load()
	switch {
	case over == nil:
	case failed && exit.Cause == nil: // what was stopped for another reason may meet it while it is given time to end
		exit.Why = *over
	case err == nil && sp.left > 0:
		return &ExitError{Path: sp.c.Path, Why: *over}
	}
	return err
}
