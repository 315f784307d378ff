package commandproc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hostmanager/commandproc"
	"hostmanager/hooks"
	"hostmanager/internal/layout"
	"hostmanager/internal/logfile"
	"hostmanager/internal/redact"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// bench is a processor over a real journal and real log formats. Its hook directories are scripted: each holds the built-in hooks that a test
// puts there.
type bench struct {
	*commandproc.Processor
	journal  *journal.Journal
	log      bytes.Buffer
	activity bytes.Buffer
	dirs     map[string][]hooks.Builtin
	mu       sync.Mutex
	trace    []string
}

func (b *bench) mark(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trace = append(b.trace, fmt.Sprintf(format, args...))
}

func (b *bench) traced() string { return strings.Join(b.trace, " ") }

func newBench(t *testing.T) *bench {
	t.Helper()
	root := layout.Root(t.TempDir())
	j, err := journal.Open(root.Journal(), journal.Options{InstanceID: "i-1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	b := &bench{journal: j, dirs: map[string][]hooks.Builtin{}}
	hide := redact.New()
	b.Processor = &commandproc.Processor{
		Root: root, InstanceID: "i-1", Stack: "awseb-e-1-stack", Steps: steps{j}, Dirs: b, Infra: map[string]hooks.Builtin{},
		Prepare: func(context.Context, commandproc.Job) (hooks.Deployment, error) {
			return hooks.Deployment{ID: 7, VersionLabel: "v2", Serial: 9}, nil
		},
		Commit:     b.step("Promote", protocol.Compensated, nil),
		Settle:     func(context.Context) error { b.mark("settle"); return nil },
		Log:        logfile.NewProcessor(&b.log, hide, time.Now, 4510),
		Activity:   logfile.NewActivity(&b.activity, hide, time.Now, 3168),
		Structured: slog.New(slog.DiscardHandler),
		Now:        time.Now, ResumeLimit: commandproc.DefaultResumeLimit,
	}
	for _, name := range []string{"InfraWriteConfig", "DownloadSourceBundle", "EbExtensionPreBuild", "EbExtensionPostBuild", "InfraCleanEbextension"} {
		b.Infra[name] = b.step(name, protocol.Repeatable, nil)
	}
	return b
}

// step is a built-in that leaves a trace and returns err.
func (b *bench) step(name string, semantics protocol.Semantics, err error) hooks.Builtin {
	h := hooks.Builtin{Name: name, Semantics: semantics, Run: func(_ context.Context, c *hooks.Call) error {
		b.mark("%s", name)
		fmt.Fprintf(c.Output, "output of %s\n", name)
		return err
	}}
	if semantics == protocol.Compensated {
		h.Undo = func(_ context.Context, c *hooks.Call) error { b.mark("undo:%s(%s)", name, c.Saved); return nil }
	}
	return h
}

type steps struct{ j *journal.Journal }

func (s steps) Recorder(identity string) commandproc.Recorder { return s.j.Recorder(identity) }

func (s steps) Command(identity string) journal.Command {
	c, _ := s.j.Command(identity)
	return c
}

// runs runs a command that is to have a result.
func (b *bench) runs(t *testing.T, ctx context.Context, j commandproc.Job) *protocol.Response { //nolint:revive // the context is the test's subject
	t.Helper()
	response, err := b.Processor.Run(ctx, j)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

// Run implements commandproc.Dirs.
func (b *bench) Run(ctx context.Context, call hooks.Call, rec hooks.Recorder, watch hooks.Watch) error {
	for _, h := range b.dirs[call.Dir] {
		if call.Prior[call.Dir+"/"+h.Name].Done {
			continue
		}
		out, end := watch(h.Name)
		call.Output = out
		step := call.Dir + "/" + h.Name
		call.Save = func(v any) error {
			payload, _ := json.Marshal(v)
			return rec.Started(step, h.Semantics, payload)
		}
		if err := rec.Started(step, h.Semantics, nil); err != nil {
			return err
		}
		err := h.Run(ctx, &call)
		end(err)
		if err != nil {
			return fmt.Errorf("hook %s failed: %w", b.Root.HookDir(step), err)
		}
		if err := rec.Done(step); err != nil {
			return err
		}
	}
	return nil
}

// Cleanup implements commandproc.Dirs.
func (b *bench) Cleanup(ctx context.Context, call hooks.Call, rec hooks.Recorder, watch hooks.Watch) error {
	return b.Run(ctx, call, rec, watch)
}

// Undo implements commandproc.Dirs.
func (b *bench) Undo(ctx context.Context, call hooks.Call, step string) error {
	i := slices.IndexFunc(b.dirs[call.Dir], func(h hooks.Builtin) bool { return h.Name == filepath.Base(step) })
	return b.dirs[call.Dir][i].Undo(ctx, &call)
}

// command journals a command as accepted and returns its job.
func (b *bench) command(t *testing.T, name string, stage *int) commandproc.Job {
	t.Helper()
	r := protocol.Request{CommandName: name, RequestID: "req-1", StageNum: stage, Timeout: time.Minute}
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c := protocol.Command{
		DispatcherID: "d", CommandName: "ElasticBeanstalkCommand-AWSEBAutoScalingGroup", InvocationID: "0123456789ab",
		Expiration: time.Now().Add(time.Hour), ResultQueue: "https://sqs/1/hostmanager-q", Data: data,
	}
	j := commandproc.Job{Identity: c.Identity(), Command: c, Request: r}
	if err := b.journal.Append(journal.Record{Type: journal.Accepted, Command: j.Identity, Payload: json.RawMessage(`{}`)}); err != nil {
		t.Fatal(err)
	}
	return j
}

func stage(n int) *int { return &n }

func TestCommands_AreThoseOfThePlatform(t *testing.T) {
	want := map[string][]string{
		"CMD-PreInit":          {"InfraWriteConfig DownloadSourceBundle PreInitHook"},
		"CMD-Startup":          {"InfraWriteConfig DownloadSourceBundle EbExtensionPreBuild AppDeployPreHook EbExtensionPostBuild InfraCleanEbextension", "AppDeployEnactHook AppDeployPostHook PostInitHook"},
		"CMD-SelfStartup":      {"InfraWriteConfig DownloadSourceBundle EbExtensionPreBuild AppDeployPreHook EbExtensionPostBuild InfraCleanEbextension", "AppDeployEnactHook AppDeployPostHook PostInitHook"},
		"CMD-AppDeploy":        {"InfraWriteConfig DownloadSourceBundle EbExtensionPreBuild AppDeployPreHook EbExtensionPostBuild InfraCleanEbextension", "AppDeployEnactHook AppDeployPostHook"},
		"CMD-ConfigDeploy":     {"InfraWriteConfig ConfigDeployPreHook", "ConfigDeployEnactHook ConfigDeployPostHook"},
		"CMD-RestartAppServer": {"InfraWriteConfig RestartAppServerPreHook", "RestartAppServerEnactHook RestartAppServerPostHook"},
	}
	for _, d := range commandproc.Commands() {
		for n, actions := range d.Stages {
			var names []string
			for _, a := range actions {
				names = append(names, a.Name)
				if strings.HasSuffix(a.Name, "Hook") != (a.Dir != "") {
					t.Errorf("%s %s: directory %q", d.Name, a.Name, a.Dir)
				}
			}
			if got := strings.Join(names, " "); n >= len(want[d.Name]) || got != want[d.Name][n] {
				t.Errorf("%s stage %d: %s", d.Name, n, got)
			}
		}
		if len(d.Stages) != len(want[d.Name]) {
			t.Errorf("%s has %d stages", d.Name, len(d.Stages))
		}
	}
	d, _ := commandproc.Lookup("CMD-AppDeploy")
	if got := d.StageName(1) + "|" + d.Label(0) + "|" + d.Label(1); got != "AppDeployStage1|Application update|Application version switch" {
		t.Error(got)
	}
}

func TestRun_AllStagesInOrder(t *testing.T) {
	b := newBench(t)
	b.Before = []hooks.Builtin{b.step("addon-before", protocol.Repeatable, nil)}
	b.After = []hooks.Builtin{b.step("addon-after", protocol.Repeatable, nil)}
	b.dirs["appdeploy/pre"] = []hooks.Builtin{b.step("03build", protocol.Repeatable, nil)}
	b.dirs["appdeploy/enact"] = []hooks.Builtin{b.step("00run", protocol.Compensated, nil), b.step("01flip", protocol.Compensated, nil)}
	response := b.runs(t, t.Context(), b.command(t, protocol.CmdAppDeploy, nil))
	e := response.Entry()
	if e.Status != protocol.Success || e.Msg != "" || e.ReturnCode != 0 || e.DeploymentID != 7 || e.VersionLabel != "v2" || e.Serial != 9 || e.StageNum != nil {
		t.Errorf("entry %+v", e)
	}
	want := "addon-before InfraWriteConfig DownloadSourceBundle EbExtensionPreBuild 03build EbExtensionPostBuild InfraCleanEbextension 00run 01flip addon-after Promote"
	if b.traced() != want {
		t.Errorf("ran  %s\nwant %s", b.traced(), want)
	}
}

// The lines of seed 004, in its order; ours has more between them.
func TestRun_LogReadsLikeTheOriginal(t *testing.T) {
	b := newBench(t)
	b.dirs["appdeploy/enact"] = []hooks.Builtin{{Name: "01flip", Run: func(_ context.Context, c *hooks.Call) error {
		c.Event(protocol.Event{Severity: protocol.Trace, Msg: "Docker container d8cdffc1b069 is running aws_beanstalk/current-app.", Time: time.UnixMilli(1500445457000)})
		return nil
	}}}
	b.runs(t, t.Context(), b.command(t, protocol.CmdAppDeploy, nil))
	rest := b.log.String()
	for _, want := range []string{
		"DEBUG [4510]  : Loaded 6 actions for stage 0.\n",
		"INFO  [4510]  : Running 1 of 6 actions: InfraWriteConfig...\n",
		"INFO  [4510]  : Running 2 of 6 actions: DownloadSourceBundle...\n",
		"INFO  [4510]  : Running 3 of 6 actions: EbExtensionPreBuild...\n",
		"INFO  [4510]  : Running 4 of 6 actions: AppDeployPreHook...\n",
		"INFO  [4510]  : Running 5 of 6 actions: EbExtensionPostBuild...\n",
		"INFO  [4510]  : Running 6 of 6 actions: InfraCleanEbextension...\n",
		"INFO  [4510]  : Running stage 1 of command CMD-AppDeploy...\n",
		"DEBUG [4510]  : Loaded 2 actions for stage 1.\n",
		"INFO  [4510]  : Running 1 of 2 actions: AppDeployEnactHook...\n",
		"INFO  [4510]  : Running 2 of 2 actions: AppDeployPostHook...\n",
		"INFO  [4510]  : Running AddonsAfter for command CMD-AppDeploy...\n",
		"INFO  [4510]  : Command CMD-AppDeploy succeeded!\n",
		"INFO  [4510]  : Command processor returning results: \n",
		`{"status":"SUCCESS","api_version":"1.0","results":[{"status":"SUCCESS","msg":"","returncode":0,"events":[{"msg":"Docker container d8cdffc1b069 is running aws_beanstalk/current-app.","severity":"TRACE","timestamp":1500445457000}]`,
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("log lacks, or has out of order, %q:\n%s", want, b.log.String())
		}
		rest = after
	}
}

func TestRun_ActivityTree(t *testing.T) {
	b := newBench(t)
	b.dirs["appdeploy/pre"] = []hooks.Builtin{b.step("03build", protocol.Repeatable, errors.New("no Dockerfile"))}
	b.runs(t, t.Context(), b.command(t, protocol.CmdAppDeploy, nil))
	rest := b.activity.String()
	for _, want := range []string{
		" - [Application update v2@7] : Starting activity...\n",
		" - [Application update v2@7/AppDeployStage0] : Starting activity...\n",
		" - [Application update v2@7/AppDeployStage0/InfraWriteConfig] : output of InfraWriteConfig\n",
		" - [Application update v2@7/AppDeployStage0/InfraWriteConfig] : Completed activity.\n",
		" - [Application update v2@7/AppDeployStage0/AppDeployPreHook/03build] : Starting activity...\n",
		" - [Application update v2@7/AppDeployStage0/AppDeployPreHook/03build] : output of 03build\n",
		" - [Application update v2@7/AppDeployStage0/AppDeployPreHook/03build] : Activity execution failed, because: no Dockerfile\n",
		" - [Application update v2@7/AppDeployStage0/AppDeployPreHook] : Activity failed.\n",
		" - [Application update v2@7/AppDeployStage0] : Activity failed.\n",
		" - [Application update v2@7] : Completed activity. Result:\n  Application update - Command CMD-AppDeploy failed\n",
	} {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("activity log lacks, or has out of order, %q:\n%s", want, b.activity.String())
		}
		rest = after
	}
}

// hookError is a failure as package hooks tells it.
type hookError struct {
	code   int
	output string
}

func (e *hookError) Error() string  { return "exit status" }
func (e *hookError) ExitCode() int  { return e.code }
func (e *hookError) Output() string { return e.output }

func TestRun_FailureReachesTheResult(t *testing.T) {
	long := strings.Repeat("é", 300) + "the end"
	for _, c := range []struct {
		name string
		err  error
		code int
		msg  string
	}{
		{"exit code and output", &hookError{code: 17, output: "boom\n"}, 17, "boom \nhook "},
		{"long output", &hookError{code: 2, output: long}, 2, "(TRUNCATED)..." + strings.Repeat("é", 249) + "the end \nhook "},
		{"plain error", errors.New("no room"), 1, "hook "},
		{"signal", &hookError{code: -1}, 1, "hook "},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.dirs["appdeploy/pre"] = []hooks.Builtin{b.step("01x", protocol.Repeatable, c.err), b.step("02never", protocol.Repeatable, nil)}
			b.After = []hooks.Builtin{b.step("never", protocol.Repeatable, nil)}
			e := b.runs(t, t.Context(), b.command(t, protocol.CmdAppDeploy, nil)).Entry()
			if e.Status != protocol.Failure || e.ReturnCode != c.code || !strings.HasPrefix(e.Msg, c.msg) ||
				!strings.HasSuffix(e.Msg, ". For more detail, check /var/log/eb-activity.log using console or EB CLI") {
				t.Errorf("entry %+v", e)
			}
			if strings.Contains(b.traced(), "never") || !strings.HasSuffix(b.traced(), "01x settle") {
				t.Errorf("ran %s", b.traced())
			}
		})
	}
}

