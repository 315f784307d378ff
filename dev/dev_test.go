package dev_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/dev"
	"hostmanager/fleet"
	"hostmanager/fleet/record"
	"hostmanager/fleet/wiretest"
	"hostmanager/internal/procid"
	"hostmanager/protocol"
)

// modeVariable makes this test binary a stand-in for hostmanager: real processes that speak the real wire, without Docker.
const modeVariable = "DEV_TEST_HOSTMANAGER"

func TestMain(m *testing.M) {
	if mode := os.Getenv(modeVariable); mode != "" && len(os.Args) > 3 && os.Args[2] == "--root" {
		os.Exit(standIn(mode, os.Args[1], os.Args[3]))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("internal/poll.runtime_pollWait"), goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

// standIn does what a verb of hostmanager would.
func standIn(mode, verb, root string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case mode == "killed" && verb == "agent", mode == "killed-once" && verb == "agent" && mark(root):
		err = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case verb == mode: // the verb that is to fail
		err = errors.New("the " + verb + " does not feel well")
	case verb == "agent":
		err = standInAgent(ctx, mode, root)
	case verb == "proxy":
		err = standInProxy(ctx, os.Args[5])
	case verb == "purge":
		err = os.WriteFile(filepath.Join(root, "purged"), []byte(strings.Join(os.Environ(), "\n")), 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 3
	}
	return 0
}

// mark tells whether this is the first agent below root.
func mark(root string) bool {
	f, err := os.OpenFile(filepath.Join(root, "started"), os.O_CREATE|os.O_EXCL, 0o600)
	return err == nil && f.Close() == nil
}

func standInAgent(ctx context.Context, mode, root string) error {
	text, err := os.ReadFile(filepath.Join(root, "etc/hostmanager/hostmanager.yaml"))
	if err != nil {
		return err
	}
	var c struct {
		EnvironmentID string `yaml:"environment_id"`
		InstanceID    string `yaml:"instance_id"`
		Bucket        string `yaml:"bucket"`
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		return err
	}
	store, err := objects.New(ctx, objects.Options{})
	if err != nil {
		return err
	}
	queues, err := queue.New(ctx, queue.Options{})
	if err != nil {
		return err
	}
	rec, err := record.Open(store, c.Bucket, c.EnvironmentID)
	if err != nil {
		return err
	}
	reply := wiretest.DockerLike("0123456789ab")
	switch mode {
	case "fail-build":
		reply = wiretest.FailingIn(0, "no")
	case "dies":
		reply = func(*wiretest.Instance, protocol.Command, protocol.Request) ([]string, error) {
			os.Exit(3)
			return nil, nil
		}
	}
	i, err := wiretest.New(ctx, wiretest.Options{ID: c.InstanceID, Record: rec, Queues: queues, Reply: reply})
	if err == nil {
		i.Serve(ctx)
	}
	return err
}

func standInProxy(ctx context.Context, addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: http.NotFoundHandler()}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// options returns a room of the stand-in.
func options(t *testing.T, mode string) (dev.Options, *lines) {
	t.Helper()
	t.Setenv(modeVariable, mode)
	t.Setenv("GORACE", "atexit_sleep_ms=50") // under the race detector every child would otherwise end a second late
	t.Setenv("AWS_ACCESS_KEY_ID", "local")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "local")
	app := t.TempDir()
	if err := os.WriteFile(filepath.Join(app, "Dockerfile"), []byte("FROM scratch\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out := &lines{}
	return dev.Options{Dir: app, Instances: 2, Root: filepath.Join(t.TempDir(), "room"), Hostmanager: self, Printer: out}, out
}

type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Line(line fleet.Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(&l.text, string(line.Severity)+": "+line.Text)
}

func (l *lines) Packing(label string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(&l.text, "packing "+label)
}

func (l *lines) Upload(fleet.Upload) {}

func purged(t *testing.T, root string, instances int) {
	t.Helper()
	if left, err := filepath.Glob(filepath.Join(root, "*", "purged")); err != nil || len(left) != instances {
		t.Errorf("%d of %d instances were purged, %v", len(left), instances, err)
	}
}

func TestRun_DeploysAndGoesOnUntilInterrupted(t *testing.T) {
	o, out := options(t, "ok")
	ctx, cancel := context.WithCancel(t.Context())
	var room dev.Room
	o.Ready = func(r dev.Room) error {
		room = r
		for _, i := range r.Instances {
			res, err := http.Get(i.URL)
			if err != nil {
				return err
			}
			_ = res.Body.Close()
		}
		cancel()
		return nil
	}
	if err := dev.Run(ctx, o); err != nil {
		t.Fatal(err)
	}
	if len(room.Instances) != 2 || room.Instances[0].ID != "i-dev0000001" || !room.Deployed {
		t.Errorf("the room was %+v", room)
	}
	for _, i := range room.Instances {
		if res, err := http.Get(i.URL); err == nil {
			_ = res.Body.Close()
			t.Errorf("%s still answers", i.URL)
		}
	}
	if !strings.HasPrefix(out.text.String(), "packing app-") {
		t.Errorf("does not begin with the archive:\n%s", out.text.String())
	}
	if !strings.Contains(out.text.String(), "Command execution completed on 2 of 2 instances in environment.") {
		t.Errorf("printed:\n%s", out.text.String())
	}
	purged(t, o.Root, 2)
}

func TestRun_OnceEndsWithTheDeploymentsError(t *testing.T) {
	o, _ := options(t, "fail-build")
	o.Once = true
	o.Ready = func(dev.Room) error { t.Error("ready"); return nil }
	if err := dev.Run(t.Context(), o); !errors.Is(err, fleet.ErrFailed) {
		t.Errorf("got %v", err)
	}
	purged(t, o.Root, 2)
}

func TestRun_GoesOnAfterAFailedDeployment(t *testing.T) {
	o, out := options(t, "fail-build")
	ctx, cancel := context.WithCancel(t.Context())
	o.Ready = func(r dev.Room) error {
		if r.Deployed {
			t.Error("deployed")
		}
		cancel()
		return nil
	}
	if err := dev.Run(ctx, o); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.text.String(), "The room goes on with what it had") {
		t.Errorf("printed:\n%s", out.text.String())
	}
	purged(t, o.Root, 2)
}

func TestRun_TellsWhyAChildEnded(t *testing.T) {
	for _, verb := range []string{"agent", "proxy"} {
		o, _ := options(t, verb)
		err := dev.Run(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "hostmanager "+verb+" of i-dev000000") || !strings.Contains(err.Error(), "does not feel well") {
			t.Errorf("%s: got %v", verb, err)
		}
		purged(t, o.Root, 2)
	}
}

func TestRun_StartsAgainWhatASignalEnded(t *testing.T) {
	o, out := options(t, "killed-once")
	o.Once = true
	if err := dev.Run(t.Context(), o); err != nil {
		t.Errorf("%v\n%s", err, out.text.String())
	}
	purged(t, o.Root, 2)
}

func TestRun_GivesUpOnWhatSignalsKeepEnding(t *testing.T) {
	o, _ := options(t, "killed")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // rather than hang where the ends come too slowly to be too many
	defer cancel()
	if err := dev.Run(ctx, o); err == nil || !strings.Contains(err.Error(), "ended by signal killed") || !strings.Contains(err.Error(), ", 10 times in 10s") {
		t.Errorf("got %v", err)
	}
	purged(t, o.Root, 2)
}

func TestRun_TellsWhatWasNotPurged(t *testing.T) {
	o, _ := options(t, "purge")
	o.Once, o.Instances = true, 1
	if err := dev.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "purge what i-dev0000001 made") {
		t.Errorf("got %v", err)
	}
}

// What could not be purged is found by the next room, also where the folder is a temporary one.
func TestRun_KeepsATemporaryFolderWithWhatWasNotPurged(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	room := func(mode string) error {
		o, _ := options(t, mode)
		o.Once, o.Instances, o.Root = true, 1, ""
		return dev.Run(t.Context(), o)
	}
	err := room("purge")
	left, _ := filepath.Glob(filepath.Join(temp, "hmctl-dev-*"))
	if len(left) != 1 || err == nil || !strings.Contains(err.Error(), left[0]) {
		t.Fatalf("left %v, %v", left, err)
	}
	text, err := os.ReadFile(filepath.Join(left[0], ".hmctl-dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	dead := procid.Self()
	dead.Start++
	text = bytes.Replace(text, fmt.Appendf(nil, "%d}", procid.Self().Start), fmt.Appendf(nil, "%d}", dead.Start), 1)
	if err := os.WriteFile(filepath.Join(left[0], ".hmctl-dev.json"), text, 0o600); err != nil { // this process has ended
		t.Fatal(err)
	}
	if err := room("ok"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// A child that ends while the deployment runs ends it, with what it ended with.
func TestRun_TellsWhyAChildEndedWhileItDeploys(t *testing.T) {
	o, _ := options(t, "dies")
	if err := dev.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "hostmanager agent of i-dev000000") || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("got %v", err)
	}
	purged(t, o.Root, 2)
}

// The operator's own keys and settings are nothing for a room's processes.
func TestRun_PassesNoKeysOn(t *testing.T) {
	o, _ := options(t, "ok")
	t.Setenv("HMCTL_SIGNING_KEY", "a-real-key")
	o.Once, o.Instances = true, 1
	if err := dev.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(o.Root, "i-dev0000001", "purged"))
	if err != nil || len(text) == 0 || bytes.Contains(text, []byte("a-real-key")) {
		t.Errorf("%d bytes of environment, %v", len(text), err)
	}
}

func TestRun_StoppedBeforeItWasReadyIsNoError(t *testing.T) {
	o, _ := options(t, "ok")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := dev.Run(ctx, o); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestRun_RemovesATemporaryFolder(t *testing.T) {
	o, _ := options(t, "ok")
	t.Setenv("TMPDIR", t.TempDir())
	o.Once, o.Root = true, ""
	if err := dev.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestRun_RemovesWhatAKilledRoomLeft kills a room in a process of its own; the next one in the same folder, and for a temporary folder any next one,
// purges its instances and removes their folders.
func TestRun_RemovesWhatAKilledRoomLeft(t *testing.T) {
	for _, c := range []struct{ temporary, rebooted bool }{{false, false}, {true, false}, {false, true}, {true, true}} {
		temp := t.TempDir()
		t.Setenv("TMPDIR", temp)
		o, out := options(t, "ok")
		o.Root = filepath.Join(temp, "hmctl-dev-killed")
		killRoom(t, o.Root, c.rebooted)
		if c.temporary {
			o.Root = ""
		}
		o.Once = true
		if err := dev.Run(t.Context(), o); err != nil {
			t.Fatalf("%v\n%s", err, out.text.String())
		}
		if !strings.Contains(out.text.String(), "Removed what an hmctl dev that was killed left in ") {
			t.Errorf("says nothing of it:\n%s", out.text.String())
		}
		if left, err := filepath.Glob(filepath.Join(temp, "hmctl-dev-*", "i-dev0000009")); err != nil || len(left) > 0 {
			t.Errorf("left %v, %v", left, err)
		}
		if _, err := os.Stat(filepath.Join(temp, "hmctl-dev-killed")); c.temporary && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the folder is left: %v", err)
		}
	}
}

// killRoom makes the folder look as one of a room that was killed, by hand or by a power loss.
func killRoom(t *testing.T, root string, rebooted bool) {
	t.Helper()
	of := procid.Self()
	of.Start++ // this pid, but another process
	if rebooted {
		of.BootID = "00000000-0000-4000-8000-000000000000"
	}
	text, err := json.Marshal(map[string]any{"process": of, "instances": []dev.Instance{{ID: "i-dev0000009"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		".hmctl-dev.json": string(text), "signing-key.pem": "secret",
		"i-dev0000009/etc/hostmanager/hostmanager.yaml": "",
	} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRun_LeavesARunningRoomAlone(t *testing.T) {
	o, _ := options(t, "ok")
	other, _ := options(t, "ok")
	other.Root, other.Once, other.Instances = o.Root, true, 1
	o.Once = true
	o.Ready = func(dev.Room) error {
		if err := dev.Run(t.Context(), other); !errors.Is(err, dev.ErrOptions) || !strings.Contains(err.Error(), "still runs") {
			t.Errorf("a second room in the folder: %v", err)
		}
		return nil
	}
	if err := dev.Run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	purged(t, o.Root, 2)
}

func TestRun_RefusesOptions(t *testing.T) {
	good, _ := options(t, "ok")
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*dev.Options){
		"no folder":      func(o *dev.Options) { o.Dir = "/nonexistent" },
		"too many":       func(o *dev.Options) { o.Instances = 1000 },
		"less than none": func(o *dev.Options) { o.Instances = -1 },
		"no binary":      func(o *dev.Options) { o.Hostmanager = "/nonexistent/hostmanager" },
		"used folder":    func(o *dev.Options) { o.Root = full },
		"no printer":     func(o *dev.Options) { o.Printer = nil },
	} {
		o := good
		change(&o)
		if err := dev.Run(t.Context(), o); !errors.Is(err, dev.ErrOptions) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
