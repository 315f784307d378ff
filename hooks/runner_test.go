package hooks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/hooks"
	"hostmanager/internal/layout"
	"hostmanager/internal/proc"
	"hostmanager/internal/redact"
	"hostmanager/protocol"
)

// bench is a root folder, a recorder and everything a call collects.
type bench struct {
	t      *testing.T
	root   layout.Root
	mu     sync.Mutex
	events []protocol.Event
	steps  []string // what the recorder was told
	output strings.Builder
}

func newBench(t *testing.T) *bench { return &bench{t: t, root: layout.Root(t.TempDir())} }

// file puts a file into a hook directory.
func (b *bench) file(dir, name, body string, perm os.FileMode) string {
	b.t.Helper()
	path := filepath.Join(b.root.HookDir(dir), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), perm); err != nil {
		b.t.Fatal(err)
	}
	return path
}

func (b *bench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.output.Write(p)
}

func (b *bench) Started(step string, s protocol.Semantics, payload json.RawMessage) error {
	b.steps = append(b.steps, fmt.Sprintf("started %s %s %s", step, s, payload))
	return nil
}

func (b *bench) Done(step string) error {
	b.steps = append(b.steps, "done "+step)
	return nil
}

func (b *bench) Undone(step string) error {
	b.steps = append(b.steps, "undone "+step)
	return nil
}

func (b *bench) call(dir string, env ...string) hooks.Call {
	return hooks.Call{
		Root: b.root, Dir: dir, Env: env, Output: b,
		Event: func(e protocol.Event) { b.events = append(b.events, e) },
	}
}

func (b *bench) runner(o hooks.Options) *hooks.Runner {
	b.t.Helper()
	o.Root = b.root
	r, err := hooks.New(o)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) eventTexts() string {
	var all []string
	for _, e := range b.events {
		all = append(all, string(e.Severity)+" "+e.Msg)
	}
	return strings.Join(all, "\n")
}

// says is a built-in hook that writes its name.
func says(name string) hooks.Builtin {
	return hooks.Builtin{Name: name, Semantics: protocol.Repeatable, Run: func(_ context.Context, c *hooks.Call) error {
		_, err := fmt.Fprintln(c.Output, name)
		return err
	}}
}

const dir = "appdeploy/pre"

func TestRun_FilesAndBuiltinsInNameOrder(t *testing.T) {
	b := newBench(t)
	sh := "#!/bin/sh\nbasename $0\n"
	for _, name := range []string{"00first.sh", "01unzip2", "02a", "02B", "10last", "é"} {
		b.file(dir, name, sh, 0o755)
	}
	b.file(dir, ".hidden", sh, 0o755)
	b.file(dir, "05x.bak", sh, 0o755)
	b.file(dir, "05x.tmp", sh, 0o755)
	b.file(dir, "04README", "no hook", 0o644)
	script := b.file(dir, "04forgotten.sh", sh, 0o644)
	b.file(dir, "03sub/inner", sh, 0o755)
	if err := os.Symlink("nowhere", filepath.Join(b.root.HookDir(dir), "06dangling")); err != nil {
		t.Fatal(err)
	}
	r := b.runner(hooks.Options{Builtins: map[string][]hooks.Builtin{dir: {says("03build"), says("01unzip"), says("00clean_dir")}, "other": {says("00x")}}})
	if err := r.Run(t.Context(), b.call(dir), b, nil); err != nil {
		t.Fatal(err)
	}
	want := "00clean_dir\n00first.sh\n01unzip\n01unzip2\n02B\n02a\n03build\n10last\né\n"
	if got := b.output.String(); got != want {
		t.Errorf("ran\n%s, want\n%s", got, want)
	}
	if len(b.events) != 2 || !strings.Contains(b.eventTexts(), script+" was skipped: it is a script but not executable") || !strings.Contains(b.eventTexts(), "06dangling") {
		t.Errorf("events: %s", b.eventTexts())
	}
}

