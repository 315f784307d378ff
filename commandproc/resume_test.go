package commandproc_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hostmanager/commandproc"
	"hostmanager/hooks"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// deploying puts the hooks of a deployment, one of each semantics, into a bench, which then runs them as the agent does.
func (b *bench) deploying(t *testing.T) {
	t.Helper()
	runner, err := hooks.New(hooks.Options{Root: b.Root, Builtins: b.dirs}) // filled below, and by the tests
	if err != nil {
		t.Fatal(err)
	}
	b.Dirs = runner
	b.dirs["appdeploy/pre"] = []hooks.Builtin{b.step("00clean_dir", protocol.Repeatable, nil), b.step("02script", protocol.Once, nil), b.step("03build", protocol.Repeatable, nil)}
	b.dirs["appdeploy/enact"] = []hooks.Builtin{b.step("00run", protocol.Compensated, nil), b.step("01flip", protocol.Compensated, nil)}
	b.dirs["appdeploy/post"] = []hooks.Builtin{b.step("01_monitor_pids", protocol.Repeatable, nil)}
}

// resumes takes a command up that is to have a result.
func (b *bench) resumes(t *testing.T, j commandproc.Job) protocol.ResponseEntry {
	t.Helper()
	response, err := b.Resume(t.Context(), j, func(context.Context) error { b.mark("recover"); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return response.Entry()
}

// Journals of every format that was ever written open, and what is unfinished in them is taken up.
func TestResume_JournalsOfEveryVersion(t *testing.T) {
	const (
		built   = "03build EbExtensionPostBuild InfraCleanEbextension "
		enacted = "00run 01flip 01_monitor_pids Promote recover"
		back    = `undo:01flip({"new":"c2","old":"c1"}) undo:00run() settle recover`
	)
	type outcome struct{ status, ran, msg string }
	for file, want := range map[string]map[string]outcome{
		"journal-before-resume": {
			"committed":   {"SUCCESS", "recover", ""},
			"repeatable":  {"SUCCESS", built + enacted, ""},
			"once":        {"FAILURE", "settle recover", "interrupted: hook appdeploy/pre/02script was running"},
			"compensated": {"SUCCESS", `undo:01flip({"new":"c2","old":"c1"}) 01flip 01_monitor_pids Promote recover`, ""},
			"promoting":   {"SUCCESS", `undo:Promote({"had":true}) Promote recover`, ""},
			"unwinding":   {"FAILURE", "undo:00run() settle recover", "interrupted: the agent stopped while CMD-AppDeploy, which had failed, was being undone"},
			"begun":       {"SUCCESS", "InfraWriteConfig DownloadSourceBundle EbExtensionPreBuild 00clean_dir 02script " + strings.TrimSpace(built) + " recover", ""},
		},
		"journal-with-resume": {
			"resumed":   {"SUCCESS", built + enacted, ""},
			"paused":    {"SUCCESS", "undo:00run() " + enacted, ""},
			"looping":   {"FAILURE", "settle recover", "interrupted: the agent stopped 4 times in appdeploy/pre/03build without getting further"},
			"unwinding": {"FAILURE", "undo:00run() settle recover", "boom \nHook appdeploy/post/01_monitor_pids failed."},
			"aborted":   {"FAILURE", back, "Command was aborted: "},
			"cleaning":  {"FAILURE", "settle recover", "boom \nHook"},
			"committed": {"SUCCESS", "recover", ""},
		},
	} {
		for name, o := range want {
			t.Run(file+"/"+name, func(t *testing.T) {
				b, j := benchOn(t, file, name)
				b.deploying(t)
				e := b.resumes(t, j)
				if string(e.Status) != o.status || !strings.HasPrefix(e.Msg, o.msg) || b.traced() != o.ran || e.VersionLabel != "v2" || e.Serial != 9 {
					t.Errorf("ran  %s\nwant %s\nentry %+v", b.traced(), o.ran, e)
				}
				if file == "journal-with-resume" && name != "cleaning" && name != "committed" {
					checkEvents(t, e, "Migrated 3 tables.")
				}
			})
		}
	}
}

// checkEvents holds that each of the messages is told once.
func checkEvents(t *testing.T, e protocol.ResponseEntry, messages ...string) {
	t.Helper()
	for _, msg := range messages {
		n := 0
		for _, v := range e.Events {
			if v.Msg == msg {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%q is told %d times: %+v", msg, n, e.Events)
		}
	}
}

// benchOn is a bench on a copy of a stored journal, and one of its commands.
func benchOn(t *testing.T, file, invocation string) (*bench, commandproc.Job) {
	t.Helper()
	b := newBench(t)
	if err := b.journal.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join("..", "journal", "testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "journal")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	b.journal, err = journal.Open(path, journal.Options{
		InstanceID: "i-0a1b2c3d", OnEvent: func(e protocol.Event) { t.Errorf("event %s", e.Msg) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.journal.Close() })
	b.Steps = steps{b.journal}
	for _, c := range b.journal.Commands() {
		command, err := protocol.DecodeCommand(c.Message)
		if err != nil || command.InvocationID != invocation {
			continue // the one that is lost has no message
		}
		request, err := protocol.DecodeRequest(command.Data)
		if err != nil {
			t.Fatal(err)
		}
		request.Timeout = 250 * 365 * 24 * time.Hour // its time ran when the sample was made
		return b, commandproc.Job{Identity: c.Identity, Command: command, Request: request}
	}
	t.Fatalf("no command %s in %s", invocation, file)
	return nil, commandproc.Job{}
}

// begun journals the start of a deployment as the processor does, with the payload of its begin step.
func (b *bench) begun(t *testing.T, payload string, open ...string) (commandproc.Job, *journal.Recorder) {
	t.Helper()
	j := b.command(t, protocol.CmdAppDeploy, nil)
	rec := b.journal.Recorder(j.Identity)
	err := rec.Started("begin", protocol.Repeatable, json.RawMessage(payload))
	for _, step := range open {
		err = errors.Join(err, rec.Started(step, protocol.Repeatable, nil))
	}
	if err != nil {
		t.Fatal(err)
	}
	return j, rec
}

func TestResume_TimeRunsFromTheFirstStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.deploying(t)
		b.dirs["appdeploy/pre"][2].Run = func(ctx context.Context, _ *hooks.Call) error { <-ctx.Done(); return context.Cause(ctx) }
		began := time.Now()
		payload, _ := json.Marshal(map[string]any{"ID": 7, "VersionLabel": "v2", "Serial": 9, "began": began})
		j, _ := b.begun(t, string(payload), "InfraWriteConfig")
		time.Sleep(50 * time.Second)
		e := b.resumes(t, j)
		if time.Since(began) != time.Minute || e.Cause != protocol.CauseTimeout || !strings.Contains(e.Msg, "Command timed out after 60 seconds") {
			t.Errorf("after %v: %+v", time.Since(began), e)
		}
	})
}

