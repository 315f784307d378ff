package table

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func open(t *testing.T) *Table {
	t.Helper()
	table, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	return table
}

func TestTable_ShowsThisProcess(t *testing.T) {
	table := open(t)
	p, ok := table.Get(os.Getpid())
	if !ok || p.PID != os.Getpid() || p.Parent != os.Getppid() || p.Group != unix.Getpgrp() || p.Start == 0 || p.Memory < 1<<20 || p.Threads < 2 || p.Ended() {
		t.Errorf("%+v, %v", p, ok)
	}
	all, err := table.All()
	found := false
	for _, q := range all {
		found = found || q.PID == p.PID && q.Start == p.Start
	}
	if err != nil || !found {
		t.Errorf("%d processes, %v", len(all), err)
	}
	if _, ok := table.Get(1 << 30); ok {
		t.Error("a process that cannot be")
	}
}

func TestTable_NameMayHoldAnything(t *testing.T) {
	table := open(t)
	p, ok := table.parse(7, "7 (a) Z 1 (\n b) S 5 6 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 3 0 99 1 2\n")
	if !ok || p.State != 'S' || p.Parent != 5 || p.Group != 6 || p.Session != 7 || p.Threads != 3 || p.Start != 99 {
		t.Errorf("%+v, %v", p, ok)
	}
	for _, bad := range []string{"", ")", "7 (x", "7 (x) S 1"} {
		if p, ok := table.parse(7, bad); ok {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

func TestTable_SignalsOnlyWhatWasLookedAt(t *testing.T) {
	table := open(t)
	cmd := exec.Command("/bin/sh", "-c", "echo ready; exec sleep 300")
	cmd.Env = []string{"A=1", "MARK=x y", "PATH=/bin:/usr/bin"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	p, ok := table.Get(cmd.Process.Pid)
	if !ok || !table.Carries(p.PID, "MARK=x y") || table.Carries(p.PID, "MARK=x") {
		t.Errorf("%+v, %v", p, ok)
	}
	if v, ok := table.Variable(p.PID, "MARK"); !ok || v != "x y" {
		t.Errorf("%q, %v", v, ok)
	}
	other := p
	other.Start++
	if err := table.Signal(other, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if now, ok := table.Get(p.PID); !ok || now.Ended() {
		t.Error("another process of that number was ended")
	}
	if err := table.Signal(p, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("got %v", err)
	}
	if err := table.Signal(p, unix.SIGKILL); err != nil {
		t.Errorf("one that has ended: %v", err)
	}
}

func TestTable_TellsAWholeEnvironmentFromAPart(t *testing.T) {
	stat := func(state, flags, code, start, end string) string {
		f := strings.Fields(strings.Repeat("0 ", 50))
		f[0], f[6], f[24], f[47], f[48] = state, flags, code, start, end
		return "7 (a) b) " + strings.Join(f, " ")
	}
	for _, c := range []struct {
		name string
		stat string
		size int
		want shown
	}{
		{"in an exec", stat("R", "0", "0", "0", "0"), 0, coming},
		{"in an exec, where its environment begins", stat("R", "0", "0", "100", "100"), 0, coming},
		{"read in an exec that is over", stat("S", "0", "90", "100", "140"), 0, part},
		{"a part", stat("S", "0", "90", "100", "140"), 16, part},
		{"all", stat("S", "0", "90", "100", "140"), 40, whole},
		{"empty", stat("S", "0", "90", "100", "100"), 0, whole},
		{"a thread of the kernel", stat("S", "2129984", "0", "0", "0"), 0, whole},
		{"ending", stat("R", "4194308", "0", "0", "0"), 0, whole},
		{"dead", stat("Z", "0", "0", "0", "0"), 0, whole},
		{"longer than is read", stat("S", "0", "90", "0", "99999999"), maxEntry, whole},
		{"cut", "7 (a) S 1 2 3", 0, whole},
		{"no numbers", stat("S", "x", "0", "y", "z"), 0, whole},
	} {
		if got := shownOf(c.stat, c.size); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// started starts a process that is ended with the test, and returns both ends of it.
func started(t *testing.T, cmd *exec.Cmd) (in io.Writer, out io.Reader) {
	t.Helper()
	in, errIn := cmd.StdinPipe()
	out, errOut := cmd.StdoutPipe()
	if err := errors.Join(errIn, errOut); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return in, out
}

// Of a process that was started without an environment that is known at once: nobody waits for one.
func TestTable_KnowsThatThereIsNoEnvironment(t *testing.T) {
	table := open(t)
	cmd := exec.Command("/bin/cat")
	cmd.Env = []string{}
	in, out := started(t, cmd)
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it is past its exec
		t.Fatal(err)
	}
	if env, err := table.environ(cmd.Process.Pid); err != nil || len(env) > 0 || table.shown(cmd.Process.Pid, 0) != whole {
		t.Errorf("%q, %v", env, err)
	}
}

// A process can take its environment out of its memory; that is told from an exec, so nobody waits half a second for each such process.
func TestTable_TellsAnUnmappedEnvironmentFromAnExec(t *testing.T) {
	const unmap = "UNMAP_ENVIRONMENT"
	table := open(t)
	if os.Getenv(unmap) != "" {
		unmapEnvironment(t, table)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$")
	cmd.Env = []string{unmap + "=1", "LONG=" + strings.Repeat("x", 64<<10)}
	_, out := started(t, cmd)
	if got, err := bufio.NewReader(out).ReadString('\n'); err != nil || got != "unmapped\n" {
		t.Fatalf("%q, %v", got, err)
	}
	env, err := table.environ(cmd.Process.Pid)
	if got := table.shown(cmd.Process.Pid, len(env)); got != part || len(env) >= 64<<10 {
		t.Errorf("shown is %d, %d bytes, %v", got, len(env), err)
	}
}

// unmapEnvironment takes the whole pages of this process's environment away, says so, and waits. Nothing of Go's may look at it any more.
func unmapEnvironment(t *testing.T, table *Table) {
	b, err := table.read(os.Getpid(), "stat", 4<<10)
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	start, err1 := strconv.ParseUint(f[47], 10, 64)
	end, err2 := strconv.ParseUint(f[48], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	page := uint64(os.Getpagesize())
	from, to := (start+page-1)/page*page, (end+page-1)/page*page // to the end of the stack, which would grow back otherwise
	if _, _, errno := unix.RawSyscall(unix.SYS_MUNMAP, uintptr(from), uintptr(to-from), 0); errno != 0 {
		t.Fatal(errno)
	}
	_, _ = unix.Write(1, []byte("unmapped\n"))
	_, _ = unix.Read(0, make([]byte, 1))
	unix.Exit(0)
}

// A process that goes from program to program is shown without an environment now and then; it must not pass for unmarked.
func TestTable_KnowsWhatIsInTheMiddleOfAnExec(t *testing.T) {
	table := open(t)
	script := filepath.Join(t.TempDir(), "again")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec \"$0\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(script)
	cmd.Env = []string{"MARK=x"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for i := range 20_000 {
		if table.Carries(cmd.Process.Pid, "MARK=x") {
			continue
		}
		// A look has half a second, in which a starved machine may not get to a second read.
		if !table.Carries(cmd.Process.Pid, "MARK=x") {
			t.Fatalf("not recognised at look %d", i)
		}
	}
}
