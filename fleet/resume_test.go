package fleet_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/fleet/record"
	"hostmanager/internal/procid"
	"hostmanager/protocol"
)

// operator returns an operator whose requests can be told from those of the instances by the access key they are signed with.
func (w *world) operator(key string) (*fleet.Fleet, *lines) {
	w.t.Helper()
	w.t.Setenv("AWS_ACCESS_KEY_ID", key)
	f, out := w.fleet()
	var err error
	if f.Queues, err = queue.New(w.t.Context(), queue.Options{Region: "us-east-1", Endpoint: w.aws.URL()}); err != nil {
		w.t.Fatal(err)
	}
	if f.Objects, err = objects.New(w.t.Context(), objects.Options{Region: "us-east-1", Endpoint: w.aws.URL()}); err != nil {
		w.t.Fatal(err)
	}
	if f.Record, err = record.Open(f.Objects, testBucket, testEnv); err != nil {
		w.t.Fatal(err)
	}
	f.Record = signedRecord(f.Record)
	f.Holder = key + "@test"
	return f, out
}

// onRequest calls fn with the number of each request signed with the key, from 1.
func (w *world) onRequest(key string, fn func(n int64, op string)) (remove func() int) {
	w.t.Helper()
	var count atomic.Int64
	remove, err := w.aws.Inject(localaws.Fault{Op: "*", Status: 500, When: func(c localaws.Call) bool {
		if strings.Contains(c.Request.Header.Get("Authorization"), "Credential="+key+"/") {
			fn(count.Add(1), c.Op)
		}
		return false
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	return remove
}

// TestDeploy_CanBeResumedFromAnyPoint interrupts a deployment at each of its requests in turn. Whatever is left then, a second operator brings the
// environment to the new version, and no instance runs a stage twice.
func TestDeploy_CanBeResumedFromAnyPoint(t *testing.T) {
	w := newWorld(t)
	instances := []*instance{w.instance("i-a", dockerLike("aaaaaaaaaaaa")), w.instance("i-b", dockerLike("bbbbbbbbbbbb"))}
	var resumed, restarted int
	for stop := int64(1); ; stop++ {
		first, out := w.operator("first")
		ctx, cancel := context.WithCancel(t.Context())
		var op string
		remove := w.onRequest("first", func(n int64, o string) {
			if n == stop {
				op = o
				cancel()
			}
		})
		before := w.lastSerial()
		_, err := first.Deploy(ctx, fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"})
		remove()
		cancel()
		if op == "" {
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if err != nil && !errors.Is(err, fleet.ErrInterrupted) && !errors.Is(err, context.Canceled) {
			t.Errorf("stopped at request %d (%s): %v", stop, op, err)
		}
		if errors.Is(err, fleet.ErrInterrupted) {
			out.mustHave(t, "Stopped ")
		}
		if w.carryOn(t, stop, op) {
			resumed++
		} else {
			restarted++
		}
		checkEnd(t, w, environment.Succeeded)
		if c, _ := w.current(); c.Serial <= before {
			t.Errorf("stopped at request %d (%s): current is still %d", stop, op, c.Serial)
		}
	}
	t.Logf("%d resumed, %d begun again or ended", resumed, restarted)
	if resumed < 5 || restarted < 5 {
		t.Errorf("%d resumed, %d begun again: the points of interruption do not cover both", resumed, restarted)
	}
	for _, i := range instances {
		seen := map[string]int{}
		for _, r := range i.Got() {
			seen[r.RequestID+string(rune('0'+*r.StageNum))]++
		}
		for id, n := range seen {
			if n > 1 {
				t.Errorf("%s ran %s %d times", i.ID, id, n)
			}
		}
	}
}

func (w *world) lastSerial() int64 {
	w.t.Helper()
	c, _ := w.current()
	return c.Serial
}

// carryOn is what a second operator does: resume, and where there is nothing to resume, deploy. It tells whether it was a resume.
func (w *world) carryOn(t *testing.T, stop int64, op string) bool {
	t.Helper()
	second, out := w.operator("second")
	_, err := second.Resume(t.Context())
	if errors.Is(err, environment.ErrLocked) {
		// The cancelled write of the lock was carried out after its release.
		if _, err = w.record.BreakLock(t.Context()); err == nil {
			_, err = second.Resume(t.Context())
		}
	}
	switch {
	case err == nil:
		out.mustHave(t, "Resuming deployment", "Environment update completed successfully.")
		return true
	case !errors.Is(err, fleet.ErrNothingToResume):
		t.Fatalf("stopped at request %d (%s): resume: %v", stop, op, err)
	}
	if _, err := second.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
		t.Fatalf("stopped at request %d (%s): deploy: %v", stop, op, err)
	}
	return false
}

func TestResume_FinishesWhatWasNotWaitedFor(t *testing.T) {
	w := newWorld(t)
	a := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f, out := w.fleet()
	report, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", NoWait: true})
	if err != nil || report.State != environment.Running {
		t.Fatalf("got %+v, %v", report, err)
	}
	out.mustNotHave(t, "completed")
	if c, _ := w.current(); c.Serial != 0 {
		t.Errorf("current moved to %+v with nobody waiting", c)
	}
	report, err = f.Resume(t.Context())
	if err != nil || report.State != environment.Succeeded {
		t.Fatalf("got %+v, %v", report, err)
	}
	if got := a.ran(); !slices.Equal(got, []int{-1}) {
		t.Errorf("ran %v", got)
	}
	if _, err := f.Resume(t.Context()); !errors.Is(err, fleet.ErrNothingToResume) {
		t.Errorf("a second resume: %v", err)
	}
	checkEnd(t, w, environment.Succeeded)
}

func TestDeploy_GivesUpWhatNobodyFinished(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f, out := w.fleet()
	first, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	second, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v2"), Label: "v2"})
	if err != nil {
		t.Fatal(err)
	}
	out.mustHave(t, "Deployment 1 (v1) of anna@test was not finished and is given up: superseded by a later deployment.")
	d, _, err := w.record.Deployment(t.Context(), first.DeploymentID)
	if err != nil || d.State != environment.Aborted {
		t.Errorf("the first is %s, %v", d.State, err)
	}
	if c, _ := w.current(); c.Serial != second.Serial {
		t.Errorf("current is %+v", c)
	}
	checkEnd(t, w, environment.Succeeded)
}

func TestDeploy_OneOperatorAtATime(t *testing.T) {
	w := newWorld(t)
	var inside atomic.Int64
	w.instance("i-a", func(i *instance, c protocol.Command, r protocol.Request) []string {
		if *r.StageNum == 0 && inside.Add(1) != 1 {
			t.Error("two deployments at once")
		}
		if *r.StageNum == 1 {
			inside.Add(-1)
		}
		return dockerLike("aaaaaaaaaaaa")(i, c, r)
	})
	var won, locked atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		f, _ := w.fleet()
		b := w.bundle("v1")
		wg.Go(func() {
			_, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: b, Label: "v1"})
			switch {
			case err == nil:
				won.Add(1)
			case errors.Is(err, environment.ErrLocked):
				locked.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() == 0 || won.Load()+locked.Load() != 8 {
		t.Errorf("%d won, %d were locked out", won.Load(), locked.Load())
	}
	checkEnd(t, w, environment.Succeeded)
}

func TestDeploy_StopsWhenItsLockIsBroken(t *testing.T) {
	w := newWorld(t)
	var once sync.Once
	w.instance("i-a", func(i *instance, c protocol.Command, r protocol.Request) []string {
		once.Do(func() {
			if _, err := w.record.BreakLock(t.Context()); err != nil {
				t.Error(err)
			}
		})
		return nil // and never answers
	})
	f, _ := w.fleet()
	f.LockTTL = 3 * time.Second
	_, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"})
	if !errors.Is(err, environment.ErrLockLost) {
		t.Fatalf("got %v", err)
	}
	if d := w.lastDeployment(); d.State != environment.Running {
		t.Errorf("the record says %s", d.State)
	}
}

// TestDeploy_TakesOverFromADeadOperator: one that was killed left its lock and its record; the next one says so and finishes.
func TestDeploy_TakesOverFromADeadOperator(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f, _ := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", NoWait: true}); err != nil {
		t.Fatal(err)
	}
	// What a killed process leaves: a lock that nobody renews.
	past := time.Now().Add(-time.Hour)
	dead, err := environment.Open(record.Store{Client: w.objects, Bucket: testBucket}, testEnv, environment.Options{Now: func() time.Time { return past }})
	if err != nil {
		t.Fatal(err)
	}
	killed, cancel := context.WithCancel(t.Context())
	if _, err := dead.Lock(killed, environment.LockRequest{Holder: "bert@dead", Reason: "deploy v1"}); err != nil {
		t.Fatal(err)
	}
	cancel()
	f, out := w.fleet()
	if _, err := f.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	out.mustHave(t, "WARN: Took over the lock of bert@dead (deploy v1)", "Environment update completed successfully.")
}

// TestAbort_FreesTheLockOfWhoDiedBeforeTheyBegan: nobody else needs it, and nothing else would say so.
func TestAbort_FreesTheLockOfWhoDiedBeforeTheyBegan(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	dead := procid.Self()
	dead.Start++ // a process with this pid, but not this one
	held, err := w.record.Lock(t.Context(), environment.LockRequest{Holder: "bert", Reason: "deploy v1", Process: dead})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Unlock(t.Context()) }()
	f, _ := w.fleet()
	if _, err := f.Abort(t.Context(), fleet.AbortRequest{}); !errors.Is(err, fleet.ErrNothingToAbort) || !strings.Contains(err.Error(), "the lock of bert (deploy v1), who is gone, is free now") {
		t.Fatal(err)
	}
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
		t.Error(err)
	}
}

// TestAbort_OfWhatHasEndedIsNone: who was killed between the last write of the record and the release of the lock left a lock that still names the
// deployment. It has succeeded, and nobody may be told that it was aborted.
func TestAbort_OfWhatHasEndedIsNone(t *testing.T) {
	w := newWorld(t)
	a := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f := deployed(t, w)
	d := w.lastDeployment()
	for _, c := range []struct {
		name string
		dead bool
		want string
	}{
		{"killed", true, "the lock of bert (deploy v1), who is gone, is free now"},
		{"still tidying up", false, "deployment 1 (v1) has ended: succeeded"},
	} {
		holder := procid.Self()
		if c.dead {
			holder.Start++
		}
		held, err := w.record.Lock(t.Context(), environment.LockRequest{Holder: "bert", Reason: "deploy v1", Process: holder})
		if err != nil {
			t.Fatal(err)
		}
		if err := held.SetOperation(environment.Operation{RequestID: d.RequestID, Command: d.Command}); err != nil {
			t.Fatal(err)
		}
		report, err := f.Abort(t.Context(), fleet.AbortRequest{})
		if !errors.Is(err, fleet.ErrNothingToAbort) || !strings.Contains(err.Error(), c.want) || report.Aborted {
			t.Errorf("%s: %+v, %v", c.name, report, err)
		}
		_ = held.Unlock(t.Context())
	}
	if got := a.ran(); !slices.Equal(got, []int{0, 1}) {
		t.Errorf("ran %v", got)
	}
	if l, err := w.record.LockState(t.Context()); err != nil || l.Held() {
		t.Errorf("the lock is %+v, %v", l, err)
	}
}
