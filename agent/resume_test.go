package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/agent"
	"hostmanager/agent/config"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// ran is the file in which the hooks of these tests say that they ran.
func (w *world) ran() string { return w.root.Join("ran") }

// counting puts hooks of every kind on the instance, which say in the file ran that they were there, and whose bundle has one too.
func (w *world) counting() map[string]string {
	w.t.Helper()
	say := func(name string) string { return `echo ` + name + ` >> "` + w.ran() + `"` }
	w.hook("appdeploy/pre/05once", say("pre-once")+`; printf '{"msg":"pre-once was here"}\n---\n' >> "$EB_EVENT_FILE"`)
	w.hook("appdeploy/pre/06again", "# hostmanager: repeatable\n"+say("pre-again"))
	w.hook("appdeploy/post/05once", say("post-once"))
	w.hook("appdeploy/cleanup/05tidy", say("tidy-$EB_COMMAND_STATUS"))
	return map[string]string{
		"Dockerfile": "FROM scratch\n", ".platform/hooks/prebuild/01x": "#!/bin/sh\n" + say("bundle-once") + "\n",
		".platform/hooks/cleanup/01x": "#!/bin/sh\n" + say("bundle-tidy-$EB_COMMAND_STATUS") + "\n",
	}
}

// took returns how often each hook ran since the last call.
func (w *world) took() map[string]int {
	w.t.Helper()
	counts := map[string]int{}
	for _, line := range strings.Fields(w.read(w.ran())) {
		counts[line]++
	}
	if err := os.Remove(w.ran()); err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return counts
}

// killBehind runs an agent in another process until the journal holds that many records, and kills it there.
func (w *world) killBehind(records int, meanwhile func()) {
	w.t.Helper()
	child := w.victim()
	if meanwhile != nil {
		meanwhile()
	}
	deadline := time.Now().Add(30 * time.Second)
	for countRecords(w.t, w.root) < records && time.Now().Before(deadline) { //nolint:revive // as tight as can be: the next record is near
	}
	child.kill()
}

// resultOf waits for the result of one command. What came of others, sent before a kill and again after it, is passed over; of this one every copy
// must be the same.
func (w *world) resultOf(c protocol.Command, before map[string]protocol.Result) protocol.ResponseEntry {
	w.t.Helper()
	for {
		got := w.one()
		if old, known := before[got.InvocationID]; known && old != got.Result {
			w.t.Fatalf("results differ:\n%+v\n%+v", old, got.Result)
		}
		before[got.InvocationID] = got.Result
		if got.InvocationID == c.InvocationID {
			return got.entry()
		}
	}
}

// An agent is killed behind every record that a deployment of hooks of every kind writes, and some of those that take over are killed as well: the
// command goes on where it stopped. Only a kill within a hook that may run once fails it.
func TestResume_BehindEveryRecord(t *testing.T) {
	w := newWorld(t)
	files := w.counting()
	r := w.start()
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, files)})
	before := countRecords(t, w.root)
	holds := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, files)})
	must(t, r.stop())
	perCommand := countRecords(t, w.root) - before
	w.took()
	results := map[string]protocol.Result{}
	verdicts := map[protocol.Status]int{}
	for k := 1; k <= perCommand; k++ {
		v := w.version(fmt.Sprintf("k%d", k), nil, files)
		before := countRecords(t, w.root)
		var c protocol.Command
		w.killBehind(before+k, func() { c = w.send(order{name: protocol.CmdAppDeploy, manifest: v}) })
		for again := range k % 4 / 2 * (k%4 - 1) { // of some, the second and the third agent die behind the first records they write
			if !w.journalled(c.Identity()).Finished() && w.journalled(c.Identity()).Identity != "" {
				w.killBehind(countRecords(t, w.root)+again+1, nil)
			}
		}
		r := w.start()
		e := w.resultOf(c, results)
		must(t, r.stop())
		verdicts[e.Status]++
		if e.Status == protocol.Success {
			holds = v
			checkTold(t, e)
		} else if !strings.HasPrefix(e.Msg, "interrupted: hook ") || !strings.Contains(e.Msg, "may run only once") {
			t.Errorf("%+v", e)
		}
		w.holds(holds)
		checkCounts(t, w.took(), e)
		if t.Failed() {
			t.Fatalf("killed behind record %d of %d; steps: %+v", k, perCommand, w.journalled(c.Identity()).Steps)
		}
	}
	t.Logf("%d records, verdicts %v", perCommand, verdicts)
	if verdicts[protocol.Success] < perCommand/2 {
		t.Errorf("verdicts %v", verdicts)
	}
}

