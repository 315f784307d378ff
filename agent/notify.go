package agent

import (
	"context"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// notify tells systemd, where it is there.
func (a *Agent) notify(state string) {
	if a.Notify != nil {
		a.Notify(state)
	}
}

// intakeStall is how long a pass of the intake loop may take before the watchdog starves: a long poll, the SDK's own retries and a full batch of
// acceptances fit in. An endpoint that is down does not starve it: the loop still turns, and a restart would not bring the endpoint back.
const intakeStall = 3 * time.Minute

// beat says that the intake loop turns.
func (a *Agent) beat() { a.pulse.Store(int64(time.Since(a.begun))) }

// watchdog feeds systemd's watchdog as long as intake turns.
func (a *Agent) watchdog(ctx context.Context) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval <= 0 {
		return
	}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if time.Since(a.begun)-time.Duration(a.pulse.Load()) < intakeStall {
			a.notify(daemon.SdNotifyWatchdog)
		}
	}
}
