package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// EndMarked ends every process whose environment holds the entry mark ("INVOCATION_ID=..."), whoever its parent is by now: SIGTERM, and after
// grace SIGKILL. It is for the start after a crash: the kernel ended the child of the agent that died, but not the child's own children. It
// returns how many there were once none is left, and an error when ctx ends first. This process itself is never among them.
func EndMarked(ctx context.Context, mark string, grace time.Duration) (int, error) {
	if mark == "" {
		return 0, errors.New("end marked processes: no mark given")
	}
	deadline := time.Now().Add(grace)
	sent, seen := map[int]unix.Signal{}, map[int]bool{}
	for {
		found, err := marked(mark)
		if err != nil {
			return len(seen), fmt.Errorf("end marked processes: %w", err)
		}
		if len(found) == 0 {
			return len(seen), nil
		}
		sig := unix.SIGTERM
		if time.Now().After(deadline) {
			sig = unix.SIGKILL
		}
		for _, pid := range found {
			seen[pid] = true
			if sent[pid] != sig {
				sent[pid] = sig
				signalMarked(pid, mark, sig)
			}
		}
		select {
		case <-ctx.Done():
			return len(seen), fmt.Errorf("end marked processes: %d still live: %w", len(found), context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// marked lists the processes that carry the mark.
func marked(mark string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && carries(pid, mark) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// carries is false for processes that are gone, zombies included.
func carries(pid int, mark string) bool {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	return bytes.HasPrefix(environ, []byte(mark+"\x00")) || bytes.Contains(environ, []byte("\x00"+mark+"\x00"))
}

// signalMarked looks again once it holds the process: its number may have passed to another.
func signalMarked(pid int, mark string, sig unix.Signal) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if carries(pid, mark) {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0) // it may just have ended
	}
}
