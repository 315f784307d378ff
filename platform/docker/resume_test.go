package docker_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"hostmanager/hooks"
	"hostmanager/internal/dockertest"
	"hostmanager/platform/docker"
)

// resume goes on with a command in a new process: the hook that was open is taken back where it is compensated, and runs again with all behind it.
func (c *command) resume(p *docker.Platform, dirs []string) error {
	open := c.steps[len(c.steps)-1]
	c.steps = c.steps[:len(c.steps)-1]
	reached := false
	for _, dir := range dirs {
		list := slices.SortedFunc(slices.Values(p.Hooks()[dir]), func(a, b hooks.Builtin) int { return strings.Compare(a.Name, b.Name) })
		for _, h := range list {
			first := dir == open.dir && h.Name == open.hook.Name
			if reached = reached || first; !reached {
				continue
			}
			s := &step{dir: dir, hook: h}
			if first && h.Undo != nil {
				s.saved = open.saved
				c.steps = append(c.steps, s)
				call := c.call(s)
				call.Again = true
				if err := h.Undo(c.t.Context(), call); err != nil {
					return err
				}
				c.steps, s.saved = c.steps[:len(c.steps)-1], nil
			}
			c.steps = append(c.steps, s)
			if err := h.Run(c.t.Context(), c.call(s)); err != nil {
				return err
			}
		}
	}
	return nil
}

// A command is killed at the points where something has changed, and is taken up by another process, which may be killed too: the new version serves in the end, from one
// container, and until then the old one does.
func TestResume_WhateverThePointOfTheCrash(t *testing.T) {
	for _, point := range []string{"run.created", "run.started", "flip.saved", "flip.swapped", "flip.written.1", "flip.persisted", "flip.drained", "flip.stopping"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			crashAndResume(t, "deploy", point, "")
		})
	}
	for _, point := range []string{"run.started", "flip.stopping"} {
		t.Run("config/"+point, func(t *testing.T) {
			t.Parallel()
			crashAndResume(t, "config", point, "")
		})
	}
	for _, again := range []string{"undo.swapped", "flip.stopping"} {
		t.Run("twice/"+again, func(t *testing.T) {
			t.Parallel()
			crashAndResume(t, "deploy", "flip.stopping", again)
		})
	}
}

func crashAndResume(t *testing.T, kind, point, again string) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	c, dirs, want := f.command("CMD-AppDeploy"), deployDirs, "Hello from 2"
	if kind == "config" {
		c.deployment.CommandName, dirs, want = "CMD-ConfigDeploy", configDirs, "Good evening from 1"
		c.configure(map[string]string{"GREETING": "Good evening"})
	} else {
		c.configure(nil)
		c.unpack(dockertest.BuildHello(t, "2"))
	}
	stop := f.load(2)
	dying := f.open("")
	dying.SetFault(killAt(point))
	if err := c.run(t.Context(), dying, dirs...); !errors.Is(err, errKilled) {
		t.Fatalf("run: %v", err)
	}
	_ = dying.Wait(t.Context()) // what it had set going in the background went on in the Engine
	if again != "" {
		second := f.open("")
		second.SetFault(killAt(again))
		if err := c.resume(second, dirs); !errors.Is(err, errKilled) {
			t.Fatalf("first resume: %v", err)
		}
		_ = second.Wait(t.Context())
	}
	last := f.open("")
	if err := c.resume(last, dirs); err != nil {
		t.Fatalf("resume: %v\n%s", err, f.said())
	}
	if err := last.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = last.Wait(t.Context())
	if sent, failed, first := stop(); failed > 0 || sent == 0 {
		t.Errorf("%d of %d requests failed, the first with %s", failed, sent, first)
	}
	f.wantAnswer(want)
	if running := strings.Fields(f.snapshot().Running); len(running) != 1 || running[0] != f.state(f.root.CurrentContainerID()) {
		t.Errorf("running: %v, serving %s", running, f.state(f.root.CurrentContainerID()))
	}
	if f.evidence() != "" {
		t.Errorf("evidence of a command that succeeded: %s", f.evidence())
	}
}
