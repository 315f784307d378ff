package agent_test

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/agent"
	"hostmanager/agent/config"
	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/fleet/record"
	"hostmanager/hooks"
	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/journal"
	"hostmanager/protocol"
)

const (
	envID    = "e-test"
	instance = "i-0a1b2c3d"
	bucket   = "environments"
	outer    = "ElasticBeanstalkCommand-AWSEBAutoScalingGroup"
)

// world is an environment: a local endpoint over HTTP, a bucket with a record, and one instance's root.
type world struct {
	t       *testing.T
	aws     *localaws.Server
	queue   *queue.Client
	objects *objects.Client
	record  *environment.Record
	root    layout.Root
	results string // URL
	boot    string
	now     func() time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldBy(t, localaws.SystemClock{})
}

// newWorldBy is newWorld with an endpoint that goes by another clock.
func newWorldBy(t *testing.T, clock localaws.Clock) *world {
	t.Helper()
	server, err := localaws.New(localaws.Options{Clock: clock})
	must(t, err)
	must(t, server.Start())
	t.Cleanup(func() { _ = server.Close() })
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL(), "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
	} {
		t.Setenv(k, v)
	}
	w := &world{t: t, aws: server, root: layout.Root(t.TempDir()), boot: "boot-1"}
	w.queue, err = queue.New(t.Context(), queue.Options{})
	must(t, err)
	w.objects, err = objects.New(t.Context(), objects.Options{})
	must(t, err)
	must(t, w.objects.CreateBucket(t.Context(), bucket))
	w.record, err = record.Open(w.objects, bucket, envID)
	must(t, err)
	w.record = w.record.Secured(operatorKey(), signature.Keys{})
	w.results, err = w.queue.Create(t.Context(), protocol.ResultQueue(envID, "req-1"), nil)
	must(t, err)
	_, err = w.queue.Create(t.Context(), protocol.CommandQueue(envID, instance), nil)
	must(t, err)
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// operatorKey is the key that the agents of a world obey.
func operatorKey() signing.Key { return signing.FromSeed([32]byte{'o', 'p', 's'}) }

func testConfig() config.Config {
	c := config.New()
	c.TrustedKeys = []string{operatorKey().Public("ops").String()}
	c.EnvironmentID, c.EnvironmentName, c.InstanceID, c.Bucket, c.LogLevel = envID, "test", instance, bucket, "debug"
	return c
}

type agentSetup = agent.Setup

// running is an agent at work.
type running struct {
	*agent.Built
	signals chan os.Signal
	ended   chan error
	once    sync.Once
	err     error
}

// start runs an agent over the file platform until the test ends.
func (w *world) start(change ...func(*agent.Setup)) *running {
	w.t.Helper()
	s := agent.Setup{Root: w.root, Config: testConfig(), Version: "v-test", BootID: w.boot, Now: w.now, Platform: filePlatformOf}
	for _, c := range change {
		c(&s)
	}
	built, err := agent.Build(w.t.Context(), s)
	must(w.t, err)
	r := &running{Built: built, signals: make(chan os.Signal, 4), ended: make(chan error, 1)}
	ctx := context.WithoutCancel(w.t.Context())
	go func() { r.ended <- agent.Supervise(ctx, built.Agent, r.signals) }()
	w.t.Cleanup(func() { _ = r.stop() })
	return r
}

// stop drains the agent and waits for its end.
func (r *running) stop() error {
	r.Drain()
	return r.wait()
}

func (r *running) wait() error {
	r.once.Do(func() { r.err = errors.Join(<-r.ended, r.Close()) })
	return r.err
}

// bundle makes a source bundle of files.
func zipOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, text := range files {
		f, err := z.Create(name)
		must(t, err)
		_, err = f.Write([]byte(text))
		must(t, err)
	}
	must(t, z.Close())
	return b.Bytes()
}

// version puts a bundle and a manifest into the record.
func (w *world) version(label string, properties map[string]string, files map[string]string) protocol.Current {
	w.t.Helper()
	if files == nil {
		files = map[string]string{"Dockerfile": "FROM scratch\n"}
	}
	data := zipOf(w.t, files)
	key := protocol.BundleKey(envID, "app", label)
	_, err := w.objects.Put(w.t.Context(), bucket, key, data, objects.Condition{})
	must(w.t, err)
	serial, err := w.record.NextSerial(w.t.Context())
	must(w.t, err)
	m := protocol.Manifest{
		RuntimeSources: map[string]map[string]protocol.RuntimeSource{"app": {label: {Bucket: bucket, Key: key, SHA256: protocol.Digest(data), Size: int64(len(data))}}},
		VersionLabel:   label, DeploymentID: serial.DeploymentID, Serial: serial.Serial,
		OptionSettings: protocol.OptionSettings{"aws:elasticbeanstalk:application:environment": properties},
	}
	name, sha, err := w.record.PutManifest(w.t.Context(), m)
	must(w.t, err)
	return protocol.Current{Manifest: name, SHA256: sha, Serial: serial.Serial}
}

