package proc_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hostmanager/internal/proc"
)

// orphan starts a process in a session of its own, as a hook leaves one, and returns its number once it is what it will be.
func orphan(t *testing.T, env, body string) int {
	t.Helper()
	var out lines
	_, err := proc.Run(t.Context(), proc.Command{
		Path: script(t, "#!/bin/sh\nsetsid sh -c '"+body+"' >/dev/null 2>&1 &\nwhile ! grep -q ready $MARK; do sleep 0.01; done 2>/dev/null\necho $!\n"),
		Env:  []string{path, env, "MARK=" + t.TempDir() + "/mark"}, Output: &out,
	})
	if err != nil {
		t.Fatal(err)
	}
	pid := 0
	if _, err := fmt.Sscan(strings.Join(out.got, ""), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func TestEndMarked_EndsWhatCarriesTheMarkAndNothingElse(t *testing.T) {
	mark := fmt.Sprintf("INVOCATION_ID=test-%d", os.Getpid())
	heeds := orphan(t, mark, "echo ready > $MARK; exec sleep 300")
	deaf := orphan(t, mark, "trap \"\" TERM; echo ready > $MARK; while :; do sleep 0.05; done")
	other := orphan(t, mark+"0", "echo ready > $MARK; exec sleep 300")
	n, err := proc.EndMarked(t.Context(), mark, 100*time.Millisecond)
	if err != nil || n < 2 {
		t.Errorf("ended %d, %v", n, err)
	}
	gone(t, heeds)
	gone(t, deaf)
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", other)); err != nil || !strings.HasPrefix(string(b), "sleep") {
		t.Errorf("the other process is gone: %q, %v", b, err)
	}
	if n, err := proc.EndMarked(t.Context(), mark+"0", time.Minute); n != 1 || err != nil {
		t.Errorf("ended %d, %v", n, err)
	}
	if n, err := proc.EndMarked(t.Context(), mark, time.Minute); n != 0 || err != nil {
		t.Errorf("ended %d of none, %v", n, err)
	}
	if _, err := proc.EndMarked(t.Context(), "", time.Minute); err == nil {
		t.Error("everything was to be ended")
	}
}

// For each of its processes that is killed another one may be born meanwhile.
func TestEndMarked_EndsAForkBomb(t *testing.T) {
	mark := fmt.Sprintf("INVOCATION_ID=bomb-%d", os.Getpid())
	_, dir := safetyNet(t, fmt.Sprint(os.Getpid()))
	orphan(t, mark, "echo $$ > "+dir+"/cgroup.procs || exit 77; echo ready > $MARK; exec bash -c \"f() { f | f & }; f; exec sleep 300\"")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if n, err := proc.EndMarked(ctx, mark, 100*time.Millisecond); err != nil || n < 2 {
		t.Errorf("ended %d, %v", n, err)
	}
}

func TestEndMarked_ContextEndsIt(t *testing.T) {
	mark := fmt.Sprintf("INVOCATION_ID=ctx-%d", os.Getpid())
	cmd := exec.Command("/bin/sh", "-c", `trap "" TERM; echo ready; while :; do sleep 0.05; done`)
	cmd.Env = []string{path, mark}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // enough for a first look on any machine
	defer cancel()
	if n, err := proc.EndMarked(ctx, mark, time.Minute); n == 0 || err == nil {
		t.Errorf("ended %d, %v", n, err)
	}
}
