package agent_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hostmanager/agent"
	"hostmanager/internal/proc"
	"hostmanager/protocol"
)

// leaveLeaf moves the shell out of the control groups it was started in and removes them.
const leaveLeaf = `while IFS=: read -r _ c g; do
	case "$c" in "") d=/sys/fs/cgroup/unified; [ -d $d ] || d=/sys/fs/cgroup;; name=*) continue;; *) d=/sys/fs/cgroup/$c;; esac
	echo $$ > $d/cgroup.procs; rmdir $d$g
done < /proc/self/cgroup 2>/dev/null
`

// swapper exchanges, without end and from a session of its own, its own file and the link to the staged application for links to what is not theirs.
const swapper = `setsid sh -c 'while :; do ln -sfn /bin/true "$1"; ln -sfn "$2" ROOT/var/app/staging; ln -sfn /bin/false "$1"; : MARK; done' sh "$0" PRECIOUS & exec sleep MARK`

// hostile is a hook that does not want to end, or ends badly, and what the result has to say of it.
type hostile struct {
	script  string
	timeout time.Duration
	codes   []int // one of them; none: any
	want    []string
}

// short is the time of a command whose hook does not end. It runs from the command's start, so the steps before the hook have to fit into it too.
const short = 5 * time.Second

func hostileHooks() map[string]hostile {
	return map[string]hostile{
		"sleeper in a session":   {"setsid sleep MARK & exec sleep MARK", short, []int{1}, []string{"Command timed out after 5 seconds: Hook ", "failed: its time was over"}},
		"daemon unseen":          {"(env -i setsid sh -c 'sleep MARK & exec sleep MARK' &) & sleep 0.1; exit 9", time.Minute, []int{9}, []string{"failed."}},
		"deaf to TERM":           {"trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 0.0MARK; done' & while :; do sleep 0.1; : MARK; done", short, []int{1}, []string{"its time was over"}},
		"remover of its leaf":    {leaveLeaf + "setsid sleep MARK & sleep MARK", short, []int{1}, []string{"its time was over"}},
		"fork bomb":              {"exec bash -c ': MARK; f() { f | f & }; f; sleep 1; exit 1'", time.Minute, []int{1, 254}, []string{"more processes and threads than its limit of 64 (HookPidsMax)"}},
		"memory hog":             {"head -c 300000000 /dev/zero | tail -c 300000000 | wc -c >&2; sleep 0.5; exit 9", time.Minute, nil, []string{"64 MiB (HookMemoryMax)"}},
		"ended by a signal":      {"kill -SEGV $$", time.Minute, []int{1}, []string{"ended by the signal SIGSEGV"}},
		"command not found":      {"nosuchcommand", time.Minute, []int{127}, []string{"nosuchcommand: not found", "status 127: a command in it was not found"}},
		"keeper of its output":   {"setsid sh -c 'while :; do echo noise MARK; done' & sleep 0.1; exit 5", time.Minute, []int{5}, []string{"noise MARK"}},
		"writer of 64 MB":        {"head -c 64000000 /dev/zero | tr '\\0' x | fold -w 511; exit 6", time.Minute, []int{6}, []string{"xxxx"}},
		"symlink swapper":        {swapper, short, []int{1}, []string{"its time was over"}},
		"stops itself":           {"setsid sleep MARK & kill -STOP $$", short, []int{1}, []string{"its time was over"}},
		"interpreter is missing": {"#!/opt/ruby/bin/ruby", time.Minute, []int{1}, []string{"the interpreter /opt/ruby/bin/ruby named in its first line does not exist"}},
	}
}

// measured are those that a back-end without the kernel's limits meets in a form that ends by itself: it measures ten times a second.
func measured() map[string]string {
	return map[string]string{
		"fork bomb":  "i=0; while [ $i -lt 150 ]; do sleep MARK & i=$((i+1)); done; wait; exit 3",
		"memory hog": "head -c 300000000 /dev/zero | tail -c 300000000 | sleep MARK & wait $!; sleep 0.3; exit 9",
	}
}

// containments are those that this machine offers, each with whether the kernel itself holds limits there.
func containments(t *testing.T) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, kind := range proc.Kinds() {
		if kind == proc.Auto {
			continue
		}
		s, err := proc.NewSpawner(t.Context(), proc.SpawnerOptions{Kind: kind, Owner: "probe " + t.Name()})
		if err != nil {
			t.Logf("not here: %v", err)
			continue
		}
		all[kind] = len(s.Missing(proc.Limits{Memory: 1, PIDs: 1})) == 0
		must(t, s.Close())
	}
	return all
}