func TestRun_NothingThereIsSuccess(t *testing.T) {
	b := newBench(t)
	if err := b.runner(hooks.Options{}).Run(t.Context(), b.call(dir), b, nil); err != nil || len(b.steps) != 0 {
		t.Errorf("%v, %v", b.steps, err)
	}
	b.file(filepath.Dir(dir), filepath.Base(dir), "a file, not a folder", 0o644)
	if err := b.runner(hooks.Options{}).Run(t.Context(), b.call(dir), b, nil); err == nil {
		t.Error("a hook directory that is a file passed")
	}
}

func TestRun_FileInPlaceOfABuiltin(t *testing.T) {
	for _, tt := range []struct {
		name, file  string
		perm        os.FileMode
		replaceable string
		want        string // output
		refused     bool
	}{
		{"same name", "03build", 0o755, "", "", true},
		{"same name and an extension", "03build.sh", 0o755, "", "", true},
		{"another is allowed", "03build", 0o755, "appdeploy/pre/01unzip", "", true},
		{"the same name elsewhere is allowed", "03build", 0o755, "configdeploy/pre/03build", "", true},
		{"allowed", "03build", 0o755, "appdeploy/pre/03build", "00a\nfile\n04b\n", false},
		{"allowed with an extension", "03build.py", 0o755, "appdeploy/pre/03build", "00a\nfile\n04b\n", false},
		{"longer name", "03build2", 0o755, "", "00a\n03build\nfile\n04b\n", false},
		{"not executable", "03build", 0o644, "", "00a\n03build\n04b\n", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			path := b.file(dir, tt.file, "#!/bin/sh\necho file\n", tt.perm)
			r := b.runner(hooks.Options{
				Builtins:    map[string][]hooks.Builtin{dir: {says("00a"), says("03build"), says("04b")}},
				Replaceable: func() []string { return []string{tt.replaceable} },
			})
			err := r.Run(t.Context(), b.call(dir), b, nil)
			if tt.refused {
				if !errors.Is(err, hooks.ErrNotReplaceable) || !strings.Contains(err.Error(), path) || len(b.steps) != 0 {
					t.Errorf("%v, steps %v", err, b.steps)
				}
				return
			}
			if err != nil || b.output.String() != tt.want {
				t.Errorf("%v, ran %q, want %q", err, b.output.String(), tt.want)
			}
			if replaced := strings.Contains(b.eventTexts(), "WARN The built-in hook appdeploy/pre/03build is replaced by the file "+path); replaced != (tt.replaceable != "") {
				t.Errorf("events: %s", b.eventTexts())
			}
		})
	}
}

// A directory of ten hooks must not say ten times which of the properties they do not get.
func TestRun_RefusedVariablesAreToldOnce(t *testing.T) {
	b := newBench(t)
	b.file(dir, "01a", "#!/bin/sh\necho \"preload=$LD_PRELOAD\"\n", 0o755)
	b.file(dir, "02b", "#!/bin/sh\necho \"preload=$LD_PRELOAD\"\n", 0o755)
	call := b.call(dir)
	call.Env = append(call.Env, "LD_PRELOAD=/x.so")
	if err := b.runner(hooks.Options{}).Run(t.Context(), call, b, nil); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.eventTexts(), "run without LD_PRELOAD"); n != 1 {
		t.Errorf("told %d times:\n%s", n, b.eventTexts())
	}
	if got := b.output.String(); got != "preload=\npreload=\n" {
		t.Errorf("hooks put out %q", got)
	}
}

