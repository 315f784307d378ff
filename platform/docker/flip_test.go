package docker_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hostmanager/internal/dockertest"
	"hostmanager/platform/docker"
)

// load sends requests through the valve until stop, never trying one again, and counts those that were not answered in full.
func (f *fixture) load(clients int) (stop func() (sent, failed int64, firstFailure string)) {
	var sent, failed atomic.Int64
	var first atomic.Value
	end := make(chan struct{})
	var done sync.WaitGroup
	body := strings.Repeat("x", 64<<10)
	for range clients {
		done.Go(func() {
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			for {
				select {
				case <-end:
					return
				default:
				}
				sent.Add(1)
				if err := echoOnce(c, f.valve.url+"/echo", body); err != nil {
					failed.Add(1)
					first.CompareAndSwap(nil, err.Error())
				}
			}
		})
	}
	return func() (int64, int64, string) {
		close(end)
		done.Wait()
		text, _ := first.Load().(string)
		return sent.Load(), failed.Load(), text
	}
}

func echoOnce(c *http.Client, url, body string) error {
	answer, err := c.Post(url, "application/octet-stream", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode != http.StatusOK:
		return errors.New(answer.Status)
	case string(got) != body:
		return errors.New("short or wrong body")
	}
	return nil
}

func TestFlip_LosesNoRequest(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	stop := f.load(4)
	f.mustDeploy("2", nil)
	config := f.command("CMD-ConfigDeploy")
	config.configure(map[string]string{"GREETING": "Changed"})
	if err := config.runOrUnwind(configDirs); err != nil {
		t.Error(err)
	}
	restart := f.command("CMD-RestartAppServer")
	if err := restart.runOrUnwind(restartDirs); err != nil {
		t.Error(err)
	}
	sent, failed, first := stop()
	if failed > 0 || sent < 100 {
		t.Errorf("%d of %d requests failed, the first with %s", failed, sent, first)
	}
	t.Logf("%d requests over %d swaps", sent, f.valve.swaps.Load())
	f.wantAnswer("Changed from 2")
}

func TestConfigDeploy_RecreatesFromTheSameImage(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", map[string]string{"GREETING": "Hello"})
	before, imageBefore := f.state(f.root.CurrentContainerID()), f.state(f.root.CurrentImageID())
	link, _ := os.Readlink(f.root.Current())
	c := f.command("CMD-ConfigDeploy")
	c.configure(map[string]string{"GREETING": "Good evening"})
	if err := c.runOrUnwind(configDirs); err != nil {
		t.Fatal(err)
	}
	f.wantAnswer("Good evening from 1")
	if f.state(f.root.CurrentContainerID()) == before || f.state(f.root.CurrentImageID()) != imageBefore {
		t.Error("want another container of the same image")
	}
	if now, _ := os.Readlink(f.root.Current()); now != link {
		t.Errorf("current leads to %q, was %q", now, link)
	}
	if _, err := f.engine.ImageInspect(t.Context(), "aws_beanstalk/staging-app:"+f.ns); err == nil {
		t.Error("the staging tag is still there")
	}
}

func TestConfigDeploy_FailureKeepsTheOldEnvironment(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", map[string]string{"GREETING": "Hello"})
	c := f.command("CMD-ConfigDeploy")
	c.configure(map[string]string{"EXIT": "9"})
	err := c.runOrUnwind(configDirs)
	var failure *docker.Failure
	if !errors.As(err, &failure) || failure.ExitCode() != 9 || !strings.Contains(failure.Output(), "EXIT=9") {
		t.Fatalf("error %v, want exit code 9 and the output", err)
	}
	f.wantAnswer("Hello from 1")
	if quit, err := os.ReadFile(filepath.Join(f.root.ContainerLogs(), "unexpected-quit.log")); err != nil || !strings.Contains(string(quit), "EXIT=9") {
		t.Errorf("unexpected-quit.log %q: %v", quit, err)
	}
}

func TestConfigDeploy_BeforeAnyDeploymentSaysSo(t *testing.T) {
	f := newFixture(t)
	c := f.command("CMD-ConfigDeploy")
	c.configure(nil)
	if err := c.runOrUnwind(configDirs); err == nil || !strings.Contains(err.Error(), "deploy a version first") {
		t.Errorf("error %v", err)
	}
}

// points are all that a process can be killed at.
var points = []string{
	"run.planned", "run.created", "run.started", "flip.saved", "flip.swapped",
	"flip.written.0", "flip.written.1", "flip.linked", "flip.persisted", "flip.drained", "flip.stopping",
}

