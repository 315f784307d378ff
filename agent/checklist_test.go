package agent_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"hostmanager/agent"
	"hostmanager/aws/localaws"
	"hostmanager/protocol"
)

// The checklist: one test for each situation in which the original's behaviour is known, in both forms of the message. Where ours is another, the
// test says so. Malformed, expired, unknown and duplicate messages stand in accept_test.go, crashes and the damaged journal in crash_test.go.

// The original knows commands by the outer name and drops one without a hook. Here that name is opaque: it is echoed and never looked at.
func TestChecklist_UnknownCommandName(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		w.start()
		v := w.version("v1", nil, nil)
		c := w.send(order{name: protocol.CmdAppDeploy, manifest: v, outer: "Whatever", form: f})
		if r := w.one(); r.InvocationID != c.InvocationID || r.CommandName != "Whatever" || r.entry().Status != protocol.Success {
			t.Errorf("result %+v", r)
		}
		w.holds(v)
		w.checkQueueEmpty()
	})
}

// The original runs a command that asks for a leader on one instance alone. There is no election here yet: everyone runs, and hooks are told that
// they are not the leader.
func TestChecklist_LostLeaderElection(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		w.hook("restartappserver/pre/10leader", `echo "$EB_IS_COMMAND_LEADER $EB_EXECUTION_DATA" >> "`+w.root.Join("leader")+`"`)
		w.start()
		w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), form: f})
		const election = `{"leader_election":"true"}`
		w.deployed(order{name: protocol.CmdRestartAppServer, execution: election, form: f})
		if got, want := w.read(w.root.Join("leader")), "false "+election+"\n"; got != want {
			t.Errorf("the hook was told %q, want %q", got, want)
		}
		w.checkQueueEmpty()
	})
}

// The original sends the action's standard error. Here the outer status says that the command was processed, the inner one what came of it.
func TestChecklist_ActionFails(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		w.start()
		v1 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), form: f})
		w.hook("appdeploy/post/50no", `echo x >> "`+w.root.Join("count")+`"; echo the reason >&2; exit 7`)
		c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil), form: f})
		first := w.one()
		e := first.entry()
		if first.Status != protocol.Success || e.Status != protocol.Failure || e.ReturnCode != 7 || !strings.HasPrefix(e.Msg, "the reason") {
			t.Errorf("result %+v, entry %+v", first.Result, e)
		}
		w.holds(v1)
		w.sendAgain(c, f) // remembered, failure or not
		if again := w.one(); again.Result != first.Result || w.read(w.root.Join("count")) != "x\n" {
			t.Errorf("sent again: %+v, ran %q", again.Result, w.read(w.root.Join("count")))
		}
		w.checkQueueEmpty()
	})
}

// The original makes a failure of an output over 1,024 bytes. Size never turns SUCCESS into FAILURE here.
func TestChecklist_OutputOver1024(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		text := strings.Repeat("long ", 700)
		w.hook("appdeploy/post/10talks", `echo "`+text+`"; printf '{"msg":"`+text+`","severity":"INFO"}\n---\n' >> "$EB_EVENT_FILE"`)
		w.start()
		w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), form: f})
		r := w.one()
		if e := r.entry(); r.Status != protocol.Success || e.Status != protocol.Success || len(r.Data) < 3500 || r.Message != "" || e.Location != nil {
			t.Errorf("result of %d bytes: %+v", len(r.Data), r.Result)
		}
		if !strings.Contains(r.Data, strings.TrimSpace(text)) {
			t.Error("the event is not whole")
		}
		w.checkQueueEmpty()
	})
}

// The original runs a command again whose result it could not send. Here the result waits, the command is done, and others go on.
func TestChecklist_ResultCannotBeSent(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		w.hook("appdeploy/post/10count", `echo x >> "`+w.root.Join("count")+`"`)
		r := w.start()
		gone := strings.Replace(w.results, "req-1", "gone", 1)
		lost := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), results: gone, form: f})
		eventually(t, "it has run", func() bool { return w.journalled(lost.Identity()).Finished() }) // else the next one would supersede it
		w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil), form: f})
		if e := w.one().entry(); e.VersionLabel != "v2" {
			t.Errorf("result %+v", e)
		}
		w.checkQueueEmpty()
		must(t, r.stop())
		if c := w.journalled(lost.Identity()); !c.Finished() || !c.SentAt.IsZero() {
			t.Errorf("journal %+v", c)
		}
		url, err := w.queue.Create(t.Context(), protocol.ResultQueue(envID, "gone"), nil)
		must(t, err)
		w.start()
		if got := w.awaitFrom(url, 1)[0]; got.InvocationID != lost.InvocationID || got.entry().VersionLabel != "v1" {
			t.Errorf("result %+v", got)
		}
		eventually(t, "sent is journalled", func() bool { return !w.journalled(lost.Identity()).SentAt.IsZero() })
		if got := w.read(w.root.Join("count")); got != "x\nx\n" { // each command once
			t.Errorf("ran %q", got)
		}
	})
}

// The original registers anew and is told a queue. Here the queue has the instance's name and is made anew as soon as the service gives the name
// back, a minute after the deletion.
func TestChecklist_QueueGone(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		clock := localaws.NewFakeClock(time.Now())
		w := newWorldBy(t, clock)
		w.start()
		w.booted()
		must(t, w.queue.DeleteQueue(t.Context(), w.commandQueue()))
		clock.Advance(20 * time.Second) // the poll under way ends
		eventually(t, "the agent says why it waits", func() bool {
			s, err := agent.AskStatus(t.Context(), w.root)
			return err == nil && strings.Contains(s.PollError, "find command queue")
		})
		clock.Advance(time.Minute)
		name := protocol.CommandQueue(envID, instance)
		eventually(t, "the queue is made anew", func() bool {
			_, err := w.queue.URL(t.Context(), name)
			return err == nil
		})
		c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), form: f})
		if r := w.one(); r.InvocationID != c.InvocationID || r.entry().Status != protocol.Success {
			t.Errorf("result %+v", r)
		}
		eventually(t, "the instance is registered with its queue", func() bool {
			all, _, err := w.record.Instances(t.Context())
			return err == nil && len(all) == 1 && all[0].Queue == w.commandQueue()
		})
		s, err := agent.AskStatus(t.Context(), w.root)
		if err != nil || s.PollError != "" {
			t.Errorf("status %+v, %v", s, err)
		}
	})
}

// The original ends when its stack is gone. There is no stack here: whatever the service answers, the listener goes on asking, and what comes then
// is run.
func TestChecklist_StackGone(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		back, err := w.aws.Inject(localaws.Fault{Op: "SQS.*", Status: 400, Code: "ValidationError", When: func(c localaws.Call) bool {
			return c.Op == "SQS.ReceiveMessage" || c.Op == "SQS.GetQueueUrl"
		}})
		must(t, err)
		r := w.start()
		eventually(t, "the listener is refused", func() bool {
			s, err := agent.AskStatus(t.Context(), w.root)
			return err == nil && s.PollError != ""
		})
		back()
		c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), form: f})
		if got := w.one(); got.InvocationID != c.InvocationID || got.entry().Status != protocol.Success {
			t.Errorf("result %+v", got)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if s, err := agent.AskStatus(ctx, w.root); err != nil || s.State != "ready" && s.State != "deploying" {
			t.Errorf("status %+v, %v", s, err)
		}
		must(t, r.stop())
	})
}
