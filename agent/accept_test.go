package agent_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/protocol"
)

// form makes a message body of a command.
type form struct {
	name   string
	encode func(protocol.Command) ([]byte, error)
}

func forms() []form {
	return []form{{"bare", protocol.Command.Encode}, {"SNS", protocol.Command.EncodeSNS}}
}

// eachForm runs a test once with every form of message.
func eachForm(t *testing.T, do func(t *testing.T, f form)) {
	t.Helper()
	for _, f := range forms() {
		t.Run(f.name, func(t *testing.T) { do(t, f) })
	}
}

// body is the message that brings c; that of the zero form is bare.
func (f form) body(t *testing.T, c protocol.Command) string {
	t.Helper()
	encode := f.encode
	if encode == nil {
		encode = protocol.Command.Encode
	}
	body, err := encode(c)
	must(t, err)
	return string(body)
}

// checkForm holds that a body is of its form, so that no row is shown twice in one.
func (f form) checkForm(t *testing.T, body string) {
	t.Helper()
	var envelope struct{ Message *string }
	err := json.Unmarshal([]byte(body), &envelope)
	if (err == nil && envelope.Message != nil) != (f.name == "SNS") {
		t.Errorf("%s is not of the form %s", body, f.name)
	}
}

// Every way a message is judged, in both forms: what is answered, what runs, that the message is gone. What becomes of a command that is accepted
// stands in checklist_test.go and crash_test.go.
func TestAcceptance_EveryRowBareAndSNS(t *testing.T) {
	of := func(o func(*world) order) func(*world, form) string {
		return func(w *world, f form) string {
			return f.body(w.t, w.command(o(w)))
		}
	}
	wrapped := func(inner string) func(*world, form) string {
		return func(w *world, f form) string {
			if f.name == "bare" {
				return inner
			}
			b, err := json.Marshal(map[string]string{"Message": inner})
			must(w.t, err)
			return string(b)
		}
	}
	for _, c := range []struct {
		name   string
		body   func(*world, form) string
		answer bool            // a result comes
		outer  protocol.Status // of it
		inner  protocol.Status
		code   int
		text   string // in msg or Message; where no answer comes, in the events
	}{
		{"no JSON", wrapped("hello"), false, "", "", 0, "An invalid message was removed from the command queue"},
		{"no object", wrapped(`["hello"]`), false, "", "", 0, "An invalid message was removed from the command queue"},
		{"Message that is no text", wrapped(`{"Message":5}`), false, "", "", 0, "An invalid message was removed from the command queue"},
		{"no InvocationId", wrapped(`{"DispatcherId":"d","CommandName":"c","Expiration":4102444800000,"ResultQueue":"q","Data":"{}"}`), false, "", "", 0, "InvocationId is missing"},
		{"no Expiration", wrapped(`{"DispatcherId":"d","CommandName":"c","InvocationId":"i","ResultQueue":"q","Data":"{}"}`), false, "", "", 0, "Expiration: is missing"},
		{"no ResultQueue", wrapped(`{"DispatcherId":"d","CommandName":"c","InvocationId":"i","Expiration":4102444800000}`), false, "", "", 0, "ResultQueue is missing"},
		{
			"result queue of a stranger", of(func(w *world) order {
				return order{name: protocol.CmdRestartAppServer, results: "https://sqs.evil.example/1/hostmanager-e-res"}
			}), false, "", "", 0, "is none that results may be sent to",
		},
		{
			"expired", of(func(*world) order {
				return order{name: protocol.CmdRestartAppServer, expires: time.Now().Add(-time.Second)}
			}), true, protocol.Failure, "", 0, "expired at ",
		},
		{"Data missing", of(func(*world) order { return order{data: " "} }), true, protocol.Failure, "", 0, "undecodable command data"},
		{"Data undecodable", of(func(*world) order { return order{data: `{"command_name":`} }), true, protocol.Failure, "", 0, "undecodable command data"},
		{
			"Data of another API version", of(func(*world) order {
				return order{data: `{"api_version":"2.0","command_name":"CMD-AppDeploy","request_id":"r"}`}
			}), true, protocol.Failure, "", 0, "Not supported command API version",
		},
		{"Data without command name", of(func(*world) order { return order{data: `{"request_id":"r"}`} }), true, protocol.Failure, "", 0, "Missing command name"},
		{"Data without request id", of(func(*world) order { return order{data: `{"command_name":"CMD-AppDeploy"}`} }), true, protocol.Failure, "", 0, "Missing request ID"},
		{
			"not for this instance", of(func(*world) order {
				return order{name: protocol.CmdRestartAppServer, instances: []string{"i-other"}}
			}), true, protocol.Success, protocol.Failure, 0, "Ignoring not applicable command.",
		},
		{
			"not for this instance, and expired", of(func(*world) order {
				return order{name: protocol.CmdRestartAppServer, instances: []string{"i-other"}, expires: time.Now().Add(-time.Hour)}
			}), true, protocol.Success, protocol.Failure, 0, "Ignoring not applicable command.",
		},
		{"unknown inner command", of(func(*world) order { return order{name: "CMD-Nonsense"} }), true, protocol.Success, protocol.Failure, 1, "Unknown command CMD-Nonsense"},
		{
			"named among others", of(func(w *world) order {
				return order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), instances: []string{"i-other", instance}}
			}), true, protocol.Success, protocol.Success, 0, "",
		},
		{
			"manifest with another digest", of(func(w *world) order {
				v := w.version("v1", nil, nil)
				v.SHA256 = strings.Repeat("0", 64)
				return order{name: protocol.CmdAppDeploy, manifest: v}
			}), true, protocol.Success, protocol.Failure, 1, "object does not have the expected SHA-256",
		},
		{
			"no manifest named", of(func(*world) order { return order{name: protocol.CmdAppDeploy} }),
			true, protocol.Success, protocol.Failure, 1, "is no name of a manifest",
		},
		{
			"numeric string as Expiration", func(w *world, f form) string {
				soon := time.Now().Add(time.Hour)
				body := f.body(w.t, w.command(order{name: "CMD-Nonsense", expires: soon}))
				quote := map[string]string{"bare": `"`, "SNS": `\"`}[f.name]
				number := strconv.FormatInt(soon.UnixMilli(), 10)
				return strings.Replace(body, number, quote+number+quote, 1)
			}, true, protocol.Success, protocol.Failure, 1, "Unknown command",
		},
	} {
		for _, f := range forms() {
			t.Run(c.name+"/"+f.name, func(t *testing.T) {
				w := newWorld(t)
				w.start()
				body := c.body(w, f)
				f.checkForm(t, body)
				w.sendBody(body)
				if !c.answer {
					eventually(t, "an event", func() bool { return strings.Contains(w.events(), c.text) })
					w.checkQueueEmpty()
					return
				}
				r := w.one()
				e := r.entry()
				if r.Status != c.outer || e.Status != c.inner || e.ReturnCode != c.code || !strings.Contains(r.Message+e.Msg, c.text) || r.ListenerID != instance {
					t.Errorf("result %+v, entry %+v", r.Result, e)
				}
				if (r.Data == "") == (r.Message == "") && c.text != "" {
					t.Errorf("result has %q and %q", r.Data, r.Message)
				}
				if strings.HasSuffix(e.Msg, ".") && e.ReturnCode != 0 { // hmctl puts one behind it
					t.Errorf("msg %q ends in a dot", e.Msg)
				}
				if (w.serving() != 0) != (e.Status == protocol.Success) {
					t.Errorf("serial %d serves", w.serving())
				}
				w.checkQueueEmpty()
			})
		}
	}
}

