package docker_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"

	"hostmanager/internal/dockertest"
	"hostmanager/platform/docker"
)

// remove takes a container away as an operator would.
func (f *fixture) remove(id string) {
	f.t.Helper()
	if err := f.engine.ContainerRemove(f.t.Context(), id, container.RemoveOptions{Force: true}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) runningNow() []string {
	f.t.Helper()
	return strings.Fields(f.snapshot().Running)
}

// swapped is a deployment that a kill cut short behind the proxy's swap.
func (f *fixture) swapped(version string) *command {
	f.t.Helper()
	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.unpack(dockertest.BuildHello(f.t, version))
	dying := f.open("")
	dying.SetFault(killAt("flip.swapped"))
	if err := c.run(f.t.Context(), dying, deployDirs...); !errors.Is(err, errKilled) {
		f.t.Fatalf("run: %v", err)
	}
	return c
}

// A flip that was cut short behind its swap, and whose old container is gone, cannot be taken back: then the new one, which gets the requests and
// which no file names, is what serves. Neither undoing nor recovering nor collecting takes it away, and a later deployment goes on from it.
func TestUndo_LeavesAloneWhatGetsTheRequests(t *testing.T) {
	for name, resumed := range map[string]bool{"unwound": false, "resumed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.mustDeploy("1", nil)
			old := f.state(f.root.CurrentContainerID())
			c := f.swapped("2")
			f.remove(old)
			next := f.open("")
			if resumed {
				again := *c // what was open is taken back, and the command with it
				again.steps = slices.Clone(c.steps)
				if err := again.resume(next, deployDirs); err == nil || !strings.Contains(err.Error(), "is gone: the new one keeps serving") {
					t.Fatalf("resume: %v", err)
				}
			}
			steps := c.steps
			for i, what := range []string{"is gone: the new one keeps serving", "is left running: the proxy leads to it"} {
				c.steps = steps[len(steps)-1-i : len(steps)-i] // 01flip, then 00run
				for range 2 {
					if err := c.unwind(next); err == nil || !strings.Contains(err.Error(), what) {
						t.Errorf("unwind: %v, want %q", err, what)
					}
				}
				f.wantAnswer("Hello from 2")
			}
			for range 2 {
				if err := next.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), "is gone") {
					t.Errorf("recover: %v", err)
				}
				if err := next.Collect(t.Context(), docker.CollectOptions{Failed: true, Hard: true}); err != nil {
					t.Error(err)
				}
				f.wantAnswer("Hello from 2")
			}
			f.failThenDeploy("Hello from 2")
		})
	}
}

// The container that serves is also known where its id file was lost.
func TestCollect_LeavesAloneWhatNoFileNames(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	if err := os.Remove(f.root.CurrentContainerID()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.platform.Collect(t.Context(), docker.CollectOptions{Failed: true, Hard: true}); err != nil {
			t.Error(err)
		}
		if text := f.astray(); !strings.Contains(text, "which no file names") {
			t.Errorf("astray: %q", text)
		}
		if err := f.platform.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), "does not name it: deploy a version again") {
			t.Errorf("recover: %v", err)
		}
		f.wantAnswer("Hello from 1")
	}
	f.failThenDeploy("Hello from 1")
}

// failThenDeploy has a deployment fail behind its flip, and another succeed: until then what answered before does, and nothing is left over then.
func (f *fixture) failThenDeploy(before string) {
	f.t.Helper()
	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.unpack(dockertest.BuildHello(f.t, "3"))
	if err := c.run(f.t.Context(), f.platform, deployDirs...); err != nil {
		f.t.Fatal(err, f.said())
	}
	f.wantAnswer("Hello from 3")
	if err := c.unwind(f.platform); err != nil {
		f.t.Error(err)
	}
	f.wantAnswer(before)
	f.mustDeploy("4", nil)
	f.wantAnswer("Hello from 4")
	if running := f.runningNow(); len(running) != 1 || running[0] != f.state(f.root.CurrentContainerID()) {
		f.t.Errorf("running %v, serving %s", running, f.state(f.root.CurrentContainerID()))
	}
	if text := f.astray(); text != "" {
		f.t.Errorf("astray: %q", text)
	}
	if n, most := len(f.containers()), 3; n > most {
		f.t.Errorf("%d containers, want at most %d", n, most)
	}
}

// silent is a valve that does not answer.
type silent struct{ *valve }

func (silent) State(context.Context) (uint64, string, string, error) {
	return 0, "", "", errors.New("no answer")
}

// blind is a platform of the fixture whose proxy does not answer.
func (f *fixture) blind() *docker.Platform {
	f.t.Helper()
	p, err := docker.New(docker.Options{Root: f.root, Namespace: f.ns, Valve: silent{f.valve}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = p.Close() })
	return p
}

// Without the proxy nothing is started that nobody could take back: however often it is tried, no container piles up.
func TestRun_NothingIsStartedWithoutTheProxy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	blind := f.blind()
	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.unpack(dockertest.BuildHello(t, "1"))
	if err := c.run(t.Context(), blind, deployDirs...); err == nil || !strings.Contains(err.Error(), "ask the proxy for its state: no answer") {
		t.Errorf("run: %v", err)
	}
	if err := c.unwind(blind); err != nil {
		t.Error(err)
	}
	if all := f.containers(); len(all) > 0 {
		t.Errorf("%d containers", len(all))
	}
}

// While the proxy does not say where it leads, all that runs stays, and goes when it does.
func TestUndo_WhileTheProxyDoesNotAnswer(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.mustDeploy("1", nil)
	c := f.swapped("2")
	blind := f.blind()
	for _, s := range []*step{c.steps[len(c.steps)-1], c.steps[len(c.steps)-2]} { // 01flip, 00run
		c.steps = []*step{s}
		if err := c.unwind(blind); err == nil {
			t.Error("undone without the proxy")
		}
	}
	_ = blind.Recover(t.Context())
	if err := blind.Collect(t.Context(), docker.CollectOptions{Failed: true}); err != nil {
		t.Error(err)
	}
	f.wantAnswer("Hello from 2")
	if err := f.open("").Recover(t.Context()); err != nil {
		t.Error(err)
	}
	f.wantAnswer("Hello from 1")
	if running := f.runningNow(); len(running) != 1 {
		t.Errorf("running %v", running)
	}
}
