package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/fleet/record"
	"hostmanager/fleet/source"
	"hostmanager/internal/layout"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

const (
	bucket     = "bench"
	envID      = "e-bench"
	instanceID = "i-bench0001"
)

// stand is one instance with everything it talks to, in one folder.
type stand struct {
	dir      string
	root     layout.Root
	bin      string
	endpoint string
	port     string // of the proxy
	aws      *localaws.Server
	front    *httptest.Server
	polled   chan struct{} // closed at the first ReceiveMessage
	once     sync.Once
	queues   *queue.Client
	objects  *objects.Client
	record   *environment.Record
	queueURL string
	results  string
	agent    *exec.Cmd
	proxy    *exec.Cmd
	key      signing.Key
}

func newStand(ctx context.Context, s settings) (_ *stand, err error) {
	dir, err := os.MkdirTemp("", "hostmanager-bench-")
	if err != nil {
		return nil, err
	}
	st := &stand{dir: dir, root: layout.Root(filepath.Join(dir, "root")), bin: filepath.Join(s.bin, "hostmanager"), polled: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	if st.key, err = signing.Generate(); err != nil {
		return st, err
	}
	if st.aws, err = localaws.New(localaws.Options{Addr: "127.0.0.1:0"}); err != nil {
		return st, err
	}
	if err = st.aws.Start(); err != nil {
		return st, err
	}
	if err := st.openFront(); err != nil {
		return st, err
	}
	for k, v := range st.environment() {
		_ = os.Setenv(k, v) // the clients below read it as the agent does
	}
	if st.queues, err = queue.New(ctx, queue.Options{}); err != nil {
		return st, err
	}
	if st.objects, err = objects.New(ctx, objects.Options{}); err != nil {
		return st, err
	}
	if st.record, err = record.Open(st.objects, bucket, envID); err != nil {
		return st, err
	}
	st.record = st.record.Secured(st.key, signature.Keys{})
	return st, st.prepare(ctx)
}

// openFront puts a pass-through before localaws that sees the agent's first poll.
func (st *stand) openFront() error {
	target, err := url.Parse(st.aws.URL())
	if err != nil {
		return err
	}
	quiet := log.New(io.Discard, "", 0) // an agent that stops hangs up on its long poll
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host }, FlushInterval: -1, ErrorLog: quiet}
	st.front = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".ReceiveMessage") {
			st.once.Do(func() { close(st.polled) })
		}
		pass.ServeHTTP(w, r)
	}))
	st.endpoint = st.front.URL
	return nil
}

func (st *stand) environment() map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL": st.endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local",
		"HOSTMANAGER_ENVIRONMENT_ID": envID, "HOSTMANAGER_INSTANCE_ID": instanceID, "HOSTMANAGER_BUCKET": bucket,
		"HOSTMANAGER_REGION": "us-east-1", "HOSTMANAGER_DOCKER_NAMESPACE": st.namespace(),
		"HOSTMANAGER_TRUSTED_KEYS": st.key.Public("bench").String(),
	}
}

func (st *stand) namespace() string { return "bench" + fmt.Sprint(os.Getpid()) }

func (st *stand) prepare(ctx context.Context) (err error) {
	if err := st.objects.CreateBucket(ctx, bucket); err != nil {
		return err
	}
	if st.queueURL, err = st.queues.Create(ctx, protocol.CommandQueue(envID, instanceID), nil); err != nil {
		return err
	}
	if st.results, err = st.queues.Create(ctx, protocol.ResultQueue(envID, "bench"), nil); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, st.port, _ = net.SplitHostPort(l.Addr().String())
	return l.Close()
}