// checkQueueEmpty holds that messages are deleted, not only hidden.
func (w *world) checkQueueEmpty() {
	w.t.Helper()
	eventually(w.t, "the command queue is empty", func() bool {
		a, err := w.queue.Attributes(w.t.Context(), w.commandQueue())
		must(w.t, err)
		return a["ApproximateNumberOfMessages"] == "0" && a["ApproximateNumberOfMessagesNotVisible"] == "0"
	})
}

// duplicate after completion, duplicate of a refusal: the same result again, and nothing runs.
func TestAcceptance_DuplicateOfAFinishedCommandGetsTheSameResult(t *testing.T) {
	for _, f := range forms() {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t)
			w.hook("restartappserver/pre/10count", `echo x >> "`+string(w.root)+`/count"`)
			r := w.start()
			v := w.version("v1", nil, nil)
			w.send(order{name: protocol.CmdAppDeploy, manifest: v})
			w.one()
			restart := w.command(order{name: protocol.CmdRestartAppServer})
			expired := w.command(order{name: protocol.CmdRestartAppServer, expires: time.Now().Add(-time.Minute)})
			for _, c := range []protocol.Command{restart, expired} {
				w.sendAgain(c, f)
				first := w.one()
				w.sendAgain(c, f)
				second := w.one()
				if first.Result != second.Result || first.ResultID == "" {
					t.Errorf("results differ:\n%+v\n%+v", first.Result, second.Result)
				}
			}
			must(t, r.stop()) // remembered by the next agent as well
			w.start()
			w.sendAgain(restart, f)
			if again := w.one(); again.InvocationID != restart.InvocationID {
				t.Errorf("result %+v", again)
			}
			if got := w.read(w.root.Join("count")); got != "x\n" {
				t.Errorf("ran %q", got)
			}
		})
	}
}

