package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"hostmanager/agent"
	"hostmanager/agent/config"
	"hostmanager/aws/localaws"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/layout"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// childRoot names the root of the agent that this test binary is to be instead of running tests.
const childRoot = "HOSTMANAGER_TEST_AGENT_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(childRoot); root != "" {
		os.Exit(beAgent(root))
	}
	code := m.Run()
	if code == 0 {
		code = checkGoroutines()
	}
	os.Exit(code)
}

// checkGoroutines tells whether stopped agents left something running. A lumberjack logger keeps a goroutine for good; there is no way to end it.
func checkGoroutines() int {
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	err := goleak.Find(goleak.IgnoreAnyFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// beAgent is an agent in a process of its own, to be killed.
func beAgent(root string) int {
	built, err := agent.Build(context.Background(), agent.Setup{
		Root: layout.Root(root), Config: testConfig(), Version: "v-test", BootID: "boot-1", Platform: filePlatformOf, Stderr: os.Stderr,
	})
	if err == nil {
		signals := make(chan os.Signal, 4)
		signal.Notify(signals, syscall.SIGTERM)
		err = agent.Supervise(context.Background(), built.Agent, signals)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// victim is an agent in another process.
type victim struct {
	t   *testing.T
	cmd *exec.Cmd
}

func (w *world) victim() *victim {
	w.t.Helper()
	self, err := os.Executable()
	must(w.t, err)
	v := &victim{w.t, exec.Command(self)}
	v.cmd.Env = append(os.Environ(), childRoot+"="+string(w.root))
	must(w.t, v.cmd.Start())
	w.t.Cleanup(v.kill)
	return v
}

// kill ends the agent as a power cut would.
func (v *victim) kill() {
	if v.cmd.ProcessState != nil {
		return
	}
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

// blocked makes a hook that waits until it is let go, and returns what lets it go.
func (w *world) blocked(hook string) (release func()) {
	w.t.Helper()
	fifo := filepath.Join(w.t.TempDir(), "go")
	must(w.t, syscall.Mkfifo(fifo, 0o600))
	w.hook(hook, "read x < "+fifo)
	return func() { must(w.t, os.Remove(w.root.HookDir(hook))) }
}

func (w *world) deployed(o order) protocol.Current {
	w.t.Helper()
	w.send(o)
	if e := w.one().entry(); e.Status != protocol.Success {
		w.t.Fatalf("deploy: %+v", e)
	}
	return o.manifest
}

// holds checks that exactly this version is in service, in every file that tells of it.
func (w *world) holds(v protocol.Current) {
	w.t.Helper()
	if w.serving() != v.Serial {
		w.t.Errorf("serial %d serves, want %d", w.serving(), v.Serial)
	}
	if got := protocol.Digest([]byte(w.read(w.root.DeployedManifest()))); got != v.SHA256 {
		w.t.Errorf("the deployed manifest is not that of serial %d", v.Serial)
	}
	if c := w.read(w.root.ContainerConfiguration()); !strings.Contains(c, fmt.Sprintf(`"serial": %d`, v.Serial)) {
		w.t.Errorf("containerconfiguration is not that of serial %d:\n%s", v.Serial, c)
	}
	if _, err := os.Stat((&filePlatform{w.root}).file("starting")); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("something half started was left: %v", err)
	}
}

// A hook's children outlive an agent that is killed. The next agent ends them before it undoes anything, and nothing else.
func TestKilled_EndsWhatHooksLeftRunning(t *testing.T) {
	w, child := orphaned(t)
	must(t, os.Remove(w.root.HookDir("appdeploy/pre/05child")))
	r := w.start()
	if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, "interrupted") {
		t.Errorf("result %+v", e)
	}
	must(t, r.stop())
	eventually(t, "the child is ended", func() bool { return !alive(child) })
}

// Who takes an instance apart whose agent was killed leaves no process of a hook behind.
func TestPurge_EndsWhatHooksOfAKilledAgentLeftRunning(t *testing.T) {
	w, child := orphaned(t)
	c := testConfig()
	c.DockerNamespace = dockertest.Namespace(t)
	must(t, agent.Purge(t.Context(), w.root, c))
	eventually(t, "the child is ended", func() bool { return !alive(child) })
}

// orphaned is a world whose agent was killed in a hook, and the hook's child, which lives on. Another process is held to live until the test's end.
func orphaned(t *testing.T) (w *world, child int) {
	t.Helper()
	w = newWorld(t)
	pid := filepath.Join(t.TempDir(), "pid")
	w.hook("appdeploy/pre/05child", "setsid sh -c 'echo $$ > "+pid+".new; mv "+pid+".new "+pid+"; exec sleep 300' & wait")
	other := exec.Command("sleep", "300")
	must(t, other.Start())
	t.Cleanup(func() {
		if err := other.Process.Signal(syscall.Signal(0)); err != nil {
			t.Errorf("a stranger was ended: %v", err)
		}
		_ = other.Process.Kill()
		_ = other.Wait()
	})
	v := w.victim()
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	eventually(t, "the hook's child runs", func() bool { _, err := os.Stat(pid); return err == nil })
	child, err := strconv.Atoi(strings.TrimSpace(w.read(pid)))
	must(t, err)
	v.kill()
	eventually(t, "the child has outlived the agent", func() bool { return alive(child) }) // in the middle of its exec it has no environment
	return w, child
}

// alive tells whether the process runs; one that ended and waits to be reaped has no environment any more.
func alive(pid int) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && len(env) > 0
}

func TestKilled_AcceptedAndRunning(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		r := w.start()
		v1 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
		must(t, r.stop())
		release := w.blocked("appdeploy/post/10wait") // behind the flip: what runs is to be undone
		v := w.victim()
		running := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil), form: f})
		eventually(t, "the hook waits", func() bool { return lastStep(w, running) == "appdeploy/post/10wait" })
		if w.serving() == v1.Serial {
			t.Fatal("the flip is not behind us")
		}
		accepted := w.send(order{name: protocol.CmdRestartAppServer, form: f})
		eventually(t, "the second command is accepted", func() bool { return w.journalled(accepted.Identity()).Identity != "" })
		v.kill()
		release()

		w.start()
		results := w.await(2)
		first, second := results[0], results[1]
		e := first.entry()
		if first.InvocationID != running.InvocationID || e.Status != protocol.Failure || e.ReturnCode != 1 || e.VersionLabel != "v2" ||
			!strings.HasPrefix(e.Msg, "interrupted: ") || !strings.Contains(e.Msg, "appdeploy/post/10wait") {
			t.Errorf("command that ran: %+v", e)
		}
		if second.InvocationID != accepted.InvocationID || second.entry().Status != protocol.Success || second.entry().VersionLabel != "v1" {
			t.Errorf("command that waited: %+v", second)
		}
		w.holds(v1)
	})
}

