package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/agent"
	"hostmanager/agent/config"
	"hostmanager/aws/localaws"
	"hostmanager/internal/layout"
	"hostmanager/protocol"
)

func TestAgent_DeploysAndAnswers(t *testing.T) {
	w := newWorld(t)
	w.start()
	v := w.version("v1", map[string]string{"GREETING": "s3cr3t-greeting"}, map[string]string{"Dockerfile": "FROM scratch\n", ".ebextensions/01.config": "commands: {}\n"})
	c := w.send(order{name: protocol.CmdAppDeploy, manifest: v, invocation: "0123456789abcdef"})
	r := w.one()
	e := r.entry()
	if r.Status != protocol.Success || r.DispatcherID != c.DispatcherID || r.CommandName != outer || r.InvocationID != c.InvocationID || r.ListenerID != instance || r.ResultID == "" || r.Message != "" {
		t.Errorf("outer result %+v", r.Result)
	}
	if e.Status != protocol.Success || e.Msg != "" || e.ReturnCode != 0 || e.DeploymentID != 1 || e.VersionLabel != "v1" || e.Serial != 1 || e.StageNum != nil {
		t.Errorf("entry %+v", e)
	}
	var msgs []string
	for _, ev := range e.Events {
		msgs = append(msgs, string(ev.Severity)+" "+ev.Msg)
		if time.Since(ev.Time) > time.Minute || time.Until(ev.Time) > time.Minute {
			t.Errorf("event %+v has a wrong time", ev)
		}
	}
	inOrder(t, strings.Join(msgs, "\n"), "WARN The source bundle has .ebextensions (01.config), which this host manager does not apply yet.",
		"TRACE Successfully built aws_beanstalk/staging-app", "TRACE Docker container d8cdffc1b069 is running aws_beanstalk/current-app.")
	if w.serving() != v.Serial {
		t.Errorf("serial %d serves", w.serving())
	}
	w.checkDeployedFiles(v)
}

func (w *world) checkDeployedFiles(v protocol.Current) {
	t := w.t
	t.Helper()
	if got := protocol.Digest([]byte(w.read(w.root.DeployedManifest()))); got != v.SHA256 {
		t.Errorf("the deployed manifest is not the one that was sent")
	}
	tree := w.root.Release("1", "0123456789abcdef")
	if _, err := os.Stat(filepath.Join(tree, "Dockerfile")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(tree, ".ebextensions")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf(".ebextensions is still there: %v", err)
	}
	for _, secret := range []string{w.root.DeployedManifest(), w.root.ContainerConfiguration()} {
		if st, err := os.Stat(secret); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", secret, st, err)
		}
	}
	if !strings.Contains(w.read(w.root.ContainerConfiguration()), "GREETING=s3cr3t-greeting") {
		t.Error("containerconfiguration lacks the property")
	}
}

func TestAgent_FailureKeepsTheOldVersion(t *testing.T) {
	w := newWorld(t)
	w.start()
	v1 := w.version("v1", map[string]string{"A": "of-version-one"}, nil)
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1})
	w.one()
	w.hook("appdeploy/post/50smoke.sh", "echo smoke test says no; exit 7")
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", map[string]string{"A": "of-version-two"}, nil)})
	r := w.one()
	e := r.entry()
	if r.Status != protocol.Success || e.Status != protocol.Failure || e.ReturnCode != 7 || e.VersionLabel != "v2" {
		t.Errorf("result %+v", e)
	}
	want := "smoke test says no \nHook " + w.root.HookDir("appdeploy/post/50smoke.sh") + " failed. For more detail, check /var/log/eb-activity.log using console or EB CLI"
	if e.Msg != want {
		t.Errorf("msg  %q\nwant %q", e.Msg, want)
	}
	if w.serving() != v1.Serial || protocol.Digest([]byte(w.read(w.root.DeployedManifest()))) != v1.SHA256 {
		t.Errorf("serial %d serves", w.serving())
	}
	if c := w.read(w.root.ContainerConfiguration()); !strings.Contains(c, "of-version-one") || strings.Contains(c, "of-version-two") {
		t.Error("containerconfiguration is not that of the version that serves")
	}
}