// duplicate while running: deleted, one result.
func TestAcceptance_DuplicateWhileRunningIsDropped(t *testing.T) {
	for _, f := range forms() {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t)
			fifo := filepath.Join(t.TempDir(), "go")
			must(t, syscall.Mkfifo(fifo, 0o600))
			w.hook("appdeploy/pre/05wait", `echo x >> "`+string(w.root)+`/count"; read x < `+fifo)
			w.start()
			c := w.command(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
			w.sendAgain(c, f)
			eventually(t, "the hook waits", func() bool { return lastStep(w, c) == "appdeploy/pre/05wait" })
			w.sendAgain(c, f)
			eventually(t, "the duplicate is noticed", func() bool {
				return strings.Contains(w.read(w.root.Log("cfn-hup.log")), "is accepted and not finished, deleting the duplicate")
			})
			w.checkQueueEmpty()
			must(t, os.WriteFile(fifo, []byte("x\n"), 0o600))
			if e := w.one().entry(); e.Status != protocol.Success {
				t.Errorf("result %+v", e)
			}
			if got := w.read(w.root.Join("count")); got != "x\n" {
				t.Errorf("ran %q", got)
			}
		})
	}
}

// Expiry is judged once, at acceptance: a command accepted in time runs however late.
func TestAcceptance_ExpiryIsJudgedOnce(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		fifo := filepath.Join(t.TempDir(), "go")
		must(t, syscall.Mkfifo(fifo, 0o600))
		w.hook("appdeploy/pre/05wait", `read x < `+fifo)
		w.start()
		first := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), form: f})
		eventually(t, "the hook waits", func() bool { return lastStep(w, first) == "appdeploy/pre/05wait" })
		soon := time.Now().Add(5 * time.Second) // enough for a busy machine to accept it in time
		late := w.send(order{name: protocol.CmdRestartAppServer, expires: soon, form: f})
		eventually(t, "the second command is accepted", func() bool { return w.journalled(late.Identity()).Identity != "" })
		eventually(t, "its expiration is over", func() bool { return time.Now().After(soon) })
		must(t, os.WriteFile(fifo, []byte("x\n"), 0o600))
		ran := map[string]protocol.Status{} // they are sent side by side
		for _, r := range w.await(2) {
			ran[r.InvocationID] = r.entry().Status
		}
		if ran[late.InvocationID] != protocol.Success {
			t.Errorf("results %+v", ran)
		}
	})
}

func TestAcceptance_ResultQueuesSettingIsHeld(t *testing.T) {
	w := newWorld(t)
	other, err := w.queue.Create(t.Context(), "elsewhere-results", nil)
	must(t, err)
	w.start(func(s *agentSetup) { s.Config.ResultQueues = []string{"http://127.0.0.1:*/000000000000/elsewhere-*"} })
	w.send(order{name: "CMD-Nonsense"}) // to the default queue, which is none of them
	eventually(t, "the refusal", func() bool { return strings.Contains(w.events(), "is none that results may be sent to") })
	w.send(order{name: "CMD-Nonsense", results: other})
	if r := w.awaitFrom(other, 1)[0]; r.entry().ReturnCode != 1 {
		t.Errorf("result %+v", r)
	}
}