func TestRun_FailureUndoesCompensatedStepsInReverse(t *testing.T) {
	b := newBench(t)
	run := b.step("00run", protocol.Compensated, nil)
	start := run.Run
	run.Run = func(ctx context.Context, c *hooks.Call) error {
		if err := c.Save(map[string]int{"container": 5}); err != nil {
			return err
		}
		return start(ctx, c)
	}
	b.dirs["appdeploy/enact"] = []hooks.Builtin{run, b.step("01flip", protocol.Compensated, nil)}
	b.dirs["appdeploy/post"] = []hooks.Builtin{b.step("01_monitor_pids", protocol.Repeatable, errors.New("gone"))}
	j := b.command(t, protocol.CmdAppDeploy, nil)
	e := b.runs(t, t.Context(), j).Entry()
	if want := `00run 01flip 01_monitor_pids undo:01flip() undo:00run({"container":5}) settle`; !strings.HasSuffix(b.traced(), want) {
		t.Errorf("ran %s", b.traced())
	}
	if len(e.Events) != 1 || e.Events[0].Severity != protocol.Warn || !strings.Contains(e.Events[0].Msg, "undone: appdeploy/enact/01flip, appdeploy/enact/00run") {
		t.Errorf("events %+v", e.Events)
	}
	c, _ := b.journal.Command(j.Identity)
	for _, s := range c.Steps {
		if (s.Semantics == protocol.Compensated) != (s.State == journal.Undone) {
			t.Errorf("step %s is %s", s.Name, s.State)
		}
	}
}

