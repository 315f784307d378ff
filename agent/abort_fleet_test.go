package agent_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/agent"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/internal/layout"
	"hostmanager/internal/signature"
	"hostmanager/protocol"
)

// crew is a fleet of real agents that serve files, and an operator.
type crew struct {
	*world
	members []*member
}

type member struct {
	*world
	id    string
	agent *running
}

func newCrew(t *testing.T, ids ...string) *crew {
	t.Helper()
	c := &crew{world: newWorld(t)}
	for _, id := range ids {
		m := &member{world: &world{}, id: id}
		*m.world = *c.world
		m.root = layout.Root(t.TempDir())
		m.run()
		c.members = append(c.members, m)
	}
	eventually(t, "all are registered", func() bool {
		all, _, err := c.record.Instances(t.Context())
		return err == nil && len(all) == len(ids)
	})
	return c
}

func (m *member) run() {
	m.agent = m.start(func(s *agent.Setup) { s.Config.InstanceID = m.id })
}

// operator returns one with a printer of their own.
func (c *crew) operator(name string) (*fleet.Fleet, *told) {
	out := &told{}
	return &fleet.Fleet{
		Record: c.record.Secured(operatorKey(), signature.Keys{}), Queues: c.queue, Objects: c.objects, Bucket: bucket, Holder: name, Printer: out,
		PickupWindow: 20 * time.Second, LockTTL: 24 * time.Second,
	}, out
}

func (c *crew) bundle(label string) fleet.Bundle {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), label+".zip")
	must(c.t, os.WriteFile(path, zipOf(c.t, map[string]string{"Dockerfile": "FROM scratch\n# " + label}), 0o600))
	b, err := fleet.OpenBundle(c.t.Context(), path)
	must(c.t, err)
	return b
}

// deployed brings a version to everyone.
func (c *crew) deployed(label string) {
	c.t.Helper()
	f, out := c.operator("anna")
	if _, err := f.Deploy(c.t.Context(), fleet.DeployRequest{Bundle: c.bundle(label), Label: label}); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
}

// deploying begins to deploy a version; the error comes when it ended.
func (c *crew) deploying(ctx context.Context, label string) (<-chan error, *told) {
	f, out := c.operator("anna")
	ended := make(chan error, 1)
	b := c.bundle(label)
	go func() {
		_, err := f.Deploy(ctx, fleet.DeployRequest{Bundle: b, Label: label})
		ended <- err
	}()
	return ended, out
}

func (c *crew) abort() (fleet.AbortReport, *told, error) {
	f, out := c.operator("bert")
	report, err := f.Abort(c.t.Context(), fleet.AbortRequest{Reason: "wrong version"})
	return report, out, err
}

// serves tells the version label that serves on a member.
func (m *member) serves() string {
	a, err := (&filePlatform{m.root}).Status(context.Background())
	must(m.t, err)
	return a.VersionLabel
}

// settled holds what every abort leaves: a free lock, no result queue, the record's state, and the desired version.
func (c *crew) settled(state environment.State, label string) {
	c.t.Helper()
	if l, err := c.record.LockState(c.t.Context()); err != nil || l.Held() {
		c.t.Errorf("the lock is %+v, %v", l, err)
	}
	urls, err := c.queue.List(c.t.Context(), protocol.ResultQueuePrefix(envID))
	must(c.t, err)
	for _, url := range urls {
		if url != c.results { // the world's own
			c.t.Errorf("result queue left: %s", url)
		}
	}
	d, _, err := c.record.LastDeployment(c.t.Context())
	must(c.t, err)
	if d.State != state {
		c.t.Errorf("the last deployment is %s (%s), want %s", d.State, d.Failure, state)
	}
	_, m, err := c.record.CurrentManifest(c.t.Context())
	if label != "" && (err != nil || m.VersionLabel != label) {
		c.t.Errorf("the desired version is %q, %v; want %s", m.VersionLabel, err, label)
	}
	if label == "" && !errors.Is(err, environment.ErrNoCurrent) {
		c.t.Errorf("there is a desired version %q, %v", m.VersionLabel, err)
	}
}