func TestKilled_ResultKnownAndNotSent(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		w.hook("appdeploy/post/10count", `echo x >> "`+string(w.root)+`/count"`)
		back, err := w.aws.Inject(localaws.Fault{Op: "SQS.SendMessage", Status: 500, Code: "InternalError", Skip: 1}) // our own command passes
		must(t, err)
		v := w.victim()
		v1 := w.version("v1", nil, nil)
		c := w.send(order{name: protocol.CmdAppDeploy, manifest: v1, form: f})
		eventually(t, "the result is journalled", func() bool { return w.journalled(c.Identity()).Finished() })
		v.kill()
		back()

		w.start()
		if got := w.one(); got.InvocationID != c.InvocationID || got.entry().Status != protocol.Success {
			t.Errorf("result %+v", got)
		}
		if n := w.read(w.root.Join("count")); n != "x\n" {
			t.Errorf("ran %q", n)
		}
		w.holds(v1)
	})
}

func TestKilled_ResultSent(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		w.hook("appdeploy/post/10count", `echo x >> "`+string(w.root)+`/count"`)
		v := w.victim()
		v1 := w.version("v1", nil, nil)
		c := w.send(order{name: protocol.CmdAppDeploy, manifest: v1, form: f})
		first := w.one()
		eventually(t, "sent is journalled", func() bool { return !w.journalled(c.Identity()).SentAt.IsZero() })
		v.kill()

		w.start()
		w.sendAgain(c, f)
		if again := w.one(); again.Result != first.Result {
			t.Errorf("results differ:\n%+v\n%+v", first.Result, again.Result)
		}
		if n := w.read(w.root.Join("count")); n != "x\n" {
			t.Errorf("ran %q", n)
		}
		w.holds(v1)
	})
}

