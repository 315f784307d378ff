package commandproc_test

import (
	"errors"
	"testing"

	"hostmanager/hooks"
	"hostmanager/protocol"
)

// unhealthy is a failure that knows its cause, as platform/docker's do.
type unhealthy struct{ error }

func (unhealthy) FailureCause() string { return protocol.CauseHealthGate }

func TestRun_CauseOfAFailureReachesTheResult(t *testing.T) {
	for want, err := range map[string]error{
		protocol.CauseHealthGate: unhealthy{errors.New("did not become healthy")},
		"":                       errors.New("build failed"),
	} {
		b := newBench(t)
		b.dirs["appdeploy/enact"] = []hooks.Builtin{b.step("00run", protocol.Compensated, err)}
		e := b.runs(t, t.Context(), b.command(t, protocol.CmdAppDeploy, nil)).Entry()
		if e.Status != protocol.Failure || e.Cause != want {
			t.Errorf("%v: %+v, want cause %q", err, e, want)
		}
	}
}
