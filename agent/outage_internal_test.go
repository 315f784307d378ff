package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	hostaws "hostmanager/aws"
	"hostmanager/aws/queue"
	"hostmanager/internal/logfile"
	"hostmanager/journal"
	"hostmanager/protocol"
)

func TestOutages_SayTheBeginningAndTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []string
		o := newOutages(func(e protocol.Event) { said = append(said, string(e.Severity)+" "+e.Msg) }, slog.New(slog.DiscardHandler))
		away := &hostaws.Error{Op: "receive from", On: "q", Kind: hostaws.ErrUnavailable, Reason: errors.New("no answer came")}
		if o.answered(onCommands) || len(said) != 0 {
			t.Fatalf("said %q", said)
		}
		o.failed(onCommands, away, 3)
		o.failed(onCommands, away, 3)
		if o.answered(onCommands) || len(said) != 0 { // two polls in a row that failed are no outage
			t.Fatalf("said %q", said)
		}
		for range 500 {
			o.failed(onCommands, away, 3)
			<-time.After(time.Second)
		}
		if !o.answered(onCommands) || o.answered(onCommands) {
			t.Error("the end of the outage is not told once")
		}
		o.failed(onRecord, away, 1)
		o.forget(onRecord)
		o.answered(onRecord)
		want := []string{
			"WARN The command queue does not answer: receive from q: service is not available: no answer came. It is tried until it does; what serves is left alone.",
			"INFO The command queue answers again, after 8m20s.",
			"WARN The environment's record in S3 does not answer: receive from q: service is not available: no answer came. It is tried until it does; what serves is left alone.",
		}
		if strings.Join(said, "\n") != strings.Join(want, "\n") {
			t.Errorf("said\n%s", strings.Join(said, "\n"))
		}
	})
}

func TestAdvice_TellsWhatToDo(t *testing.T) {
	for err, want := range map[error]string{
		queue.ErrQueueMissing:   "Make the queue",
		hostaws.ErrAccessDenied: "instance's role",
		hostaws.ErrThrottled:    "Fewer requests",
		errors.New("no route"):  "It is tried until it does",
	} {
		if got := advice(onCommands, fmt.Errorf("call: %w", err)); !strings.Contains(got, want) {
			t.Errorf("%v: %q", err, got)
		}
	}
}

// A thousand instances that lost the same thing at once do not come back for it together, and none waits longer than the cap.
func TestPatience_HasFullJitter(t *testing.T) {
	var early, late int
	for range 1000 {
		p := newPatience(time.Second, 10*time.Second)
		for range 8 {
			p.next()
		}
		d := p.next()
		if d > 10*time.Second+time.Millisecond {
			t.Fatalf("waits %v", d)
		}
		if d < 5*time.Second {
			early++
		} else {
			late++
		}
	}
	if early < 400 || late < 400 {
		t.Errorf("%d early, %d late", early, late)
	}
}

// A full exclusive lane holds up no command of the shared one: its own commands stay in the queue, and nothing piles up here.
func TestIntake_PassesAFullLane(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	j, err := journal.Open(filepath.Join(t.TempDir(), "journal"), journal.Options{InstanceID: "i-1", Log: log, Now: time.Now, OnEvent: func(protocol.Event) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	a := New(Parts{Logs: &logfile.Set{Structured: log}, Now: time.Now, Journal: j})
	for range laneRoom {
		a.exclusive.push(job{do: func(context.Context) {}}, false)
	}
	deploy, abort := messageOf(t, protocol.CmdAppDeploy), messageOf(t, protocol.CmdAbort)
	if !a.mustWait(deploy) {
		t.Error("a full lane takes more")
	}
	if a.mustWait(abort) {
		t.Error("a full lane holds up the other's commands")
	}
	if a.mustWait(queue.Message{Body: "{"}) {
		t.Error("what is no command waits for a lane")
	}
	ended, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if a.awaitRoom(ended); ended.Err() != nil {
		t.Error("one full lane holds intake up")
	}
	a.exclusive.waiting = a.exclusive.waiting[1:]
	if a.mustWait(deploy) {
		t.Error("a lane with room takes no more")
	}
}

func messageOf(t *testing.T, command string) queue.Message {
	t.Helper()
	data, err := protocol.Request{CommandName: command, RequestID: "r", Timeout: time.Minute}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c, err := protocol.Command{
		DispatcherID: "d", CommandName: "c", InvocationID: command, Expiration: time.Now().Add(time.Hour), ResultQueue: "https://q/1/hostmanager-r", Data: data,
	}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return queue.Message{Body: string(c)}
}
