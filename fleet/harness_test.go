package fleet_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/fleet/record"
	"hostmanager/fleet/wiretest"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

const (
	testEnv    = "e-test"
	testBucket = "bucket"
)

// world is a local SQS and S3 with one environment in it.
type world struct {
	t       *testing.T
	aws     *localaws.Server
	queues  *queue.Client
	objects *objects.Client
	record  *environment.Record
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldAt(t, localaws.SystemClock{})
}

func newWorldAt(t *testing.T, clock localaws.Clock) *world {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	server, err := localaws.New(localaws.Options{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	w := &world{t: t, aws: server}
	if w.queues, err = queue.New(t.Context(), queue.Options{Region: "us-east-1", Endpoint: server.URL()}); err != nil {
		t.Fatal(err)
	}
	if w.objects, err = objects.New(t.Context(), objects.Options{Region: "us-east-1", Endpoint: server.URL()}); err != nil {
		t.Fatal(err)
	}
	if err := w.objects.CreateBucket(t.Context(), testBucket); err != nil {
		t.Fatal(err)
	}
	if w.record, err = record.Open(w.objects, testBucket, testEnv); err != nil {
		t.Fatal(err)
	}
	w.record = signedRecord(w.record)
	return w
}

// operatorKey signs what the operators of a world send.
func operatorKey() signing.Key { return signing.FromSeed([32]byte{'o', 'p', 's'}) }

func trusted() signature.Keys { return signature.NewKeys(operatorKey().Public("ops")) }

func signedRecord(r *environment.Record) *environment.Record {
	return r.Secured(operatorKey(), trusted())
}

// fleet returns an operator with a printer of their own.
func (w *world) fleet() (*fleet.Fleet, *lines) {
	p := &lines{}
	return &fleet.Fleet{
		Record: w.record, Queues: w.queues, Objects: w.objects, Bucket: testBucket, Holder: "anna@test", Printer: p,
		PickupWindow: 20 * time.Second,
	}, p
}

func (w *world) bundle(content string) fleet.Bundle {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), "bundle.zip")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.t.Fatal(err)
	}
	b, err := fleet.OpenBundle(w.t.Context(), path)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

func (w *world) current() (protocol.Current, protocol.Manifest) {
	w.t.Helper()
	c, m, err := w.record.CurrentManifest(w.t.Context())
	if err != nil && !errors.Is(err, environment.ErrNoCurrent) {
		w.t.Fatal(err)
	}
	return c, m
}