// The agent is killed behind every record that a deployment writes. Whatever the moment was, the command ends once: as SUCCESS with the new
// version, or as FAILURE with the old one.
func TestKilled_BehindEveryRecord(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	holds := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	must(t, r.stop())
	clean := countRecords(t, w.root)
	w.start().stopAfter(t, func() {
		holds = w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil)})
	})
	perCommand := countRecords(t, w.root) - clean
	if perCommand < 20 {
		t.Fatalf("a deployment writes %d records", perCommand)
	}
	verdicts := map[protocol.Status]int{}
	seen := map[string]received{}
	for k := 1; k <= perCommand; k++ {
		v := w.version(fmt.Sprintf("k%d", k), nil, nil)
		before := countRecords(t, w.root)
		child := w.victim()
		c := w.send(order{name: protocol.CmdAppDeploy, manifest: v})
		deadline := time.Now().Add(30 * time.Second)
		for countRecords(t, w.root) < before+k && time.Now().Before(deadline) { //nolint:revive // as tight as can be: the next record is near
		}
		child.kill()
		r := w.start()
		got := w.one()
		for { // an earlier one may come again, as often as the agent died before it had noted that it sent it: at least once, and the same
			first, again := seen[got.InvocationID]
			if !again {
				break
			}
			if got.Result != first.Result {
				t.Fatalf("record %d: results differ:\n%+v\n%+v", k, got.Result, first.Result)
			}
			got = w.one()
		}
		if seen[got.InvocationID] = got; got.InvocationID != c.InvocationID {
			t.Fatalf("record %d: result of %s, want %s", k, got.InvocationID, c.InvocationID)
		}
		e := got.entry()
		verdicts[e.Status]++
		if e.Status != protocol.Success {
			t.Errorf("record %d: %+v", k, e)
		}
		holds = v
		must(t, r.stop())
		w.holds(holds)
		if t.Failed() {
			t.Fatalf("killed behind record %d of %d; journal: %+v", k, perCommand, w.journalled(c.Identity()))
		}
	}
	t.Logf("%d records, verdicts %v", perCommand, verdicts)
}