// order is a command to send.
type order struct {
	name       string // inner
	manifest   protocol.Current
	stage      *int
	invocation string
	request    string
	timeout    time.Duration
	instances  []string
	expires    time.Time
	results    string
	data       string // instead of all above that goes into Data
	execution  string // execution_data
	outer      string // the outer CommandName; outer when empty
	form       form   // of the message; bare when empty
}

func (w *world) command(o order) protocol.Command {
	w.t.Helper()
	if o.invocation == "" {
		o.invocation = "inv-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	}
	if o.request == "" {
		o.request = o.invocation
	}
	if o.expires.IsZero() {
		o.expires = time.Now().Add(time.Hour)
	}
	if o.results == "" {
		o.results = w.results
	}
	if o.instances == nil {
		o.instances = []string{instance}
	}
	if o.data == "" {
		data, err := protocol.Request{
			EnvironmentID: envID,
			CommandName:   o.name, RequestID: o.request, StageNum: o.stage, InstanceIDs: o.instances, Data: o.manifest.Manifest,
			DataSHA256: o.manifest.SHA256, Timeout: o.timeout, ExecutionData: o.execution,
		}.Encode()
		must(w.t, err)
		o.data = data
	}
	return signedBy(w.t, operatorKey(), protocol.Command{
		DispatcherID: "arn:stack/awseb-e-test-stack", CommandName: cmp.Or(o.outer, outer), InvocationID: o.invocation, Expiration: o.expires, ResultQueue: o.results, Data: o.data,
	})
}

// signedBy signs a command as it stands.
func signedBy(t *testing.T, key signing.Key, c protocol.Command) protocol.Command {
	t.Helper()
	value, err := key.Sign(t.Context(), c.SigningBytes())
	must(t, err)
	c.Signature = protocol.Signature{KeyID: key.KeyID(), Value: value}
	return c
}

// send sends a command in its form and returns it.
func (w *world) send(o order) protocol.Command {
	w.t.Helper()
	c := w.command(o)
	w.sendAgain(c, o.form)
	return c
}

// sendAgain sends a command as it is.
func (w *world) sendAgain(c protocol.Command, f form) {
	w.t.Helper()
	w.sendBody(f.body(w.t, c))
}

func (w *world) sendBody(body string) {
	w.t.Helper()
	must(w.t, w.queue.Send(w.t.Context(), w.commandQueue(), body))
}

func (w *world) commandQueue() string {
	w.t.Helper()
	url, err := w.queue.URL(w.t.Context(), protocol.CommandQueue(envID, instance))
	must(w.t, err)
	return url
}

// received is a result as it came.
type received struct {
	protocol.Result
	inner *protocol.Response
}

func (r received) entry() protocol.ResponseEntry { return r.inner.Entry() }

// await takes n results off the result queue, in the order they came.
func (w *world) await(n int) []received {
	w.t.Helper()
	return w.awaitFrom(w.results, n)
}

func (w *world) awaitFrom(url string, n int) []received {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 60*time.Second)
	defer cancel()
	var all []received
	for len(all) < n {
		messages, err := w.queue.Receive(ctx, url, 1, 20*time.Second)
		if errors.Is(err, queue.ErrThrottled) || errors.Is(err, queue.ErrUnavailable) { // an injected fault that met us
			continue
		}
		must(w.t, err)
		for _, m := range messages {
			r, inner, err := protocol.DecodeResult([]byte(m.Body))
			must(w.t, err)
			all = append(all, received{r, inner})
			if err := w.queue.Delete(ctx, url, m.Receipt); queue.Permanent(err) {
				w.t.Fatal(err)
			}
		}
	}
	return all
}

// one awaits a single result.
func (w *world) one() received {
	w.t.Helper()
	return w.await(1)[0]
}

// eventually waits for something outside this process's reach: a file, a queue, another process.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// journalled finds a command in the journal file, read without its lock.
func (w *world) journalled(identity string) journal.Command {
	s, err := journal.Read(w.root.Journal())
	if err != nil {
		return journal.Command{}
	}
	for _, c := range s.Commands {
		if c.Identity == identity {
			return c
		}
	}
	return journal.Command{}
}

func (w *world) read(path string) string {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.t.Error(err)
	}
	return string(data)
}

// events returns the agent's events.
func (w *world) events() string { return w.read(w.root.AgentEvents()) }

