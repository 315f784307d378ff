package hooks

import (
	"errors"
	"fmt"

	"hostmanager/internal/proc"
)

// ErrNotReplaceable is returned by Run when a file stands where only a built-in hook may.
var ErrNotReplaceable = errors.New("file stands in for a built-in hook that may not be replaced")

// Error says which hook failed. Its text is the reason the original gives; Err, ExitCode and Output say the rest.
type Error struct {
	Path string // of the file, or where the built-in hook's file would be
	Code int    // exit status of the program, 1 where there is none
	Tail string // the last output, or the error's own text where the hook left none
	Err  error
}

func (e *Error) Error() string {
	if why := sentence(e.Err); why != "" {
		return fmt.Sprintf("Hook %s failed: %s.", e.Path, why)
	}
	return fmt.Sprintf("Hook %s failed.", e.Path)
}

// sentence says why a program ended, where its exit status does not say it all: a limit, a signal, its time.
func sentence(err error) string {
	var why interface{ Sentence() string }
	if errors.As(err, &why) {
		return why.Sentence()
	}
	return ""
}

// Unwrap returns what went wrong: *proc.ExitError, *proc.StartError, or a built-in hook's error.
func (e *Error) Unwrap() error { return e.Err }

// ExitCode is the exit status to report.
func (e *Error) ExitCode() int { return e.Code }

// Output is what to show of the hook's last words.
func (e *Error) Output() string { return e.Tail }

// newError reads exit status and last output off whatever err is.
func newError(path string, err error) *Error {
	e := &Error{Path: path, Code: 1, Err: err}
	var exit *proc.ExitError
	if errors.As(err, &exit) {
		e.Tail = exit.Tail
		if exit.Code > 0 {
			e.Code = exit.Code
		}
	}
	var coded interface{ ExitCode() int } // a built-in hook may know them too
	if errors.As(err, &coded) && coded.ExitCode() > 0 {
		e.Code = coded.ExitCode()
	}
	var spoke interface{ Output() string }
	if errors.As(err, &spoke) && e.Tail == "" {
		e.Tail = spoke.Output()
	}
	if e.Tail == "" && sentence(err) == "" {
		e.Tail = err.Error()
	}
	return e
}
