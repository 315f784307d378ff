package dev_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"go.yaml.in/yaml/v3"

	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/dev"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/fleet/record"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
)

// TestRun_WithRealInstances is the whole way: real agents and proxies, a real Engine. A second version is interrupted after its first stage was sent
// and resumed by another operator; the instances, asked twice, do it once.
func TestRun_WithRealInstances(t *testing.T) {
	engine := dockertest.Require(t)
	o, out := options(t, "")
	o.Hostmanager = buildHostmanager(t)
	o.Dir = dockertest.BuildHello(t, "v1")
	ctx, cancel := context.WithCancel(t.Context())
	o.Ready = func(r dev.Room) error {
		defer cancel()
		if err := answers(r, "v1"); err != nil {
			return err
		}
		return errors.Join(interruptAndResume(t, r), answers(r, "v2"))
	}
	err := dev.Run(ctx, o)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.text.String())
	}
	for n := 1; n <= 2; n++ {
		checkRemoved(t, engine, namespace(t, filepath.Join(o.Root, fmt.Sprintf("i-dev%07d", n))))
	}
}

// TestRun_StoppedInTheMiddleOfAHook stops a room while a hook runs, which has started something in a session of its own: nothing of it is left.
func TestRun_StoppedInTheMiddleOfAHook(t *testing.T) {
	engine := dockertest.Require(t)
	o, out := options(t, "")
	o.Hostmanager, o.Dir, o.Instances = buildHostmanager(t), dockertest.BuildHello(t, "v1"), 1
	hooks := filepath.Join(o.Dir, ".platform", "hooks", "prebuild")
	if err := os.MkdirAll(hooks, 0o755); err != nil {
		t.Fatal(err)
	}
	sleeps := fmt.Sprintf("600.%d", rand.Uint32())
	if err := os.WriteFile(filepath.Join(hooks, "01wait"), []byte("#!/bin/sh\nsetsid sleep "+sleeps+" &\nsleep "+sleeps+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- dev.Run(ctx, o) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for running(sleeps) < 2 {
		select {
		case err := <-ended:
			t.Fatalf("ended before the hook ran: %v\n%s", err, out.text.String())
		case <-tick.C:
		}
	}
	stop()
	if err := <-ended; !errors.Is(err, fleet.ErrInterrupted) {
		t.Errorf("ended with %v", err)
	}
	if n := running(sleeps); n > 0 {
		t.Errorf("%d processes of the hook are left", n)
	}
	checkRemoved(t, engine, namespace(t, filepath.Join(o.Root, "i-dev0000001")))
}

// running counts the processes that sleep for that time.
func running(sleeps string) int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	return len(slices.DeleteFunc(lines, func(path string) bool {
		text, err := os.ReadFile(path)
		return err != nil || string(text) != "sleep\x00"+sleeps+"\x00"
	}))
}

// buildHostmanager returns the path of the binary.
func buildHostmanager(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostmanager")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "hostmanager/cmd/hostmanager")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build hostmanager: %v\n%s", err, text)
	}
	return path
}

func answers(r dev.Room, want string) error {
	for _, i := range r.Instances {
		res, err := http.Get(i.URL)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			return fmt.Errorf("%s answers %s %q, want %s", i.ID, res.Status, body, want)
		}
	}
	return nil
}

// interruptAndResume deploys v2 with an operator who leaves at the first event of an instance.
func interruptAndResume(t *testing.T, r dev.Room) error {
	bundle, err := fleet.OpenBundle(t.Context(), dockertest.BuildHello(t, "v2"))
	if err != nil {
		return err
	}
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	first, err := operator(ctx, r, &leaver{leave: leave})
	if err != nil {
		return err
	}
	_, err = first.Deploy(ctx, fleet.DeployRequest{Bundle: bundle, Label: "v2"})
	if err = errors.Join(bundle.Close(), err); !errors.Is(err, fleet.ErrInterrupted) {
		return fmt.Errorf("the first operator was not interrupted: %w", err)
	}
	second, err := operator(t.Context(), r, &lines{})
	if err != nil {
		return err
	}
	report, err := second.Resume(t.Context())
	if err == nil && (report.State != environment.Succeeded || len(report.Succeeded) != 2) {
		err = fmt.Errorf("resumed to %+v", report)
	}
	return err
}

func operator(ctx context.Context, r dev.Room, p fleet.Printer) (*fleet.Fleet, error) {
	store, err := objects.New(ctx, objects.Options{Region: r.Region, Endpoint: r.Endpoint})
	if err != nil {
		return nil, err
	}
	queues, err := queue.New(ctx, queue.Options{Region: r.Region, Endpoint: r.Endpoint})
	if err != nil {
		return nil, err
	}
	rec, err := record.Open(store, r.Bucket, r.Environment)
	if err != nil {
		return nil, err
	}
	key, err := signing.ReadFile(r.SigningKey)
	rec = rec.Secured(key, signature.NewKeys(key.Public("")))
	return &fleet.Fleet{Record: rec, Queues: queues, Objects: store, Bucket: r.Bucket, Holder: "test", Printer: p}, err
}

// leaver is an operator who leaves when the first instance has said something.
type leaver struct {
	lines
	leave func()
}

func (l *leaver) Line(line fleet.Line) {
	if l.lines.Line(line); line.Kind == fleet.KindEvent {
		l.leave()
	}
}

func namespace(t *testing.T, root string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "etc/hostmanager/hostmanager.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Namespace string `yaml:"docker_namespace"`
	}
	if err := yaml.Unmarshal(text, &c); err != nil || c.Namespace == "" {
		t.Fatalf("namespace of %s: %v", root, err)
	}
	return c.Namespace
}

func checkRemoved(t *testing.T, engine *client.Client, ns string) {
	t.Helper()
	only := filters.NewArgs(filters.Arg("label", "hostmanager="+ns))
	containers, err := engine.ContainerList(t.Context(), container.ListOptions{All: true, Filters: only})
	if err != nil || len(containers) > 0 {
		t.Errorf("%s: %d containers left, %v", ns, len(containers), err)
	}
	images, err := engine.ImageList(t.Context(), image.ListOptions{Filters: only})
	if err != nil || len(images) > 0 {
		t.Errorf("%s: %d images left, %v", ns, len(images), err)
	}
}
