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
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(name, value)
	}
	server, err := localaws.New(localaws.Options{})
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
	return w
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

// instance is the far end of the wire: it registers, receives commands from its queue and answers as it is told. Like an agent it answers a
// command it has seen with the same result again.
type instance struct {
	w     *world
	id    string
	queue string

	mu      sync.Mutex
	got     []protocol.Request
	answers map[string][]string // by identity of the command
}

// reply is what an instance makes of one command: the messages it sends, in order.
type reply func(i *instance, c protocol.Command, r protocol.Request) []string

func (w *world) instance(id string, reply reply) *instance {
	w.t.Helper()
	url, err := w.queues.Create(w.t.Context(), protocol.CommandQueue(testEnv, id), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	i := &instance{w: w, id: id, queue: url, answers: map[string][]string{}}
	if err := w.record.Register(w.t.Context(), environment.Instance{InstanceID: id, Queue: url}); err != nil {
		w.t.Fatal(err)
	}
	if reply != nil {
		ctx, cancel := context.WithCancel(w.t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { i.serve(ctx, reply) })
		w.t.Cleanup(func() { cancel(); wg.Wait() })
	}
	return i
}

func (i *instance) serve(ctx context.Context, reply reply) {
	for ctx.Err() == nil {
		messages, err := i.w.queues.Receive(ctx, i.queue, 1, queue.MaxWait)
		if err != nil {
			continue
		}
		for _, m := range messages {
			c, err := protocol.DecodeCommand([]byte(m.Body))
			if err != nil {
				i.w.t.Errorf("%s got no command: %v", i.id, err)
				continue
			}
			for _, body := range i.answer(c, reply) {
				if err := i.w.queues.Send(ctx, c.ResultQueue, body); err != nil && ctx.Err() == nil && !errors.Is(err, queue.ErrQueueMissing) {
					i.w.t.Errorf("%s: send: %v", i.id, err)
				}
			}
			_ = i.w.queues.Delete(ctx, i.queue, m.Receipt)
		}
	}
}

func (i *instance) answer(c protocol.Command, reply reply) []string {
	i.mu.Lock()
	known, again := i.answers[c.Identity()]
	i.mu.Unlock()
	if again {
		return known
	}
	r, err := protocol.DecodeRequest(c.Data)
	if err != nil {
		i.w.t.Errorf("%s got no request: %v", i.id, err)
	}
	answers := reply(i, c, r)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, r)
	i.answers[c.Identity()] = answers
	return answers
}

// ran returns the stages the instance ran, -1 for all at once.
func (i *instance) ran() []int {
	i.mu.Lock()
	defer i.mu.Unlock()
	var stages []int
	for _, r := range i.got {
		if r.StageNum == nil {
			stages = append(stages, -1)
			continue
		}
		stages = append(stages, *r.StageNum)
	}
	return stages
}

// deploymentOf reads which deployment a request's manifest is.
func (i *instance) deploymentOf(r protocol.Request) int64 {
	if !protocol.ValidManifestName(r.Data) {
		return 0
	}
	m, _, err := i.w.record.GetManifest(i.w.t.Context(), r.Data, r.DataSHA256)
	if err != nil {
		i.w.t.Errorf("%s: %v", i.id, err)
	}
	return m.DeploymentID
}

// result encodes a processed command's answer.
func (i *instance) result(c protocol.Command, r protocol.Request, e protocol.ResponseEntry) string {
	e.StageNum, e.DeploymentID = r.StageNum, i.deploymentOf(r)
	return i.encode(c, r, e)
}

func (i *instance) encode(c protocol.Command, r protocol.Request, e protocol.ResponseEntry) string {
	data, err := protocol.NewResponse(e).Encode()
	if err != nil {
		i.w.t.Error(err)
	}
	stage := "all"
	if r.StageNum != nil {
		stage = fmt.Sprint(*r.StageNum)
	}
	return encode(i.w.t, protocol.Result{
		DispatcherID: c.DispatcherID, InvocationID: c.InvocationID, CommandName: c.CommandName, ListenerID: i.id,
		Status: protocol.Success, ResultID: i.id + "/" + c.InvocationID + "/" + stage, Data: data,
	})
}

func encode(t *testing.T, v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func success(events ...string) protocol.ResponseEntry {
	e := protocol.ResponseEntry{Status: protocol.Success}
	for n, msg := range events {
		e.Events = append(e.Events, protocol.Event{Msg: msg, Severity: protocol.Trace, Time: time.UnixMilli(1_500_000_000_000 + int64(n))})
	}
	return e
}

func failure(msg string) protocol.ResponseEntry {
	return protocol.ResponseEntry{Status: protocol.Failure, ReturnCode: 1, Msg: msg}
}

// dockerLike answers as the Docker platform does.
func dockerLike(container string) reply {
	return func(i *instance, c protocol.Command, r protocol.Request) []string {
		e := success("Successfully built aws_beanstalk/staging-app")
		if r.StageNum != nil && *r.StageNum == 1 {
			e = success("Docker container " + container + " is running aws_beanstalk/current-app.")
		}
		return []string{i.result(c, r, e)}
	}
}

// failingIn answers FAILURE in one stage.
func failingIn(stage int, msg string) reply {
	return func(i *instance, c protocol.Command, r protocol.Request) []string {
		e := success()
		if r.StageNum != nil && *r.StageNum == stage {
			e = failure(msg)
		}
		return []string{i.result(c, r, e)}
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
