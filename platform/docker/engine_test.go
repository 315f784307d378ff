package docker_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"hostmanager/internal/dockertest"
	"hostmanager/platform/docker"
)

// An Engine that is gone or hangs is told apart from one that answers, and nothing is declared astray because of it.
func TestEngine_AwayIsNotAstray(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("v1", nil)
	cut := dockertest.NewCut(t)
	p := f.open(cut.Host())
	look := func(want bool) {
		t.Helper()
		limit := 2 * time.Second
		if want { // a busy Engine may be slow; one that hangs is given up
			limit = 20 * time.Second
		}
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		astray, err := p.Astray(ctx)
		_, errStatus := p.Status(ctx)
		if astray != "" || (err == nil) != want || (errStatus == nil) != want {
			t.Errorf("astray %q, %v; status %v", astray, err, errStatus)
		}
		if err != nil && !docker.EngineAway(err) && ctx.Err() == nil {
			t.Errorf("not told apart: %v", err)
		}
	}
	look(true)
	cut.Gone()
	look(false)
	if err := cut.Mend(); err != nil {
		t.Fatal(err)
	}
	look(true)
	if err := cut.Hang(); err != nil {
		t.Fatal(err)
	}
	look(false)
	f.wantAnswer("Hello from v1") // what serves was not touched
	if err := cut.Mend(); err != nil {
		t.Fatal(err)
	}
	look(true)
}

// A deployment that meets an Engine being restarted waits for it.
func TestEngine_RestartedBeforeADeployment(t *testing.T) {
	f := newFixture(t)
	cut := dockertest.NewCut(t)
	f.platform = f.open(cut.Host())
	f.mustDeploy("v1", nil)
	cut.Gone()
	mended := make(chan error, 1)
	time.AfterFunc(time.Second, func() { mended <- cut.Mend() })
	f.mustDeploy("v2", nil)
	if err := <-mended; err != nil {
		t.Fatal(err)
	}
	f.wantAnswer("Hello from v2")
}

// One that stays away for longer than a command has fails it, with a reason, and changes nothing.
func TestEngine_AwayFailsADeploymentWithAReason(t *testing.T) {
	f := newFixture(t)
	cut := dockertest.NewCut(t)
	f.platform = f.open(cut.Host())
	f.mustDeploy("v1", nil)
	cut.Gone()
	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.unpack(dockertest.BuildHello(t, "v2"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := c.run(ctx, f.platform, deployDirs...)
	if err == nil {
		t.Fatal("deployed without an Engine")
	}
	f.wantAnswer("Hello from v1")
	if err := cut.Mend(); err != nil {
		t.Fatal(err)
	}
	if err := c.unwind(f.platform); err != nil {
		t.Fatal(err)
	}
	f.mustDeploy("v3", nil)
	f.wantAnswer("Hello from v3")
	if strings.Contains(f.said(), "astray") {
		t.Error(f.said())
	}
}