func TestAgent_StagesNeedEachOther(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	v := w.version("v1", nil, nil)
	op := order{name: protocol.CmdAppDeploy, manifest: v, invocation: "op-1", stage: stage(1)}
	w.send(op)
	if e := w.one().entry(); e.Status != protocol.Failure || e.ReturnCode != 1 || !strings.Contains(e.Msg, "must follow its stage 0") || strings.HasSuffix(e.Msg, ".") {
		t.Errorf("stage 1 alone: %+v", e)
	}
	op.invocation, op.stage = "op-2", stage(0)
	w.send(op)
	if e := w.one().entry(); e.Status != protocol.Success || e.StageNum == nil || *e.StageNum != 0 || e.DeploymentID != 1 {
		t.Errorf("stage 0: %+v", e)
	}
	if w.serving() != 0 {
		t.Error("stage 0 brought the version into service")
	}
	must(t, r.stop()) // the order of stages survives the agent
	w.start()
	op.stage = stage(1)
	w.send(op)
	if e := w.one().entry(); e.Status != protocol.Success || *e.StageNum != 1 {
		t.Errorf("stage 1: %+v", e)
	}
	if w.serving() != v.Serial {
		t.Errorf("serial %d serves", w.serving())
	}
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil), invocation: "op-3", stage: stage(0)})
	w.one()
	w.send(order{name: protocol.CmdRestartAppServer})
	if e := w.one().entry(); e.Status != protocol.Success || e.VersionLabel != "v1" {
		t.Errorf("restart: %+v", e)
	}
	w.send(order{name: protocol.CmdAppDeploy, invocation: "op-3", stage: stage(1)})
	if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, "the last command here was CMD-RestartAppServer") || strings.HasSuffix(e.Msg, ".") {
		t.Errorf("stage 1 after a restart: %+v", e)
	}
}

func TestAgent_ConfigDeployBringsSettingsWithoutABundle(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.deployed(order{name: protocol.CmdStartup, manifest: w.version("v1", map[string]string{"A": "one"}, nil), invocation: "first-invocation"})
	v2 := w.version("v1", map[string]string{"A": "two"}, nil)
	w.send(order{name: protocol.CmdConfigDeploy, manifest: v2, invocation: "second-invocation"})
	if e := w.one().entry(); e.Status != protocol.Success || e.Serial != v2.Serial {
		t.Errorf("result %+v", e)
	}
	w.holds(v2)
	if trees, err := os.ReadDir(w.root.Releases()); err != nil || len(trees) != 1 {
		t.Errorf("trees %v, %v", trees, err)
	}
	w.hook("configdeploy/post/10no", "exit 1")
	w.send(order{name: protocol.CmdConfigDeploy, manifest: w.version("v1", map[string]string{"A": "three"}, nil)})
	if e := w.one().entry(); e.Status != protocol.Failure {
		t.Errorf("result %+v", e)
	}
	w.holds(v2)
}

// The bundle's own hooks run at their places, with the properties and without what belongs to the command.
func TestAgent_RunsTheBundlesHooks(t *testing.T) {
	w := newWorld(t)
	w.start()
	script := "#!/bin/sh\necho \"$0 A=$A CMD=$CMD_NAME\" | sed \"s,.*/.platform/,,\" >> '" + w.root.Join("order") + "'\necho \"hook $A speaks\"\n"
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", map[string]string{"A": "one"}, map[string]string{
		"Dockerfile": "FROM scratch\n", ".platform/hooks/prebuild/a": script, ".platform/hooks/predeploy/b": script, ".platform/hooks/postdeploy/c": script,
		".platform/confighooks/predeploy/d": script,
	})})
	w.deployed(order{name: protocol.CmdConfigDeploy, manifest: w.version("v1", map[string]string{"A": "two"}, nil)})
	want := "hooks/prebuild/a A=one CMD=\nhooks/predeploy/b A=one CMD=\nhooks/postdeploy/c A=one CMD=\nconfighooks/predeploy/d A=two CMD=\n"
	if got := w.read(w.root.Join("order")); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	inOrder(
		t, w.read(w.root.Log("eb-hooks.log")),
		" [INFO] Running platform hook: .platform/hooks/prebuild/a\nhook one speaks\n", " [INFO] Running platform hook: .platform/hooks/predeploy/b\nhook one speaks\n",
		" [INFO] Running platform hook: .platform/hooks/postdeploy/c\nhook one speaks\n", " [INFO] Running platform hook: .platform/confighooks/predeploy/d\nhook two speaks\n",
	)
}

