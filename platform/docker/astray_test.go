package docker_test

import (
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"

	"hostmanager/platform/docker"
)

func (f *fixture) astray() string {
	f.t.Helper()
	text, err := f.platform.Astray(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return text
}

func TestAstray_TellsWhatRecoverPutsRight(t *testing.T) {
	f := newFixture(t)
	if text := f.astray(); text != "" {
		t.Errorf("on a fresh instance: %q", text)
	}
	f.mustDeploy("1", nil)
	id := f.state(f.root.CurrentContainerID())
	lead := func(target docker.Target) {
		generation, _, _, err := f.valve.State(t.Context())
		if err == nil {
			_, err = f.valve.SetTarget(t.Context(), target, generation)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, want string
		spoil      func()
	}{
		{"well", "", func() {}},
		{"no target", "the proxy had no target while container " + id, func() { lead(docker.Target{}) }},
		{"another target", "the proxy led to 127.0.0.1:9 while container " + id, func() { lead(docker.Target{Addr: "127.0.0.1:9", ID: "other"}) }},
		{"killed by hand", "container " + id + ", which should serve, was stopped (exit code 137)", func() {
			if err := f.engine.ContainerKill(t.Context(), id, "KILL"); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the container ended", func() bool {
				s, err := f.platform.Status(t.Context())
				return err == nil && !s.Running
			})
		}},
	} {
		c.spoil()
		if text := f.astray(); !strings.HasPrefix(text, c.want) || (c.want == "") != (text == "") {
			t.Errorf("%s: %q, want %q", c.name, text, c.want)
		}
		if err := f.platform.Recover(t.Context()); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if text := f.astray(); text != "" {
			t.Errorf("%s: after Recover %q", c.name, text)
		}
		eventually(t, "the application answers", func() bool { return f.get("/") == "Hello from 1" })
	}
	if err := f.engine.ContainerRemove(t.Context(), id, container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if text := f.astray(); !strings.HasSuffix(text, "is gone") {
		t.Errorf("a container that is gone: %q", text)
	}
}

func TestAstray_NeedsTheEngineOnlyWhereSomethingIsDeployed(t *testing.T) {
	f := newFixture(t)
	down := f.open("unix:///nonexistent/engine.sock")
	if text, err := down.Astray(t.Context()); text != "" || err != nil {
		t.Errorf("%q, %v", text, err)
	}
	f.mustDeploy("1", nil)
	if text, err := down.Astray(t.Context()); text != "" || err == nil {
		t.Errorf("%q, %v", text, err)
	}
}
