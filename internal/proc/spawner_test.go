package proc_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/internal/proc"
)

func TestSpawner_WhatAHookFinds(t *testing.T) {
	for _, kind := range kinds(t) {
		t.Run(kind, func(t *testing.T) {
			extra, err := os.Open("/dev/null")
			if err != nil {
				t.Fatal(err)
			}
			defer extra.Close()
			leak, err := syscall.Dup(int(extra.Fd())) // as a careless parent leaves one: without close-on-exec
			if err != nil {
				t.Fatal(err)
			}
			defer syscall.Close(leak)
			a := newArena(t, kind)
			old := syscall.Umask(0o077)
			defer syscall.Umask(old)
			_, out, err := a.run(t.Context(), "umask; ulimit -c; ulimit -Hc; readlink /proc/self/fd/0; for f in /proc/$$/fd/*; do readlink $f; done; grep -c . /proc/self/oom_score_adj; [ $(ps -o sid= -p $$) = $$ ] && echo own session")
			text := strings.Join(out, "")
			if err != nil || !strings.HasPrefix(text, "0022\n0\n0\n/dev/null\n/dev/null\npipe:[") || !strings.HasSuffix(text, "own session\n") {
				t.Errorf("%q, %v", text, err)
			}
			if n := strings.Count(text, "/dev/null"); n != 2 { // once as stdin by readlink, once in the list
				t.Errorf("an open file was inherited: %q", text)
			}
		})
	}
}

func TestSpawner_ReasonsAreTyped(t *testing.T) {
	a := newArena(t, proc.Auto)
	reason := func(body string, into any) string {
		t.Helper()
		_, _, err := a.run(t.Context(), body)
		if !errors.As(err, into) {
			t.Errorf("%s: got %v", body, err)
		}
		var e *proc.ExitError
		if errors.As(err, &e) {
			return e.Sentence()
		}
		return err.Error()
	}
	var status *proc.StatusError
	var signal *proc.SignalError
	for body, want := range map[string]string{
		"nosuchcommand": "status 127: a command in it was not found", "/etc/passwd": "status 126: a command in it was found but could not be executed",
		"sh -c 'kill -SEGV $$'": "status 139: a program it ran was ended by the signal SIGSEGV",
	} {
		if got := reason(body, &status); !strings.Contains(got, want) {
			t.Errorf("%s: %q", body, got)
		}
	}
	if got := reason("kill -USR1 $$", &signal); !strings.Contains(got, "SIGUSR1, which hostmanager did not send") {
		t.Errorf("got %q", got)
	}
	var exit *proc.ExitError
	if got := reason("exit 3", &exit); got != "" || exit.Code != 3 {
		t.Errorf("got %q, %v", got, exit)
	}
	var start *proc.StartError
	_, _, err := a.run(t.Context(), "", func(c *proc.Command) { c.Path = script(t, "#!/opt/ruby/bin/ruby\n") })
	if !errors.As(err, &start) || !strings.Contains(start.Hint, "the interpreter /opt/ruby/bin/ruby") {
		t.Errorf("got %v", err)
	}
}

// field reads a value of the last audit line.
func (a *arena) field(name string) string {
	a.t.Helper()
	last := ""
	for line := range strings.Lines(a.log.String()) {
		if strings.Contains(line, "msg=spawn ") {
			last = line
		}
	}
	_, rest, ok := strings.Cut(last, " "+name+"=")
	if !ok {
		return ""
	}
	value, _, _ := strings.Cut(strings.TrimRight(rest, "\n"), " ")
	return value
}

