package fleet_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
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
			report, err := f.Abort(t.Context(), fleet.AbortRequest{Timeout: 5 * time.Second})
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

const (
	textMixed    = "During an aborted deployment, some instances may have deployed the new application version."
	textDeployed = "New application version was deployed to running EC2 instances."
)

// putBack leaves a way back as the third deployment, which an abort of the second one prepared.
func putBack(t *testing.T, w *world, f *fleet.Fleet, fn func(d *environment.Deployment)) {
	t.Helper()
	begun(t, w, f, "v2")
	begun(t, w, f, "v1")
	w.change(2, func(d *environment.Deployment) {
		d.State, d.Abort = environment.Running, &environment.Abort{By: "bert"}
	})
	w.change(3, func(d *environment.Deployment) {
		d.Restores, d.Undoes = 1, 2
		fn(d)
	})
}

// TestResume_OfAWayBackTellsThatItIsOne.
func TestResume_OfAWayBackTellsThatItIsOne(t *testing.T) {
	for _, c := range []struct {
		name   string
		third  reply
		failed string // "": it does not
		says   []string
		not    []string
	}{
		{"well", dockerLike("aaaaaaaaaaaa"), "", []string{"INFO: [i-a] went back to version v1."}, []string{textDeployed, textMixed}},
		{"failed", always("no"), "go back to version v1: failed on i-a", []string{textMixed}, []string{textDeployed, "went back"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.instance("i-a", third(c.third))
			f := deployed(t, w)
			putBack(t, w, f, func(*environment.Deployment) {})
			f, out := w.fleet()
			_, err := f.Resume(t.Context())
			if c.failed == "" && err != nil || c.failed != "" && (!errors.Is(err, fleet.ErrFailed) || err.Error() != c.failed) {
				t.Errorf("got %v", err)
			}
			out.mustHave(t, append(c.says, "INFO: [i-a] go back to version v1 after an abort.", "Deployment 2 (v2) was aborted by bert.")...)
			out.mustNotHave(t, append(c.not, "Only the chosen instances")...)
		})
	}
}

// third answers the third deployment as r does and those before well.
func third(r reply) reply {
	return func(i *instance, c protocol.Command, q protocol.Request) []string {
		if i.deploymentOf(q) == 3 {
			return r(i, c, q)
		}
		return dockerLike("aaaaaaaaaaaa")(i, c, q)
	}
}

func always(msg string) reply {
	return func(i *instance, c protocol.Command, q protocol.Request) []string {
		return []string{i.result(c, q, failure(msg))}
	}
}

// TestDeploy_GivesUpAWayBack that nobody carried on: the instances are left with two versions, and what it was to undo ends with it.
func TestDeploy_GivesUpAWayBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		undoes int64
		says   string
		state  environment.State
	}{
		{"of an aborted deployment", 2, "Deployment 2 (v2) was aborted by bert.", environment.Aborted},
		{"of one that is gone", 99, "The end of deployment 99, which was aborted, could not be written down: ", environment.Running},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
			f := deployed(t, w)
			putBack(t, w, f, func(d *environment.Deployment) { d.Undoes, d.Stages[0].SentAt = c.undoes, time.Time{} })
			f, out := w.fleet()
			begun(t, w, f, "v3")
			out.mustHave(t, "Deployment 3 (v1) of anna@test was not finished and is given up", textMixed, c.says)
			if w.deployment(2).State != c.state || w.deployment(3).State != environment.Aborted {
				t.Errorf("deployment 2 is %s, 3 is %s", w.deployment(2).State, w.deployment(3).State)
			}
		})
	}
}

// TestAbort_AdvisesToResumeWhatCanBeResumed only: a way back that failed has ended.
func TestAbort_AdvisesToResumeWhatCanBeResumed(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		w := newWorld(t)
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		w.instance("i-a", serving(2, third(func(i *instance, c protocol.Command, q protocol.Request) []string {
			if stopped {
				stop()
				return nil
			}
			return always("no")(i, c, q)
		})))
		w.instance("i-b", serving(1, dockerLike("bbbbbbbbbbbb")))
		f := deployed(t, w)
		begun(t, w, f, "v2")
		f, out := w.fleet()
		if _, err := f.Abort(ctx, fleet.AbortRequest{}); errors.Is(err, fleet.ErrInterrupted) != stopped || errors.Is(err, fleet.ErrFailed) == stopped {
			t.Errorf("stopped: %v; got %v", stopped, err)
		}
		out.mustHave(t, "[i-a] could not all be put back to version v1: ", "deploy version v1 to them with --instances i-a.")
		if got := out.has("--resume"); got != stopped {
			t.Errorf("stopped: %v; advises to resume: %v", stopped, got)
		}
		if d := w.lastDeployment(); d.Restores != 1 || d.State.Terminal() == stopped {
			t.Errorf("stopped: %v; the way back is %s", stopped, d.State)
		}
	}
}