// hook puts an executable hook on the instance.
func (w *world) hook(name, script string) {
	w.t.Helper()
	path := w.root.HookDir(name)
	must(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(w.t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
}

// filePlatform deploys by writing files: what serves is the file serving.
type filePlatform struct {
	root layout.Root
}

func filePlatformOf(s agent.PlatformSetup) (agent.Platform, map[string][]hooks.Builtin, error) {
	p := &filePlatform{s.Root}
	enact := []hooks.Builtin{
		{Name: "00run", Semantics: protocol.Compensated, Run: p.run, Undo: p.undoRun},
		{Name: "01flip", Semantics: protocol.Compensated, Run: p.flip, Undo: p.undoFlip},
	}
	return p, map[string][]hooks.Builtin{
		"appdeploy/pre": {
			{Name: "01unzip", Semantics: protocol.Repeatable, Run: p.unzip},
			{Name: "03build", Semantics: protocol.Repeatable, Run: p.build},
		},
		"appdeploy/enact":        enact,
		"configdeploy/enact":     enact,
		"restartappserver/enact": enact,
	}, nil
}

func (p *filePlatform) unzip(_ context.Context, c *hooks.Call) error {
	return atomicfile.Symlink(p.root.Release(fmt.Sprint(c.Deployment.ID), c.Deployment.InvocationID), p.root.Staging())
}

func (p *filePlatform) build(_ context.Context, c *hooks.Call) error {
	c.Event(protocol.Event{Severity: protocol.Trace, Msg: "Successfully built aws_beanstalk/staging-app"})
	return nil
}

func (p *filePlatform) file(name string) string { return filepath.Join(p.root.EtcBeanstalk(), name) }

func (p *filePlatform) run(_ context.Context, c *hooks.Call) error {
	data, err := json.Marshal(agent.Application{
		ContainerID: "d8cdffc1b069", Running: true, Healthy: true, Serial: c.Deployment.Serial, DeploymentID: c.Deployment.ID, VersionLabel: c.Deployment.VersionLabel,
	})
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(p.file("starting"), data, 0o600)
}

func (p *filePlatform) undoRun(context.Context, *hooks.Call) error {
	return errors.Join(removed(p.file("starting")))
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// flipped is what taking a flip back needs, also so that it can be done again.
type flipped struct{ Old, New string }

func (p *filePlatform) flip(_ context.Context, c *hooks.Call) error {
	old, err := os.ReadFile(p.file("serving"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	next, err := os.ReadFile(p.file("starting"))
	if err != nil {
		return err
	}
	if err := c.Save(flipped{string(old), string(next)}); err != nil {
		return err
	}
	if err := os.Rename(p.file("starting"), p.file("serving")); err != nil {
		return err
	}
	c.Event(protocol.Event{Severity: protocol.Trace, Msg: "Docker container d8cdffc1b069 is running aws_beanstalk/current-app."})
	if tree, err := os.Readlink(p.root.Staging()); err == nil {
		return atomicfile.Symlink(tree, p.root.Current())
	}
	return nil
}

func (p *filePlatform) undoFlip(_ context.Context, c *hooks.Call) error {
	if len(c.Saved) == 0 {
		return nil
	}
	var saved flipped
	if err := json.Unmarshal(c.Saved, &saved); err != nil {
		return err
	}
	if err := atomicfile.WriteFile(p.file("starting"), []byte(saved.New), 0o600); err != nil {
		return err
	}
	if saved.Old == "" {
		return removed(p.file("serving"))
	}
	return atomicfile.WriteFile(p.file("serving"), []byte(saved.Old), 0o600)
}

// Status does not answer as long as the file hanging is there.
func (p *filePlatform) Status(ctx context.Context) (agent.Application, error) {
	var a agent.Application
	if _, err := os.Stat(p.file("hanging")); err == nil {
		<-ctx.Done()
		return a, ctx.Err()
	}
	data, err := os.ReadFile(p.file("serving"))
	if errors.Is(err, fs.ErrNotExist) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(data, &a)
}

func (p *filePlatform) Follow(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

// Recover fails as long as the file stuck is there; what is astray is what the file astray says.
func (p *filePlatform) Recover(context.Context) error {
	if _, err := os.Stat(p.file("stuck")); err == nil {
		return errors.New("it is stuck")
	}
	return errors.Join(removed(p.file("starting")), removed(p.file("astray")))
}

func (p *filePlatform) Astray(context.Context) (string, error) {
	text, err := os.ReadFile(p.file("astray"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}

// serving is the serial that serves, 0 for none.
func (w *world) serving() int64 {
	a, err := (&filePlatform{w.root}).Status(context.Background())
	must(w.t, err)
	return a.Serial
}

func stage(n int) *int { return &n }

// inOrder tells whether the texts stand in s in this order.
func inOrder(t *testing.T, s string, texts ...string) {
	t.Helper()
	rest := s
	for _, text := range texts {
		_, after, found := strings.Cut(rest, text)
		if !found {
			t.Errorf("%q is missing, or not in this order, in:\n%s", text, s)
			return
		}
		rest = after
	}
}