var errKilled = errors.New("killed here")

func TestUndo_RestoresWhateverThePointOfTheCrash(t *testing.T) {
	some := []string{"run.started", "flip.swapped", "flip.linked", "flip.stopping"}
	for kind, points := range map[string][]string{"deploy": points, "config": some, "first": some} {
		for _, point := range points {
			t.Run(kind+"/"+point, func(t *testing.T) {
				t.Parallel()
				crashAndUndo(t, kind, point, "")
			})
		}
	}
	for _, point := range []string{"undo.revived", "undo.swapped"} {
		t.Run("twice/"+point, func(t *testing.T) {
			t.Parallel()
			crashAndUndo(t, "deploy", "flip.stopping", point)
		})
	}
}

// crashAndUndo kills a command at a point, unwinds it in a new process (which may be killed too, at undoPoint, and is followed by a third), and
// compares everything with what was before.
func crashAndUndo(t *testing.T, kind, point, undoPoint string) {
	f := newFixture(t)
	if kind == "deploy" { // so that there is a last good one to come back to
		f.mustDeploy("0", nil)
	}
	if kind != "first" {
		f.mustDeploy("1", nil)
	}
	before := f.snapshot()
	c, dirs := f.command("CMD-AppDeploy"), deployDirs
	c.configure(nil)
	if kind == "config" {
		c.deployment.CommandName, dirs = "CMD-ConfigDeploy", configDirs
	} else {
		c.unpack(dockertest.BuildHello(t, "2"))
	}
	dying := f.open("")
	dying.SetFault(killAt(point))
	if err := c.run(t.Context(), dying, dirs...); !errors.Is(err, errKilled) {
		t.Fatalf("run: %v", err)
	}
	_ = dying.Wait(t.Context()) // what it had set going in the background went on in the Engine
	if undoPoint != "" {
		second := f.open("")
		second.SetFault(killAt(undoPoint))
		if err := c.unwind(second); !errors.Is(err, errKilled) {
			t.Fatalf("first unwind: %v", err)
		}
		_ = second.Wait(t.Context())
	}
	last := f.open("")
	for range 2 { // undoing twice is undoing once
		if err := c.unwind(last); err != nil {
			t.Fatal(err)
		}
	}
	if err := last.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = last.Wait(t.Context())
	if diff := cmp.Diff(before, f.snapshot()); diff != "" {
		t.Errorf("state (-before +after):\n%s", diff)
	}
	if kind != "first" {
		f.wantAnswer("Hello from 1")
	}
	if n, most := len(f.containers()), 3; n > most { // current, last good, evidence
		t.Errorf("%d containers, want at most %d", n, most)
	}
	f.mustDeploy("3", nil)
	f.wantAnswer("Hello from 3")
}

func killAt(point string) func(string) error {
	return func(at string) error {
		if at == point {
			return errKilled
		}
		return nil
	}
}

// snapshot is all that an undo restores.
type snapshot struct {
	Current, CurrentImage, Port, LastGood, Link, Target, Running, Tag string
}

func (f *fixture) snapshot() snapshot {
	f.t.Helper()
	_ = f.platform.Wait(f.t.Context())
	s := snapshot{
		Current: f.state(f.root.CurrentContainerID()), CurrentImage: f.state(f.root.CurrentImageID()), Port: f.state(f.root.ContainerPort()),
		LastGood: f.state(filepath.Join(f.root.EtcBeanstalk(), ".aws_beanstalk.last-good-container-id")), Target: f.valve.addr(f.t),
	}
	s.Link, _ = os.Readlink(f.root.Current())
	list, err := f.engine.ContainerList(f.t.Context(), container.ListOptions{Filters: f.ours()})
	if err != nil {
		f.t.Fatal(err)
	}
	var running []string
	for _, c := range list {
		running = append(running, c.ID[:12])
	}
	s.Running = strings.Join(sorted(running...), " ")
	if img, err := f.engine.ImageInspect(f.t.Context(), "aws_beanstalk/current-app:"+f.ns); err == nil {
		s.Tag = img.ID
	}
	return s
}

func TestUndo_LosesNoRequest(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	stop := f.load(4)
	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.unpack(dockertest.BuildHello(t, "2"))
	f.platform.SetFault(killAt("flip.stopping"))
	if err := c.run(t.Context(), f.platform, deployDirs...); !errors.Is(err, errKilled) {
		t.Errorf("run: %v", err)
	}
	if err := c.unwind(f.platform); err != nil {
		t.Error(err)
	}
	sent, failed, first := stop()
	if failed > 0 || sent < 100 {
		t.Errorf("%d of %d requests failed, the first with %s", failed, sent, first)
	}
	f.wantAnswer("Hello from 1")
}

