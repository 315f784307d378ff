package proc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hostmanager/internal/proc"
)

// TestMain lets the test binary be an agent that starts a child and is then killed.
func TestMain(m *testing.M) {
	if kind := os.Getenv("PROC_SPAWNER"); kind != "" {
		s, err := proc.NewSpawner(context.Background(), proc.SpawnerOptions{Kind: kind, Owner: os.Getenv("PROC_OWNER")})
		if err == nil {
			err = s.Sweep(context.Background(), os.Getenv("PROC_STATE"))
		}
		if err == nil {
			_, err = s.Run(context.Background(), proc.Command{Path: os.Getenv("PROC_AGENT"), Env: []string{"PATH=/usr/bin:/bin"}, Output: os.Stdout})
		}
		fmt.Println("agent ended", err)
		os.Exit(0)
	}
	if script := os.Getenv("PROC_AGENT"); script != "" {
		_, err := proc.Run(context.Background(), proc.Command{Path: script, Env: []string{"PATH=/usr/bin:/bin"}, Output: os.Stdout})
		fmt.Println("agent ended", err)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const path = "PATH=/usr/local/bin:/usr/bin:/bin"

// script writes an executable file.
func script(t testing.TB, body string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "hook.sh")
	if err := os.WriteFile(name, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	return name
}

// lines collects Writes.
type lines struct {
	mu    sync.Mutex
	got   []string
	first chan struct{} // closed at the first line, when set
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got = append(l.got, string(p))
	if l.first != nil && len(l.got) == 1 {
		close(l.first)
	}
	return len(p), nil
}

// gone waits until a process is no more.
func gone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d still lives: %s", pid, b)
		}
	}
}