// told is a printer that remembers.
type told struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *told) Packing(string)      {}
func (l *told) Upload(fleet.Upload) {}
func (l *told) Line(line fleet.Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.WriteString(string(line.Severity) + ": " + line.Text + "\n")
}

func (l *told) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *told) mustSay(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(l.String(), text) {
			t.Errorf("no line says %q:\n%s", text, l)
		}
	}
}

// hangs puts a hook on a member that waits for ever; hanging waits until it runs, and ended tells whether its processes are gone.
func (m *member) hangs(hook string) (hanging func(), ended func()) {
	file := m.waitingHook(hook, "")
	return func() {
			m.t.Helper()
			eventually(m.t, "the hook runs on "+m.id, func() bool { return strings.Count(m.read(file), "\n") == 2 })
		}, func() {
			m.t.Helper()
			eventually(m.t, "the hook's processes on "+m.id+" are gone", func() bool { return gone(m.t, file) })
		}
}

func TestFleetAbort_WhileAllBuild(t *testing.T) {
	c := newCrew(t, "i-a", "i-b")
	c.deployed("v1")
	var ended []func()
	var hanging []func()
	for _, m := range c.members {
		h, e := m.hangs("appdeploy/pre/02wait")
		hanging, ended = append(hanging, h), append(ended, e)
	}
	deploy, driver := c.deploying(t.Context(), "v2")
	for _, h := range hanging {
		h()
	}
	report, out, err := c.abort()
	if err != nil || !report.Aborted || !report.Uniform || report.Rollback != nil || len(report.Instances) != 2 {
		t.Errorf("%+v, %v\n%s", report, err, out)
	}
	out.mustSay(t, "[Instance: i-a] CMD-AppDeploy stage 0 was aborted and undone.", "was aborted by bert: wrong version.", "the desired state stays version v1")
	if err := <-deploy; !errors.Is(err, fleet.ErrAborted) || !strings.Contains(err.Error(), "aborted by bert: wrong version") {
		t.Errorf("whoever deployed is told %v\n%s", err, driver)
	}
	driver.mustSay(t, "ERROR: Failed to deploy application.")
	for n, m := range c.members {
		ended[n]()
		if m.serves() != "v1" {
			t.Errorf("%s serves %s", m.id, m.serves())
		}
		must(t, os.Remove(m.root.HookDir("appdeploy/pre/02wait")))
	}
	c.settled(environment.Aborted, "v1")
	if _, _, err := c.abort(); !errors.Is(err, fleet.ErrNothingToAbort) {
		t.Errorf("twice: %v", err)
	}
	c.deployed("v3")
	c.settled(environment.Succeeded, "v3")
}

// TestFleetAbort_TakesOverFromAClosedLaptop between the stages: one instance is through with its build, the other one is at it.
func TestFleetAbort_TakesOverFromAClosedLaptop(t *testing.T) {
	c := newCrew(t, "i-a", "i-b")
	c.deployed("v1")
	hanging, ended := c.members[1].hangs("appdeploy/pre/02wait")
	ctx, closed := context.WithCancel(t.Context())
	deploy, driver := c.deploying(ctx, "v2")
	hanging()
	closed()
	if err := <-deploy; !errors.Is(err, fleet.ErrInterrupted) {
		t.Fatal(err)
	}
	driver.mustSay(t, "or take it back with `hmctl abort`.")
	report, out, err := c.abort()
	if err != nil || !report.Uniform {
		t.Errorf("%+v, %v\n%s", report, err, out)
	}
	out.mustSay(t, "[Instance: i-a] Aborted behind CMD-AppDeploy stage 0: its next stage is not run.", "[Instance: i-b] CMD-AppDeploy stage 0 was aborted and undone.")
	ended()
	c.settled(environment.Aborted, "v1")
	f, _ := c.operator("anna")
	if _, err := f.Resume(t.Context()); !errors.Is(err, fleet.ErrNothingToResume) {
		t.Errorf("resumed what was aborted: %v", err)
	}
}