// Orders that were accepted to be refused are refused by the next agent, whatever the reason was: a kill makes none of them run.
func TestKilled_BeforeARefusalWasKnown(t *testing.T) {
	for name, c := range map[string]struct {
		order order
		says  string
	}{
		"another environment": {order{data: `{"environment_id":"e-other","instance_ids":["` + instance + `"],"command_name":"CMD-RestartAppServer","request_id":"r"}`}, "is for environment e-other"},
		"no environment":      {order{data: `{"instance_ids":["` + instance + `"],"command_name":"CMD-RestartAppServer","request_id":"r"}`}, "must name its environment"},
		"nobody named":        {order{data: `{"environment_id":"` + envID + `","command_name":"CMD-RestartAppServer","request_id":"r"}`}, "must name the instances"},
		"others named":        {order{name: protocol.CmdRestartAppServer, instances: []string{"i-other"}}, "not applicable"},
		"too far ahead":       {order{name: protocol.CmdRestartAppServer, expires: time.Now().Add(400 * 24 * time.Hour)}, "days ahead"},
		"unknown":             {order{name: "CMD-Bogus"}, "Unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.start()
			w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
			must(t, r.stop())
			w.hook("restartappserver/pre/10count", `echo x >> "`+string(w.root)+`/count"`)
			sent := w.command(c.order)
			body, err := sent.Encode()
			must(t, err)
			j, err := journal.Open(w.root.Journal(), journal.Options{InstanceID: instance, Log: slog.New(slog.DiscardHandler), Now: time.Now, OnEvent: func(protocol.Event) {}})
			must(t, err)
			must(t, j.Append(journal.Record{Type: journal.Accepted, Command: sent.Identity(), Payload: body, Time: time.Now()}))
			must(t, j.Close())
			w.start()
			got := w.one()
			text := got.Message
			if got.Data != "" {
				text = got.entry().Msg
			}
			if got.InvocationID != sent.InvocationID || !strings.Contains(text, c.says) {
				t.Errorf("answered %+v", got)
			}
			if _, err := os.Stat(w.root.Join("count")); !errors.Is(err, fs.ErrNotExist) {
				t.Error("it ran")
			}
		})
	}
}

// Trees are named by the beginning of an InvocationID: an order that would take the place of the tree that serves is refused, and nothing is lost.
func TestDeploy_NeverTakesTheTreeThatServes(t *testing.T) {
	w := newWorld(t)
	w.start()
	v1 := w.version("v1", nil, nil)
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: v1, invocation: "deploy-of-monday"})
	tree, err := filepath.EvalSymlinks(w.root.Current())
	must(t, err)
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1, invocation: "deploy-of-tuesday"})
	if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, "differs in its first 8 characters") {
		t.Errorf("answered %+v", e)
	}
	if now, err := filepath.EvalSymlinks(w.root.Current()); err != nil || now != tree {
		t.Errorf("%s, %v", now, err)
	}
	w.holds(v1)
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: v1, invocation: "again-of-tuesday"})
}

// What a crash left is itself taken back under kills: behind each record of the recovery the agent dies again, and the next one goes on.
func TestKilled_DuringRecovery(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	v1 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	must(t, r.stop())
	const perRecovery = 4 // two steps undone, result, sent
	for k := 1; k <= perRecovery; k++ {
		release := w.blocked("appdeploy/post/10wait")
		child := w.victim()
		c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version(fmt.Sprintf("k%d", k), nil, nil)})
		eventually(t, "the hook waits", func() bool { return lastStep(w, c) == "appdeploy/post/10wait" })
		child.kill()
		release()
		before := countRecords(t, w.root)
		child = w.victim()
		eventually(t, "the recovery goes on", func() bool { return countRecords(t, w.root) >= before+k })
		child.kill()
		r := w.start()
		seen := map[string]bool{}
		for !seen[c.InvocationID] {
			got := w.one()
			seen[got.InvocationID] = true
			if e := got.entry(); e.Status != protocol.Failure || !strings.HasPrefix(e.Msg, "interrupted: ") {
				t.Errorf("killed behind record %d of the recovery: %+v", k, e)
			}
		}
		must(t, r.stop())
		w.holds(v1)
	}
}

func (r *running) stopAfter(t *testing.T, do func()) {
	t.Helper()
	do()
	must(t, r.stop())
}

func countRecords(t *testing.T, root layout.Root) int {
	t.Helper()
	s, err := journal.Read(root.Journal())
	must(t, err)
	return s.Records
}

