package proxy

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func newTestTarget(addr string) *target {
	return &target{Target: Target{Addr: addr}, backend: newBackend(addr, time.Second)}
}

// Whatever comes in whatever order: each flight is counted on the target that was current when it began, exactly until it ends.
func TestValve_CountsInFlightExactly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := &valve{maxHeld: 10}
		model := map[*target]int{}
		var flights []*flight
		var cur *target
		var gen uint64
		t.Repeat(map[string]func(*rapid.T){
			"swap": func(t *rapid.T) {
				next := newTestTarget(rapid.SampledFrom([]string{"a:1", "b:1"}).Draw(t, "addr"))
				if rapid.IntRange(0, 9).Draw(t, "none") == 0 {
					next = nil
				}
				gen++
				if s := v.swap(next, gen, time.Now()); cur != nil && s.InFlight != model[cur] {
					t.Fatalf("swap reports %d in flight, want %d", s.InFlight, model[cur])
				}
				cur = next
			},
			"begin": func(t *rapid.T) {
				f, err := v.begin(context.Background())
				if (err == nil) != (cur != nil) {
					t.Fatalf("begin: %v with target %v", err, cur)
				}
				if err == nil {
					if f.target != cur {
						t.Fatal("not the current target")
					}
					model[cur]++
					flights = append(flights, f)
				}
			},
			"end": func(t *rapid.T) {
				if len(flights) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(flights)-1).Draw(t, "flight")
				f := flights[i]
				flights = append(flights[:i], flights[i+1:]...)
				model[f.target]--
				f.end()
			},
			"": func(t *rapid.T) {
				var st State
				v.fill(&st)
				want, old := 0, 0
				for tgt, n := range model {
					if tgt == cur {
						want = n
					} else {
						old += n
					}
				}
				for _, d := range st.Draining {
					if d.InFlight == 0 {
						t.Fatal("an old target with nothing in flight is kept")
					}
					old -= d.InFlight
				}
				if st.InFlight != want || old != 0 || st.Generation != gen {
					t.Fatalf("state %+v, want %d in flight, %d missing on old targets", st, want, old)
				}
			},
		})
		for _, f := range flights {
			f.end()
		}
		if len(v.retired) != 0 {
			t.Fatalf("%d old targets kept", len(v.retired))
		}
	})
}

func TestValve_PauseHoldsBoundedInTimeAndCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &valve{maxHeld: 2}
		v.swap(newTestTarget("a:1"), 1, time.Now())
		v.hold(10 * time.Second)
		start := time.Now()
		took := make(chan time.Duration, 2)
		for range 2 {
			go func() {
				f, err := v.begin(context.Background())
				if err != nil {
					t.Error(err)
					return
				}
				took <- time.Since(start)
				f.end()
			}()
		}
		synctest.Wait()
		if _, err := v.begin(context.Background()); !errors.Is(err, errHoldFull) {
			t.Errorf("third: %v", err)
		}
		<-time.After(4 * time.Second)
		v.hold(10 * time.Second) // prolonged: 14 s in all
		for range 2 {
			if d := <-took; d != 14*time.Second {
				t.Errorf("held for %v", d)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		v.hold(time.Hour)
		go func() {
			synctest.Wait()
			cancel()
		}()
		if _, err := v.begin(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("client gone: %v", err)
		}
		if n := v.release(); n != 0 {
			t.Errorf("%d still held", n)
		}
	})
}

func TestValve_DrainWaitsExactlyToTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := &valve{}
		v.swap(newTestTarget("a:1"), 1, time.Now())
		f1, _ := v.begin(t.Context())
		f2, _ := v.begin(t.Context())
		v.swap(newTestTarget("b:1"), 2, time.Now())
		go func() {
			<-time.After(3 * time.Second)
			f1.end()
		}()
		go func() { // a request that ends a while after it was cut
			for f2.reason() == nil {
				<-time.After(time.Second)
			}
			f2.end()
		}()
		start := time.Now()
		d, err := v.drain(t.Context(), "a:1", 9*time.Second+time.Millisecond)
		if err != nil || d.InFlight != 2 || d.Cancelled != 1 || d.Remaining != 0 {
			t.Errorf("drained %+v, %v", d, err)
		}
		if took := time.Since(start); took != 10*time.Second || !errors.Is(f2.reason(), errDrainDeadline) {
			t.Errorf("took %v, cause %v", took, f2.reason())
		}
	})
}

func TestChecker_StatusNeedsOutcomesInARow(t *testing.T) {
	c := newChecker(Target{Addr: "a:1", Checks: Checks{Healthy: 3, Unhealthy: 2}}, testLog(t))
	bad := errors.New("no")
	for i, step := range []struct {
		err  error
		want string
	}{
		{bad, CheckUnknown},
		{nil, CheckUnknown},
		{nil, CheckUnknown},
		{nil, CheckPassing},
		{bad, CheckPassing},
		{nil, CheckPassing},
		{bad, CheckPassing},
		{bad, CheckFailing},
		{nil, CheckFailing},
		{nil, CheckFailing},
		{bad, CheckFailing},
		{nil, CheckFailing},
		{nil, CheckFailing},
		{nil, CheckPassing},
	} {
		c.note(step.err, time.Unix(int64(i), 0))
		if got := c.snapshot().Status; got != step.want {
			t.Fatalf("step %d: %s, want %s", i, got, step.want)
		}
	}
	first := newChecker(Target{Addr: "a:1"}, testLog(t))
	first.note(nil, time.Now())
	if got := first.snapshot().Status; got != CheckPassing {
		t.Errorf("the first check passed: %s", got)
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"format":1,"generation":3,"target":{"addr":"127.0.0.1:80","checks":{"interval":"5s","codes":"200-299"}},"saved":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(data)
		if err != nil {
			if !errors.Is(err, errCorruptState) {
				t.Fatalf("not marked as corrupt: %v", err)
			}
			return
		}
		if s.Target == nil {
			return
		}
		// What was accepted must be usable: in a request to the target, and as a state file.
		path := t.TempDir() + "/state.json"
		if err := s.save(path); err != nil {
			t.Fatal(err)
		}
		again, notice, err := loadState(path, time.Now())
		if err != nil || notice != "" || again.Generation != s.Generation || *again.Target != *s.Target {
			t.Fatalf("%+v became %+v, %q, %v", s.Target, again.Target, notice, err)
		}
	})
}

func FuzzControl(f *testing.F) {
	f.Add([]byte(`{"addr":"127.0.0.1:80","id":"x","expect_generation":1,"checks":{"path":"/","interval":"1s"}}`))
	f.Add([]byte(`{"clear":true,"expect_generation":0}`))
	f.Add([]byte(`{"expect_generation":1}{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		target, _, err := decodeTarget(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, errBadRequest) {
				t.Fatalf("not marked as a bad request: %v", err)
			}
			return
		}
		if target != nil && (target.validate() != nil || strings.ContainsAny(target.Addr+target.Checks.Path, "\r\n\x00 ")) {
			t.Fatalf("accepted %+v", target)
		}
		var d drainRequest
		_ = decode(bytes.NewReader(data), &d)
	})
}