func digest(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func TestSpawner_AuditSaysWhatRan(t *testing.T) {
	for _, kind := range kinds(t) {
		a := newArena(t, kind)
		file := script(t, "#!/bin/sh\nexit 4\n")
		_, _, err := a.run(t.Context(), "", func(c *proc.Command) { c.Path = file })
		if err == nil {
			t.Error("no error")
		}
		for name, want := range map[string]string{"path": file, "sha256": digest(t, file), "exit": "4", "user": strconv.Itoa(os.Getuid()), "containment": kind, "left": "0"} {
			if got := a.field(name); got != want {
				t.Errorf("%s: %s is %q, want %q", kind, name, got, want)
			}
		}
		for _, name := range []string{"pid", "user_ms", "system_ms", "max_rss", "took_ms"} {
			if _, err := strconv.Atoi(a.field(name)); err != nil {
				t.Errorf("%s: %s is %q", kind, name, a.field(name))
			}
		}
		if (kind != proc.Subreaper) != strings.Contains(a.field("leaf"), "/hook-") {
			t.Errorf("%s: leaf is %q", kind, a.field("leaf"))
		}
	}
}

// swap exchanges what a link leads to, as fast as it can, until stop is closed.
func swap(t *testing.T, link string, targets []string, replace bool, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		tmp := link + ".next"
		err := os.Symlink(targets[i%len(targets)], tmp)
		if replace {
			_ = os.Remove(tmp)
			err = os.Link(targets[i%len(targets)], tmp)
		}
		if err == nil {
			err = os.Rename(tmp, link)
		}
		if err != nil {
			t.Error(err)
			return
		}
	}
}

