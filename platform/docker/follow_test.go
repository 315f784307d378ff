package docker_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"

	"hostmanager/internal/dockertest"
	"hostmanager/platform/docker"
)

// following runs Follow until stop.
func (f *fixture) following(p *docker.Platform) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Follow(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			f.t.Errorf("follow: %v", err)
		}
	}
	f.t.Cleanup(stop)
	return stop
}

func (f *fixture) logOf(id string) string {
	return f.state(filepath.Join(f.root.ContainerLogs(), id+"-stdouterr.log"))
}

// say has the application print lines.
func (f *fixture) say(from, to int) {
	f.t.Helper()
	for n := from; n < to; n++ {
		answer, err := http.Post(f.valve.url+"/say", "text/plain", strings.NewReader(fmt.Sprintf("line %d", n)))
		if err != nil {
			f.t.Fatal(err)
		}
		_ = answer.Body.Close()
	}
}

func lines(from, to int) string {
	var b strings.Builder
	for n := from; n < to; n++ {
		fmt.Fprintf(&b, "line %d\n", n)
	}
	return strings.TrimSpace(b.String())
}

func TestFollow_GoesOnWithoutGapOrRepetition(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	id := f.state(f.root.CurrentContainerID())
	stop := f.following(f.platform)
	f.say(0, 50)
	eventually(t, "the first lines", func() bool { return strings.HasSuffix(f.logOf(id), "line 49") })
	stop()
	f.say(50, 60) // nobody follows
	stop = f.following(f.open(""))
	f.say(60, 70)
	eventually(t, "the lines of both followers", func() bool { return strings.HasSuffix(f.logOf(id), "line 69") })
	stop()
	want := "hello 1 listens on :8080\n" + lines(0, 70)
	if got := f.logOf(id); got != want {
		t.Errorf("log:\n%s", got)
	}
}