func TestResume_TimeIsOver(t *testing.T) {
	b := newBench(t)
	b.deploying(t)
	j, _ := b.begun(t, `{"ID":7,"VersionLabel":"v2","Serial":9,"began":"2001-01-01T00:00:00Z"}`, "InfraWriteConfig")
	e := b.resumes(t, j)
	if e.Cause != protocol.CauseTimeout || b.traced() != "settle recover" {
		t.Errorf("ran %s: %+v", b.traced(), e)
	}
}

// What is wholly done has succeeded, however late the agent comes back, and whoever asked for its end meanwhile.
func TestResume_NothingIsLeftToDo(t *testing.T) {
	b := newBench(t)
	j := b.command(t, protocol.CmdRestartAppServer, nil)
	rec := b.journal.Recorder(j.Identity)
	err := rec.Started("begin", protocol.Repeatable, json.RawMessage(`{"ID":7,"VersionLabel":"v2","Serial":9,"began":"2001-01-01T00:00:00Z"}`))
	for _, step := range []string{"InfraWriteConfig", "RestartAppServerPreHook", "RestartAppServerEnactHook", "RestartAppServerPostHook"} {
		err = errors.Join(err, rec.Started(step, protocol.Repeatable, nil), rec.Done(step, nil))
	}
	if err := errors.Join(err, b.journal.Append(journal.Record{Type: journal.Abort, Command: j.Identity})); err != nil {
		t.Fatal(err)
	}
	if e := b.resumes(t, j); e.Status != protocol.Success || b.traced() != "recover" {
		t.Errorf("ran %s: %+v", b.traced(), e)
	}
}