// A journal whose middle is damaged: the command without a known end is answered, nothing is undone on a guess.
func TestJournalDamaged_AnswersAndTouchesNothing(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		r := w.start()
		v1 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
		must(t, r.stop())
		w.blocked("restartappserver/pre/10wait")
		v := w.victim()
		c := w.send(order{name: protocol.CmdRestartAppServer, form: f})
		eventually(t, "the hook waits", func() bool { return lastStep(w, c) == "restartappserver/pre/10wait" })
		v.kill()
		data, err := os.ReadFile(w.root.Journal())
		must(t, err)
		data[200] ^= 0xff // behind the first record, in one of the deployment's
		must(t, os.WriteFile(w.root.Journal(), data, 0o600))

		w.start()
		var e protocol.ResponseEntry
		for e.Msg == "" || !strings.Contains(e.Msg, "journal of this instance was damaged") {
			e = w.one().entry()
		}
		if e.Status != protocol.Failure {
			t.Errorf("result %+v", e)
		}
		if w.serving() != v1.Serial || !strings.Contains(w.events(), "journal is damaged") {
			t.Errorf("serial %d, events %s", w.serving(), w.events())
		}
	})
}

// An agent that can no longer journal takes nothing on and ends; the command stays in the queue for the next one.
func TestJournalBroken_EndsTheAgentAndKeepsTheMessage(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.booted()
	eventually(t, "nothing more is journalled of start-up", func() bool {
		s, err := journal.Read(w.root.Journal())
		return err == nil && !slices.ContainsFunc(s.Commands, func(c journal.Command) bool { return c.SentAt.IsZero() })
	})
	must(t, r.Journal.Close())
	c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	if err := r.wait(); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("agent ended with %v", err)
	}
	a, err := w.queue.Attributes(t.Context(), w.commandQueue())
	must(t, err)
	if a["ApproximateNumberOfMessagesNotVisible"] != "1" || w.journalled(c.Identity()).Identity != "" {
		t.Errorf("queue %v", a)
	}
}

// The third signal ends the agent at once; the next start ends its command.
func TestSignals_ThirdEndsAtOnce(t *testing.T) {
	w := newWorld(t)
	w.hook("restartappserver/pre/10stubborn", "trap '' TERM; while :; do sleep 60; done")
	r := w.start()
	v1 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	must(t, r.stop())
	v := w.victim()
	c := w.send(order{name: protocol.CmdRestartAppServer})
	eventually(t, "the hook runs", func() bool { return lastStep(w, c) == "restartappserver/pre/10stubborn" })
	said := func(text string) func() bool {
		return func() bool { return strings.Contains(w.read(w.root.Log("hostmanager.log")), text) }
	}
	must(t, v.cmd.Process.Signal(syscall.SIGTERM))
	eventually(t, "the first signal is heard", said("signal: finishing the running command"))
	must(t, v.cmd.Process.Signal(syscall.SIGTERM))
	eventually(t, "the second signal is heard", said("second signal: aborting the running command"))
	must(t, v.cmd.Process.Signal(syscall.SIGTERM))
	if err := v.cmd.Wait(); v.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("third signal: %v", err)
	}
	must(t, os.Remove(w.root.HookDir("restartappserver/pre/10stubborn")))
	w.start()
	if e := w.one().entry(); e.Status != protocol.Failure || e.Cause != protocol.CauseAborted || !strings.Contains(e.Msg, "told twice to stop") {
		t.Errorf("result %+v", e)
	}
	w.holds(v1)
}

// Whatever a stop does with the running command: when drain_timeout is over, the command is aborted and undone.
func TestDrain_AbortsWhenItTakesTooLong(t *testing.T) {
	for _, how := range []string{config.StopDrain, config.StopResume} {
		t.Run(how, func(t *testing.T) {
			w := newWorld(t)
			w.blocked("appdeploy/pre/05wait") // it may run only once, so it is not left either
			r := w.start(func(s *agentSetup) { s.Config.OnStop, s.Config.DrainTimeout = how, 50*time.Millisecond })
			c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
			eventually(t, "the hook waits", func() bool { return lastStep(w, c) == "appdeploy/pre/05wait" })
			r.signals <- syscall.SIGTERM
			must(t, r.wait())
			if e := w.one().entry(); e.Status != protocol.Failure || e.Cause != protocol.CauseAborted || !strings.Contains(e.Msg, "it took longer than drain_timeout") {
				t.Errorf("result %+v", e)
			}
		})
	}
}