func TestRun_StepsAreJournalled(t *testing.T) {
	b := newBench(t)
	b.file(dir, "01once", "#!/bin/sh\n", 0o755)
	b.file(dir, "02again", "#!/bin/sh\n# hostmanager: repeatable\n", 0o755)
	b.file(dir, "09fails", "#!/bin/sh\nexit 3\n", 0o755)
	b.file(dir, "10never", "#!/bin/sh\n", 0o755)
	saver := hooks.Builtin{
		Name: "03saver", Semantics: protocol.Compensated,
		Run: func(_ context.Context, c *hooks.Call) error {
			return errors.Join(c.Save(map[string]int{"a": 1}), c.Save(map[string]int{"a": 2}))
		},
		Undo: func(_ context.Context, c *hooks.Call) error {
			_, err := fmt.Fprintf(c.Output, "undo %s %s", c.Dir, c.Saved)
			return err
		},
	}
	r := b.runner(hooks.Options{Builtins: map[string][]hooks.Builtin{dir: {saver}}})
	if err := r.Run(t.Context(), b.call(dir), b, nil); err == nil {
		t.Error("a failing hook passed")
	}
	want := []string{
		"started appdeploy/pre/01once once ", "done appdeploy/pre/01once",
		"started appdeploy/pre/02again repeatable ", "done appdeploy/pre/02again",
		"started appdeploy/pre/03saver compensated ", `started appdeploy/pre/03saver compensated {"a":1}`,
		`started appdeploy/pre/03saver compensated {"a":2}`, "done appdeploy/pre/03saver",
		"started appdeploy/pre/09fails once ",
	}
	if !slices.Equal(b.steps, want) {
		t.Errorf("steps:\n%s", strings.Join(b.steps, "\n"))
	}
	call := b.call("")
	call.Saved = json.RawMessage(`{"a":2}`)
	if err := r.Undo(t.Context(), call, "appdeploy/pre/03saver"); err != nil || b.output.String() != `undo appdeploy/pre {"a":2}` {
		t.Errorf("%v, %q", err, b.output.String())
	}
	for _, step := range []string{"appdeploy/pre/01once", "appdeploy/post/03saver", "03saver", ""} {
		if err := r.Undo(t.Context(), call, step); err == nil {
			t.Errorf("undo of %q passed", step)
		}
	}
}

// full fails on the nth record.
type full struct {
	*bench
	left int
}

func (f *full) Started(step string, s protocol.Semantics, p json.RawMessage) error {
	if f.left--; f.left < 0 {
		return io.ErrShortWrite
	}
	return f.bench.Started(step, s, p)
}

func TestRun_NothingRunsThatCannotBeJournalled(t *testing.T) {
	b := newBench(t)
	b.file(dir, "00a", "#!/bin/sh\necho ran\n", 0o755)
	b.file(dir, "01b", "#!/bin/sh\necho ran\n", 0o755)
	err := b.runner(hooks.Options{}).Run(t.Context(), b.call(dir), &full{b, 1}, nil)
	if !errors.Is(err, io.ErrShortWrite) || b.output.String() != "ran\n" {
		t.Errorf("%v, output %q", err, b.output.String())
	}
}

// coded is a built-in hook's error that knows more.
type coded struct{ error }

func (coded) ExitCode() int  { return 42 }
func (coded) Output() string { return "step 3/5: no such file" }

