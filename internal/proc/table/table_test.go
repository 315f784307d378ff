package table

import (
	"os"
	"os/exec"
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