func (st *stand) spawn(args ...string) (*exec.Cmd, error) {
	cmd := exec.Command(st.bin, args...)
	log, err := os.OpenFile(filepath.Join(st.dir, args[0]+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	return cmd, cmd.Start()
}

func (st *stand) startAgent() (err error) {
	st.agent, err = st.spawn("agent", "--root", string(st.root))
	return err
}

func (st *stand) startProxy(ctx context.Context) (err error) {
	if st.proxy, err = st.spawn("proxy", "--root", string(st.root), "--listen", "127.0.0.1:"+st.port); err != nil {
		return err
	}
	return until(ctx, func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+st.port)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

// until polls a condition that no channel tells of: another process's state.
func until(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func stopProcess(cmd *exec.Cmd) error {
	if cmd == nil || cmd.Process == nil {
		return nil
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}

func (st *stand) close() error {
	errs := []error{stopProcess(st.agent), stopProcess(st.proxy)}
	if st.agent != nil && st.proxy != nil {
		if out, err := exec.Command(st.bin, "purge", "--root", string(st.root)).CombinedOutput(); err != nil {
			errs = append(errs, fmt.Errorf("purge: %w: %s", err, out))
		}
	}
	if st.front != nil {
		st.front.CloseClientConnections()
		st.front.Close()
	}
	if st.aws != nil {
		errs = append(errs, st.aws.Close())
	}
	if os.Getenv("BENCH_KEEP") == "" {
		errs = append(errs, os.RemoveAll(st.dir))
	}
	return errors.Join(errs...)
}

// manifest uploads the folder as a new version and returns the request that deploys it.
func (st *stand) manifest(ctx context.Context, app string) (protocol.Request, error) {
	zip := filepath.Join(st.dir, "bundle.zip")
	info, err := source.Pack(ctx, app, zip, nil)
	if err != nil {
		return protocol.Request{}, err
	}
	data, err := os.ReadFile(zip)
	if err != nil {
		return protocol.Request{}, err
	}
	serial, err := st.record.NextSerial(ctx)
	if err != nil {
		return protocol.Request{}, err
	}
	label := fmt.Sprintf("v%d", serial.Serial)
	key := protocol.BundleKey(envID, "app", label)
	if _, err := st.objects.Put(ctx, bucket, key, data, objects.Condition{}); err != nil {
		return protocol.Request{}, err
	}
	name, digest, err := st.record.PutManifest(ctx, protocol.Manifest{
		RuntimeSources: map[string]map[string]protocol.RuntimeSource{"app": {label: {Bucket: bucket, Key: key, SHA256: info.SHA256, Size: info.Size}}},
		VersionLabel:   label, DeploymentID: serial.DeploymentID, Serial: serial.Serial,
	})
	return protocol.Request{CommandName: protocol.CmdAppDeploy, Data: name, DataSHA256: digest}, err
}

// send puts a command on the instance's queue and returns its invocation id.
func (st *stand) send(ctx context.Context, r protocol.Request, n int) (string, error) {
	r.EnvironmentID = envID
	if len(r.InstanceIDs) == 0 {
		r.InstanceIDs = []string{instanceID}
	}
	r.RequestID = fmt.Sprintf("bench-%d-%d", time.Now().UnixNano(), n)
	data, err := r.Encode()
	if err != nil {
		return "", err
	}
	c := protocol.Command{
		DispatcherID: "bench", CommandName: "ElasticBeanstalkCommand-AWSEBAutoScalingGroup", InvocationID: r.RequestID,
		Expiration: time.Now().Add(2 * time.Minute), ResultQueue: st.results, Data: data,
	}
	if c.Signature, err = st.record.Sign(ctx, c.SigningBytes()); err != nil {
		return "", err
	}
	body, err := c.Encode()
	if err != nil {
		return "", err
	}
	return r.RequestID, st.queues.Send(ctx, st.queueURL, string(body))
}

// await waits for the result of an invocation.
func (st *stand) await(ctx context.Context, invocation string) (*protocol.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		messages, err := st.queues.Receive(ctx, st.results, 1, 20*time.Second)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if err := st.queues.Delete(ctx, st.results, m.Receipt); err != nil {
				return nil, err
			}
			r, inner, err := protocol.DecodeResult([]byte(m.Body))
			if err != nil {
				return nil, err
			}
			if r.InvocationID == invocation {
				return inner, nil
			}
		}
	}
}

func mustSucceed(r *protocol.Response) error {
	if r == nil || r.Status != protocol.Success {
		text, _ := json.Marshal(r)
		return fmt.Errorf("the command did not succeed: %s", text)
	}
	return nil
}