// TestFleetAbort_PutsBackWhoHasIt: one instance has committed the new version, the other one is behind its swap.
func TestFleetAbort_PutsBackWhoHasIt(t *testing.T) {
	c := newCrew(t, "i-a", "i-b")
	c.deployed("v1")
	hanging, ended := c.members[1].hangs("appdeploy/enact/02wait")
	deploy, _ := c.deploying(t.Context(), "v2")
	hanging()
	eventually(t, "i-a is through", func() bool {
		d, _, err := c.record.LastDeployment(t.Context())
		return err == nil && len(d.Stages) == 2 && len(d.Stages[1].Outcomes) == 1
	})
	if c.members[0].serves() != "v2" || c.members[1].serves() != "v2" {
		t.Fatal("the swaps are not behind us")
	}
	report, out, err := c.abort()
	if err != nil || !report.Uniform || report.Rollback == nil || len(report.Rollback.Succeeded) != 1 {
		t.Errorf("%+v, %v\n%s", report, err, out)
	}
	out.mustSay(t, "[i-a] already run version v2 and go back to v1.", "All instances run version v1; [i-a] went back to it, as serial 3.")
	if err := <-deploy; !errors.Is(err, fleet.ErrAborted) {
		t.Errorf("whoever deployed is told %v", err)
	}
	ended()
	for _, m := range c.members {
		if m.serves() != "v1" {
			t.Errorf("%s serves %s", m.id, m.serves())
		}
	}
	c.settled(environment.Succeeded, "v1") // the way back was a deployment of its own
	if d, _, err := c.record.LastDeployment(t.Context()); err != nil || d.Restores != 1 {
		t.Errorf("the way back says it restores serial %d, %v", d.Restores, err)
	}
	must(t, os.Remove(c.members[1].root.HookDir("appdeploy/enact/02wait")))
	c.deployed("v3")
}

// TestFleetAbort_NamesWhoIsAway: an instance whose agent is dead. The abort waits for it.
func TestFleetAbort_NamesWhoIsAway(t *testing.T) {
	c := newCrew(t, "i-a", "i-b")
	c.deployed("v1")
	must(t, c.members[1].agent.stop())
	ctx, closed := context.WithCancel(t.Context())
	deploy, _ := c.deploying(ctx, "v2")
	eventually(t, "i-a is through with its build", func() bool {
		d, _, err := c.record.LastDeployment(t.Context())
		return err == nil && len(d.Stages) == 2 && len(d.Stages[0].Outcomes) == 1
	})
	closed()
	<-deploy
	f, out := c.operator("bert")
	f.PickupWindow = time.Second
	report, err := f.Abort(t.Context(), fleet.AbortRequest{Timeout: 5 * time.Second})
	if !errors.Is(err, fleet.ErrNotUniform) || report.Uniform || !report.Aborted || !strings.Contains(err.Error(), "no answer from i-b") {
		t.Errorf("%+v, %v\n%s", report, err, out)
	}
	out.mustSay(t, "No answer from i-b, which was last seen with version v1 (serial 1): the abort waits in its queue for 24h0m0s")
	c.settled(environment.Aborted, "v1")
	before, _, err := c.record.Deployment(t.Context(), 2)
	must(t, err)
	c.members[1].run()
	eventually(t, "the abort reached i-b", func() bool {
		return strings.Contains(c.members[1].read(c.members[1].root.Log("eb-commandprocessor.log"))+c.members[1].read(c.members[1].root.Log("hostmanager.log")), `"command":"CMD-Abort"`)
	})
	if c.members[1].serves() != "v1" || before.RequestID != report.OperationID {
		t.Errorf("i-b serves %s, the operation was %s", c.members[1].serves(), before.RequestID)
	}
}

