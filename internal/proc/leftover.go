package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hostmanager/internal/proc/table"
)

// spared is in the environment of what a process that may detach started: EndMarked leaves it alone.
const spared = "HOSTMANAGER_DETACH=true"

// EndMarked ends every process whose environment holds the entry mark ("INVOCATION_ID=..."), whoever its parent is by now: SIGTERM, and after
// grace SIGKILL. It is for the start after a crash: the kernel ended the child of the agent that died, but not the child's own children. It
// returns how many there were once none is left, and an error when ctx ends first. This process itself is never among them, nor is what was
// started by a file that may detach.
func EndMarked(ctx context.Context, mark string, grace time.Duration) (int, error) {
	if mark == "" {
		return 0, errors.New("end marked processes: no mark given")
	}
	t, err := table.Open()
	if err != nil {
		return 0, fmt.Errorf("end marked processes: %w", err)
	}
	defer t.Close()
	own, err := unix.Getsid(0)
	if err != nil {
		return 0, fmt.Errorf("end marked processes: %w", err)
	}
	deadline := time.Now().Add(grace)
	sent, seen := map[key]unix.Signal{}, map[key]bool{}
	for {
		found, err := marked(ctx, t, mark)
		if err != nil {
			return len(seen), fmt.Errorf("end marked processes: %w", err)
		}
		if len(found) == 0 {
			return len(seen), nil
		}
		sig := unix.SIGTERM
		if time.Now().After(deadline) {
			sig = unix.SIGKILL
			killGroups(found, own)
		}
		for _, p := range found {
			k := key{p.PID, p.Start}
			seen[k] = true
			if sent[k] != sig {
				sent[k] = sig
				_ = t.Signal(p, sig) // it may just have ended
			}
		}
		select {
		case <-ctx.Done():
			return len(seen), fmt.Errorf("end marked processes: %d still live: %w", len(found), context.Cause(ctx))
		case <-time.After(look):
		}
	}
}

// marked lists the living processes that carry the mark.
func marked(ctx context.Context, t *table.Table, mark string) ([]table.Process, error) {
	all, err := t.All()
	if err != nil {
		return nil, err
	}
	var found []table.Process
	for _, p := range all {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if p.PID != os.Getpid() && !p.Ended() && t.Carries(p.PID, mark) && !t.Carries(p.PID, spared) {
			found = append(found, p)
		}
	}
	return found, nil
}