func TestRun_UndoesTheRestWhenOneCannotBeUndone(t *testing.T) {
	b := newBench(t)
	flip := b.step("01flip", protocol.Compensated, errors.New("no"))
	flip.Undo = func(context.Context, *hooks.Call) error { panic("undo is broken") }
	b.dirs["appdeploy/enact"] = []hooks.Builtin{b.step("00run", protocol.Compensated, nil), flip}
	e := b.runs(t, t.Context(), b.command(t, protocol.CmdAppDeploy, nil)).Entry()
	if !strings.Contains(b.traced(), "undo:00run") || len(e.Events) != 2 || e.Events[1].Severity != protocol.Error ||
		!strings.Contains(e.Events[1].Msg, "undo is broken") {
		t.Errorf("ran %s, events %+v", b.traced(), e.Events)
	}
}

func TestRun_PanicFailsTheCommandAlone(t *testing.T) {
	b := newBench(t)
	b.Infra["InfraWriteConfig"] = hooks.Builtin{Name: "InfraWriteConfig", Run: func(context.Context, *hooks.Call) error { panic("oops") }}
	e := b.runs(t, t.Context(), b.command(t, protocol.CmdAppDeploy, nil)).Entry()
	if e.Status != protocol.Failure || !strings.Contains(e.Msg, "panicked: oops") {
		t.Errorf("entry %+v", e)
	}
}

func TestRun_DeadlineStopsAndUndoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		slow := b.step("01flip", protocol.Compensated, nil)
		slow.Run = func(ctx context.Context, _ *hooks.Call) error { <-ctx.Done(); return context.Cause(ctx) }
		slow.Undo = func(ctx context.Context, _ *hooks.Call) error { b.mark("undo"); return ctx.Err() }
		b.dirs["appdeploy/enact"] = []hooks.Builtin{slow}
		began := time.Now()
		e := b.runs(t, context.Background(), b.command(t, protocol.CmdAppDeploy, nil)).Entry()
		if time.Since(began) != time.Minute || e.Status != protocol.Failure || e.Cause != protocol.CauseTimeout ||
			!strings.HasPrefix(e.Msg, "Command timed out after 60 seconds: ") {
			t.Errorf("after %v: %+v", time.Since(began), e)
		}
		if !strings.HasSuffix(b.traced(), "undo settle") || !strings.Contains(b.activity.String(), "AppDeployEnactHook] : Activity timed out after 60 seconds.\n") {
			t.Errorf("ran %s\n%s", b.traced(), b.activity.String())
		}
	})
}

func TestRun_AbortUndoes(t *testing.T) {
	b := newBench(t)
	ctx, abort := context.WithCancelCause(t.Context())
	b.dirs["appdeploy/enact"] = []hooks.Builtin{
		b.step("00run", protocol.Compensated, nil),
		{Name: "01x", Run: func(context.Context, *hooks.Call) error { abort(commandproc.ErrAborted); return nil }},
		b.step("02never", protocol.Repeatable, nil),
	}
	b.dirs["appdeploy/post"] = []hooks.Builtin{b.step("never", protocol.Repeatable, nil)}
	e := b.runs(t, ctx, b.command(t, protocol.CmdAppDeploy, nil)).Entry()
	if !strings.HasPrefix(e.Msg, "Command was aborted") || !strings.Contains(b.traced(), "undo:00run") {
		t.Errorf("ran %s: %+v", b.traced(), e)
	}
}