func TestRun_FailureSaysWhichHookAndWhy(t *testing.T) {
	tests := []struct {
		name    string
		body    string
		builtin func(context.Context, *hooks.Call) error
		code    int
		tail    string
	}{
		{"exit status", "#!/bin/sh\necho why >&2\nexit 7\n", nil, 7, "why"},
		{"signal", "#!/bin/sh\nkill -9 $$\n", nil, 1, ""},
		{"no interpreter", "#!/nowhere/ruby\n", nil, 1, "the interpreter /nowhere/ruby named in its first line does not exist"},
		{"built-in", "", func(context.Context, *hooks.Call) error { return errors.New("no disk left") }, 1, "no disk left"},
		{"built-in that knows more", "", func(context.Context, *hooks.Call) error { return fmt.Errorf("build: %w", coded{errors.New("x")}) }, 42, "step 3/5: no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			o := hooks.Options{}
			if tt.builtin != nil {
				o.Builtins = map[string][]hooks.Builtin{dir: {{Name: "03x", Semantics: protocol.Once, Run: tt.builtin}}}
			} else {
				b.file(dir, "03x", tt.body, 0o755)
			}
			var told error
			err := b.runner(o).Run(t.Context(), b.call(dir), b, func(string) (io.Writer, func(error)) {
				return io.Discard, func(err error) { told = err }
			})
			var e *hooks.Error
			if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), "Hook "+filepath.Join(b.root.HookDir(dir), "03x")+" failed") {
				t.Fatalf("got %v", err)
			}
			if e.ExitCode() != tt.code || !strings.Contains(e.Output(), tt.tail) {
				t.Errorf("code %d, output %q", e.ExitCode(), e.Output())
			}
			if told == nil || !errors.Is(err, told) {
				t.Errorf("the watch was told %v", told)
			}
		})
	}
}

// writerFunc is called at every line.
type writerFunc func()

func (f writerFunc) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

func TestRun_DeadlineEndsTheHookAndTheDirectory(t *testing.T) {
	b := newBench(t)
	b.file(dir, "00a", "#!/bin/sh\necho $EB_COMMAND_DEADLINE\n", 0o755)
	b.file(dir, "01slow", "#!/bin/sh\necho slow\nexec sleep 300\n", 0o755)
	b.file(dir, "02never", "#!/bin/sh\necho never\n", 0o755)
	why := errors.New("command timed out")
	deadline := time.Now().Add(time.Hour)
	far, stop := context.WithDeadline(t.Context(), deadline)
	defer stop()
	ctx, cancel := context.WithCancelCause(far)
	defer cancel(nil)
	r := b.runner(hooks.Options{})
	err := r.Run(ctx, b.call(dir), b, func(hook string) (io.Writer, func(error)) {
		if hook == "01slow" {
			return writerFunc(func() { cancel(why) }), func(error) {}
		}
		return b, func(error) {}
	})
	var exit *proc.ExitError
	if !errors.Is(err, why) || !errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
	if got := b.output.String(); got != fmt.Sprintln(deadline.UnixMilli()) {
		t.Errorf("output %q", got)
	}
	if err := r.Run(ctx, b.call(dir), b, nil); !errors.Is(err, why) || errors.As(err, new(*hooks.Error)) {
		t.Errorf("after the deadline: %v", err)
	}
}

func TestRun_EnvironmentOfFiles(t *testing.T) {
	b := newBench(t)
	t.Setenv("INHERITED", "no")
	b.file(dir, "00env", "#!/bin/sh\nenv | grep -v ^EB_EVENT_FILE | sort; pwd; test -w \"$EB_EVENT_FILE\" && echo writable\n", 0o755)
	call := b.call(dir, "EB_REQUEST_ID=r", "HOME=/home/x")
	if err := b.runner(hooks.Options{}).Run(t.Context(), call, b, nil); err != nil {
		t.Fatal(err)
	}
	mark := hooks.Mark(b.root, call.Deployment)
	mark += "\n" + hooks.StepMark(b.root, call.Deployment, dir+"/00env")
	want := "EB_REQUEST_ID=r\nHOME=/home/x\n" + mark + "\nLANG=en_US.UTF-8\nPATH=" + hooks.DefaultPath + "\nPWD=" + string(b.root) + "\n" + string(b.root) + "\nwritable\n"
	if got := b.output.String(); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}

func TestRun_RelativeRoot(t *testing.T) {
	b := newBench(t)
	t.Chdir(filepath.Dir(string(b.root)))
	b.file(dir, "00a", "#!/bin/sh\npwd -P; echo $PWD\n", 0o755)
	call := b.call(dir)
	call.Root = layout.Root(filepath.Base(string(b.root)))
	if err := b.runner(hooks.Options{}).Run(t.Context(), call, b, nil); err != nil || b.output.String() != fmt.Sprintf("%s\n%s\n", b.root, b.root) {
		t.Errorf("%q, %v", b.output.String(), err)
	}
}

