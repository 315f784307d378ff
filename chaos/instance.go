package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/fleet/record"
	"hostmanager/internal/layout"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

const (
	bucket = "chaos"
	region = localaws.DefaultRegion
	// agentKey marks the requests of the agent: faults strike those alone, so that what chaos itself asks is answered.
	agentKey = "agent"
	// onceHook is the file hook that runs at most once in each of hookFolders; it writes a line into onceLines for each run.
	onceHook  = "00zonce"
	onceLines = "chaos-once"
)

// hookFolders get a `once` hook each.
func hookFolders() []string {
	return []string{
		"appdeploy/pre", "appdeploy/enact", "appdeploy/post", "configdeploy/pre", "configdeploy/enact", "configdeploy/post",
		"restartappserver/pre", "restartappserver/enact", "restartappserver/post",
	}
}

// instance is one instance with everything it talks to.
type instance struct {
	*site
	name    string // also its environment's id and its Docker namespace
	dir     string
	root    layout.Root
	binary  string   // the agent's
	wrap    []string // what the binaries are started through; none: directly
	listen  string
	aws     *localaws.Server
	queues  *queue.Client
	objects *objects.Client
	record  *environment.Record
	key     signing.Key // that the agent obeys
	engine  engine
	inbox   string // URLs of its queues
	outbox  string
	answers *answers
	agent   *process
	proxy   *process
	bundles []bundle
	serves  string // what the application must answer now
	version int    // index of the bundle that serves
	sent    int
	lives   time.Time // when the agent was started last
	quit    context.CancelFunc
}

// newInstance makes an instance with its queues, its proxy and, in its root, its hooks. The agent is not started.
func newInstance(ctx context.Context, at *site, name, binary string, faults []localaws.Fault) (_ *instance, err error) {
	in := &instance{site: at, name: name, dir: filepath.Join(at.dir, name), binary: binary, engine: newEngine(), answers: newAnswers()}
	in.root = layout.Root(filepath.Join(in.dir, "root"))
	defer func() {
		if err != nil {
			err = errors.Join(err, in.close())
		}
	}()
	if err := os.MkdirAll(string(in.root), 0o755); err != nil {
		return in, err
	}
	if in.aws, err = localaws.New(localaws.Options{Seed: at.seed | 1, Faults: faults}); err != nil {
		return in, err
	}
	if err := in.aws.Start(); err != nil {
		return in, err
	}
	if err := in.connect(ctx); err != nil {
		return in, err
	}
	if in.listen, err = freeAddress(); err != nil {
		return in, err
	}
	if err := in.upload(ctx); err != nil {
		return in, err
	}
	ctx, in.quit = context.WithCancel(ctx)
	go in.answers.collect(ctx, in.queues, in.outbox)
	return in, in.writeHooks()
}

