package fleet_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

func TestOrders_WithoutAKeyNothingIsBegun(t *testing.T) {
	w := newWorld(t)
	i := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f, _ := w.fleet()
	f.Record = w.record.Secured(nil, signature.Keys{})
	for name, do := range map[string]func() error{
		"deploy": func() error {
			_, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"})
			return err
		},
		"restart": func() error { _, err := f.Restart(t.Context(), fleet.RestartRequest{}); return err },
		"send":    func() error { _, err := f.Send(t.Context(), fleet.SendRequest{Command: "CMD-X"}); return err },
		"resume":  func() error { _, err := f.Resume(t.Context()); return err },
	} {
		if err := do(); !errors.Is(err, fleet.ErrRefused) || !strings.Contains(err.Error(), "no key") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if lock, err := w.record.LockState(t.Context()); err != nil || lock.Held() || len(w.leftQueues()) > 0 || len(i.Got()) > 0 {
		t.Errorf("something was begun: %+v, %v, %v, %v", lock, err, w.leftQueues(), i.Got())
	}
}

// Many instances get several orders, each short enough for a key service, each naming those it went to.
func TestOrders_NameFewEnoughInstancesForAKeyService(t *testing.T) {
	w := newWorld(t)
	trap, err := w.queues.Create(t.Context(), "trap", nil)
	if err != nil {
		t.Fatal(err)
	}
	const many = 120
	var to []string
	for n := range many {
		to = append(to, fmt.Sprintf("i-0123456789abc%04d=%s", n, trap))
	}
	f, _ := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", NoWait: true, Targets: fleet.Selection{Queues: to}}); err != nil {
		t.Fatal(err)
	}
	orders := map[string][]string{}
	for got := 0; got < many; {
		messages, err := w.queues.Receive(t.Context(), trap, 10, 0)
		if err != nil || len(messages) == 0 {
			t.Fatalf("%d of %d messages, %v", got, many, err)
		}
		for _, m := range messages {
			got++
			c, err := protocol.DecodeCommand([]byte(m.Body))
			if err != nil || trusted().Verify(c.Signature.KeyID, c.SigningBytes(), c.Signature.Value) != nil || len(c.SigningBytes()) > 4096 {
				t.Fatalf("%s: %v", m.Body, err)
			}
			r, err := protocol.DecodeRequest(c.Data)
			if err != nil || r.EnvironmentID != testEnv || r.DataSHA256 == "" {
				t.Fatalf("%s: %v", c.Data, err)
			}
			orders[c.Data] = r.InstanceIDs
		}
	}
	var named []string
	for _, ids := range orders {
		named = append(named, ids...)
	}
	slices.Sort(named)
	if len(orders) != 3 || len(slices.Compact(named)) != many {
		t.Errorf("%d orders name %d instances", len(orders), len(named))
	}
}

// Nobody signs deployment records: one that somebody changed gets no signature of the operator's.
func TestOrders_AChangedRecordIsNotResumed(t *testing.T) {
	for name, change := range map[string]func(w *world, d *environment.Deployment, first protocol.Current) error{
		"another signed manifest": func(_ *world, d *environment.Deployment, first protocol.Current) error {
			d.Manifest, d.SHA256 = first.Manifest, first.SHA256
			return environment.ErrCorrupt
		},
		"a manifest of a stranger": func(w *world, d *environment.Deployment, _ protocol.Current) error {
			m, _, err := w.record.GetManifest(w.t.Context(), d.Manifest, "")
			if err != nil {
				w.t.Fatal(err)
			}
			m.VersionLabel = "v2"
			eve := w.record.Secured(signing.FromSeed([32]byte{'e'}), signature.Keys{})
			if d.Manifest, d.SHA256, err = eve.PutManifest(w.t.Context(), m); err != nil {
				w.t.Fatal(err)
			}
			return signature.ErrUnknownKey
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
			f := deployed(t, w)
			first, _ := w.current()
			if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v2"), Label: "v2", NoWait: true}); err != nil {
				t.Fatal(err)
			}
			d, etag, err := w.record.LastDeployment(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			want := change(w, &d, first)
			if _, err := w.record.PutDeployment(t.Context(), &d, etag); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Resume(t.Context()); !errors.Is(err, want) {
				t.Errorf("resumed: %v", err)
			}
			if now, _ := w.current(); now != first {
				t.Errorf("the desired state moved to %+v", now)
			}
		})
	}
}