// TestAgent_HostileHooks: whatever contains it, each fails its deployment for the right reason, nothing of it lives on, the old version serves, and
// the next deployment works.
func TestAgent_HostileHooks(t *testing.T) {
	for kind, enforces := range containments(t) {
		for name, c := range hostileHooks() {
			if script, ok := measured()[name]; ok && !enforces {
				c.script = script
				c.codes = nil
			}
			t.Run(kind+"/"+name, func(t *testing.T) { playHostile(t, kind, c) })
		}
	}
}

func playHostile(t *testing.T, kind string, c hostile) {
	mark := fmt.Sprint(1e6 + rand.N(uint32(1e9))) // in the arguments of what the hook starts
	w := newWorld(t)
	w.start(func(s *agent.Setup) {
		s.Config.Containment, s.Config.HookPidsMax, s.Config.HookMemoryMax = kind, "64", "64M"
	})
	v1 := w.version("v1", nil, nil)
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1})
	if e := w.one().entry(); e.Status != protocol.Success {
		t.Fatalf("%+v", e)
	}
	const hook = "appdeploy/post/10hostile"
	precious := t.TempDir()
	must(t, os.WriteFile(filepath.Join(precious, "keep"), []byte("x"), 0o600))
	script := strings.NewReplacer("MARK", mark, "ROOT", string(w.root), "PRECIOUS", precious).Replace(c.script)
	w.hook(hook, script)
	if strings.HasPrefix(script, "#!") {
		must(t, os.WriteFile(w.root.HookDir(hook), []byte(script+"\n"), 0o755))
	}
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil), timeout: c.timeout})
	e := w.one().entry()
	if e.Status != protocol.Failure || len(c.codes) > 0 && !slices.Contains(c.codes, e.ReturnCode) || w.serving() != v1.Serial {
		t.Errorf("%+v, serial %d serves", e, w.serving())
	}
	for _, want := range c.want {
		if want = strings.ReplaceAll(want, "MARK", mark); !strings.Contains(e.Msg, want) {
			t.Errorf("the reason lacks %q: %s", want, e.Msg)
		}
	}
	if left := carrying(t, mark); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	if st, err := os.Stat(w.root.Log("eb-activity.log")); err != nil || st.Size() > 4<<20 {
		t.Errorf("the activity log: %v, %v", st, err)
	}
	must(t, os.Remove(w.root.HookDir(hook)))
	v3 := w.version("v3", nil, nil)
	w.send(order{name: protocol.CmdAppDeploy, manifest: v3})
	if e := w.one().entry(); e.Status != protocol.Success || w.serving() != v3.Serial {
		t.Errorf("the next deployment: %+v, serial %d serves", e, w.serving())
	}
	if w.read(filepath.Join(precious, "keep")) != "x" {
		t.Error("what a link was laid to is gone")
	}
}

// carrying lists the processes that have a text in their arguments.
func carrying(t *testing.T, text string) []string {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	var all []string
	for _, e := range entries {
		if b, err := os.ReadFile("/proc/" + e.Name() + "/cmdline"); err == nil && strings.Contains(string(b), text) {
			all = append(all, e.Name()+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return all
}

// TestAgent_AuditsHooks: one line a hook says who asked, what ran, and how it ended.
func TestAgent_AuditsHooks(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.hook("appdeploy/post/10well", "exit 0")
	c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", map[string]string{"LD_PRELOAD": "/tmp/x.so", "PLAIN": "passes-on"}, nil)})
	w.one()
	lines := 0
	for line := range strings.Lines(w.read(w.root.Log("hostmanager.log"))) {
		if !strings.Contains(line, `"msg":"spawn"`) {
			continue
		}
		lines++
		for _, want := range []string{
			`"asked_by":"ops (` + operatorKey().KeyID() + `)"`, `"command":"CMD-AppDeploy"`, `"request_id":"`, `"invocation_id":"` + c.InvocationID + `"`, `"hook":"appdeploy/post/10well"`,
			`"path":"` + w.root.HookDir("appdeploy/post/10well") + `"`, `"sha256":"`, `"user":"`, `"max_rss":`, `"user_ms":`, `"system_ms":`, `"leaf":"`, `"exit":0`,
		} {
			if !strings.Contains(line, want) {
				t.Errorf("the line lacks %s: %s", want, line)
			}
		}
	}
	if lines != 1 {
		t.Errorf("%d lines", lines)
	}
}