// word makes names nobody else on this machine has.
func word() string {
	b := make([]byte, 4)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// connect makes the clients, the bucket and the queues. Messages come back after two seconds when an agent died with them in its hands.
func (in *instance) connect(ctx context.Context) (err error) {
	if in.queues, err = queue.New(ctx, queue.Options{Region: region, Endpoint: in.aws.URL()}); err != nil {
		return err
	}
	if in.objects, err = objects.New(ctx, objects.Options{Region: region, Endpoint: in.aws.URL()}); err != nil {
		return err
	}
	if in.record, err = record.Open(in.objects, bucket, in.name); err != nil {
		return err
	}
	if in.key, err = signing.Generate(); err != nil {
		return err
	}
	in.record = in.record.Secured(in.key, signature.NewKeys(in.key.Public("chaos")))
	if err := in.key.WriteFile(in.keyFile()); err != nil {
		return err
	}
	if err := in.objects.CreateBucket(ctx, bucket); err != nil {
		return err
	}
	if in.inbox, err = in.queues.Create(ctx, protocol.CommandQueue(in.name, in.name), map[string]string{"VisibilityTimeout": "2"}); err != nil {
		return err
	}
	in.outbox, err = in.queues.Create(ctx, protocol.ResultQueue(in.name, "chaos"), nil)
	return err
}

// writeHooks puts a hook that may run once into every hook directory.
func (in *instance) writeHooks() error {
	for _, dir := range hookFolders() {
		path := filepath.Join(in.root.HookDir(dir), onceHook)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		script := "#!/bin/sh\necho \"" + dir + " $INVOCATION_ID\" >> " + filepath.Join(in.dir, onceLines) + "\nsleep 0.01\n"
		if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// onceRuns counts the runs of the `once` hooks of a command, by directory.
func (in *instance) onceRuns(invocation string) map[string]int {
	data, _ := os.ReadFile(filepath.Join(in.dir, onceLines)) // none yet: none ran
	runs := map[string]int{}
	for line := range strings.Lines(string(data)) {
		if dir, id, _ := strings.Cut(strings.TrimSpace(line), " "); id == invocation {
			runs[dir]++
		}
	}
	return runs
}

// process is one of the binaries at work.
type process struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when it has ended
}

// environ is what the binaries are started with: this process's environment, with the local endpoint in place of any AWS settings.
func (in *instance) environ() []string {
	own := slices.DeleteFunc(os.Environ(), func(kv string) bool {
		return slices.ContainsFunc([]string{"AWS_", "HOSTMANAGER_", "HMCTL_", "NOTIFY_SOCKET=", "LISTEN_"}, func(of string) bool { return strings.HasPrefix(kv, of) })
	})
	return append(own, "AWS_ENDPOINT_URL="+in.aws.URL(), "AWS_REGION="+region, "AWS_ACCESS_KEY_ID="+agentKey, "AWS_SECRET_ACCESS_KEY=local",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"HOSTMANAGER_ENVIRONMENT_ID="+in.name, "HOSTMANAGER_INSTANCE_ID="+in.name, "HOSTMANAGER_BUCKET="+bucket, "HOSTMANAGER_REGION="+region,
		"HOSTMANAGER_DOCKER_NAMESPACE="+in.name, "HOSTMANAGER_LISTEN="+in.listen, "HOSTMANAGER_TRUSTED_KEYS="+in.key.Public("chaos").String(),
		strikeVariable+"="+in.strikeFile())
}

func (in *instance) keyFile() string { return filepath.Join(in.dir, "signing-key.pem") }

func (in *instance) strikeFile() string { return filepath.Join(in.dir, "strike.json") }

// spawn starts one of the binaries. Its output goes into a file.
func (in *instance) spawn(binary string, args ...string) (*process, error) {
	argv := append(append(slices.Clone(in.wrap), binary), args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = in.environ()
	cmd.Dir = in.dir
	out, err := os.OpenFile(filepath.Join(in.dir, args[0]+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	return begin(cmd)
}

// begin starts a process.
func begin(cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	p := &process{cmd: cmd, gone: make(chan struct{})}
	go func() {
		defer close(p.gone)
		_ = cmd.Wait() // how it ended stands in ProcessState
	}()
	return p, nil
}

// kill ends a process with SIGKILL and waits until it has ended.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	<-p.gone
}

// struck tells whether a process that has ended was killed. Any other end is one by itself.
func (p *process) struck() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

func (in *instance) startAgent() (err error) {
	in.lives = time.Now()
	in.agent, err = in.spawn(in.binary, "agent", "--root", string(in.root))
	return err
}

func (in *instance) startProxy(ctx context.Context) (err error) {
	if in.proxy, err = in.spawn(in.built.hostmanager, "proxy", "--root", string(in.root), "--listen", in.listen); err != nil {
		return err
	}
	if !await(ctx, time.Minute, func() bool {
		c, err := net.Dial("tcp", in.listen)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}) {
		return errors.New("the proxy does not listen")
	}
	return nil
}

// await polls what other processes do until it holds, at most for d.
func await(ctx context.Context, d time.Duration, holds func() bool) bool {
	return awaitEvery(ctx, 2*time.Millisecond, d, holds)
}

// awaitEvery is for what is dear to look at.
func awaitEvery(ctx context.Context, every, d time.Duration, holds func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// rest waits for d, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// close ends the processes, purges what the instance made in Docker, and closes the endpoint. The folder stays.
func (in *instance) close() error {
	in.agent.kill()
	in.proxy.kill()
	if in.quit != nil {
		in.quit()
	}
	var errs []error
	if in.aws != nil && in.listen != "" {
		cmd := exec.Command(in.built.hostmanager, "purge", "--root", string(in.root))
		cmd.Env = in.environ()
		if out, err := cmd.CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("purge: %w: %s", err, out))
		}
	}
	if in.aws != nil {
		errs = append(errs, in.aws.Close())
	}
	return errors.Join(errs...)
}

// weather is what goes wrong at SQS and S3 for the agent.
func weather() []localaws.Fault {
	theAgents := func(c localaws.Call) bool { return ofAgent(c.Request) }
	return []localaws.Fault{
		{Op: "SQS.ReceiveMessage", When: theAgents, Probability: 0.05, Duplicate: true},
		{Op: "*", When: theAgents, Probability: 0.05, Throttle: true},
		{Op: "*", When: theAgents, Probability: 0.01, HangUp: localaws.HangUpRequest},
		{Op: "*", When: theAgents, Probability: 0.01, HangUp: localaws.HangUpResponse},
	}
}

func ofAgent(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Authorization"), "Credential="+agentKey+"/")
}