func TestRun_OutputLineByLine(t *testing.T) {
	var out lines
	res, err := proc.Run(t.Context(), proc.Command{
		Path: script(t, "#!/bin/sh\necho one $X; echo two >&2\nprintf 'no newline\\n\\n'; printf last; readlink /proc/self/fd/0; pwd; echo ${HOME-none}\n"),
		Env:  []string{path, "X=a b"}, Dir: "/", Output: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"one a b\n", "two\n", "no newline\n", "\n", "last/dev/null\n", "/\n", "none\n"}
	if strings.Join(out.got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", out.got, want)
	}
	if res.HeldOpen || res.PID == 0 || !strings.HasSuffix(res.Tail, "none") {
		t.Errorf("result %+v", res)
	}
}

func TestRun_RelativePathIsNotTheWorkingDirectorys(t *testing.T) {
	t.Chdir(filepath.Dir(script(t, "#!/bin/sh\npwd\n")))
	var out lines
	if _, err := proc.Run(t.Context(), proc.Command{Path: "hook.sh", Dir: "/", Env: []string{path}, Output: &out}); err != nil || out.got[0] != "/\n" {
		t.Errorf("%q, %v", out.got, err)
	}
}

func TestRun_ArgumentsReachTheProgramAndTheLogQuoted(t *testing.T) {
	var out lines
	var log bytes.Buffer
	_, err := proc.Run(t.Context(), proc.Command{
		Path: script(t, "#!/bin/sh\nfor a; do echo \"<$a>\"; done\n"), Args: []string{"plain", "two words", "", "$HOME"}, Env: []string{path},
		Output: &out, Log: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil || strings.Join(out.got, "") != "<plain>\n<two words>\n<>\n<$HOME>\n" {
		t.Errorf("%q, %v", out.got, err)
	}
	if !strings.Contains(log.String(), `plain \"two words\" \"\" \"$HOME\"`) {
		t.Errorf("log: %s", log.String())
	}
}

func TestRun_FailureIsTyped(t *testing.T) {
	tests := []struct {
		name, body string
		code       int
		signal     syscall.Signal
		tail       string
	}{
		{"exit status", "#!/bin/sh\necho why\nexit 37\n", 37, 0, "why"},
		{"signal", "#!/bin/sh\necho dying; kill -KILL $$\n", -1, syscall.SIGKILL, "dying"},
		{"command not found", "#!/bin/sh\nnosuchcommand\n", 127, 0, "nosuchcommand: not found"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := proc.Run(t.Context(), proc.Command{Path: script(t, tt.body), Env: []string{path}})
			var e *proc.ExitError
			if !errors.As(err, &e) || e.Code != tt.code || e.Signal != tt.signal || !strings.HasSuffix(e.Tail, tt.tail) || e.Cause != nil || e.TimedOut() {
				t.Errorf("got %#v", err)
			}
		})
	}
}

func TestRun_LongLinesAreBrokenAndBinaryPasses(t *testing.T) {
	var out lines
	res, err := proc.Run(t.Context(), proc.Command{
		Path:   script(t, "#!/bin/sh\nhead -c 250 /dev/zero | tr '\\0' x; echo; printf '\\0\\377\\376'; printf 'a\\303'; head -c 100 /dev/zero | tr '\\0' y\n"),
		Env:    []string{path},
		Output: &out, MaxLine: 100, Tail: 50,
	})
	if err != nil {
		t.Fatal(err)
	}
	x, y := strings.Repeat("x", 100), strings.Repeat("y", 100)
	want := []string{x + "\n", x + "\n", x[:50] + "\n", "\x00\xff\xfea\xc3" + y[:95] + "\n", y[:5] + "\n"}
	if strings.Join(out.got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q", out.got)
	}
	if res.Tail != y[:50] {
		t.Errorf("tail %q", res.Tail)
	}
}

func TestRun_HundredMegabytesInFlatMemory(t *testing.T) {
	var n counter
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := proc.Run(t.Context(), proc.Command{Path: script(t, "#!/bin/sh\nhead -c 104857600 /dev/zero\n"), Env: []string{path}, Output: &n})
	runtime.ReadMemStats(&after)
	if err != nil || n.bytes-n.writes != 100<<20 {
		t.Errorf("%d bytes, %v", n.bytes-n.writes, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 4<<20 {
		t.Errorf("allocated %d bytes", grown)
	}
}

type counter struct{ bytes, writes int }

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += len(p)
	c.writes++
	return len(p), nil
}

func TestRun_LeftoverThatHoldsOutputDoesNotHoldRun(t *testing.T) {
	const wait = "while [ ! -e $MARK ]; do sleep 0.01; done\n"
	for name, body := range map[string]string{
		"in the background": "#!/bin/sh\nsleep 300 &\necho pid $!\n",
		"in a session":      "#!/bin/sh\nsetsid sh -c 'echo pid $$; : > $MARK; exec sleep 300' &\n" + wait,
		"and writes on":     "#!/bin/sh\nsh -c 'echo pid $$; : > $MARK; while :; do echo noise; done' &\n" + wait,
	} {
		t.Run(name, func(t *testing.T) {
			var out lines
			begin := time.Now()
			env := []string{path, "MARK=" + filepath.Join(t.TempDir(), "mark")}
			res, err := proc.Run(t.Context(), proc.Command{Path: script(t, body), Env: env, Output: &out, Drain: 50 * time.Millisecond})
			if err != nil || !res.HeldOpen {
				t.Errorf("%+v, %v", res, err)
			}
			if took := time.Since(begin); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			pid := 0
			if len(out.got) == 0 {
				t.Fatal("no output")
			}
			if _, err := fmt.Sscanf(out.got[0], "pid %d", &pid); err != nil {
				t.Fatalf("%q: %v", out.got[0], err)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
			gone(t, pid)
		})
	}
}

func TestRun_CancelEndsTheWholeGroup(t *testing.T) {
	// Between fork and exec a child still has the shell's traps and would swallow the signal, so it is waited for.
	const child = "sleep 300 &\nwhile [ \"$(cat /proc/$!/comm)\" != sleep ]; do :; done\necho $!\nwait\n"
	tests := []struct {
		name, body string
		grace      time.Duration
		signal     syscall.Signal
		code       int
	}{
		{"heeds TERM", "#!/bin/sh\n" + child, time.Minute, syscall.SIGTERM, -1},
		{"tidies up on TERM", "#!/bin/sh\ntrap 'exit 5' TERM\n" + child, time.Minute, 0, 5},
		{"ends well on TERM", "#!/bin/sh\ntrap 'exit 0' TERM\n" + child, time.Minute, 0, 0},
		{"ignores TERM", "#!/bin/sh\ntrap '' TERM\n" + child, 50 * time.Millisecond, syscall.SIGKILL, -1},
		{"leaves a deaf child", "#!/bin/sh\nsh -c 'trap \"\" TERM; echo $$; while :; do sleep 0.05; done' &\nwait\n", 100 * time.Millisecond, syscall.SIGTERM, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			out := lines{first: make(chan struct{})}
			why := errors.New("operator said so")
			go func() {
				<-out.first
				cancel(why)
			}()
			_, err := proc.Run(ctx, proc.Command{Path: script(t, tt.body), Env: []string{path}, Output: &out, Grace: tt.grace})
			var e *proc.ExitError
			if !errors.As(err, &e) || !errors.Is(err, why) || e.Signal != tt.signal || e.Code != tt.code {
				t.Errorf("got %#v", err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(out.got[0]))
			if err != nil {
				t.Fatal(err)
			}
			gone(t, pid)
		})
	}
}

func TestRun_ChildrenHaveTheSameGraceAsTheirParent(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	out := lines{first: make(chan struct{})}
	go func() {
		<-out.first
		cancel()
	}()
	mark := filepath.Join(t.TempDir(), "tidied")
	_, err := proc.Run(ctx, proc.Command{
		Path: script(t, "#!/bin/sh\nsh -c 'trap \"sleep 0.3; : > "+mark+"; exit\" TERM; echo ready; while :; do sleep 0.05; done' &\nwait\n"),
		Env:  []string{path}, Output: &out, Grace: time.Minute,
	})
	if err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("the child was killed before it could tidy up: %v", err)
	}
}

func TestRun_DeadlineIsATimeout(t *testing.T) {
	slow := script(t, "#!/bin/sh\nexec sleep 300\n")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := proc.Run(ctx, proc.Command{Path: slow, Env: []string{path}})
	var e *proc.ExitError
	if !errors.As(err, &e) || !e.TimedOut() || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %#v", err)
	}
	if _, err := proc.Run(ctx, proc.Command{Path: "/bin/true"}); !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &e) {
		t.Errorf("started after the deadline: %v", err)
	}
}

func TestRun_LogThatTakesNoMoreDoesNotEndTheChild(t *testing.T) {
	res, err := proc.Run(t.Context(), proc.Command{Path: script(t, "#!/bin/sh\nseq 1 100000; echo end\n"), Env: []string{path}, Output: refuser{}})
	if err != nil || !strings.HasSuffix(res.Tail, "end") {
		t.Errorf("%+v, %v", res, err)
	}
}

type refuser struct{}

func (refuser) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestRun_ChildDiesWithTheAgent(t *testing.T) {
	child := script(t, "#!/bin/sh\necho $$\nexec sleep 300\n")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PROC_AGENT="+child)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := 0
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	gone(t, pid)
}

// The next agent ends what hooks of a killed one left, in its own leaves and no others.
func TestSpawner_SweepsAfterADeadAgent(t *testing.T) {
	for _, kind := range kinds(t) {
		if kind == proc.Subreaper {
			continue // nothing remembers; EndMarked is for that
		}
		t.Run(kind, func(t *testing.T) {
			a := newArena(t, kind)
			owner, state := fmt.Sprintf("%s next %d", t.Name(), os.Getpid()), filepath.Join(t.TempDir(), "leaves.json")
			hook := script(t, "#!/bin/sh\nsetsid sh -c 'trap \"\" TERM; echo ready; while :; do sleep 0.0"+a.mark+"; done' &\nwait\n")
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "PROC_SPAWNER="+kind, "PROC_OWNER="+owner, "PROC_STATE="+state, "PROC_AGENT="+hook)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			word := ""
			if _, err := fmt.Fscan(out, &word); err != nil || word != "ready" {
				t.Fatalf("%q, %v", word, err)
			}
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if len(a.living()) == 0 {
				t.Fatal("nothing outlived the agent")
			}
			if err := a.Sweep(t.Context(), filepath.Join(t.TempDir(), "other.json")); err != nil || len(a.living()) == 0 {
				t.Errorf("another owner ended it: %v", err)
			}
			next, err := proc.NewSpawner(t.Context(), proc.SpawnerOptions{Kind: kind, Owner: owner})
			if err != nil {
				t.Fatal(err)
			}
			if err := next.Sweep(t.Context(), state); err != nil {
				t.Error(err)
			}
			if left := a.living(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if err := next.Close(); err != nil {
				t.Error(err)
			}
			var bases []string
			if b, err := os.ReadFile(state); err != nil || json.Unmarshal(b, &bases) != nil || len(bases) == 0 {
				t.Errorf("state %q, %v", b, err)
			}
			for _, base := range bases {
				if _, err := os.Stat(base); err == nil {
					t.Errorf("%s is still there", base)
				}
			}
		})
	}
}

func TestRun_ManyAtOnce(t *testing.T) {
	// Files written while other threads fork are what makes ETXTBSY.
	dir := t.TempDir()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			name := filepath.Join(dir, fmt.Sprint(i))
			if err := os.WriteFile(name, fmt.Appendf(nil, "#!/bin/sh\nexit %d\n", i), 0o755); err != nil {
				t.Error(err)
			}
			_, err := proc.Run(t.Context(), proc.Command{Path: name})
			var e *proc.ExitError
			if i == 0 && err == nil || errors.As(err, &e) && e.Code == i {
				return
			}
			t.Errorf("%d: %v", i, err)
		})
	}
	wg.Wait()
}