// checkTold holds that the result of a resumed command tells what was reported before the kill.
func checkTold(t *testing.T, e protocol.ResponseEntry) {
	t.Helper()
	for _, msg := range []string{"pre-once was here", "Successfully built aws_beanstalk/staging-app", "Docker container d8cdffc1b069 is running aws_beanstalk/current-app."} {
		n := 0
		for _, v := range e.Events {
			if v.Msg == msg {
				n++
			}
		}
		if n != 1 {
			t.Errorf("the result tells %d times: %s\n%+v", n, msg, e.Events)
		}
	}
}

func checkCounts(t *testing.T, ran map[string]int, e protocol.ResponseEntry) {
	t.Helper()
	word, other := "Success", "Failure"
	if e.Status != protocol.Success {
		word, other = other, word
	}
	for _, once := range []string{"pre-once", "post-once", "bundle-once"} {
		if n := ran[once]; n > 1 || e.Status == protocol.Success && n != 1 {
			t.Errorf("%s ran %d times", once, n)
		}
	}
	for _, tidy := range []string{"tidy-", "bundle-tidy-"} {
		if ran[tidy+word] > 1 || ran[tidy+other] != 0 { // none where the kill came before its first line
			t.Errorf("cleanup: %v", ran)
		}
	}
	if e.Status == protocol.Success && ran["pre-again"] < 1 {
		t.Errorf("ran %v", ran)
	}
}

// A deployment that fails answers what it would have answered, wherever the agent dies while it is being undone.
func TestResume_WhileBeingUndone(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	v1 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	w.hook("appdeploy/post/10fails", "echo it is broken; exit 17")
	w.hook("appdeploy/cleanup/05tidy", `echo "tidy-$EB_COMMAND_STATUS" >> "`+w.ran()+`"`)
	before := countRecords(t, w.root)
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil)})
	clean := w.one().entry()
	must(t, r.stop())
	perCommand := countRecords(t, w.root) - before
	w.took()
	results := map[string]protocol.Result{}
	same := 0
	for k := perCommand / 2; k <= perCommand; k++ {
		before := countRecords(t, w.root)
		var c protocol.Command
		w.killBehind(before+k, func() {
			c = w.send(order{name: protocol.CmdAppDeploy, manifest: w.version(fmt.Sprintf("k%d", k), nil, nil)})
		})
		if !w.journalled(c.Identity()).Finished() {
			w.killBehind(countRecords(t, w.root)+1+k%3, nil)
		}
		r := w.start()
		e := w.resultOf(c, results)
		must(t, r.stop())
		switch {
		case e.Status != protocol.Failure:
			t.Errorf("record %d: %+v", k, e)
		case e.Msg == clean.Msg && e.ReturnCode == 17:
			same++
		case !strings.Contains(e.Msg, "hook appdeploy/post/10fails was running"):
			t.Errorf("record %d: %+v", k, e)
		}
		if ran := w.took(); ran["tidy-Failure"] > 1 || ran["tidy-Success"] > 0 {
			t.Errorf("record %d: cleanup %v", k, ran)
		}
		w.holds(v1)
	}
	t.Logf("%d of %d answered as without a kill", same, perCommand-perCommand/2+1)
	if same < 3 {
		t.Errorf("only %d answered what they had failed of", same)
	}
}

