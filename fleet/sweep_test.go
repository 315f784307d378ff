package fleet_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/fleet"
	"hostmanager/protocol"
)

// TestOperation_SweepsOldResultQueues: what nobody resumed goes after its time, and nothing else does.
func TestOperation_SweepsOldResultQueues(t *testing.T) {
	for _, c := range []struct {
		age  time.Duration
		left int
	}{{72 * time.Hour, 0}, {time.Hour, 1}} {
		w := newWorldAt(t, localaws.NewFakeClock(time.Now().Add(-c.age)))
		w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
		for _, name := range []string{protocol.ResultQueue(testEnv, "abandoned"), "hostmanager-e-other-res-x", "unrelated"} {
			if _, err := w.queues.Create(t.Context(), name, nil); err != nil {
				t.Fatal(err)
			}
		}
		f, out := w.fleet()
		if _, err := f.Restart(t.Context(), fleet.RestartRequest{}); err != nil {
			t.Fatal(err)
		}
		out.mustNotHave(t, "WARN")
		if left := w.leftQueues(); len(left) != c.left {
			t.Errorf("after %s: left %v", c.age, left)
		}
		all, err := w.queues.List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"hostmanager-e-other-res-x", "unrelated", protocol.CommandQueue(testEnv, "i-a")} {
			if !slices.ContainsFunc(all, func(url string) bool { return strings.HasSuffix(url, "/"+name) }) {
				t.Errorf("%s is gone", name)
			}
		}
	}
}
