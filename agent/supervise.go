package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"hostmanager/commandproc"
)

// ErrThirdSignal is returned when the third signal ends everything at once.
var ErrThirdSignal = errors.New("stopped at the third signal, with a command unfinished; the next start takes it up")

// Supervise runs the agent under signals: the first TERM or INT drains or, with on_stop resume, leaves the running command to the next start at its
// next safe point; the second, or drain_timeout, aborts it; the third
// returns at once with ErrThirdSignal. HUP reopens the log files.
func Supervise(ctx context.Context, a *Agent, signals <-chan os.Signal) error {
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	var timeout <-chan time.Time
	for stops := 0; ; {
		select {
		case err := <-ended:
			return err
		case <-timeout:
			timeout = nil
			stops = max(stops, 2)
			a.log.Warn("drain timeout, aborting the running command")
			a.abortAll(abort, fmt.Errorf("%w: the agent stops, and it took longer than drain_timeout", commandproc.ErrAborted))
		case s := <-signals:
			if s == syscall.SIGHUP {
				a.reopenLogs()
				continue
			}
			stops++
			switch stops {
			case 1:
				a.log.Info("signal: finishing the running command")
				a.Drain()
				timer := time.NewTimer(a.Config.DrainTimeout)
				defer timer.Stop()
				timeout = timer.C
			case 2:
				a.log.Warn("second signal: aborting the running command")
				a.abortAll(abort, fmt.Errorf("%w: the agent was told twice to stop", commandproc.ErrAborted))
			default:
				return ErrThirdSignal
			}
		}
	}
}

// abortAll aborts the running command with the agent, for good: a kill before its undoing is over changes nothing about that.
func (a *Agent) abortAll(abort context.CancelCauseFunc, cause error) {
	abort(cause)
	a.mu.Lock()
	c := a.current
	a.mu.Unlock()
	if c != nil {
		a.noteAbort(*c, cause)
	}
}

func (a *Agent) reopenLogs() {
	if err := a.Logs.Reopen(); err != nil {
		a.log.Error("log files not reopened", "error", err)
	}
	if r, ok := a.Events.(interface{ Reopen() error }); ok {
		if err := r.Reopen(); err != nil {
			a.log.Error("events file not reopened", "error", err)
		}
	}
}
