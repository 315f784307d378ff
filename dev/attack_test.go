package dev_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/dev"
	"hostmanager/fleet"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/layout"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// TestAttacked_ByWhoeverHasQueuesAndBucketButNoKey gives an attacker everything of AWS: they read, write and delete every object, and receive from
// and send to every queue. The operator works with the shipped hmctl, the instances are the shipped hostmanager. Whatever the attacker does, the
// instances run nothing but what was signed for them, and say so.
func TestAttacked_ByWhoeverHasQueuesAndBucketButNoKey(t *testing.T) {
	engine := dockertest.Require(t)
	o, out := options(t, "")
	o.Hostmanager, o.Dir = buildHostmanager(t), dockertest.BuildHello(t, "v1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Ready = func(r dev.Room) error {
		defer cancel()
		a, err := newAttacker(t, r, engine)
		if err != nil {
			return err
		}
		return a.play()
	}
	if err := dev.Run(ctx, o); err != nil {
		t.Fatalf("%v\n%s", err, out.text.String())
	}
}

// attacker has the queues and the bucket of a room. What they do with hmctl they ask the operator to do, who holds the key.
type attacker struct {
	t       *testing.T
	room    dev.Room
	engine  *client.Client
	queues  *queue.Client
	objects *objects.Client
	hmctl   string
	trap    string // URL of a queue of their own
	serving string
	seen    map[string]int // bytes of events that were read, by instance
}

func newAttacker(t *testing.T, r dev.Room, engine *client.Client) (*attacker, error) {
	a := &attacker{t: t, room: r, engine: engine, hmctl: filepath.Join(t.TempDir(), "hmctl"), serving: "v1", seen: map[string]int{}}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", a.hmctl, "hostmanager/cmd/hmctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build hmctl: %w\n%s", err, text)
	}
	var err error
	if a.objects, err = objects.New(t.Context(), objects.Options{Region: r.Region, Endpoint: r.Endpoint}); err != nil {
		return nil, err
	}
	if a.queues, err = queue.New(t.Context(), queue.Options{Region: r.Region, Endpoint: r.Endpoint}); err != nil {
		return nil, err
	}
	a.trap, err = a.queues.Create(t.Context(), "the-trap", nil)
	return a, err
}

// operate runs hmctl with the operator's key.
func (a *attacker) operate(args ...string) (string, error) { return a.run(a.room.Environment, args...) }

