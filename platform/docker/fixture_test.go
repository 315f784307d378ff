package docker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"hostmanager/hooks"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/layout"
	"hostmanager/platform/docker"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// fixture is one instance: a root folder, a namespace of the real Engine, a valve, the platform. It runs hook directories as the agent does.
type fixture struct {
	t        *testing.T
	ns       string
	root     layout.Root
	valve    *valve
	platform *docker.Platform
	engine   *client.Client
	serial   int64

	onEvent func(protocol.Event) // where a test sets it, before it runs anything

	mu     sync.Mutex
	events []protocol.Event
	output strings.Builder
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, ns: dockertest.Namespace(t), root: layout.Root(t.TempDir()), engine: dockertest.Client(t)}
	f.valve = newValve(t, f.root)
	f.platform = f.open("")
	return f
}

// open makes a platform as a new process would.
func (f *fixture) open(host string) *docker.Platform {
	f.t.Helper()
	p, err := docker.New(docker.Options{Root: f.root, Namespace: f.ns, Host: host, Valve: f.valve, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = p.Close() })
	return p
}

// command is one command on its way through its hook directories.
type command struct {
	*fixture
	deployment hooks.Deployment
	steps      []*step
}

type step struct {
	dir   string
	hook  hooks.Builtin
	saved json.RawMessage
}

func (f *fixture) command(name string) *command {
	f.serial++
	return &command{fixture: f, deployment: hooks.Deployment{
		RequestID: fmt.Sprintf("req-%d", f.serial), InvocationID: fmt.Sprintf("%08x-%s", f.serial, f.ns),
		CommandName: name, ID: f.serial, VersionLabel: fmt.Sprintf("v%d", f.serial), Serial: f.serial,
	}}
}

// configure writes the configuration as InfraWriteConfig does. Options are namespace, name, value.
func (c *command) configure(env map[string]string, options ...[3]string) {
	c.t.Helper()
	set := protocol.OptionSettings{settings.NSEnvironment: env, settings.NSProcess: {"DeregistrationDelay": "5"}}
	for _, o := range options {
		if set[o[0]] == nil {
			set[o[0]] = map[string]string{}
		}
		set[o[0]][o[1]] = o[2]
	}
	m := protocol.Manifest{DeploymentID: c.deployment.ID, VersionLabel: c.deployment.VersionLabel, Serial: c.deployment.Serial, OptionSettings: set}
	if err := settings.WriteContainerConfiguration(c.root, m); err != nil {
		c.t.Fatal(err)
	}
}

// unpack puts a bundle where DownloadSourceBundle would.
func (c *command) unpack(dir string) {
	c.t.Helper()
	tree := c.root.Release(fmt.Sprint(c.deployment.ID), c.deployment.InvocationID)
	if err := os.CopyFS(tree, os.DirFS(dir)); err != nil {
		c.t.Fatal(err)
	}
}

// adopt makes a folder, links and all, the deployment's tree.
func (c *command) adopt(dir string) {
	c.t.Helper()
	tree := c.root.Release(fmt.Sprint(c.deployment.ID), c.deployment.InvocationID)
	if err := os.MkdirAll(filepath.Dir(tree), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.Rename(dir, tree); err != nil {
		c.t.Fatal(err)
	}
}

func (c *command) call(s *step) *hooks.Call {
	return &hooks.Call{
		Root: c.root, Dir: s.dir, Deployment: c.deployment, Saved: s.saved, Log: slog.New(slog.DiscardHandler),
		Output: writer(func(b []byte) { c.mu.Lock(); defer c.mu.Unlock(); c.output.Write(b) }),
		Event: func(e protocol.Event) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.events = append(c.events, e)
			if c.onEvent != nil {
				c.onEvent(e)
			}
		},
		Save: func(v any) error {
			data, err := json.Marshal(v)
			s.saved = data
			return err
		},
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

// run runs the hooks of the directories in order; only is a hook name to stop before, "" for none.
func (c *command) run(ctx context.Context, p *docker.Platform, dirs ...string) error {
	for _, dir := range dirs {
		list := slices.SortedFunc(slices.Values(p.Hooks()[dir]), func(a, b hooks.Builtin) int { return strings.Compare(a.Name, b.Name) })
		for _, h := range list {
			s := &step{dir: dir, hook: h}
			c.steps = append(c.steps, s)
			if err := h.Run(ctx, c.call(s)); err != nil {
				return fmt.Errorf("%s/%s: %w", dir, h.Name, err)
			}
		}
	}
	return nil
}

// unwind undoes the compensated steps, the last one first.
func (c *command) unwind(p *docker.Platform) error {
	for _, s := range slices.Backward(c.steps) {
		if s.hook.Undo == nil {
			continue
		}
		undo := s.hook.Undo
		for _, h := range p.Hooks()[s.dir] { // of the process that unwinds, not of the one that died
			if h.Name == s.hook.Name {
				undo = h.Undo
			}
		}
		if err := undo(context.Background(), c.call(s)); err != nil {
			return fmt.Errorf("undo %s/%s: %w", s.dir, s.hook.Name, err)
		}
	}
	return nil
}

var (
	deployDirs  = []string{"appdeploy/pre", "appdeploy/enact", "appdeploy/post"}
	configDirs  = []string{"configdeploy/enact", "configdeploy/post"}
	restartDirs = []string{"restartappserver/enact", "restartappserver/post"}
)

// deploy deploys a folder as CMD-AppDeploy does, unwinding where it fails.
func (f *fixture) deploy(dir string, env map[string]string, options ...[3]string) error {
	f.t.Helper()
	c := f.command("CMD-AppDeploy")
	c.configure(env, options...)
	c.unpack(dir)
	return c.runOrUnwind(deployDirs)
}

func (c *command) runOrUnwind(dirs []string) error {
	c.t.Helper()
	err := c.run(c.t.Context(), c.platform, dirs...)
	if err != nil {
		if errUndo := c.unwind(c.platform); errUndo != nil {
			c.t.Errorf("unwind: %v", errUndo)
		}
	}
	return err
}

func (f *fixture) mustDeploy(version string, env map[string]string, options ...[3]string) {
	f.t.Helper()
	if err := f.deploy(dockertest.BuildHello(f.t, version), env, options...); err != nil {
		f.t.Fatalf("deploy %s: %v\n%s", version, err, f.said())
	}
	_ = f.platform.Wait(f.t.Context())
}

func (f *fixture) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.output.String()
}

// texts returns the events of a severity since the last call of forget.
func (f *fixture) texts(severity protocol.Severity) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, e := range f.events {
		if e.Severity == severity {
			out = append(out, e.Msg)
		}
	}
	return out
}

func (f *fixture) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = nil
	f.output.Reset()
}

// get asks the application through the valve.
func (f *fixture) get(path string) string {
	f.t.Helper()
	answer, err := http.Get(f.valve.url + path)
	if err != nil {
		f.t.Fatalf("get %s: %v", path, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		f.t.Fatalf("get %s: %v", path, err)
	}
	return strings.TrimSpace(string(body))
}

func (f *fixture) wantAnswer(want string) {
	f.t.Helper()
	if got := f.get("/"); got != want {
		f.t.Errorf("the application answers %q, want %q", got, want)
	}
}

func (f *fixture) state(path string) string {
	f.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		f.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func (f *fixture) evidence() string {
	return f.state(filepath.Join(f.root.Evidence(), "container-id"))
}

// eventually waits for something outside this process.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !is() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