func TestRun_EventsOfEveryHookOfTheDirectory(t *testing.T) {
	b := newBench(t)
	b.file(dir, "00a", "#!/bin/sh\necho $EB_EVENT_FILE >&2\nprintf '{\"msg\":\"one\",\"severity\":\"warn\",\"timestamp\":1500445448}\\n---\\n{\"msg\":\"half' >> $EB_EVENT_FILE\n", 0o755)
	b.file(dir, "02b", "#!/bin/sh\nprintf ' and half\"}\\n---\\n' >> $EB_EVENT_FILE\n", 0o755)
	b.file(dir, "03c", "#!/bin/sh\nprintf 'not: [an event\\n---\\nmsg: three\\n---\\n' >> $EB_EVENT_FILE\nexit 1\n", 0o755)
	var at01 string
	peek := hooks.Builtin{Name: "01peek", Semantics: protocol.Repeatable, Run: func(context.Context, *hooks.Call) error {
		at01 = b.eventTexts()
		return nil
	}}
	err := b.runner(hooks.Options{Builtins: map[string][]hooks.Builtin{dir: {peek}}}).Run(t.Context(), b.call(dir), b, nil)
	if err == nil {
		t.Error("the failing hook passed")
	}
	if at01 != "WARN one" {
		t.Errorf("after the first hook: %q", at01)
	}
	got := strings.Split(b.eventTexts(), "\n")
	if len(got) != 4 || got[1] != "INFO half and half" || got[2] != "INFO three" || !strings.Contains(got[3], "03c wrote events that could not be used (1 problems, the first: neither JSON nor YAML") {
		t.Errorf("events:\n%s", b.eventTexts())
	}
	if !b.events[0].Time.Equal(time.Unix(1500445448, 0)) {
		t.Errorf("time %v", b.events[0].Time)
	}
	if _, err := os.Stat(strings.TrimSpace(b.output.String())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the event file stays: %v", err)
	}
}