// A hook that takes the agent down with it each time does so no more often than the limit allows.
func TestResume_CrashLoopIsBounded(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	v1 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	must(t, r.stop())
	release := w.blocked("appdeploy/post/10wait")
	hook, err := os.ReadFile(w.root.HookDir("appdeploy/post/10wait"))
	must(t, err)
	w.hook("appdeploy/post/10wait", "# hostmanager: repeatable\necho x >> \""+w.ran()+"\"\n"+strings.TrimPrefix(string(hook), "#!/bin/sh\n"))
	var c protocol.Command
	for n := range 4 {
		child := w.victim()
		if n == 0 {
			c = w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil)})
		}
		eventually(t, "the hook runs", func() bool { return strings.Count(w.read(w.ran()), "x") == n+1 })
		child.kill()
	}
	w.start()
	e := w.resultOf(c, map[string]protocol.Result{})
	if e.Cause != protocol.CauseInterrupted || !strings.Contains(e.Msg, "the agent stopped 4 times in appdeploy/post/10wait") {
		t.Errorf("result %+v", e)
	}
	if n := w.took()["x"]; n != 4 {
		t.Errorf("the hook ran %d times", n)
	}
	release()
	w.holds(v1)
}

// A stop with on_stop: resume lets a hook that may run only once come to its end, ends any other, and leaves the command to the next start.
func TestStop_LeavesTheCommandToTheNextStart(t *testing.T) {
	for _, c := range []struct{ name, header, ran string }{
		{"once", "", "begins\nends\n"},
		{"repeatable", "# hostmanager: repeatable\n", "begins\nbegins\nends\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			fifo := filepath.Join(t.TempDir(), "go")
			must(t, syscall.Mkfifo(fifo, 0o600))
			w.hook("appdeploy/pre/05wait", c.header+"echo begins >> \""+w.ran()+"\"; read x < "+fifo+"; echo ends >> \""+w.ran()+"\"")
			resume := func(s *agent.Setup) { s.Config.OnStop = config.StopResume }
			r := w.start(resume)
			v := w.version("v1", nil, nil)
			sent := w.send(order{name: protocol.CmdAppDeploy, manifest: v})
			eventually(t, "the hook waits", func() bool { return w.read(w.ran()) == "begins\n" })
			r.signals <- syscall.SIGTERM
			let := func() { // opening it for both never blocks
				f, err := os.OpenFile(fifo, os.O_RDWR, 0)
				must(t, err)
				defer f.Close()
				_, err = f.WriteString("go\n")
				must(t, err)
				eventually(t, "the hook ends", func() bool { return strings.HasSuffix(w.read(w.ran()), "ends\n") })
			}
			if c.header == "" {
				let()
			}
			must(t, r.wait())
			known := w.journalled(sent.Identity())
			if known.Finished() || !known.Paused || known.Verdict != nil {
				t.Errorf("journal %+v", known)
			}
			if w.serving() != 0 {
				t.Error("the rest of the command was run")
			}
			w.start(resume)
			if c.header != "" {
				eventually(t, "the hook runs again", func() bool { return w.read(w.ran()) == "begins\nbegins\n" })
				let()
			}
			if e := w.one().entry(); e.Status != protocol.Success {
				t.Errorf("result %+v", e)
			}
			if got := w.read(w.ran()); got != c.ran {
				t.Errorf("ran %q", got)
			}
			w.holds(v)
		})
	}
}