// held is the lock of somebody who is at work on something that keeps no record.
func (w *world) held(op environment.Operation) {
	w.t.Helper()
	h, err := w.record.Lock(w.t.Context(), environment.LockRequest{Holder: "bert", Reason: "send"})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = h.Unlock(context.Background()) })
	if err := h.SetOperation(op); err != nil {
		w.t.Fatal(err)
	}
}

// TestAbort_OfWhatKeepsNoRecord is good only where all run the same then.
func TestAbort_OfWhatKeepsNoRecord(t *testing.T) {
	for _, c := range []struct {
		name     string
		a, b     int64
		restores int64 // of the second deployment, which is the desired state then
		want     string
	}{
		{"all the same", 1, 1, 0, ""},
		{"one has it", 2, 1, 0, "WARN: The instances run different versions: i-a: version v2 (serial 2); i-b: version v1 (serial 1). Deploy one to all of them with `hmctl deploy`."},
		{"one has nothing", 1, 0, 0, "i-b: no version"},
		{"one was put back", 2, 1, 1, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.instance("i-a", serving(c.a, dockerLike("aaaaaaaaaaaa")))
			w.instance("i-b", serving(c.b, dockerLike("bbbbbbbbbbbb")))
			f := deployed(t, w)
			if c.restores > 0 {
				f = deployed(t, w)
				w.change(2, func(d *environment.Deployment) { d.Restores = c.restores })
			}
			w.held(environment.Operation{RequestID: "r-1", Command: protocol.CmdAppDeploy})
			report, err := f.Abort(t.Context(), fleet.AbortRequest{})
			if good := c.want == ""; errors.Is(err, fleet.ErrNotUniform) == good || report.Uniform != good || !report.Aborted {
				t.Errorf("%+v, %v", report, err)
			}
			f.Printer.(*lines).mustHave(t, c.want)
		})
	}
}

// TestAbort_ReachesSilentInstances that were named: the lock tells of them, where nothing else does.
func TestAbort_ReachesSilentInstances(t *testing.T) {
	w := newWorld(t)
	var told atomic.Pointer[environment.Operation]
	w.instance("i-a", func(i *instance, c protocol.Command, q protocol.Request) []string {
		if q.CommandName == "CMD-X" {
			l, err := w.record.LockState(t.Context())
			if err != nil {
				t.Error(err)
			}
			told.Store(l.Operation)
		}
		return serving(1, dockerLike("aaaaaaaaaaaa"))(i, c, q)
	})
	f := deployed(t, w)
	url, err := w.queues.Create(t.Context(), protocol.CommandQueue(testEnv, "i-silent"), nil)
	if err != nil {
		t.Fatal(err)
	}
	silent := environment.Instance{InstanceID: "i-silent", Queue: url, Serial: 1, VersionLabel: "v1", Seen: time.Now().Add(-time.Hour)}
	if _, err := w.put(protocol.InstanceKey(testEnv, silent.InstanceID), encode(t, silent)); err != nil {
		t.Fatal(err)
	}
	f.PickupWindow = time.Millisecond
	named := fleet.Selection{Instances: []string{"i-a", "i-silent"}}
	if _, err := f.Send(t.Context(), fleet.SendRequest{Command: "CMD-X", Targets: named, Timeout: 5 * time.Second}); !errors.Is(err, fleet.ErrFailed) {
		t.Fatal(err)
	}
	op := told.Load()
	if op == nil || len(op.Others) != 1 || op.Others[0] != (environment.Target{InstanceID: "i-silent", Queue: url}) {
		t.Fatalf("the lock says %+v", op)
	}
	w.held(*op)
	report, err := f.Abort(t.Context(), fleet.AbortRequest{Timeout: 5 * time.Second})
	if !errors.Is(err, fleet.ErrNotUniform) || !strings.Contains(err.Error(), "no answer from i-silent; the abort waits") || report.Uniform || len(report.Instances) != 2 {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestAbort_AnInstanceWithNothingIsNotUniform beside others that run the desired version.
func TestAbort_AnInstanceWithNothingIsNotUniform(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", serving(1, dockerLike("aaaaaaaaaaaa")))
	f := deployed(t, w)
	w.instance("i-b", serving(0, dockerLike("bbbbbbbbbbbb")))
	begun(t, w, f, "v2")
	report, err := f.Abort(t.Context(), fleet.AbortRequest{})
	if !errors.Is(err, fleet.ErrNotUniform) || report.Uniform || !report.Aborted {
		t.Errorf("%+v, %v", report, err)
	}
	f.Printer.(*lines).mustHave(t, "WARN: i-b runs no version and not the desired version v1 (serial 1)")
}