func TestRun_StagesFollowEachOther(t *testing.T) {
	past := func(name, request string, n *int, ok bool) *commandproc.Past {
		return &commandproc.Past{CommandName: name, RequestID: request, StageNum: n, Succeeded: ok}
	}
	for _, c := range []struct {
		name  string
		stage *int
		past  *commandproc.Past
		runs  bool
		msg   string
	}{
		{"stage 0 first", stage(0), nil, true, ""},
		{"stage 0 after anything", stage(0), past("CMD-AppDeploy", "other", nil, false), true, ""},
		{"stage 1 after stage 0", stage(1), past("CMD-AppDeploy", "req-1", stage(0), true), true, ""},
		{"stage 1 alone", stage(1), nil, false, "stage 0 never ran here"},
		{"stage 1 after a failed stage 0", stage(1), past("CMD-AppDeploy", "req-1", stage(0), false), false, "failed on this instance"},
		{"stage 1 of another request", stage(1), past("CMD-AppDeploy", "req-0", stage(0), true), false, "must follow its stage 0"},
		{"stage 1 with a restart between", stage(1), past("CMD-RestartAppServer", "req-9", nil, true), false, "the last command here was CMD-RestartAppServer"},
		{"stage 1 twice", stage(1), past("CMD-AppDeploy", "req-1", stage(1), true), false, "must follow its stage 0"},
		{"stage 2", stage(2), nil, false, "has no stage 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			j := b.command(t, protocol.CmdAppDeploy, c.stage)
			j.Previous = c.past
			e := b.runs(t, t.Context(), j).Entry()
			if (e.Status == protocol.Success) != c.runs || !strings.Contains(e.Msg, c.msg) || e.StageNum == nil || *e.StageNum != *c.stage {
				t.Errorf("entry %+v", e)
			}
			if !c.runs && b.traced() != "" {
				t.Errorf("ran %s", b.traced())
			}
			if c.runs && strings.Contains(b.traced(), "Promote") != (*c.stage == 1) {
				t.Errorf("ran %s", b.traced())
			}
		})
	}
}

