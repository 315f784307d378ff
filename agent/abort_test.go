package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"hostmanager/agent"
	"hostmanager/protocol"
)

// abort sends CMD-Abort of an operation.
func (w *world) abort(operation string) protocol.Command {
	w.t.Helper()
	return w.send(order{
		name: protocol.CmdAbort, manifest: protocol.Current{Manifest: operation},
		execution: protocol.AbortOrder{By: "anna@laptop", Reason: "wrong version"}.Encode(),
	})
}

// awaitBoth takes two results and returns that of the invocation first.
func (w *world) awaitBoth(invocation string) (one, other received) {
	w.t.Helper()
	all := w.await(2)
	if all[0].InvocationID != invocation {
		all[0], all[1] = all[1], all[0]
	}
	if all[0].InvocationID != invocation {
		w.t.Fatalf("results of %s and %s, none of %s", all[0].InvocationID, all[1].InvocationID, invocation)
	}
	return all[0], all[1]
}

func checkAborted(t *testing.T, r received, serving int64) {
	t.Helper()
	e := r.entry()
	if e.Status != protocol.Success || e.Cause != protocol.CauseAborted || e.Serial != serving {
		t.Errorf("the abort answers %+v, want it to have aborted and serial %d to serve", e, serving)
	}
}

func checkVictim(t *testing.T, r received) {
	t.Helper()
	e := r.entry()
	if e.Status != protocol.Failure || e.Cause != protocol.CauseAborted || !strings.Contains(e.Msg, "by anna@laptop: wrong version") {
		t.Errorf("the aborted command answers %+v", e)
	}
}

// hookWith puts a hook in place that writes its pid and then waits.
func (w *world) waitingHook(name, script string) string {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "pids")
	w.hook(name, fmt.Sprintf("%s\necho $$ >> %s\nsleep 1000 & echo $! >> %s\nwait\nsleep 1000", script, file, file))
	return file
}

// gone tells whether all processes whose ids stand in the file have ended.
func gone(t *testing.T, file string) bool {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	for line := range strings.Lines(string(data)) {
		pid, err := strconv.Atoi(strings.TrimSpace(line))
		must(t, err)
		if syscall.Kill(pid, 0) == nil {
			return false
		}
	}
	return true
}

// TestAbort_OfARunningCommand is in a hook of either stage, also one that does not heed TERM: it and its children are gone, what was done is undone,
// the old version serves, later stages are refused, also after a restart, and the next deployment works.
func TestAbort_OfARunningCommand(t *testing.T) {
	for name, c := range map[string]struct {
		hook, script string
		stage        *int
	}{
		"in stage 0":          {"appdeploy/pre/02wait", "", stage(0)},
		"in stage 0, hostile": {"appdeploy/pre/02wait", "trap '' TERM INT HUP", stage(0)},
		"behind the swap":     {"appdeploy/enact/02wait", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := w.start()
			v1 := w.version("v1", nil, nil)
			w.send(order{name: protocol.CmdAppDeploy, manifest: v1})
			if e := w.one().entry(); e.Status != protocol.Success {
				t.Fatalf("%+v", e)
			}
			pids := w.waitingHook(c.hook, c.script)
			v2 := w.version("v2", nil, nil)
			victim := w.send(order{name: protocol.CmdAppDeploy, manifest: v2, stage: c.stage, request: "op-2"})
			eventually(t, "the hook runs", func() bool { return strings.Count(w.read(pids), "\n") == 2 })
			w.abort("op-2")
			result, abort := w.awaitBoth(victim.InvocationID)
			checkVictim(t, result)
			checkAborted(t, abort, v1.Serial)
			eventually(t, "the hook's processes are gone", func() bool { return gone(t, pids) })
			if w.serving() != v1.Serial {
				t.Errorf("serial %d serves", w.serving())
			}
			must(t, os.Remove(w.root.HookDir(c.hook)))
			must(t, r.stop())
			w.start()
			w.send(order{name: protocol.CmdAppDeploy, manifest: v2, stage: stage(1), request: "op-2"})
			checkVictim(t, w.one())
			v3 := w.version("v3", nil, nil)
			w.send(order{name: protocol.CmdAppDeploy, manifest: v3})
			if e := w.one().entry(); e.Status != protocol.Success || w.serving() != v3.Serial {
				t.Errorf("the next deployment: %+v, serial %d serves", e, w.serving())
			}
			if !strings.Contains(w.events(), "by anna@laptop: wrong version") {
				t.Errorf("no event tells who aborted:\n%s", w.events())
			}
		})
	}
}