// TestSpawner_AuditDoesNotLie runs what is exchanged at full speed by a process as mighty as the agent: whatever ran is what the audit line names,
// or the hook was refused before its first instruction. A script that is replaced as a file is the one case that can only be told afterwards.
func TestSpawner_AuditDoesNotLie(t *testing.T) {
	dir := t.TempDir()
	good, evil := filepath.Join(dir, "good"), filepath.Join(dir, "evil")
	for _, name := range []string{good, evil} {
		if err := os.WriteFile(name, []byte("#!/bin/sh\necho "+filepath.Base(name)+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	programs := []string{filepath.Join(dir, "true"), filepath.Join(dir, "false")}
	for _, p := range programs {
		b, err := os.ReadFile("/bin/" + filepath.Base(p))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name    string
		targets []string
		replace bool
	}{{"link to scripts", []string{good, evil}, false}, {"link to programs", programs, false}, {"program replaced", programs, true}, {"script replaced", []string{good, evil}, true}} {
		t.Run(tt.name, func(t *testing.T) {
			a := newArena(t, proc.Auto)
			link := filepath.Join(t.TempDir(), "hook")
			stop, stopped := make(chan struct{}), make(chan struct{})
			if err := os.Link(tt.targets[0], link); err != nil {
				t.Fatal(err)
			}
			go func() {
				defer close(stopped)
				swap(t, link, tt.targets, tt.replace, stop)
			}()
			for range 20 {
				_, out, err := a.run(t.Context(), "", func(c *proc.Command) { c.Path = link })
				if errors.Is(err, proc.ErrExchanged) || errors.Is(err, os.ErrNotExist) {
					continue
				}
				ran := ""
				switch {
				case len(out) > 0:
					ran = filepath.Join(dir, strings.TrimSpace(out[0]))
				case err == nil:
					ran = programs[0]
				default:
					ran = programs[1]
				}
				if digest(t, ran) != a.field("sha256") && a.field("changed_meanwhile") != "true" && !strings.HasPrefix(tt.name, "script replaced") {
					t.Fatalf("%s ran, the audit line says %s: %s", ran, a.field("executed"), a.field("sha256"))
				}
			}
			close(stop)
			<-stopped
		})
	}
}

// A script that others than root can exchange is run from a copy of what was read.
func TestSpawner_RunsACopyOfWhatOthersCanExchange(t *testing.T) {
	a := newArena(t, proc.Auto)
	dir := t.TempDir()
	file := filepath.Join(dir, "hook.sh")
	if err := os.WriteFile(file, []byte("#!/bin/sh\nreadlink -f $0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, out, err := a.run(t.Context(), "", func(c *proc.Command) { c.Path = file })
	if err != nil || strings.Join(out, "") != file+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_, out, err = a.run(t.Context(), "", func(c *proc.Command) { c.Path = file })
	if err != nil || !strings.HasSuffix(strings.Join(out, ""), "/hook.sh\n") || strings.Join(out, "") == file+"\n" {
		t.Errorf("%q, %v", out, err)
	}
	if _, err := os.Stat(strings.TrimSpace(strings.Join(out, ""))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy is still there: %v", err)
	}
}

func TestSpawner_FileThatLeadsOutIsRefused(t *testing.T) {
	a := newArena(t, proc.Auto)
	dir := t.TempDir()
	link := filepath.Join(dir, "hook")
	if err := os.Symlink("/bin/true", link); err != nil {
		t.Fatal(err)
	}
	_, _, err := a.run(t.Context(), "", func(c *proc.Command) { c.Path, c.Within = link, dir })
	var start *proc.StartError
	if !errors.As(err, &start) || !strings.Contains(start.Hint, "leads out of "+dir) {
		t.Errorf("got %v", err)
	}
}

func TestSpawner_DetachedDaemonLivesOn(t *testing.T) {
	for _, kind := range kinds(t) {
		t.Run(kind, func(t *testing.T) {
			a := newArena(t, kind)
			detach := func(c *proc.Command) {
				c.MayDetach = func(r io.Reader) bool {
					b, err := io.ReadAll(r)
					return err == nil && strings.Contains(string(b), "sleep")
				}
				c.Drain = 20 * time.Millisecond
			}
			res, _, err := a.run(t.Context(), "setsid sleep $U >/dev/null 2>&1 & while ! grep -q ^sleep /proc/$!/cmdline; do :; done; exit 0", detach)
			if err != nil || res.Detached == 0 || res.Left != 0 {
				t.Fatalf("%+v, %v", res, err)
			}
			if len(a.living()) != 1 {
				t.Fatalf("the daemon does not live: %q", a.living())
			}
			if res, _, err := a.run(t.Context(), "true"); err != nil || res.Left != 0 {
				t.Errorf("the next one: %+v, %v", res, err)
			}
			if err := a.Sweep(t.Context(), filepath.Join(t.TempDir(), "leaves.json")); err != nil {
				t.Error(err)
			}
			left := a.living()
			if len(left) != 1 {
				t.Fatalf("the daemon was ended: %q", left)
			}
			pid, err := strconv.Atoi(strings.Fields(left[0])[0])
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			gone(t, pid)
			if err := a.Sweep(t.Context(), filepath.Join(t.TempDir(), "leaves.json")); err != nil { // now its leaf goes
				t.Error(err)
			}
			// One that fails leaves nothing, whatever it says.
			if res, _, err := a.run(t.Context(), "setsid sleep $U & sleep 0.05; exit 1", detach); err == nil || res.Detached != 0 || len(a.living()) > 0 {
				t.Errorf("%+v, %v, %q", res, err, a.living())
			}
		})
	}
}

// flood is what the 10 GB writer writes: 10 GB where HOSTMANAGER_TEST_LONG is set.
func flood() int64 {
	if os.Getenv("HOSTMANAGER_TEST_LONG") != "" {
		return 10 << 30
	}
	return 256 << 20
}

func TestSpawner_FloodKeepsHeadAndTail(t *testing.T) {
	a := newArena(t, proc.Auto)
	n := flood()
	body := fmt.Sprintf("echo first; head -c %d /dev/zero | tr '\\0' 'x' | fold -w 1023; echo; echo last", n)
	_, out, err := a.run(t.Context(), body)
	if err != nil || out[0] != "first\n" || out[len(out)-1] != "last\n" {
		t.Fatalf("%d lines, %v", len(out), err)
	}
	var passed, said int64
	marks := 0
	for _, line := range out {
		if k, _ := fmt.Sscanf(line, "[hostmanager: %d bytes of output are left out here]", &said); k == 1 {
			marks++
			continue
		}
		passed += int64(len(line))
	}
	total := n + n/1023 + int64(len("first\n\nlast\n"))
	if marks != 1 || passed > proc.DefaultHead+proc.DefaultEnd+2 || passed < proc.DefaultHead*4/5 || passed+said < total || passed+said > total+2 {
		t.Errorf("%d bytes passed, %d said to be left out, %d in all, %d marks", passed, said, total, marks)
	}
}

// What fits is passed on unchanged, at every length around the bounds.
func TestSpawner_OutputAroundTheBounds(t *testing.T) {
	a := newArena(t, proc.Auto)
	for _, n := range []int{99, 100, 101, 149, 150, 151, 400} {
		_, out, err := a.run(t.Context(), fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x", n), func(c *proc.Command) { c.Head, c.End = 100, 50 })
		text := strings.Join(out, "")
		said := 0
		for _, line := range out {
			_, _ = fmt.Sscanf(line, "[hostmanager: %d bytes", &said)
		}
		if got := strings.Count(text, "x"); err != nil || got+said != n || n <= 150 && said != 0 || n > 150 && said == 0 {
			t.Errorf("%d: %d passed, %d left out, %q, %v", n, got, said, text, err)
		}
	}
}

// A flood of tiny lines counts for what the logs make of it.
func TestSpawner_FloodOfEmptyLines(t *testing.T) {
	a := newArena(t, proc.Auto)
	_, out, err := a.run(t.Context(), "head -c 20000000 /dev/zero | tr '\\0' '\\n'; echo last")
	if err != nil || len(out) > (proc.DefaultHead+proc.DefaultEnd)/128+2 || out[len(out)-1] != "last\n" {
		t.Errorf("%d lines, %v", len(out), err)
	}
}

func TestSpawner_SeveralAtOnceDoNotTouchEachOther(t *testing.T) {
	for _, kind := range kinds(t) {
		t.Run(kind, func(t *testing.T) {
			a := newArena(t, kind)
			errs := make(chan error, 6)
			for i := range cap(errs) {
				go func() {
					body := "setsid sleep $U & sleep 0.3; exit 0"
					if i%2 == 0 {
						body = "(setsid sh -c 'sleep 0.6; exit 0' & wait $!) && exit 0"
					}
					res, _, err := a.run(t.Context(), body)
					if err == nil && (res.Left > 0) != (i%2 == 1) {
						err = fmt.Errorf("%d: %+v", i, res)
					}
					errs <- err
				}()
			}
			for range cap(errs) {
				if err := <-errs; err != nil {
					t.Error(err)
				}
			}
			a.empty()
		})
	}
}

func TestNewSpawner_UnknownKindIsRefused(t *testing.T) {
	if _, err := proc.NewSpawner(t.Context(), proc.SpawnerOptions{Kind: "docker"}); err == nil || !strings.Contains(err.Error(), "cgroup2") {
		t.Errorf("got %v", err)
	}
}

func TestParseLimits(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "none": 0, "0": 0, "536870912": 512 << 20, "512M": 512 << 20, "512MiB": 512 << 20, "2g": 2 << 30, "1.5G": 3 << 29, " 8192K ": 8 << 20} {
		if got, err := proc.ParseMemory(text); err != nil || got != want {
			t.Errorf("memory %q: %d, %v", text, got, err)
		}
	}
	if got, err := proc.ParseMemory("50%"); err != nil || got < 32<<20 {
		t.Errorf("half: %d, %v", got, err)
	}
	for text, want := range map[string]float64{"none": 0, "1.5": 1.5, "150%": 1.5, "50 %": 0.5} {
		if got, err := proc.ParseCPU(text); err != nil || got != want {
			t.Errorf("CPU %q: %v, %v", text, got, err)
		}
	}
	for text, want := range map[string]int64{"none": 0, "1024": 1024} {
		if got, err := proc.ParsePIDs(text); err != nil || got != want {
			t.Errorf("processes %q: %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"x", "-1", "NaN", "inf", "1e999", "%", "M", "12Q"} {
		_, err1 := proc.ParseMemory(bad)
		_, err2 := proc.ParseCPU(bad)
		_, err3 := proc.ParsePIDs(bad)
		if i := slices.Index([]bool{errors.Is(err1, proc.ErrLimit), errors.Is(err2, proc.ErrLimit), errors.Is(err3, proc.ErrLimit)}, false); i >= 0 {
			t.Errorf("%q: %v, %v, %v", bad, err1, err2, err3)
		}
	}
}