func TestRun_UnknownCommandIsRefused(t *testing.T) {
	b := newBench(t)
	e := b.runs(t, t.Context(), b.command(t, "CMD-Nonsense", nil)).Entry()
	if e.Status != protocol.Failure || e.ReturnCode != 1 || !strings.Contains(e.Msg, "unknown command CMD-Nonsense") {
		t.Errorf("entry %+v", e)
	}
}

func TestRun_EventsAreSortedBoundedAndTimed(t *testing.T) {
	b := newBench(t)
	var seen int
	b.OnEvent = func(protocol.Event) { seen++ }
	b.Infra["InfraWriteConfig"] = hooks.Builtin{Run: func(_ context.Context, c *hooks.Call) error {
		c.Event(protocol.Event{Msg: "later"})
		c.Event(protocol.Event{Msg: "earlier", Severity: protocol.Warn, Time: time.UnixMilli(5)})
		c.Event(protocol.Event{Severity: protocol.Error})
		for range 2000 {
			c.Event(protocol.Event{Msg: "flood"})
		}
		return nil
	}}
	r := b.runs(t, t.Context(), b.command(t, protocol.CmdConfigDeploy, nil))
	e := r.Entry()
	if len(e.Events) != 1000 || seen != 1000 || r.Truncated != "true" || e.Events[0].Msg != "earlier" || e.Events[1].Msg != "later" ||
		e.Events[1].Severity != protocol.Info || e.Events[1].Time.IsZero() {
		t.Errorf("%d events, truncated %q, first %+v", len(e.Events), r.Truncated, e.Events[:2])
	}
}

func TestRun_TellsHooksTheirEnvironment(t *testing.T) {
	b := newBench(t)
	var env []string
	b.dirs["appdeploy/pre"] = []hooks.Builtin{{Name: "x", Run: func(_ context.Context, c *hooks.Call) error { env = c.Env; return nil }}}
	j := b.command(t, protocol.CmdAppDeploy, nil)
	b.runs(t, t.Context(), j)
	for _, want := range []string{
		"CMD_DATA=" + j.Command.Data, "INVOCATION_ID=0123456789ab", "DISPATCHER_ID=d", "LISTENER_ID=i-1", "STACK_NAME=awseb-e-1-stack",
		"CMD_NAME=ElasticBeanstalkCommand-AWSEBAutoScalingGroup", "RESULT_QUEUE=https://sqs/1/hostmanager-q", "EB_REQUEST_ID=req-1", "EB_COMMAND_TIMEOUT=60",
	} {
		if !slices.Contains(env, want) {
			t.Errorf("environment lacks %s: %q", want, env)
		}
	}
	for _, v := range env {
		if strings.HasPrefix(v, "RESULT_SECRET") || strings.HasPrefix(v, "RESULT_ACCESS") || strings.HasPrefix(v, "RESULT_SESSION") || strings.HasSuffix(v, "=") {
			t.Errorf("environment has %s", v)
		}
	}
}
