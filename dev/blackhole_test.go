package dev_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/dev"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/layout"
	"hostmanager/internal/signature/signing"
	"hostmanager/internal/steadystream"
	"hostmanager/journal"
)

// blackHoleVariable says for how long the network swallows everything; a minute where it is not set, which is enough for the agent to notice.
const blackHoleVariable = "HOSTMANAGER_TEST_BLACKHOLE"

// TestOutage_OfTheNetworkDuringDeployments has the agent's way to SQS and S3 lead through a network that loses 5 % of its packets, resets connections
// in mid-body, and swallows everything for a while, each during deployments. The application is served throughout, the agent is the same process to
// the end, every command ends right, and once, and after the black hole everything goes on by itself.
func TestOutage_OfTheNetworkDuringDeployments(t *testing.T) {
	hole := time.Minute
	if text := os.Getenv(blackHoleVariable); text != "" {
		var err error
		if hole, err = time.ParseDuration(text); err != nil {
			t.Fatalf("%s: %v", blackHoleVariable, err)
		}
	}
	engine := dockertest.Require(t)
	s := newSite(t)
	t.Cleanup(s.close)
	s.open()
	s.deploy("v1", nil)
	unharmed := s.use()

	s.wire.set(s.wire.loss("0.05"))
	s.deploy("v2", nil)
	s.wire.set(s.wire.resets("0.03"))
	s.deploy("v3", nil)
	s.wire.set(nil)
	s.deploy("v4", func() { s.blackHole(hole) })
	s.wire.set(s.wire.loss("0.05"))
	s.deploy("v5", nil)
	s.wire.set(nil)

	unharmed()
	s.checkCommands()
	s.checkEvents()
	s.close()
	checkRemoved(t, engine, s.namespace)
}

// site is one instance as real processes, with a network of the test's own before SQS and S3. Its proxy and its containers are on the machine's.
type site struct {
	t         *testing.T
	wire      *wire
	server    *localaws.Server
	room      dev.Room
	root      layout.Root
	namespace string
	binary    string
	agent     *exec.Cmd
	ended     chan struct{} // closed when the agent has
	engine    string        // DOCKER_HOST of the binaries; empty: the machine's
	closers   []func()      // in the order of their opening
}

func newSite(t *testing.T) *site {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "local")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "local")
	s := &site{t: t, wire: newWire(t), binary: buildHostmanager(t), root: layout.Root(filepath.Join(t.TempDir(), "i-far")), ended: make(chan struct{})}
	s.namespace = fmt.Sprintf("netns-%08x", rand.Uint32())
	server, err := localaws.New(localaws.Options{})
	s.ok(err)
	s.ok(server.Start())
	s.server = server
	t.Cleanup(func() { _ = server.Close() })
	far := &http.Server{Handler: server, ReadHeaderTimeout: 30 * time.Second}
	go func() { _ = far.Serve(s.wire.listener) }()
	t.Cleanup(func() { _ = far.Close() })
	key, err := signing.Generate()
	s.ok(err)
	listen, err := net.Listen("tcp", "127.0.0.1:0")
	s.ok(err)
	addr := listen.Addr().String()
	s.ok(listen.Close())
	s.room = dev.Room{
		Endpoint: server.URL(), Region: localaws.DefaultRegion, Environment: "e-far", Bucket: "far", SigningKey: filepath.Join(t.TempDir(), "key.pem"),
		Instances: []dev.Instance{{ID: "i-far", URL: "http://" + addr, Root: string(s.root), Namespace: s.namespace}},
	}
	s.ok(key.WriteFile(s.room.SigningKey))
	store, err := objects.New(t.Context(), objects.Options{Region: s.room.Region, Endpoint: s.room.Endpoint})
	s.ok(err)
	s.ok(store.CreateBucket(t.Context(), s.room.Bucket))
	config := fmt.Sprintf("environment_id: e-far\ninstance_id: i-far\nregion: %s\nbucket: far\nlisten: %s\ndocker_namespace: %s\ntrusted_keys: [%q]\n"+
		"result_queues: [%q]\n", s.room.Region, addr, s.namespace, key.Public("test").String(), s.room.Endpoint+"/*/hostmanager-*")
	s.ok(os.MkdirAll(filepath.Dir(s.root.ConfigFile()), 0o755))
	s.ok(os.WriteFile(s.root.ConfigFile(), []byte(config), 0o600))
	return s
}