func (a *attacker) run(environment string, args ...string) (string, error) {
	cmd := exec.CommandContext(a.t.Context(), a.hmctl, args...)
	cmd.Env = append(os.Environ(), "AWS_ENDPOINT_URL="+a.room.Endpoint, "AWS_REGION="+a.room.Region, "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local",
		"HMCTL_ENVIRONMENT="+environment, "HMCTL_BUCKET="+a.room.Bucket, "HMCTL_SIGNING_KEY="+a.room.SigningKey)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("hmctl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// caught is an order the operator signed, which never reached its instance.
func (a *attacker) caught(environment string, args ...string) (string, error) {
	if _, err := a.run(environment, append(args, "--no-wait", "--queue", a.room.Instances[0].ID+"="+a.trap)...); err != nil {
		return "", err
	}
	messages, err := a.queues.Receive(a.t.Context(), a.trap, 1, 20*time.Second)
	if err != nil || len(messages) != 1 {
		return "", fmt.Errorf("caught %d messages: %w", len(messages), err)
	}
	return messages[0].Body, a.queues.Delete(a.t.Context(), a.trap, messages[0].Receipt)
}

// inject puts a message into an instance's queue.
func (a *attacker) inject(n int, body string) error {
	url, err := a.queues.URL(a.t.Context(), protocol.CommandQueue(a.room.Environment, a.room.Instances[n].ID))
	if err != nil {
		return err
	}
	return a.queues.Send(a.t.Context(), url, body)
}

func (a *attacker) get(key string) []byte {
	body, _, err := a.objects.Get(a.t.Context(), a.room.Bucket, key, 1<<24)
	if err != nil {
		a.t.Errorf("get %s: %v", key, err)
	}
	return body
}

func (a *attacker) put(key string, body []byte) error {
	_, err := a.objects.Put(a.t.Context(), a.room.Bucket, key, body, objects.Condition{})
	return err
}

// play runs every attack; after each the instances serve what the operator deployed, and one of them says what it refused.
func (a *attacker) play() error {
	old := a.record()
	fromV1, err := a.caught(a.room.Environment, "send", protocol.CmdAppDeploy, "--data", old.current.Manifest)
	if err != nil {
		return err
	}
	if _, err := a.operate("deploy", dockertest.BuildHello(a.t, "v2"), "--label", "v2"); err != nil {
		return err
	}
	a.serving = "v2"
	for _, attack := range []struct {
		name, event string
		do          func(event string) error
	}{
		{"an order of their own", "not signed", func(string) error { return a.inject(0, a.forged(protocol.CmdRestartAppServer, "", "")) }},
		{"a deployment of their own", "not signed", a.deployOwn},
		{"an order moved to another instance", "An order for other instances came to this one", a.moveOrder},
		{"an order of another environment with the same key", "This order is for environment e-other", a.otherEnvironment},
		{"an order for the version before", "is older than", func(string) error { return a.inject(0, fromV1) }},
		{"that order altered", "signature does not fit", func(string) error {
			return a.inject(0, strings.Replace(fromV1, "CMD-AppDeploy", "CMD-AppDeplox", 1))
		}},
		{"the desired state of the version before", "is refused: it is older than what was deployed here", func(event string) error { return a.withRecord(event, old.objects) }},
		{"a desired state of their own", "signature does not fit", a.ownCurrent},
		{"the manifest of the desired state swapped", "does not have the expected SHA-256", a.swapManifest},
		{"the signatures taken away", "not signed", a.withoutSignatures},
	} {
		steps := a.steps()
		for _, i := range a.room.Instances {
			a.seen[i.ID] = len(a.events(i))
		}
		if err := attack.do(attack.event); err != nil {
			return fmt.Errorf("%s: %w", attack.name, err)
		}
		if err := within(a.t.Context(), func() error { return a.said(attack.event) }); err != nil {
			return fmt.Errorf("%s: %w", attack.name, err)
		}
		if err := within(a.t.Context(), func() error { return answers(a.room, "Hello from "+a.serving+"\n") }); err != nil {
			return fmt.Errorf("%s: %w", attack.name, err)
		}
		if now := a.steps(); now != steps {
			return fmt.Errorf("%s: the instances took %d steps", attack.name, now-steps)
		}
	}
	return a.replacedBundle()
}

// forged is an order without a signature.
func (a *attacker) forged(command, manifest, digest string) string {
	i := a.room.Instances[0]
	data, err := protocol.Request{
		CommandName: command, RequestID: "evil", EnvironmentID: a.room.Environment, InstanceIDs: []string{i.ID}, Data: manifest, DataSHA256: digest,
	}.Encode()
	if err != nil {
		a.t.Error(err)
	}
	body, err := protocol.Command{
		DispatcherID: a.room.Environment, CommandName: "x", InvocationID: "evil", Expiration: time.Now().Add(time.Hour),
		ResultQueue: a.room.Endpoint + "/000000000000/hostmanager-" + a.room.Environment + "-res-evil", Data: data,
	}.Encode()
	if err != nil {
		a.t.Error(err)
	}
	return string(body)
}

// ownManifest puts a manifest of the attacker's into the bucket.
func (a *attacker) ownManifest() protocol.Current {
	name := protocol.ManifestName(time.Now())
	m := protocol.Manifest{
		RuntimeSources: map[string]map[string]protocol.RuntimeSource{"app": {"evil": {Bucket: a.room.Bucket, Key: "evil.zip", SHA256: strings.Repeat("0", 64), Size: 1}}},
		VersionLabel:   "evil", DeploymentID: 1000, Serial: 1000,
	}
	data, err := m.Encode()
	if err = errors.Join(err, a.put(protocol.ManifestKey(a.room.Environment, name), data)); err != nil {
		a.t.Error(err)
	}
	return protocol.Current{Manifest: name, SHA256: protocol.Digest(data), Serial: m.Serial}
}

func (a *attacker) deployOwn(string) error {
	c := a.ownManifest()
	return a.inject(0, a.forged(protocol.CmdAppDeploy, c.Manifest, c.SHA256))
}

func (a *attacker) moveOrder(string) error {
	body, err := a.caught(a.room.Environment, "restart")
	if err != nil {
		return err
	}
	return a.inject(1, body)
}

func (a *attacker) otherEnvironment(string) error {
	body, err := a.caught("e-other", "restart")
	if err != nil {
		return err
	}
	return a.inject(0, body)
}

// saved is what the record holds of the desired state.
type saved struct {
	current protocol.Current
	objects map[string][]byte
}

func (a *attacker) record() saved {
	key := protocol.CurrentKey(a.room.Environment)
	s := saved{objects: map[string][]byte{}}
	s.objects[key] = a.get(key)
	s.objects[protocol.SignaturesKey(key)] = a.get(protocol.SignaturesKey(key))
	if err := json.Unmarshal(s.objects[key], &s.current); err != nil {
		a.t.Error(err)
	}
	return s
}

// withRecord puts objects into the record, has the first instance's agent start anew, and puts back what was there when it has told of it.
func (a *attacker) withRecord(event string, change map[string][]byte) error {
	before := map[string][]byte{}
	for key := range change {
		before[key] = a.get(key)
	}
	for key, body := range change {
		if err := a.put(key, body); err != nil {
			return err
		}
	}
	if err := a.restartAgent(); err != nil {
		return err
	}
	err := within(a.t.Context(), func() error { return a.said(event) })
	for key, body := range before {
		err = errors.Join(err, a.put(key, body))
	}
	return err
}

// ownCurrent points the desired state at a manifest of the attacker's.
func (a *attacker) ownCurrent(event string) error {
	data, err := json.Marshal(a.ownManifest())
	if err != nil {
		return err
	}
	return a.withRecord(event, map[string][]byte{protocol.CurrentKey(a.room.Environment): data})
}

// swapManifest gives the manifest of the desired state another content. The container is removed, so that start-up has to read it.
func (a *attacker) swapManifest(event string) error {
	current := a.record().current
	if err := a.removeContainer(); err != nil {
		return err
	}
	own := a.ownManifest()
	return a.withRecord(event, map[string][]byte{protocol.ManifestKey(a.room.Environment, current.Manifest): a.get(protocol.ManifestKey(a.room.Environment, own.Manifest))})
}

func (a *attacker) withoutSignatures(event string) error {
	return a.withRecord(event, map[string][]byte{protocol.SignaturesKey(protocol.CurrentKey(a.room.Environment)): []byte(`{"Signatures":[]}`)})
}

// removeContainer takes away what serves on the first instance.
func (a *attacker) removeContainer() error {
	list, err := a.engine.ContainerList(a.t.Context(), container.ListOptions{Filters: filters.NewArgs(filters.Arg("label", "hostmanager="+a.room.Instances[0].Namespace))})
	for _, c := range list {
		err = errors.Join(err, a.engine.ContainerRemove(a.t.Context(), c.ID, container.RemoveOptions{Force: true}))
	}
	return err
}

func (a *attacker) restartAgent() error {
	pid, err := (&victim{t: a.t, room: a.room, root: layout.Root(a.room.Instances[0].Root)}).agent()
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}

func (a *attacker) events(i dev.Instance) []byte {
	text, err := os.ReadFile(layout.Root(i.Root).AgentEvents())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.t.Error(err)
	}
	return text
}

// said tells whether an instance has told of it since the attack began.
func (a *attacker) said(event string) error {
	var all []string
	for _, i := range a.room.Instances {
		text := a.events(i)
		if bytes.Contains(text[a.seen[i.ID]:], []byte(event)) {
			return nil
		}
		all = append(all, string(text[a.seen[i.ID]:]))
	}
	return fmt.Errorf("no event says %q, only %q", event, all)
}

// steps counts the steps of orders in the journals. What start-up does by itself is none.
func (a *attacker) steps() (n int) {
	for _, i := range a.room.Instances {
		s, err := journal.Read(layout.Root(i.Root).Journal())
		if err != nil {
			a.t.Error(err)
		}
		for _, c := range s.Commands {
			if !strings.HasPrefix(c.Identity, "hostmanager-boot|") {
				n += len(c.Steps)
			}
		}
	}
	return n
}

// replacedBundle puts another archive of the same size where hmctl would put the version's, which it then takes for uploaded.
func (a *attacker) replacedBundle() error {
	dir := dockertest.BuildHello(a.t, "v3")
	b, err := fleet.OpenBundle(a.t.Context(), dir)
	if err != nil {
		return err
	}
	key := protocol.BundleKey(a.room.Environment, fleet.DefaultApplication, "v3/"+b.SHA256[:16])
	if err := errors.Join(b.Close(), a.put(key, make([]byte, b.Size))); err != nil {
		return err
	}
	out, err := a.operate("deploy", dir, "--label", "v3")
	if err == nil || !strings.Contains(out, "SHA-256") {
		return fmt.Errorf("the replaced bundle was deployed: %w\n%s", err, out)
	}
	return answers(a.room, "Hello from "+a.serving+"\n")
}