// TestAbort_OfWhatDoesNotRun: an operation between its stages, one that waits, one that is still to come, and one that has ended.
func TestAbort_OfWhatDoesNotRun(t *testing.T) {
	w := newWorld(t)
	w.start()
	v1 := w.version("v1", nil, nil)

	w.send(order{name: protocol.CmdAppDeploy, manifest: v1, stage: stage(0), request: "between"})
	w.one()
	w.abort("between")
	r := w.one()
	checkAborted(t, r, 0)
	if !strings.Contains(r.entry().Msg, "Aborted behind CMD-AppDeploy stage 0") {
		t.Errorf("says %q", r.entry().Msg)
	}
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1, stage: stage(1), request: "between"})
	checkVictim(t, w.one())

	w.abort("to-come")
	checkAborted(t, w.one(), 0)
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1, request: "to-come"})
	checkVictim(t, w.one())

	pids := w.waitingHook("restartappserver/pre/00wait", "")
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1, request: "ended"})
	w.one()
	running := w.send(order{name: protocol.CmdRestartAppServer, request: "running"})
	eventually(t, "the hook runs", func() bool { return strings.Count(w.read(pids), "\n") == 2 })
	waiting := w.send(order{name: protocol.CmdRestartAppServer, request: "waiting"})
	eventually(t, "the second waits", func() bool { return w.journalled(waiting.Identity()).Message != nil })
	w.abort("waiting")
	result, abort := w.awaitBoth(waiting.InvocationID)
	checkVictim(t, result)
	checkAborted(t, abort, v1.Serial)

	w.abort("running")
	result, abort = w.awaitBoth(running.InvocationID)
	checkVictim(t, result)
	checkAborted(t, abort, v1.Serial)
	w.abort("running") // twice
	checkAborted(t, w.one(), v1.Serial)

	w.abort("ended")
	if e := w.one().entry(); e.Status != protocol.Success || e.Cause != "" || e.Msg != "Nothing to abort: CMD-AppDeploy ended with SUCCESS." || e.Serial != v1.Serial {
		t.Errorf("after the end: %+v", e)
	}
	w.abort("no/id")
	if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, "names no operation") {
		t.Errorf("no request id: %+v", e)
	}
}

// TestAbort_OutlivesTheAgent: the agent is killed while it ends a hook that does not heed TERM; the next one goes on, and answers both.
func TestAbort_OutlivesTheAgent(t *testing.T) {
	w := newWorld(t)
	v := w.victim()
	pids := w.waitingHook("appdeploy/pre/02wait", "trap '' TERM INT HUP")
	victim := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), request: "op-1"})
	eventually(t, "the hook runs", func() bool { return strings.Count(w.read(pids), "\n") == 2 })
	asked := w.abort("op-1")
	eventually(t, "the abort is accepted", func() bool { return w.journalled(asked.Identity()).Message != nil })
	v.kill()
	w.start()
	result, abort := w.awaitBoth(victim.InvocationID)
	if e := result.entry(); e.Status != protocol.Failure {
		t.Errorf("the aborted command answers %+v", e)
	}
	checkAborted(t, abort, 0)
}

func TestAbort_OverTheControlSocket(t *testing.T) {
	w := newWorld(t)
	w.start()
	eventually(t, "the agent listens", func() bool { _, err := os.Stat(w.root.AgentSocket()); return err == nil })
	done, err := agent.AskAbort(t.Context(), w.root, "root", "")
	must(t, err)
	if done.Aborted || done.Msg != "nothing to abort: no command is running" {
		t.Errorf("with nothing running: %+v", done)
	}
	pids := w.waitingHook("appdeploy/pre/02wait", "")
	v1 := w.version("v1", nil, nil)
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1, stage: stage(0), request: "op-1"})
	eventually(t, "the hook runs", func() bool { return strings.Count(w.read(pids), "\n") == 2 })
	if done, err = agent.AskAbort(t.Context(), w.root, "root", "enough"); err != nil || !done.Aborted || done.RequestID != "op-1" {
		t.Errorf("%+v, %v", done, err)
	}
	if e := w.one().entry(); e.Cause != protocol.CauseAborted || !strings.Contains(e.Msg, "by root: enough") {
		t.Errorf("the aborted command answers %+v", e)
	}
	must(t, os.Remove(w.root.HookDir("appdeploy/pre/02wait")))
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1, stage: stage(0), request: "op-2"})
	w.one()
	if done, err = agent.AskAbort(t.Context(), w.root, "root", ""); err != nil || !done.Aborted || done.RequestID != "op-2" {
		t.Errorf("between the stages: %+v, %v", done, err)
	}
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1, stage: stage(1), request: "op-2"})
	if e := w.one().entry(); e.Cause != protocol.CauseAborted {
		t.Errorf("the next stage answers %+v", e)
	}
	if info, err := os.Stat(w.root.AgentSocket()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	if _, err := agent.AskAbort(context.Background(), w.root+"/nowhere", "x", ""); !errors.Is(err, agent.ErrNotReached) {
		t.Errorf("no agent: %v", err)
	}
}
