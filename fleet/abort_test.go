package fleet_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/protocol"
)

// away answers everything but an abort, as an instance does whose network went in between.
func away(r reply) reply {
	return func(i *instance, c protocol.Command, q protocol.Request) []string {
		if q.CommandName == protocol.CmdAbort {
			return nil
		}
		return r(i, c, q)
	}
}

func through(id string) map[string]environment.Outcome {
	return map[string]environment.Outcome{id: {InstanceID: id, ResultID: id, Status: protocol.Success, Serial: 2, VersionLabel: "v2"}}
}

// TestAbort_TellsWhetherItTakesEffect on an instance that is away: not where it has the new version for good.
func TestAbort_TellsWhetherItTakesEffect(t *testing.T) {
	const (
		nothing = "No answer from i-b, which has version v2 (serial 2) already: the abort changes nothing there. Once its agent answers again, deploy version v1 to it with --instances i-b."
		effect  = "and takes effect when its agent is back"
	)
	for _, c := range []struct {
		name       string
		registered environment.Instance
		outcomes   map[string]environment.Outcome
		want       string
	}{
		{"it answered", environment.Instance{Serial: 1, VersionLabel: "v1", State: "ready"}, through("i-b"), nothing},
		{"it registered", environment.Instance{Serial: 2, VersionLabel: "v2", State: "degraded"}, nil, nothing},
		{"it registered in the middle of it", environment.Instance{Serial: 2, VersionLabel: "v2", State: "deploying"}, nil, effect},
		{"it has the old one", environment.Instance{Serial: 1, VersionLabel: "v1", State: "ready"}, nil, effect},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.instance("i-a", serving(1, dockerLike("aaaaaaaaaaaa")))
			b := w.instance("i-b", away(dockerLike("bbbbbbbbbbbb")))
			f := deployed(t, w)
			begun(t, w, f, "v2")
			w.change(2, func(d *environment.Deployment) { d.Stages[0].Outcomes = c.outcomes })
			c.registered.InstanceID, c.registered.Queue = b.ID, b.Queue
			if err := w.record.Register(t.Context(), c.registered); err != nil {
				t.Fatal(err)
			}
			f.PickupWindow = time.Millisecond
			report, err := f.Abort(t.Context(), fleet.AbortRequest{Timeout: time.Second})
			if !errors.Is(err, fleet.ErrNotUniform) || !strings.Contains(err.Error(), "no answer from i-b") || report.Uniform {
				t.Errorf("%+v, %v", report, err)
			}
			out := f.Printer.(*lines)
			out.mustHave(t, c.want)
			if c.want == nothing {
				out.mustNotHave(t, effect)
			}
		})
	}
}