// Each bound of a source bundle is the operator's.
func TestAgent_RefusesABundleBeyondItsBounds(t *testing.T) {
	files := map[string]string{"Dockerfile": "FROM scratch\n", "a/b/c": strings.Repeat("0", 33<<20)}
	for name, c := range map[string]struct {
		set  func(*config.Config)
		want string
	}{
		"archive": {func(c *config.Config) { c.BundleMaxArchive = 100 }, "the limit is 100"},
		"bytes":   {func(c *config.Config) { c.BundleMaxBytes = 1 << 20 }, "the limit for the whole bundle is 1048576"},
		"files":   {func(c *config.Config) { c.BundleMaxFiles = 2 }, "it holds more than 2 files"},
		"ratio":   {func(c *config.Config) { c.BundleMaxRatio = 3 }, "it unpacks to more than 3 times its size"},
		"depth":   {func(c *config.Config) { c.BundleMaxDepth = 2 }, "the path is 3 folders deep"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.start(func(s *agentSetup) { c.set(&s.Config) })
			w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, files)})
			if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, c.want) {
				t.Errorf("result %+v", e)
			}
		})
	}
}

func TestAgent_RestartBeforeAnyDeploymentSaysSo(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.send(order{name: protocol.CmdRestartAppServer})
	if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, "no version is deployed on this instance yet") {
		t.Errorf("result %+v", e)
	}
}

func TestAgent_CommandTimeoutFailsTheCommand(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.hook("appdeploy/enact/00aslow", "exec sleep 60")
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), timeout: time.Second})
	if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, "Command timed out after 1 seconds") || w.serving() != 0 {
		t.Errorf("result %+v", e)
	}
}

func TestAgent_HidesPropertiesEverywhere(t *testing.T) {
	w := newWorld(t)
	const secret = "correct-horse-battery"
	r := w.start()
	w.hook("appdeploy/post/10leak.sh", `echo "the password is `+secret+`"; printf '{"msg":"it is `+secret+`","severity":"WARN"}\n---\n' >> "$EB_EVENT_FILE"; exit 1`)
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", map[string]string{"PASSWORD": secret}, nil)})
	got := w.one()
	if strings.Contains(got.Data, secret) || !strings.Contains(got.Data, "[redacted]") {
		t.Errorf("result %s", got.Data)
	}
	must(t, r.stop())
	found := ""
	must(t, filepath.WalkDir(string(w.root), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, "10leak.sh") {
			return err
		}
		if strings.Contains(w.read(path), secret) {
			found += path + "\n"
		}
		return nil
	}))
	if found != "" {
		t.Errorf("the secret stands in\n%s", found)
	}
}

func TestAgent_LargeResponseGoesToS3(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.hook("appdeploy/pre/10many.sh", `i=0; while [ $i -lt 450 ]; do printf '{"msg":"event %d `+strings.Repeat("x", 900)+`","severity":"INFO"}\n---\n' $i; i=$((i+1)); done >> "$EB_EVENT_FILE"`)
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	e := w.one().entry()
	if e.Status != protocol.Success || e.Location == nil || e.DeploymentID != 1 || len(e.Events) != 0 {
		t.Fatalf("entry %+v", e)
	}
	body, _, err := w.objects.Get(t.Context(), e.Location.Bucket, e.Location.Key, 16<<20)
	must(t, err)
	var whole protocol.Response
	must(t, json.Unmarshal(body, &whole))
	if protocol.Digest(body) != e.Location.SHA256 || int64(len(body)) != e.Location.Size || len(whole.Entry().Events) < 450 {
		t.Errorf("spilled %d bytes, %d events", len(body), len(whole.Entry().Events))
	}
	eventually(t, "the file in the outbox is removed", func() bool {
		left, _ := os.ReadDir(w.root.Outbox())
		return len(left) == 0
	})
}