// TestFollow_IsExactAfterAKill has the file ahead of the noted position, as a kill between the two leaves it.
func TestFollow_IsExactAfterAKill(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	id := f.state(f.root.CurrentContainerID())
	stop := f.following(f.platform)
	f.say(0, 10)
	eventually(t, "the lines", func() bool { return strings.HasSuffix(f.logOf(id), "line 9") })
	stop()
	note := filepath.Join(f.root.AgentState(), "container-logs", id+".json")
	noted, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	stop = f.following(f.platform)
	f.say(10, 20)
	eventually(t, "more lines", func() bool { return strings.HasSuffix(f.logOf(id), "line 19") })
	stop()
	for i, text := range []string{string(noted), "", "torn {"} {
		if err := os.WriteFile(note, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if text == "" { // never noted at all
			_ = os.Remove(note)
		}
		stop = f.following(f.platform)
		n := 20 + i
		f.say(n, n+1)
		eventually(t, "the last line", func() bool { return strings.HasSuffix(f.logOf(id), lines(n, n+1)) })
		stop()
		if got := f.logOf(id); got != "hello 1 listens on :8080\n"+lines(0, n+1) {
			t.Errorf("with the note %q the log is:\n%s", text, got)
		}
	}
}

func TestFollow_TakesUpTheNextContainer(t *testing.T) {
	f := newFixture(t)
	f.following(f.platform)
	f.mustDeploy("1", nil)
	f.mustDeploy("2", nil)
	id := f.state(f.root.CurrentContainerID())
	eventually(t, "output of the second", func() bool { return strings.HasPrefix(f.logOf(id), "hello 2 listens") })
	old, err := f.platform.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the last words of the first", func() bool { return strings.HasSuffix(f.logOf(old.LastGood), "hello 1 is draining") })
	_ = f.deploy(dockertest.BuildBroken(t, "exits-at-once", "3"), nil)
	eventually(t, "output of the failed one", func() bool { return strings.Contains(f.logOf(f.evidence()), "told to exit by EXIT=3") })
}

func TestFollow_NotesAnUnexpectedEnd(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	f.following(f.platform)
	if answer, err := http.Get(f.valve.url + "/exit?code=7"); err == nil {
		_ = answer.Body.Close()
	}
	eventually(t, "the note", func() bool {
		quit := f.state(filepath.Join(f.root.ContainerLogs(), "unexpected-quit.log"))
		return strings.Contains(quit, "ended with exit code 7") && strings.Contains(quit, "asked to exit with 7")
	})
}

func TestFollow_SurvivesRotationOfTheLog(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	id := f.state(f.root.CurrentContainerID())
	path := filepath.Join(f.root.ContainerLogs(), id+"-stdouterr.log")
	f.following(f.platform)
	f.say(0, 3)
	eventually(t, "the lines", func() bool { return strings.HasSuffix(f.logOf(id), "line 2") })
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	n := 3
	eventually(t, "a new file", func() bool { f.say(n, n+1); n++; return f.logOf(id) != "" })
	eventually(t, "the last line", func() bool { return strings.HasSuffix(f.logOf(id), lines(n-1, n)) })
	rotated, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	all := strings.TrimSpace(string(rotated)) + "\n" + f.logOf(id)
	if want := "hello 1 listens on :8080\n" + lines(0, n); all != want {
		t.Errorf("both files together:\n%s", all)
	}
}

func TestRecover_MakesEngineAndProxyAgreeWithTheFiles(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	f.mustDeploy("2", nil)
	before := f.snapshot()
	id := f.state(f.root.CurrentContainerID())

	// The operator, or a machine that lost power, at its worst: the container is stopped, the proxy leads nowhere, a staged container is left.
	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.unpack(dockertest.BuildHello(t, "3"))
	dying := f.open("")
	dying.SetFault(killAt("run.started"))
	_ = c.run(t.Context(), dying, deployDirs...)
	if err := f.engine.ContainerStop(t.Context(), id, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	generation, _, _, _ := f.valve.State(t.Context())
	if _, err := f.valve.SetTarget(t.Context(), docker.Target{}, generation); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.open("").Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	after := f.snapshot()
	if before != after {
		t.Errorf("before %+v, after %+v", before, after)
	}
	f.wantAnswer("Hello from 2")
	if n := len(f.containers()); n != 2 {
		t.Errorf("%d containers, want the current and the last good", n)
	}
	if _, err := f.engine.ImageInspect(t.Context(), "aws_beanstalk/staging-app:"+f.ns); err != nil {
		t.Error("the staged image is gone: a second stage could not go on")
	}
}

func TestRecover_OnAFreshInstanceDoesNothing(t *testing.T) {
	f := newFixture(t)
	if err := f.platform.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if s, err := f.platform.Status(t.Context()); err != nil || s.Running || s.Reason != "nothing was deployed yet" {
		t.Errorf("status %+v, %v", s, err)
	}
}

func TestRecover_SaysThatTheContainerIsGone(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	id := f.state(f.root.CurrentContainerID())
	if err := f.engine.ContainerRemove(t.Context(), id, container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := f.platform.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), "deploy a version again") {
		t.Errorf("error %v", err)
	}
	f.mustDeploy("2", nil)
	f.wantAnswer("Hello from 2")
}

func TestFollow_KeepsLongLinesWhole(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	id := f.state(f.root.CurrentContainerID())
	long := strings.Repeat("0123456789", 6000) // the Engine cuts it into pieces of 16 KiB with one timestamp
	for i := range 3 {
		stop := f.following(f.platform)
		answer, err := http.Post(f.valve.url+"/say", "text/plain", strings.NewReader(fmt.Sprint(long, i)))
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		eventually(t, "the end of the line", func() bool { return strings.HasSuffix(f.logOf(id), fmt.Sprint("9", i)) })
		stop()
	}
	want := fmt.Sprintf("hello 1 listens on :8080\n%s0\n%s1\n%s2", long, long, long)
	if got := f.logOf(id); got != want {
		t.Errorf("log of %d bytes, want %d", len(got), len(want))
	}
}
