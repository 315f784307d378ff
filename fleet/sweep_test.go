package fleet_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/protocol"
)

const abandoned = "0b0d6a4e-7c1f-4e52-9d3a-5f6071829304"

// TestOperation_SweepsOldResultQueues: what nobody resumed goes after its time, and nothing else does.
func TestOperation_SweepsOldResultQueues(t *testing.T) {
	for _, c := range []struct {
		age  time.Duration
		left int
	}{{72 * time.Hour, 0}, {time.Hour, 1}} {
		w := newWorldAt(t, localaws.NewFakeClock(time.Now().Add(-c.age)))
		w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
		others := []string{
			"hostmanager-e-other-res-x", "unrelated", protocol.CommandQueue(testEnv, "i-a"),
			// of the environment e-test-res-eu
			protocol.CommandQueue(testEnv+"-res-eu", "i-1"), protocol.ResultQueue(testEnv+"-res-eu", abandoned), protocol.CommandQueue(testEnv+"-res-eu", abandoned),
		}
		for _, name := range append([]string{protocol.ResultQueue(testEnv, abandoned)}, others...) {
			if _, err := w.queues.Create(t.Context(), name, nil); err != nil {
				t.Fatal(err)
			}
		}
		f, out := w.fleet()
		if _, err := f.Restart(t.Context(), fleet.RestartRequest{}); err != nil {
			t.Fatal(err)
		}
		out.mustNotHave(t, "WARN")
		left := slices.DeleteFunc(w.leftQueues(), func(url string) bool { return !strings.HasSuffix(url, "/"+protocol.ResultQueue(testEnv, abandoned)) })
		if len(left) != c.left {
			t.Errorf("after %s: left %v", c.age, left)
		}
		all, err := w.queues.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range others {
			if !slices.ContainsFunc(all, func(url string) bool { return strings.HasSuffix(url, "/"+name) }) {
				t.Errorf("%s is gone", name)
			}
		}
	}
}

// TestOperation_RemovesOnlyResultQueues: nobody signed the record that names the queue.
func TestOperation_RemovesOnlyResultQueues(t *testing.T) {
	w := newWorld(t)
	i := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f := deployed(t, w)
	begun(t, w, f, "v2")
	for _, c := range []struct {
		name  string
		state environment.State
	}{
		{"of one that is given up", environment.Running},
		{"of one that has ended", environment.Failed},
	} {
		last := w.lastDeployment().ID
		w.change(last, func(d *environment.Deployment) {
			d.ResultQueue, d.State = protocol.CommandQueue(testEnv, "i-a"), c.state
		})
		if _, err := f.Resume(t.Context()); errors.Is(err, environment.ErrCorrupt) == c.state.Terminal() {
			t.Errorf("%s: resumed: %v", c.name, err)
		}
		begun(t, w, f, "v3")
		if _, err := w.queues.URL(t.Context(), protocol.CommandQueue(testEnv, i.ID)); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
	f.Printer.(*lines).mustHave(t, `WARN: The queue "hostmanager-e-test-cmd-i-a", which a record names for results, is no result queue of environment e-test and is left as it is.`)
}