func (w *world) lastDeployment() environment.Deployment {
	w.t.Helper()
	d, _, err := w.record.LastDeployment(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// leftQueues returns the result queues that are still there.
func (w *world) leftQueues() []string {
	w.t.Helper()
	urls, err := w.queues.List(w.t.Context(), protocol.ResultQueuePrefix(testEnv))
	if err != nil {
		w.t.Fatal(err)
	}
	return urls
}

// instance is a wiretest.Instance whose errors are the test's.
type instance struct {
	*wiretest.Instance
	w *world
}

// reply is what an instance makes of one command: the messages it sends, in order.
type reply func(i *instance, c protocol.Command, r protocol.Request) []string

// instance registers an instance and, with a reply, has it answer until the test's end.
func (w *world) instance(id string, r reply) *instance {
	w.t.Helper()
	return w.instanceAt(id, "", r)
}

func (w *world) instanceAt(id, url string, answer reply) *instance {
	w.t.Helper()
	i := &instance{w: w}
	inner, err := wiretest.New(w.t.Context(), wiretest.Options{
		ID: id, Queue: url, Record: w.record, Queues: w.queues, Trusted: trusted(), Failed: func(err error) { w.t.Error(err) },
		Reply: func(_ *wiretest.Instance, c protocol.Command, r protocol.Request) ([]string, error) {
			return answer(i, c, r), nil
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	i.Instance = inner
	if answer != nil {
		ctx, cancel := context.WithCancel(w.t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { i.Serve(ctx) })
		w.t.Cleanup(func() { cancel(); wg.Wait() })
	}
	return i
}

// ran returns the stages the instance ran, -1 for all at once.
func (i *instance) ran() []int {
	var stages []int
	for _, r := range i.Got() {
		if r.StageNum == nil {
			stages = append(stages, -1)
			continue
		}
		stages = append(stages, *r.StageNum)
	}
	return stages
}

// lastGot returns the last request the instance carried out.
func (i *instance) lastGot() protocol.Request {
	i.w.t.Helper()
	got := i.Got()
	if len(got) == 0 {
		i.w.t.Fatalf("%s got nothing", i.ID)
	}
	return got[len(got)-1]
}

func (i *instance) result(c protocol.Command, r protocol.Request, e protocol.ResponseEntry) string {
	body, err := i.Result(c, r, e)
	if err != nil {
		i.w.t.Error(err)
	}
	return body
}

func (i *instance) encode(c protocol.Command, r protocol.Request, e protocol.ResponseEntry) string {
	body, err := i.Encode(c, r, e)
	if err != nil {
		i.w.t.Error(err)
	}
	return body
}

func (i *instance) deploymentOf(r protocol.Request) int64 {
	m, err := i.Manifest(i.w.t.Context(), r)
	if err != nil {
		i.w.t.Error(err)
	}
	if m == nil {
		return 0
	}
	return m.DeploymentID
}

func encode(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

var (
	success = wiretest.Success
	failure = wiretest.Failure
)

func dockerLike(container string) reply { return ready(wiretest.DockerLike(container)) }

func failingIn(stage int, msg string) reply { return ready(wiretest.FailingIn(stage, msg)) }

func ready(r wiretest.Reply) reply {
	return func(i *instance, c protocol.Command, q protocol.Request) []string {
		bodies, err := r(i.Instance, c, q)
		if err != nil {
			i.w.t.Error(err)
		}
		return bodies
	}
}

// lines is a Printer that remembers.
type lines struct {
	mu      sync.Mutex
	all     []fleet.Line
	uploads []fleet.Upload
	onLine  func(fleet.Line)
}

func (l *lines) Line(line fleet.Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, line)
	if l.onLine != nil {
		l.onLine(line)
	}
}

func (l *lines) Packing(string) {}

func (l *lines) Upload(u fleet.Upload) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uploads = append(l.uploads, u)
}

// texts returns the lines as people see them.
func (l *lines) texts() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, line := range l.all {
		out = append(out, string(line.Severity)+": "+line.Text)
	}
	return out
}

func (l *lines) has(text string) bool {
	return slices.ContainsFunc(l.texts(), func(s string) bool { return strings.Contains(s, text) })
}

func (l *lines) mustHave(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !l.has(text) {
			t.Errorf("no line says %q:\n%s", text, strings.Join(l.texts(), "\n"))
		}
	}
}

func (l *lines) mustNotHave(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if l.has(text) {
			t.Errorf("a line says %q:\n%s", text, strings.Join(l.texts(), "\n"))
		}
	}
}

func (w *world) put(key, body string) (string, error) {
	return w.objects.Put(w.t.Context(), testBucket, key, []byte(body), objects.Condition{})
}

// change rewrites the record of a deployment, as anybody can who may write to the bucket.
func (w *world) change(id int64, fn func(d *environment.Deployment)) {
	w.t.Helper()
	d, etag, err := w.record.Deployment(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	fn(&d)
	if _, err := w.record.PutDeployment(w.t.Context(), &d, etag); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) deployment(id int64) environment.Deployment {
	w.t.Helper()
	d, _, err := w.record.Deployment(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

// serving answers an abort with what serves then, and everything else as r does.
func serving(serial int64, r reply) reply {
	return func(i *instance, c protocol.Command, q protocol.Request) []string {
		if q.CommandName != protocol.CmdAbort {
			return r(i, c, q)
		}
		return []string{i.encode(c, q, protocol.ResponseEntry{Status: protocol.Success, Msg: "Done.", Serial: serial, VersionLabel: fmt.Sprintf("v%d", serial)})}
	}
}

// begun sends a deployment and does not wait for it.
func begun(t *testing.T, w *world, f *fleet.Fleet, label string) fleet.Report {
	t.Helper()
	report, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle(label), Label: label, NoWait: true})
	if err != nil {
		t.Fatal(err)
	}
	return report
}