func (s *site) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// close ends the agent and then the proxy, and has purged what they made in Docker.
func (s *site) close() {
	for _, c := range slices.Backward(s.closers) {
		c()
	}
	s.closers = nil
}

// open starts the proxy and the agent.
func (s *site) open() {
	s.closers = append(s.closers, func() {
		if out, err := s.command("purge").CombinedOutput(); err != nil {
			s.t.Errorf("purge: %v\n%s", err, out)
		}
	})
	proxy := s.command("proxy", "--listen", strings.TrimPrefix(s.room.Instances[0].URL, "http://"))
	s.ok(proxy.Start())
	s.closers = append(s.closers, func() { s.stop(proxy, nil) })
	s.agent = s.command("agent")
	s.ok(s.agent.Start())
	waited := make(chan error, 1)
	go func() { waited <- s.agent.Wait(); close(s.ended) }()
	s.closers = append(s.closers, func() { s.stop(s.agent, waited) })
	s.await("the instance registers", time.Minute, func() bool {
		f, err := operator(s.t.Context(), s.room, &lines{})
		if err != nil {
			return false
		}
		all, _, err := f.Record.Instances(s.t.Context())
		return err == nil && len(all) == 1
	})
}

// use begins to use the application. The function it returns ends that, and checks that no request was lost and that the agent is still the process it
// was.
func (s *site) use() (unharmed func()) {
	s.t.Helper()
	url := s.room.Instances[0].URL
	stream, err := steadystream.Start(s.t.Context(), steadystream.Options{URL: url + "/", PostURL: url + "/echo", Concurrency: 4, Rate: 100, Check: helloAnswers})
	s.ok(err)
	pid := s.agent.Process.Pid
	return func() {
		s.t.Helper()
		report := stream.Stop()
		s.t.Log(report)
		if report.Failed > 0 || report.Requests == 0 {
			s.t.Errorf("the stream lost requests: %v", report)
		}
		if err := syscall.Kill(pid, 0); err != nil || s.agentEnded() {
			s.t.Errorf("agent %d has ended: %v", pid, err)
		}
	}
}

// command makes one verb of the shipped binary, as the instance runs it: SQS and S3 are at the far end of the wire.
func (s *site) command(verb string, args ...string) *exec.Cmd {
	c := exec.Command(s.binary, append([]string{verb, "--root", string(s.root)}, args...)...)
	c.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "AWS_") || strings.HasPrefix(kv, "HOSTMANAGER_") })
	c.Env = append(c.Env, "AWS_ENDPOINT_URL=http://"+s.wire.listener.Addr().String(), "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	if s.engine != "" {
		c.Env = append(c.Env, "DOCKER_HOST="+s.engine)
	}
	return c
}

func (s *site) stop(c *exec.Cmd, waited <-chan error) {
	_ = c.Process.Signal(syscall.SIGTERM)
	var err error
	if waited != nil {
		err = <-waited
	} else {
		err = c.Wait()
	}
	if err != nil {
		s.t.Errorf("%v: %v", c.Args[1], err)
	}
}

func (s *site) agentEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (s *site) await(what string, most time.Duration, holds func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), most)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			log, _ := os.ReadFile(s.root.Log("hostmanager.log"))
			s.t.Fatalf("waited in vain: %s\n%s", what, log[max(0, len(log)-8000):])
		}
	}
}

// deploy brings a version, with an operator whose own way to SQS and S3 is well; meanwhile happens as soon as the agent has accepted it.
func (s *site) deploy(version string, meanwhile func()) {
	s.t.Helper()
	began := time.Now()
	report, err := s.bring(version, meanwhile)
	if err != nil || report.State != environment.Succeeded {
		log, _ := os.ReadFile(s.root.Log("hostmanager.log"))
		s.t.Fatalf("deployment of %s: %s, %v\n%s", version, report.State, err, log[max(0, len(log)-8000):])
	}
	s.t.Logf("%s was deployed in %s", version, time.Since(began).Round(10*time.Millisecond))
	s.ok(answers(s.room, "Hello from "+version+"\n"))
}

