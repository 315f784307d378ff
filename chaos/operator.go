package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/fleet/source"
	"hostmanager/internal/atomicfile"
	"hostmanager/protocol"
)

// The commands that are killed. startup is what an agent does by itself when it finds that the environment has moved on.
const (
	deploy  = "deploy"
	config  = "config"
	restart = "restart"
	startup = "startup"
)

// bundle is a version of the application: its folder, its archive, and where the archive lies in the bucket.
type bundle struct {
	label   string
	folder  string
	archive string
	source  protocol.RuntimeSource
}

// packBundles makes a few versions of the application. They are deployed again and again: what a deployment is known by is its greeting.
func packBundles(ctx context.Context, module, app, dir string) (all []bundle, err error) {
	binary, err := os.ReadFile(app)
	if err != nil {
		return nil, err
	}
	dockerfile, err := os.ReadFile(filepath.Join(module, "testdata/apps/hello/Dockerfile"))
	if err != nil {
		return nil, err
	}
	for n := range 4 {
		b := bundle{label: "v" + strconv.Itoa(n+1)}
		b.folder = filepath.Join(dir, b.label)
		b.archive = b.folder + ".zip"
		for name, data := range map[string][]byte{"hello": binary, "Dockerfile": dockerfile, "version": []byte(b.label + "\n")} {
			mode := os.FileMode(0o644)
			if name == "hello" {
				mode = 0o755
			}
			if err := atomicfile.WriteFile(filepath.Join(b.folder, name), data, mode); err != nil {
				return nil, err
			}
		}
		info, err := source.Pack(ctx, b.folder, b.archive, nil)
		if err != nil {
			return nil, err
		}
		b.source = protocol.RuntimeSource{SHA256: info.SHA256, Size: info.Size}
		all = append(all, b)
	}
	return all, nil
}

// upload puts the versions into the instance's bucket.
func (in *instance) upload(ctx context.Context) error {
	for _, b := range in.built.bundles {
		data, err := os.ReadFile(b.archive)
		if err != nil {
			return err
		}
		b.source.Bucket, b.source.Key = bucket, protocol.BundleKey(in.name, "app", b.label)
		if _, err := in.objects.Put(ctx, bucket, b.source.Key, data, objects.Condition{}); err != nil {
			return err
		}
		in.bundles = append(in.bundles, b)
	}
	return nil
}

// order is one command as it is to be sent, and what comes of it.
type order struct {
	kind       string
	invocation string
	request    protocol.Request
	current    protocol.Current
	version    int    // of the bundle
	answer     string // what the application answers when it succeeded
}

// prepare makes the order for a command of a kind: a manifest with a greeting nobody else has, for those that bring one.
func (in *instance) prepare(ctx context.Context, kind string) (order, error) {
	in.sent++
	o := order{kind: kind, invocation: fmt.Sprintf("%s-%04d-%s", kind, in.sent, word()), version: in.version, answer: in.serves}
	o.request = protocol.Request{
		CommandName: protocol.CmdRestartAppServer, RequestID: o.invocation, EnvironmentID: in.name, InstanceIDs: []string{in.name},
	}
	switch kind {
	case restart:
		return o, nil
	case config:
		o.request.CommandName = protocol.CmdConfigDeploy
	default:
		o.request.CommandName = protocol.CmdAppDeploy
		o.version = (in.version + 1) % len(in.bundles)
	}
	serial, err := in.record.NextSerial(ctx)
	if err != nil {
		return o, err
	}
	b, greeting := in.bundles[o.version], "greeting-"+o.invocation
	o.answer = greeting + " from " + b.label
	name, digest, err := in.record.PutManifest(ctx, protocol.Manifest{
		RuntimeSources: map[string]map[string]protocol.RuntimeSource{"app": {b.label: b.source}},
		VersionLabel:   b.label, DeploymentID: serial.DeploymentID, Serial: serial.Serial,
		OptionSettings: map[string]map[string]string{"aws:elasticbeanstalk:application:environment": {"GREETING": greeting}},
	})
	o.request.Data, o.request.DataSHA256 = name, digest
	o.current = protocol.Current{Manifest: name, SHA256: digest, Serial: serial.Serial}
	return o, err
}

// send puts the order on the instance's queue.
func (in *instance) send(ctx context.Context, o order) error {
	data, err := o.request.Encode()
	if err != nil {
		return err
	}
	c := protocol.Command{
		DispatcherID: "chaos", CommandName: "ElasticBeanstalkCommand-AWSEBAutoScalingGroup", InvocationID: o.invocation,
		Expiration: time.Now().Add(10 * time.Minute), ResultQueue: in.outbox, Data: data,
	}
	if c.Signature, err = in.record.Sign(ctx, c.SigningBytes()); err != nil {
		return err
	}
	body, err := c.Encode()
	if err != nil {
		return err
	}
	return in.queues.Send(ctx, in.inbox, string(body))
}

// done takes note of what serves now, and moves the environment's current version as hmctl would.
func (in *instance) done(ctx context.Context, o order) error {
	in.serves, in.version = o.answer, o.version
	if o.current.Manifest == "" || o.kind == startup {
		return nil
	}
	return in.record.MoveCurrent(ctx, o.current)
}

// registered waits until the agent stands in the environment's record: what hmctl needs.
func (in *instance) registered(ctx context.Context) bool {
	return awaitEvery(ctx, 50*time.Millisecond, time.Minute, func() bool {
		var there []environment.Instance
		there, _, err := in.record.Instances(ctx)
		return err == nil && len(there) > 0
	})
}

// answers is everything that came on the result queue.
type answers struct {
	mu     sync.Mutex
	bodies map[string][]string // by invocation, in the order of arrival
	first  map[string]time.Time
	bad    []string // what is no result
}

func newAnswers() *answers {
	return &answers{bodies: map[string][]string{}, first: map[string]time.Time{}}
}

// collect reads the queue until ctx ends.
func (a *answers) collect(ctx context.Context, queues *queue.Client, url string) {
	for ctx.Err() == nil {
		messages, err := queues.Receive(ctx, url, queue.MaxBatch, queue.MaxWait)
		if err != nil {
			rest(ctx, 100*time.Millisecond)
			continue
		}
		for _, m := range messages {
			if queues.Delete(ctx, url, m.Receipt) == nil {
				a.add(m.Body)
			}
		}
	}
}

func (a *answers) add(body string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r, _, err := protocol.DecodeResult([]byte(body))
	if err != nil {
		a.bad = append(a.bad, err.Error())
		return
	}
	if len(a.bodies[r.InvocationID]) == 0 {
		a.first[r.InvocationID] = time.Now()
	}
	a.bodies[r.InvocationID] = append(a.bodies[r.InvocationID], body)
}

// of returns what came for an invocation.
func (a *answers) of(invocation string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]string(nil), a.bodies[invocation]...)
}

// firstAt returns when the first result of an invocation came.
func (a *answers) firstAt(invocation string) (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.first[invocation]
	return t, ok
}