func TestOutbox_GivesUpADayAfterExpiry(t *testing.T) {
	clock := localaws.NewFakeClock(time.Now())
	w := newWorldBy(t, clock)
	r := w.start()
	gone := strings.Replace(w.results, "req-1", "gone", 1)
	c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), results: gone})
	eventually(t, "the result is known", func() bool { return w.journalled(c.Identity()).Finished() })
	must(t, r.stop())
	clock.Advance(26 * time.Hour)
	w.start() // whose own clock is wrong by as much: the service's counts
	eventually(t, "the result is given up", func() bool { return !w.journalled(c.Identity()).SentAt.IsZero() })
	if !strings.Contains(w.events(), "The result of invocation "+c.InvocationID+" (SUCCESS) was given up") {
		t.Error(w.events())
	}
}

func TestAgent_RegistersItself(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	registered := w.registered
	eventually(t, "registration at start", func() bool { return registered().State == "ready" })
	if i := registered(); i.InstanceID != instance || i.Queue != w.commandQueue() || i.Agent != "v-test" || i.Serial != 0 {
		t.Errorf("registration %+v", i)
	}
	v := w.version("v1", nil, nil)
	w.send(order{name: protocol.CmdAppDeploy, manifest: v})
	w.one()
	eventually(t, "registration after the command", func() bool { return registered().Serial == v.Serial && registered().State == "ready" })
	must(t, r.stop())
	if i := registered(); i.State != "stopping" {
		t.Errorf("registration %+v", i)
	}
}

func TestSignals_FirstDrainsSecondAbortsThirdEnds(t *testing.T) {
	w := newWorld(t)
	v1 := w.version("v1", nil, nil)
	fifo := filepath.Join(t.TempDir(), "go")
	must(t, syscall.Mkfifo(fifo, 0o600))
	w.hook("appdeploy/post/10wait", `read x < `+fifo)
	waits := func(c protocol.Command) {
		eventually(t, "the hook waits", func() bool { return lastStep(w, c) == "appdeploy/post/10wait" })
	}

	r := w.start()
	c := w.send(order{name: protocol.CmdAppDeploy, manifest: v1})
	waits(c)
	r.signals <- syscall.SIGTERM
	later := w.send(order{name: protocol.CmdRestartAppServer})
	must(t, os.WriteFile(fifo, []byte("x\n"), 0o600))
	must(t, r.wait())
	if got := w.one(); got.InvocationID != c.InvocationID || got.entry().Status != protocol.Success {
		t.Errorf("drained command: %+v", got)
	}

	r = w.start()
	if got := w.one(); got.InvocationID != later.InvocationID {
		t.Errorf("what came during the drain is taken by the next agent: %+v", got)
	}
	c = w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil)})
	waits(c)
	r.signals <- syscall.SIGTERM
	r.signals <- syscall.SIGTERM
	must(t, r.wait())
	if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, "Command was aborted") || w.serving() != v1.Serial {
		t.Errorf("aborted command: %+v, serial %d", e, w.serving())
	}
}

// lastStep is the innermost step a command has begun and not finished.
func lastStep(w *world, c protocol.Command) string {
	name := ""
	for _, s := range w.journalled(c.Identity()).Steps {
		if s.State == "started" {
			name = s.Name
		}
	}
	return name
}

func TestSignals_HangupReopensLogs(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	log := w.root.Log("cfn-hup.log")
	eventually(t, "the log is there", func() bool { return w.read(log) != "" })
	must(t, os.Rename(log, log+".moved"))
	r.signals <- syscall.SIGHUP
	w.send(order{name: protocol.CmdRestartAppServer})
	w.one()
	eventually(t, "the log is made anew", func() bool { return strings.Contains(w.read(log), "Received command") })
}