func TestResume_VoidIsUndone(t *testing.T) {
	b := newBench(t)
	b.deploying(t)
	j, _ := b.begun(t, `{"ID":7,"VersionLabel":"v2","Serial":9}`, "InfraWriteConfig")
	j.Void = "the machine restarted"
	if e := b.resumes(t, j); e.Cause != protocol.CauseInterrupted || b.traced() != "settle recover" || !strings.HasPrefix(e.Msg, "interrupted: the machine restarted. ") {
		t.Errorf("ran %s: %+v", b.traced(), e)
	}
}

// A stop in good order is no sign that the command takes the agent down, however often it was taken up before: neither its work nor its undoing
// is given up for it.
func TestResume_AStopInGoodOrderDoesNotCount(t *testing.T) {
	for _, c := range []struct {
		name          string
		fails, paused bool
		limit, times  int
		ran, cause    string
	}{
		{"work", false, false, 2, 2, "settle recover", protocol.CauseInterrupted},
		{"work, paused", false, true, 2, 2, "03build", ""},
		{"work that is never to be taken up", false, false, 0, 0, "settle recover", protocol.CauseInterrupted},
		{"work that is never to be taken up, paused", false, true, 0, 0, "03build", ""},
		{"undoing", true, false, 3, 3, "settle recover", protocol.CauseHealthGate},
		{"undoing, paused", true, true, 3, 3, "undo:00run() settle recover", protocol.CauseHealthGate},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.deploying(t)
			b.ResumeLimit = c.limit
			j, rec := b.begun(t, `{"ID":1}`, "appdeploy/pre/03build")
			var err error
			if c.fails {
				err = errors.Join(rec.Started("appdeploy/enact/00run", protocol.Compensated, nil),
					rec.Verdict(json.RawMessage(`{"entry":{"status":"FAILURE","cause":"health_gate"}}`)))
			}
			for range c.times {
				err = errors.Join(err, rec.Resumed())
			}
			if c.paused {
				err = errors.Join(err, rec.Paused())
			}
			if err != nil {
				t.Fatal(err)
			}
			if e := b.resumes(t, j); e.Cause != c.cause || !strings.Contains(b.traced(), c.ran) || c.cause != "" && b.traced() != c.ran {
				t.Errorf("ran %s: %+v", b.traced(), e)
			}
		})
	}
}

// A pause ends a repeatable step at once and lets any other come to its end; nothing is undone, and the next agent goes on.
func TestPause_LeavesTheRest(t *testing.T) {
	for _, c := range []struct {
		semantics protocol.Semantics
		resumed   string
	}{
		{protocol.Repeatable, "slow 01flip 01_monitor_pids Promote recover"},
		{protocol.Once, "01flip 01_monitor_pids Promote recover"},
		{protocol.Compensated, "01flip 01_monitor_pids Promote recover"},
	} {
		t.Run(string(c.semantics), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.deploying(t)
				pause := make(chan struct{})
				slow := b.step("slow", c.semantics, nil)
				slow.Run = func(ctx context.Context, _ *hooks.Call) error {
					time.AfterFunc(time.Second, func() { close(pause) })
					select {
					case <-ctx.Done():
						return errors.New("the step was cut short")
					case <-time.After(10 * time.Second):
						return nil
					}
				}
				b.Before = []hooks.Builtin{slow}
				j := b.command(t, protocol.CmdAppDeploy, nil)
				j.Pause = pause
				if r, err := b.Processor.Run(t.Context(), j); r != nil || !errors.Is(err, hooks.ErrPaused) {
					t.Fatalf("run: %+v, %v", r, err)
				}
				if strings.Contains(b.traced(), "undo") || strings.Contains(b.traced(), "settle") || strings.Contains(b.traced(), "Infra") {
					t.Errorf("ran %s", b.traced())
				}
				known, _ := b.journal.Command(j.Identity)
				if !known.Paused || known.Verdict != nil {
					t.Errorf("journal %+v", known)
				}
				j.Pause = nil
				b.Before = []hooks.Builtin{b.step("slow", c.semantics, nil)}
				if e := b.resumes(t, j); e.Status != protocol.Success || strings.Contains(b.traced(), "undo") != false || strings.Contains(b.traced(), "slow") != (c.semantics == protocol.Repeatable) {
					t.Errorf("ran %s: %+v", b.traced(), e)
				}
			})
		})
	}
}

