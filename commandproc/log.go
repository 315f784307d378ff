package commandproc

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// Log is eb-commandprocessor.log.
type Log interface {
	Debugf(format string, args ...any)
	Infof(format string, args ...any)
	Errorf(format string, args ...any)
}

// ActivityLog is eb-activity.log. A path is the names from the root activity down.
type ActivityLog interface {
	Start(path []string)
	Complete(path []string, result string)
	Fail(path []string, cause string)
	Failed(path []string)
	TimedOut(path []string, after time.Duration)
	Output(path []string, line string)
}

// activity is one node of the tree that eb-activity.log shows.
type activity struct {
	log  ActivityLog
	path []string
}

func (a activity) child(name string) activity {
	return activity{a.log, append(a.path[:len(a.path):len(a.path)], name)}
}

// toldError marks an error whose cause stands in the activity log already.
type toldError struct{ error }

func (e toldError) Unwrap() error { return e.error }

// run logs start and end of what do does. The innermost activity tells the cause of a failure, those around it only that they failed.
func (a activity) run(do func() (result string, err error)) error {
	a.log.Start(a.path)
	result, err := calmly(do)
	if err == nil {
		a.log.Complete(a.path, result)
		return nil
	}
	return a.fail(err)
}

func (a activity) fail(err error) error {
	var told toldError
	if errors.As(err, &told) {
		a.log.Failed(a.path)
		return err
	}
	a.log.Fail(a.path, err.Error())
	return toldError{err}
}

// panicError is a panic of an action, made an error: one broken action must not take the agent, and the application's supervision, down.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string {
	return fmt.Sprintf("the host manager itself panicked: %v", e.value)
}

// calmly is the one place where a panic is recovered.
func calmly(do func() (string, error)) (result string, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{v, debug.Stack()}
		}
	}()
	return do()
}