func TestStatus_OfALivingAndOfADeadAgent(t *testing.T) {
	w := newWorld(t)
	if _, err := agent.AskStatus(t.Context(), layout.Root(t.TempDir())); !errors.Is(err, agent.ErrNotReached) {
		t.Errorf("status of an empty root: %v", err)
	}
	r := w.start()
	v := w.version("v1", nil, nil)
	w.send(order{name: protocol.CmdAppDeploy, manifest: v})
	w.one()
	var s agent.Status
	var err error
	eventually(t, "the agent is idle", func() bool {
		s, err = agent.AskStatus(t.Context(), w.root)
		return err == nil && s.Unsent == 0 && s.Running == nil
	})
	if !s.Reached || s.InstanceID != instance || s.State != "ready" || s.Application == nil || s.Application.Serial != v.Serial || len(s.Commands) != 2 || s.Commands[0].Verdict != protocol.Success {
		t.Errorf("status %+v", s)
	}
	st, err := os.Stat(w.root.AgentSocket())
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", st, err)
	}
	must(t, r.stop())
	s, err = agent.AskStatus(t.Context(), w.root)
	if !errors.Is(err, agent.ErrNotReached) || s.Reached || s.InstanceID != instance || len(s.Commands) != 2 {
		t.Errorf("status %+v, %v", s, err)
	}
}

func TestBuild_SaysWhatIsMissing(t *testing.T) {
	w := newWorld(t)
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1/")
	c := testConfig()
	c.InstanceID = ""
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := agent.Build(ctx, agent.Setup{Root: w.root, Config: c, Platform: filePlatformOf})
	if err == nil || !strings.Contains(err.Error(), "instance_id") {
		t.Errorf("error %v", err)
	}
}

func TestBuild_SecondAgentOfARootIsRefused(t *testing.T) {
	w := newWorld(t)
	w.start()
	_, err := agent.Build(t.Context(), agent.Setup{Root: w.root, Config: testConfig(), Platform: filePlatformOf})
	if err == nil || !strings.Contains(err.Error(), "another agent holds the journal") {
		t.Errorf("error %v", err)
	}
}

func TestNotify_TellsSystemd(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer socket.Close()
	must(t, socket.SetReadDeadline(time.Now().Add(30*time.Second)))
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "3000000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	next := func() string {
		b := make([]byte, 100)
		n, err := socket.Read(b)
		must(t, err)
		return string(b[:n])
	}
	r := w.start()
	if got := next(); got != "READY=1" {
		t.Errorf("first %q", got)
	}
	if got := next(); got != "WATCHDOG=1" {
		t.Errorf("then %q", got)
	}
	r.Drain()
	for got := ""; got != "STOPPING=1"; got = next() {
		if got != "" && got != "WATCHDOG=1" {
			t.Errorf("unexpected %q", got)
		}
	}
	must(t, r.wait())
}

// A throttling, stuttering endpoint delays a command, and runs it once.
func TestAgent_SurvivesABadEndpoint(t *testing.T) {
	w := newWorld(t)
	for _, f := range []localaws.Fault{
		{Op: "SQS.ReceiveMessage", Throttle: true, Times: 5},
		{Op: "SQS.DeleteMessage", Status: 500, Code: "InternalError", Times: 4},
		{Op: "SQS.ReceiveMessage", Duplicate: true, Times: 3},
		{Op: "SQS.SendMessage", HangUp: localaws.HangUpResponse, Times: 1, Skip: 1},
		{Op: "S3.GetObject", HangUp: localaws.HangUpResponse, Times: 2},
	} {
		_, err := w.aws.Inject(f)
		must(t, err)
	}
	w.hook("appdeploy/post/10count", `echo x >> "`+string(w.root)+`/count"`)
	w.start()
	c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	ids := map[string]bool{}
	for _, r := range w.await(1) {
		ids[r.ResultID] = true
	}
	eventually(t, "the result is journalled as sent", func() bool { return !w.journalled(c.Identity()).SentAt.IsZero() })
	if got := w.read(w.root.Join("count")); got != "x\n" || len(ids) != 1 {
		t.Errorf("ran %q, %d results", got, len(ids))
	}
}
