package agent_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/fleet/record"
	"hostmanager/internal/signature"
)

// stopped returns an operator whose n-th request to AWS ends their context, and what counts the requests.
func (c *crew) stopped(ctx context.Context, name string, n int64) (f *fleet.Fleet, out *told, stopping context.Context, done func() (requests int64)) {
	c.t.Helper()
	c.t.Setenv("AWS_ACCESS_KEY_ID", name)
	f, out = c.operator(name)
	var err error
	f.Queues, err = queue.New(ctx, queue.Options{})
	must(c.t, err)
	f.Objects, err = objects.New(ctx, objects.Options{})
	must(c.t, err)
	r, err := record.Open(f.Objects, bucket, envID)
	must(c.t, err)
	f.Record = r.Secured(operatorKey(), signature.Keys{})
	stopping, cancel := context.WithCancel(ctx)
	var count atomic.Int64
	remove, err := c.aws.Inject(localaws.Fault{Op: "*", Status: 500, When: func(call localaws.Call) bool {
		if strings.Contains(call.Request.Header.Get("Authorization"), "Credential="+name+"/") && count.Add(1) == n {
			cancel()
		}
		return false
	}})
	must(c.t, err)
	return f, out, stopping, func() int64 { remove(); cancel(); return count.Load() }
}

// uniform holds that all serve the desired version, after an abort that may have been carried on.
func (c *crew) uniform(what string, n int64) {
	c.t.Helper()
	_, m, err := c.record.CurrentManifest(c.t.Context())
	must(c.t, err)
	for _, one := range c.members {
		if one.serves() != m.VersionLabel {
			c.t.Errorf("%s stopped at request %d: %s serves %s, desired is %s", what, n, one.id, one.serves(), m.VersionLabel)
		}
	}
	last, err := c.record.LastSerial(c.t.Context())
	must(c.t, err)
	for id := last.DeploymentID; id > 0; id-- {
		if d, _, err := c.record.Deployment(c.t.Context(), id); err == nil && !d.State.Terminal() {
			c.t.Errorf("%s stopped at request %d: deployment %d is %s", what, n, id, d.State)
		}
	}
	if l, err := c.record.LockState(c.t.Context()); err != nil || l.Held() {
		c.t.Errorf("%s stopped at request %d: the lock is %+v, %v", what, n, l, err)
	}
}

// abortAgain is what a second operator does: abort, and where that has been done to the point of putting instances back, resume.
func (c *crew) abortAgain(what string, n int64) {
	c.t.Helper()
	_, out, err := c.abort()
	if errors.Is(err, environment.ErrLocked) { // the cancelled write of the lock was carried out after its release
		_, err = c.record.BreakLock(c.t.Context())
		must(c.t, err)
		_, out, err = c.abort()
	}
	if err != nil && !errors.Is(err, fleet.ErrNothingToAbort) && !errors.Is(err, fleet.ErrTooLate) {
		c.t.Fatalf("%s stopped at request %d: %v\n%s", what, n, err, out)
	}
	f, out := c.operator("carla")
	if _, err := f.Resume(c.t.Context()); err != nil && !errors.Is(err, fleet.ErrNothingToResume) {
		c.t.Fatalf("%s stopped at request %d: resume: %v\n%s", what, n, err, out)
	}
}

// TestFleetAbort_OfWhatStoppedAnywhere interrupts a deployment at every second of its requests and aborts it: all instances run the same then.
func TestFleetAbort_OfWhatStoppedAnywhere(t *testing.T) {
	c := newCrew(t, "i-a", "i-b")
	c.deployed("v0")
	for n := int64(1); ; n += 2 {
		f, _, ctx, done := c.stopped(t.Context(), "first", n)
		_, err := f.Deploy(ctx, fleet.DeployRequest{Bundle: c.bundle("v1"), Label: "v1"})
		if done() < n {
			must(t, err)
			t.Logf("%d requests", n-1)
			return
		}
		c.abortAgain("deployment", n)
		c.uniform("deployment", n)
	}
}

// TestFleetAbort_StoppedAnywhereIsCarriedOn interrupts an abort at every ninth of its requests, with one instance through and one behind its swap.
func TestFleetAbort_StoppedAnywhereIsCarriedOn(t *testing.T) {
	c := newCrew(t, "i-a", "i-b")
	c.deployed("v0")
	pids := c.members[1].waitingHook("appdeploy/enact/02wait", "")
	for n := int64(1); ; n += 9 {
		before := strings.Count(c.read(pids), "\n")
		ctx, closed := context.WithCancel(t.Context())
		deploy, _ := c.deploying(ctx, "v1")
		eventually(t, "i-b hangs and i-a is through", func() bool {
			d, _, err := c.record.LastDeployment(t.Context())
			return strings.Count(c.read(pids), "\n") == before+2 && err == nil && len(d.Stages) == 2 && len(d.Stages[1].Outcomes) == 1
		})
		closed()
		<-deploy
		f, out, ctx, done := c.stopped(t.Context(), "second", n)
		_, err := f.Abort(ctx, fleet.AbortRequest{})
		if done() < n {
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			t.Logf("%d requests", n-1)
			return
		}
		c.abortAgain("abort", n)
		c.uniform("abort", n)
	}
}