// Of deployments that wait only the newest runs, also when a kill came between; what else waits keeps its place.
func TestSupersede_OnlyTheNewestRuns(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed=%v", killed), func(t *testing.T) {
			w := newWorld(t)
			r := w.start()
			w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
			must(t, r.stop())
			release := w.blocked("restartappserver/pre/10wait")
			w.hook("restartappserver/pre/10wait", "# hostmanager: repeatable\n"+strings.TrimPrefix(w.read(w.root.HookDir("restartappserver/pre/10wait")), "#!/bin/sh\n"))
			w.hook("appdeploy/pre/05count", `echo "$INVOCATION_ID" >> "`+w.ran()+`"`)
			child := w.victim()
			first := w.send(order{name: protocol.CmdRestartAppServer})
			eventually(t, "the lane is taken", func() bool { return lastStep(w, first) == "restartappserver/pre/10wait" })
			accepted := func(o order) protocol.Command {
				c := w.send(o)
				eventually(t, "it is accepted", func() bool { return w.journalled(c.Identity()).Identity != "" })
				return c
			}
			a := accepted(order{name: protocol.CmdAppDeploy, manifest: w.version("a", nil, nil)})
			b := accepted(order{name: protocol.CmdConfigDeploy, manifest: w.version("b", nil, nil)})
			restart := accepted(order{name: protocol.CmdRestartAppServer})
			staged := accepted(order{name: protocol.CmdAppDeploy, stage: stage(0), manifest: w.version("c", nil, nil)})
			newest := w.version("d", nil, nil)
			d := accepted(order{name: protocol.CmdAppDeploy, manifest: newest})
			after := accepted(order{name: protocol.CmdConfigDeploy, manifest: newest})
			if killed {
				child.kill()
				release()
				w.start()
			} else {
				fifo, err := os.OpenFile(fifoOf(t, w.read(w.root.HookDir("restartappserver/pre/10wait"))), os.O_RDWR, 0)
				must(t, err)
				release()
				_, err = fifo.WriteString("go\n")
				must(t, err)
				defer fifo.Close()
			}
			entries := map[string]protocol.ResponseEntry{}
			for _, r := range w.await(7) {
				entries[r.InvocationID] = r.entry()
			}
			for _, c := range []protocol.Command{a, b, staged} {
				if e := entries[c.InvocationID]; e.Cause != protocol.CauseSuperseded || e.Status != protocol.Failure || !strings.Contains(e.Msg, d.InvocationID) && !strings.Contains(e.Msg, after.InvocationID) {
					t.Errorf("%s: %+v", c.InvocationID, e)
				}
			}
			for _, c := range []protocol.Command{first, restart, d, after} {
				if e := entries[c.InvocationID]; e.Status != protocol.Success {
					t.Errorf("%s: %+v", c.InvocationID, e)
				}
			}
			if got := w.read(w.ran()); got != d.InvocationID+"\n" {
				t.Errorf("ran %q", got)
			}
			w.holds(newest)
		})
	}
}

// fifoOf finds the fifo that a hook of blocked reads.
func fifoOf(t *testing.T, script string) string {
	t.Helper()
	_, path, ok := strings.Cut(script, "read x < ")
	if !ok {
		t.Fatalf("no fifo in %s", script)
	}
	return strings.TrimSpace(path)
}

// Initialization that a kill cut short is gone on with within one boot of the machine, and run anew in the next: what its hooks readied may be gone.
func TestResume_InitializationOfThisBoot(t *testing.T) {
	w := newWorld(t)
	v := w.version("v1", nil, nil)
	must(t, w.record.MoveCurrent(t.Context(), v))
	w.hook("preinit/05once", `echo once >> "`+w.ran()+`"`)
	release := w.blocked("preinit/10wait")
	w.hook("preinit/10wait", "# hostmanager: repeatable\n"+strings.TrimPrefix(w.read(w.root.HookDir("preinit/10wait")), "#!/bin/sh\n"))
	child := w.victim()
	eventually(t, "the hook waits", func() bool {
		s, err := journal.Read(w.root.Journal())
		if err != nil || len(s.Commands) == 0 {
			return false
		}
		steps := s.Commands[0].Steps
		return len(steps) > 0 && steps[len(steps)-1].Name == "preinit/10wait"
	})
	child.kill()
	release()
	for _, boot := range []struct {
		id   string
		want int
	}{{"boot-1", 1}, {"boot-1", 1}, {"boot-2", 2}} {
		w.boot = boot.id
		r := w.start()
		w.booted()
		eventually(t, "the version serves", func() bool { return w.serving() == v.Serial })
		must(t, r.stop())
		if n := strings.Count(w.read(w.ran()), "once"); n != boot.want {
			t.Errorf("%s: ran %d times, want %d", boot.id, n, boot.want)
		}
	}
}

func TestResume_InitializationOfAnEarlierBootIsRunAnew(t *testing.T) {
	w := newWorld(t)
	v := w.version("v1", nil, nil)
	must(t, w.record.MoveCurrent(t.Context(), v))
	w.hook("preinit/05once", `echo once >> "`+w.ran()+`"`)
	w.blocked("preinit/10wait")
	child := w.victim()
	eventually(t, "the hook runs", func() bool { return w.read(w.ran()) == "once\n" })
	child.kill()
	must(t, os.Remove(w.root.HookDir("preinit/10wait")))
	w.boot = "boot-2"
	w.start()
	eventually(t, "the version serves", func() bool { return w.serving() == v.Serial })
	if got := w.read(w.ran()); got != "once\nonce\n" {
		t.Errorf("ran %q", got)
	}
}