// bring is deploy without a word on what came of it.
func (s *site) bring(version string, meanwhile func()) (report fleet.Report, err error) {
	s.t.Helper()
	dir := dockertest.BuildHello(s.t, version)
	s.ok(os.WriteFile(filepath.Join(dir, "ballast"), ballast(), 0o600)) // so that a download has a middle to be reset in
	bundle, err := fleet.OpenBundle(s.t.Context(), dir)
	s.ok(err)
	f, err := operator(s.t.Context(), s.room, &lines{})
	s.ok(err)
	f.PickupWindow = 2 * time.Minute
	known := len(s.commands())
	done := make(chan error, 1)
	var made fleet.Report
	go func() {
		var err error
		made, err = f.Deploy(s.t.Context(), fleet.DeployRequest{Bundle: bundle, Label: version, Timeout: 20 * time.Minute})
		done <- errors.Join(err, bundle.Close())
	}()
	if meanwhile != nil {
		s.await("the agent accepts the deployment", 2*time.Minute, func() bool { return len(s.commands()) > known })
		meanwhile()
	}
	select {
	case err = <-done:
		return made, err
	case <-time.After(5 * time.Minute):
		return fleet.Report{}, errors.New("it does not end")
	}
}

// ballast cannot be packed smaller.
func ballast() []byte {
	b := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{byte(time.Now().UnixNano())})
	_, _ = r.Read(b)
	return b
}

// commands are those the agent's journal tells, without the agent's own.
func (s *site) commands() []journal.Command {
	snapshot, err := journal.Read(s.root.Journal())
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(snapshot.Commands, func(c journal.Command) bool { return strings.HasPrefix(c.Identity, "hostmanager-boot") })
}

// blackHole swallows everything for a while, and then waits for the first sign of life.
func (s *site) blackHole(d time.Duration) {
	s.t.Helper()
	s.wire.set(s.wire.swallowed())
	<-time.After(d)
	noticed := s.events("The command queue does not answer")
	s.wire.set(nil)
	back := time.Now()
	s.await("the agent takes and answers the next command", time.Minute, func() bool {
		list := s.commands()
		return s.events("The command queue answers again") == noticed && len(list) > 0 && !list[len(list)-1].SentAt.IsZero()
	})
	if noticed == 0 {
		s.t.Errorf("the command queue was away for %s and nobody said so", d)
	}
	s.t.Logf("%s of black hole; the agent had recovered %s after it", d, time.Since(back).Round(10*time.Millisecond))
}

// events counts the agent's events that hold the text.
func (s *site) events(text string) int {
	data, err := os.ReadFile(s.root.AgentEvents())
	if err != nil {
		return 0
	}
	return strings.Count(string(data), text)
}

// checkCommands checks that every command was run once and ended once, and that its result went out.
func (s *site) checkCommands() {
	s.t.Helper()
	s.await("every result is sent", time.Minute, func() bool {
		return !slices.ContainsFunc(s.commands(), func(c journal.Command) bool { return c.SentAt.IsZero() })
	})
	raw, err := os.ReadFile(s.root.Journal())
	s.ok(err)
	all := s.commands()
	if len(all) < 10 { // two stages each
		s.t.Errorf("%d commands in the journal", len(all))
	}
	for _, c := range all {
		for _, kind := range []string{"accepted", "result"} {
			if n := strings.Count(string(raw), fmt.Sprintf(`{"type":%q,"command":%q`, kind, c.Identity)); n != 1 {
				s.t.Errorf("%d times %s of %s in the journal", n, kind, c.Identity)
			}
		}
	}
}

// checkEvents checks that what was wrong was said once, and that it was over once.
func (s *site) checkEvents() {
	s.t.Helper()
	began, over := s.events("does not answer"), s.events("answers again")
	s.t.Logf("%d outages said, %d said to be over", began, over)
	if began != over || began == 0 {
		data, _ := os.ReadFile(s.root.AgentEvents())
		s.t.Errorf("%d outages said, %d said to be over:\n%s", began, over, data)
	}
	if n := s.events("The command queue does not answer"); n > 3 { // resets may be worth a word of their own
		s.t.Errorf("%d times", n)
	}
}