// Whatever a hook makes of its event file, it is told in one WARN event why, and nothing else is read than the beginning of that very file.
func TestRun_EventFileIsBounded(t *testing.T) {
	for name, tc := range map[string]struct {
		body string
		most int // events besides the warning
		says string
	}{
		"too many bytes": {
			`i=0; while [ $i -lt 30 ]; do printf '{"msg":"'; head -c 60000 /dev/zero | tr '\0' x; printf '"}\n---\n'; i=$((i+1)); done > $EB_EVENT_FILE`,
			17, "more than 1048576 bytes",
		},
		"too many events": {`yes '{"msg":"m"}
---' | head -n 4000 > $EB_EVENT_FILE`, 500, "more than 500 events"},
		"one endless": {"head -c 2000000 /dev/zero | tr '\\0' x > $EB_EVENT_FILE", 0, "more than 1048576 bytes"},
		"a fifo":      {"rm $EB_EVENT_FILE; mkfifo $EB_EVENT_FILE", 0, "no regular file any more"},
		"a folder":    {"rm $EB_EVENT_FILE; mkdir $EB_EVENT_FILE", 0, "no regular file any more"},
		"a link":      {"ln -sf $PWD/others $EB_EVENT_FILE", 0, "could not be read"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			if err := os.WriteFile(b.root.Join("others"), []byte("{\"msg\":\"another's\"}\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			b.file(dir, "00a", "#!/bin/sh\n"+tc.body+"\n", 0o755)
			b.file(dir, "01b", "#!/bin/sh\n:\n", 0o755)
			if err := b.runner(hooks.Options{}).Run(t.Context(), b.call(dir), b, nil); err != nil {
				t.Fatal(err)
			}
			warnings := slices.DeleteFunc(slices.Clone(b.events), func(e protocol.Event) bool { return e.Severity != protocol.Warn })
			if len(warnings) == 0 || !strings.Contains(warnings[0].Msg, tc.says) {
				t.Errorf("told %v", warnings)
			}
			if n := len(b.events) - len(warnings); n > tc.most || strings.Contains(b.eventTexts(), "another's") {
				t.Errorf("%d events, %d at the most may be; the first %v", n, tc.most, b.events[0])
			}
		})
	}
}

// What of an event file could not be used is quoted, but no secret in it, nor a part of one that the cut would leave.
func TestRun_EventsHideSecrets(t *testing.T) {
	const secret = "c0rrect-horse-battery"
	b := newBench(t)
	b.file(dir, "00a", "#!/bin/sh\nprintf 'msg: it is "+secret+"\n---\n' >> $EB_EVENT_FILE\n", 0o755)
	b.file(dir, "01b", "#!/bin/sh\nprintf 'no: [event, "+secret+"\n---\n' >> $EB_EVENT_FILE\n", 0o755)
	b.file(dir, "02c", "#!/bin/sh\nprintf 'no: [event "+strings.Repeat("x", 75)+secret+"\n---\n' >> $EB_EVENT_FILE\n", 0o755)
	call := b.call(dir)
	call.Redact = redact.New()
	call.Redact.Add(secret)
	if err := b.runner(hooks.Options{}).Run(t.Context(), call, b, nil); err != nil {
		t.Fatal(err)
	}
	if len(b.events) != 3 || strings.Contains(b.eventTexts(), secret[:4]) {
		t.Errorf("events:\n%s", b.eventTexts())
	}
}

func TestNew_RefusesBuiltinsThatCannotWork(t *testing.T) {
	run := func(context.Context, *hooks.Call) error { return nil }
	tests := map[string][]hooks.Builtin{
		"no name":               {{Semantics: protocol.Once, Run: run}},
		"extension":             {{Name: "03build.sh", Semantics: protocol.Once, Run: run}},
		"path":                  {{Name: "a/b", Semantics: protocol.Once, Run: run}},
		"no Run":                {{Name: "a", Semantics: protocol.Once}},
		"no semantics":          {{Name: "a", Run: run}},
		"compensated, no Undo":  {{Name: "a", Semantics: protocol.Compensated, Run: run}},
		"Undo, not compensated": {{Name: "a", Semantics: protocol.Once, Run: run, Undo: run}},
		"twice":                 {says("a"), says("a")},
	}
	for name, builtins := range tests {
		if _, err := hooks.New(hooks.Options{Builtins: map[string][]hooks.Builtin{dir: builtins}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A hook may put anything in the place of a later one: what is no file any more when its turn comes fails, and holds nobody.
func TestRun_APipeInAHooksPlace(t *testing.T) {
	const dir = "appdeploy/pre"
	for name, put := range map[string]string{"a pipe": "mkfifo 06b", "a link to a pipe": "mkfifo ../pipe && ln -s ../pipe 06b"} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.file(dir, "05a", "#!/bin/sh\ncd "+b.root.HookDir(dir)+" && rm 06b && "+put+" && chmod 755 06b\n", 0o755)
			path := b.file(dir, "06b", "#!/bin/sh\n# hostmanager: repeatable\n", 0o755)
			r, err := hooks.New(hooks.Options{})
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- r.Run(t.Context(), b.call(dir), b, nil) }()
			select {
			case err := <-ended:
				var start *proc.StartError
				if err == nil || !strings.Contains(err.Error(), path) || !errors.As(err, &start) || start.Hint != "it is no regular file" {
					t.Errorf("got %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it hangs")
			}
			if !slices.Contains(b.steps, "started "+dir+"/06b once ") {
				t.Errorf("steps %q", b.steps)
			}
		})
	}
}