// A request that the new container keeps open has the undo of a flip wait for it, but leaves time for the steps before.
func TestUndo_DrainsWithinItsTime(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	c := f.command("CMD-AppDeploy")
	c.configure(nil, [3]string{"aws:elasticbeanstalk:environment:process:default", "DeregistrationDelay", "3600"})
	c.unpack(dockertest.BuildHello(t, "2"))
	if err := c.run(t.Context(), f.platform, deployDirs...); err != nil {
		t.Fatal(err)
	}
	var client sync.WaitGroup
	client.Go(func() {
		if answer, err := http.Get(f.valve.url + "/slow?ms=60000"); err == nil {
			_ = answer.Body.Close()
		}
	})
	eventually(t, "the request is under way", func() bool {
		s, err := f.valve.client.State(t.Context())
		return err == nil && s.InFlight > 0
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, s := range slices.Backward(c.steps) {
		if s.hook.Undo == nil {
			continue
		}
		if err := s.hook.Undo(ctx, c.call(s)); err != nil {
			t.Errorf("undo %s/%s: %v", s.dir, s.hook.Name, err)
		}
	}
	f.wantAnswer("Hello from 1")
	if running := strings.Fields(f.snapshot().Running); len(running) != 1 || f.evidence() == "" {
		t.Errorf("running %v, evidence %q", running, f.evidence())
	}
	client.Wait()
}

func TestFlip_TakesALostAnswerForWhatItWas(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	f.valve.loseAnswer.Store(true)
	f.mustDeploy("2", nil)
	f.wantAnswer("Hello from 2")
}

func TestFlip_EndsWithTheCommand(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	c := f.command("CMD-AppDeploy")
	c.configure(nil, [3]string{"aws:elasticbeanstalk:environment:process:default", "HealthCheckPath", "/health"})
	c.unpack(dockertest.BuildBroken(t, "never-healthy", "2"))
	cause := errors.New("aborted by the operator")
	ctx, cancel := context.WithCancelCause(t.Context())
	f.platform.SetFault(func(point string) error {
		if point == "run.started" {
			cancel(cause)
		}
		return nil
	})
	if err := c.run(ctx, f.platform, deployDirs...); !errors.Is(err, cause) {
		t.Errorf("error %v, want the cause of the abort", err)
	}
	if err := c.unwind(f.platform); err != nil {
		t.Error(err)
	}
	f.wantAnswer("Hello from 1")
}

func TestRun_IgnoreHealthCheckOnlyWarns(t *testing.T) {
	f := newFixture(t)
	err := f.deploy(dockertest.BuildBroken(t, "never-healthy", "1"), nil,
		[3]string{"aws:elasticbeanstalk:environment:process:default", "HealthCheckPath", "/health"},
		[3]string{"aws:elasticbeanstalk:hostmanager", "HealthGateTimeout", "5"},
		[3]string{"aws:elasticbeanstalk:command", "IgnoreHealthCheck", "true"})
	if err != nil {
		t.Fatal(err)
	}
	warned := f.texts("WARN")
	if len(warned) != 1 || !strings.Contains(warned[0], "answered 503, want 200. It takes over all the same: IgnoreHealthCheck is set.") {
		t.Errorf("WARN events %q", warned)
	}
	f.wantAnswer("Hello from 1")
	s, err := f.platform.Status(t.Context())
	if err != nil || s.Healthy || !strings.Contains(s.Reason, "answered 503") {
		t.Errorf("status %+v, %v", s, err)
	}
}

func TestRun_AddressSurvivesARestart(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	f.mustDeploy("2", nil) // a second address is taken while the first container is stopped
	addr := f.valve.addr(f.t)
	id := f.state(f.root.CurrentContainerID())
	if err := f.engine.ContainerRestart(t.Context(), id, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	s, err := f.platform.Status(t.Context())
	if err != nil || s.Address != addr {
		t.Errorf("address %q after the restart, was %q: %v", s.Address, addr, err)
	}
	eventually(t, "the application answers", func() bool { s, _ := f.platform.Status(t.Context()); return s.Healthy })
	f.wantAnswer("Hello from 2")
}

func TestRun_ComesBackAfterACrash(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	if answer, err := http.Get(f.valve.url + "/exit?code=7"); err == nil { // it may or may not have the time to answer
		_ = answer.Body.Close()
	}
	eventually(t, "the Engine started it again", func() bool { s, _ := f.platform.Status(t.Context()); return s.Healthy && s.Restarts == 1 })
	f.wantAnswer("Hello from 1")
}

// TestRun_EnvironmentIsByteExact compares what the Engine was told and what the process sees with what was configured.
func TestRun_EnvironmentIsByteExact(t *testing.T) {
	f := newFixture(t)
	name := rapid.StringMatching(`[A-Za-z_][A-Za-z0-9_.-]{0,20}`)
	value := rapid.StringOfN(rapid.RuneFrom([]rune("ab$\"'\\`\n\t\r =#{}%!&;|<>()é世\u0001\u007f")), 0, 200, -1)
	example := rapid.Custom(func(rt *rapid.T) map[string]string {
		return rapid.MapOfN(name, value, 20, 60).Draw(rt, "environment")
	}).Example(int(f.serial) + 11)
	for _, fixed := range []string{"PORT", "EXIT", "HEALTH", "PATH", "HOSTNAME", "HOME"} {
		delete(example, fixed)
	}
	example["TRICKY"] = "two\nlines, a $HOME, `ticks`, \"quotes\", 'more', a \\n that is none, and a trailing space "
	f.mustDeploy("1", example)

	c, err := f.engine.ContainerInspect(t.Context(), f.state(f.root.CurrentContainerID()))
	if err != nil {
		t.Fatal(err)
	}
	var encoded []string
	if err := json.Unmarshal([]byte(f.get("/env")), &encoded); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for _, e := range encoded {
		b, err := base64.StdEncoding.DecodeString(e)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, string(b))
	}
	for k, v := range example {
		if !slices.Contains(c.Config.Env, k+"="+v) {
			t.Errorf("the Engine does not have %q=%q", k, v)
		}
		if !slices.Contains(seen, k+"="+v) {
			t.Errorf("the application does not see %q=%q", k, v)
		}
	}
}

func TestRun_TouchesNothingOfOthers(t *testing.T) {
	a, b := newFixture(t), newFixture(t)
	a.mustDeploy("a", nil)
	b.mustDeploy("b", nil)
	theirs := a.snapshot()
	b.mustDeploy("b2", nil)
	if err := b.platform.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.containers()) != 0 || len(b.images()) != 0 {
		t.Errorf("left after Purge: %v %v", b.containers(), b.images())
	}
	if diff := cmp.Diff(theirs, a.snapshot()); diff != "" {
		t.Errorf("the other instance (-before +after):\n%s", diff)
	}
	a.wantAnswer("Hello from a")
}

func TestRun_TakesWhatDockerrunSaysBesideTheImage(t *testing.T) {
	f := newFixture(t)
	dir := dockertest.BuildHello(t, "1")
	data := t.TempDir()
	text := `{"AWSEBDockerrunVersion": "1", "Volumes": [{"HostDirectory": "` + data + `", "ContainerDirectory": "/data"}],
		"Logging": "/var/log/app", "Command": "--name 'two words'"}`
	if err := os.WriteFile(filepath.Join(dir, "Dockerrun.aws.json"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.deploy(dir, nil); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"deployment", "restart"} {
		c, err := f.engine.ContainerInspect(t.Context(), f.state(f.root.CurrentContainerID()))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{data + ":/data", f.root.ContainerLogs() + ":/var/log/app"}, c.HostConfig.Binds); diff != "" {
			t.Errorf("binds after the %s (-want +got):\n%s", when, diff)
		}
		if diff := cmp.Diff([]string{"--name", "two words"}, []string(c.Config.Cmd)); diff != "" {
			t.Errorf("command after the %s (-want +got):\n%s", when, diff)
		}
		if err := f.command("CMD-RestartAppServer").runOrUnwind(restartDirs); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRun_TakesTheImageAScriptPutBetween stands for an executable hook between 03build and 00run that retags the staging image.
func TestRun_TakesTheImageAScriptPutBetween(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("first", nil)
	first := f.state(f.root.CurrentImageID())
	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.unpack(dockertest.BuildHello(t, "second"))
	if err := c.run(t.Context(), f.platform, "appdeploy/pre"); err != nil {
		t.Fatal(err)
	}
	if err := f.engine.ImageTag(t.Context(), first, "aws_beanstalk/staging-app:"+f.ns); err != nil {
		t.Fatal(err)
	}
	if err := c.run(t.Context(), f.open(""), "appdeploy/enact", "appdeploy/post"); err != nil { // and in another process
		t.Fatal(err)
	}
	f.wantAnswer("Hello from first")
}