// The journal that takes no verdict leaves the command as it is: undoing without one could be taken for work that is done.
func TestRun_WithoutAVerdictNothingIsUndone(t *testing.T) {
	b := newBench(t)
	b.deploying(t)
	b.dirs["appdeploy/post"][0].Run = func(context.Context, *hooks.Call) error {
		return errors.Join(errors.New("no"), b.journal.Close())
	}
	r, err := b.Processor.Run(t.Context(), b.command(t, protocol.CmdAppDeploy, nil))
	if r != nil || !errors.Is(err, journal.ErrBroken) || strings.Contains(b.traced(), "undo") {
		t.Errorf("ran %s: %+v, %v", b.traced(), r, err)
	}
}

func TestCleanup_RunsWhateverBecameOfTheCommand(t *testing.T) {
	for want, err := range map[string]error{"Success": nil, "Failure": errors.New("no"), "Aborted": commandproc.ErrAborted} {
		t.Run(want, func(t *testing.T) {
			b := newBench(t)
			b.deploying(t)
			ctx, abort := context.WithCancelCause(t.Context())
			defer abort(nil)
			b.dirs["appdeploy/post"][0].Run = func(context.Context, *hooks.Call) error {
				if errors.Is(err, commandproc.ErrAborted) {
					abort(err)
				}
				return err
			}
			var status []string
			b.dirs["appdeploy/cleanup"] = []hooks.Builtin{{Name: "10tidy", Semantics: protocol.Once, Run: func(ctx context.Context, c *hooks.Call) error {
				b.mark("tidy")
				if ctx.Err() != nil {
					t.Error("cleaning up has the command's time")
				}
				status = slices.DeleteFunc(slices.Clone(c.Env), func(v string) bool { return !strings.HasPrefix(v, "EB_COMMAND_STATUS=") })
				return errors.New("untidy")
			}}}
			e := b.runs(t, ctx, b.command(t, protocol.CmdAppDeploy, nil)).Entry()
			if len(status) != 1 || status[0] != "EB_COMMAND_STATUS="+want || (e.Status == protocol.Success) != (want == "Success") || !strings.HasSuffix(b.traced(), "tidy") {
				t.Errorf("told %v, ran %s: %+v", status, b.traced(), e)
			}
			if i := slices.IndexFunc(e.Events, func(v protocol.Event) bool { return v.Severity == protocol.Warn && strings.Contains(v.Msg, "cleanup") }); i < 0 {
				t.Errorf("events %+v", e.Events)
			}
			if strings.Contains(b.log.String(), "CleanupHook...") {
				t.Error("cleaning up is told as an action of a stage")
			}
		})
	}
}

// What was never begun leaves nothing to clean up.
func TestCleanup_NotForWhatWasRefused(t *testing.T) {
	b := newBench(t)
	b.dirs["appdeploy/cleanup"] = []hooks.Builtin{b.step("10tidy", protocol.Once, nil)}
	b.Prepare = func(context.Context, commandproc.Job) (hooks.Deployment, error) {
		return hooks.Deployment{}, errors.New("no manifest")
	}
	b.runs(t, t.Context(), b.command(t, protocol.CmdAppDeploy, nil))
	if strings.Contains(b.traced(), "10tidy") {
		t.Errorf("ran %s", b.traced())
	}
}