// The settings of a desired state that somebody put there are not carried into the next, signed one.
func TestOrders_ADesiredStateOfAStrangerIsNotBuiltOn(t *testing.T) {
	w := newWorld(t)
	i := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f := deployed(t, w)
	before := len(i.Got())
	eve := w.record.Secured(signing.FromSeed([32]byte{'e'}), signature.Keys{})
	c, m := w.current()
	m.Serial, m.DeploymentID, m.OptionSettings = m.Serial+1, m.DeploymentID+1, protocol.OptionSettings{fleet.NSEnvironment: {"LD_PRELOAD": "/evil.so"}}
	var err error
	if c.Manifest, c.SHA256, err = eve.PutManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	c.Serial = m.Serial
	if err := eve.MoveCurrent(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	set := []fleet.Change{{Namespace: fleet.NSEnvironment, Option: "A", Value: "b"}}
	for name, do := range map[string]func() error{
		"setenv": func() error { _, err := f.ConfigDeploy(t.Context(), fleet.ConfigRequest{Changes: set}); return err },
		"deploy": func() error {
			_, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v2"), Label: "v2"})
			return err
		},
		"restart": func() error { _, err := f.Restart(t.Context(), fleet.RestartRequest{}); return err },
	} {
		if err := do(); !signature.Refused(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(i.Got()) != before {
		t.Errorf("the instance got %+v", i.Got()[before:])
	}
}

// A deployment that failed is taken account of in the desired state, so that instances which had it know that the older version is meant.
func TestOrders_AFailedDeploymentIsJudged(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f := deployed(t, w)
	first, _ := w.current()
	w.instance("i-b", failingIn(1, "it does not start"))
	report, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v2"), Label: "v2"})
	if !errors.Is(err, fleet.ErrFailed) {
		t.Fatal(err)
	}
	if now, _ := w.current(); now.Manifest != first.Manifest || now.Serial != first.Serial || now.AsOf() != report.Serial {
		t.Errorf("the desired state is %+v, want %+v as of %d", now, first, report.Serial)
	}
}

// A serial that only the record says is not signed: with it older desired states, once signed, would pass for newer ones.
func TestOrders_AChangedRecordIsNotJudged(t *testing.T) {
	const high = 9_000_000_000_000_000
	for name, do := range map[string]func(t *testing.T, w *world, f *fleet.Fleet){
		"given up": func(t *testing.T, w *world, f *fleet.Fleet) {
			w.change(2, func(d *environment.Deployment) { d.Serial = high })
			begun(t, w, f, "v3")
		},
		"given up after its end": func(t *testing.T, w *world, f *fleet.Fleet) {
			if _, err := f.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.change(2, func(d *environment.Deployment) { d.Serial, d.State = high, environment.Running })
			begun(t, w, f, "v3")
		},
		"aborted": func(t *testing.T, w *world, f *fleet.Fleet) {
			w.change(2, func(d *environment.Deployment) { d.Serial = high })
			if _, err := f.Abort(t.Context(), fleet.AbortRequest{}); err != nil {
				t.Fatal(err)
			}
		},
		"undone by what is resumed": func(t *testing.T, w *world, f *fleet.Fleet) {
			begun(t, w, f, "v3")
			w.change(2, func(d *environment.Deployment) {
				d.Serial, d.State, d.Abort = high, environment.Running, &environment.Abort{By: "eve"}
			})
			w.change(3, func(d *environment.Deployment) { d.Undoes, d.Restores = 2, 1 })
			if _, err := f.Resume(t.Context()); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.instance("i-a", serving(1, dockerLike("aaaaaaaaaaaa")))
			f := deployed(t, w)
			begun(t, w, f, "v2")
			do(t, w, f)
			if c, _ := w.current(); c.AsOf() >= high {
				t.Errorf("the desired state is %+v", c)
			}
			f.Printer.(*lines).mustHave(t, "WARN: The end of deployment 2 could not be noted in the desired state: ", "somebody changed it: deploy anew")
		})
	}
}

// Of a record that is not what was written nothing follows, for another deployment neither.
func TestOrders_AChangedRecordUndoesNothing(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f := deployed(t, w)
	begun(t, w, f, "v2")
	begun(t, w, f, "v3")
	w.change(2, func(d *environment.Deployment) {
		d.State, d.Abort = environment.Running, &environment.Abort{By: "bert"}
	})
	w.change(3, func(d *environment.Deployment) { d.Undoes, d.SHA256 = 2, "" })
	before, _ := w.current()
	if _, err := f.Resume(t.Context()); !errors.Is(err, environment.ErrCorrupt) {
		t.Errorf("resumed: %v", err)
	}
	if now, _ := w.current(); now != before || w.deployment(2).State != environment.Running {
		t.Errorf("the desired state is %+v, want %+v; deployment 2 is %s", now, before, w.deployment(2).State)
	}
}

// An abort that comes too late finishes the deployment, and signs only what was made for it.
func TestOrders_AChangedRecordIsNotFinishedByAnAbort(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", serving(2, dockerLike("aaaaaaaaaaaa")))
	f := deployed(t, w)
	first, _ := w.current()
	begun(t, w, f, "v2")
	w.change(2, func(d *environment.Deployment) { d.Manifest, d.SHA256 = first.Manifest, first.SHA256 })
	if _, err := f.Abort(t.Context(), fleet.AbortRequest{}); !errors.Is(err, environment.ErrCorrupt) || errors.Is(err, fleet.ErrTooLate) {
		t.Errorf("got %v", err)
	}
	if now, _ := w.current(); now != first {
		t.Errorf("the desired state moved to %+v", now)
	}
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v3"), Label: "v3"}); err != nil {
		t.Errorf("and then nothing could be deployed: %v", err)
	}
}