// TestFleetAbort_TooLateOrTooEarly: what all have is finished, what is the first has nothing to go back to.
func TestFleetAbort_TooLateOrTooEarly(t *testing.T) {
	c := newCrew(t, "i-a", "i-b")
	if _, _, err := c.abort(); !errors.Is(err, fleet.ErrNothingToAbort) {
		t.Errorf("of an empty environment: %v", err)
	}
	hanging, ended := c.members[1].hangs("appdeploy/enact/02wait")
	deploy, _ := c.deploying(t.Context(), "v1")
	hanging()
	eventually(t, "i-a is through", func() bool { return c.members[0].serves() == "v1" })
	_, out, err := c.abort()
	if !errors.Is(err, fleet.ErrNotUniform) {
		t.Errorf("the first version on one of two: %v\n%s", err, out)
	}
	out.mustSay(t, "ERROR: [i-a] run version v1, and there is no version before it to go back to. Deploy one with `hmctl deploy`.")
	<-deploy
	ended()
	c.settled(environment.Aborted, "")
	must(t, os.Remove(c.members[1].root.HookDir("appdeploy/enact/02wait")))

	f, _ := c.operator("anna")
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: c.bundle("v2"), Label: "v2", NoWait: true}); err != nil {
		t.Fatal(err)
	}
	for _, m := range c.members {
		eventually(t, m.id+" is through", func() bool {
			status, err := agent.AskStatus(t.Context(), m.root)
			return err == nil && len(status.Commands) > 0 && status.Commands[0].StageNum == nil && status.Commands[0].Verdict == protocol.Success
		})
	}
	_, out, err = c.abort()
	if !errors.Is(err, fleet.ErrTooLate) {
		t.Errorf("of what all have: %v\n%s", err, out)
	}
	c.settled(environment.Succeeded, "v2")
}

// TestFleetAbort_OfARestart, which keeps no record: the lock tells of it.
func TestFleetAbort_OfARestart(t *testing.T) {
	c := newCrew(t, "i-a", "i-b")
	c.deployed("v1")
	hanging, ended := c.members[0].hangs("restartappserver/pre/00wait")
	f, driver := c.operator("anna")
	restart := make(chan error, 1)
	go func() {
		_, err := f.Restart(t.Context(), fleet.RestartRequest{})
		restart <- err
	}()
	hanging()
	report, out, err := c.abort()
	if err != nil || !report.Aborted || report.Command != protocol.CmdRestartAppServer {
		t.Errorf("%+v, %v\n%s", report, err, out)
	}
	if err := <-restart; err == nil {
		t.Errorf("whoever restarted is told nothing:\n%s", driver)
	}
	ended()
	c.settled(environment.Succeeded, "v1")
}

// TestFleetAbort_TakesTheLockOfASleepingLaptop: whoever drives the operation does not notice the mark, and cannot be proven dead. The lock of somebody who
// does something else is not taken.
func TestFleetAbort_TakesTheLockOfASleepingLaptop(t *testing.T) {
	c := newCrew(t, "i-a")
	c.deployed("v1")
	hanging, ended := c.members[0].hangs("appdeploy/enact/02wait")
	f, _ := c.operator("anna")
	sent, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: c.bundle("v2"), Label: "v2", NoWait: true})
	must(t, err)
	hanging()
	hold := func(operation string) *environment.HeldLock {
		h, err := c.record.Lock(t.Context(), environment.LockRequest{Holder: "anna@laptop", Reason: "deploy v2", TTL: 6 * time.Second})
		must(t, err)
		if operation != "" {
			must(t, h.SetOperation(environment.Operation{RequestID: operation, Command: protocol.CmdAppDeploy}))
		}
		return h
	}
	other := hold("") // it prepares something
	if _, out, err := c.abort(); !errors.Is(err, environment.ErrLocked) {
		t.Errorf("the lock of another operation: %v\n%s", err, out)
	}
	must(t, other.Unlock(t.Context()))
	asleep := hold(sent.OperationID)
	report, out, err := c.abort()
	if err != nil || !report.Uniform {
		t.Errorf("%+v, %v\n%s", report, err, out)
	}
	<-asleep.Context().Done()
	if !errors.Is(context.Cause(asleep.Context()), environment.ErrLockLost) {
		t.Errorf("the sleeper's context ended with %v", context.Cause(asleep.Context()))
	}
	ended()
	c.settled(environment.Aborted, "v1")
}
