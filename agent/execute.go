package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"hostmanager/commandproc"
	"hostmanager/hooks"
	"hostmanager/internal/redact"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// handler is the name cfn-hup's log gives what runs our commands.
const handler = "aws-eb-command-handler"

// jobOf makes a lane's job of an accepted command.
func (a *Agent) jobOf(j commandproc.Job) job {
	return job{identity: j.Identity, do: func(ctx context.Context) { a.execute(ctx, j) }, command: &j}
}

// execute runs one command from its start to its journalled result; nil where it is left to a later agent.
func (a *Agent) execute(ctx context.Context, j commandproc.Job) *protocol.Response {
	if j.Request.CommandName == protocol.CmdAbort {
		return a.runAbort(ctx, j)
	}
	if a.laneOf(j.Request.CommandName) == a.exclusive {
		if response := a.refuseAborted(j); response != nil {
			return response
		}
		if response := a.supersede(j); response != nil {
			return response
		}
		var end func()
		ctx, end = a.begin(ctx, j)
		defer end()
		j.Previous = a.previous(j.Identity)
	}
	a.logAction(j)
	a.log.Info("command started", slog.String("command", j.Request.CommandName), slog.String("identity", j.Identity))
	j.Pause = a.leave
	response, err := a.Processor.Run(ctx, j)
	return a.over(j, response, err)
}

// over takes in what came of running a command.
func (a *Agent) over(j commandproc.Job, response *protocol.Response, err error) *protocol.Response {
	switch {
	case errors.Is(err, hooks.ErrPaused):
		a.log.Info("command left to the next start", slog.String("command", j.Request.CommandName), slog.String("identity", j.Identity))
		return nil
	case err != nil: // the journal takes no more, so nothing that is promised could be kept
		a.fail(fmt.Errorf("leave command %s to the next start: %w", j.Identity, err))
		return nil
	}
	a.finish(j, response)
	return response
}

// begin makes a command the exclusive one under way until end is called; the context it returns is what cancelRunning ends.
func (a *Agent) begin(ctx context.Context, j commandproc.Job) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	a.setCurrent(&current{
		Identity: j.Identity, Name: j.Request.CommandName, Request: j.Request.RequestID, Since: a.Now(), cancel: cancel,
	})
	return ctx, func() {
		a.setCurrent(nil)
		cancel(nil)
	}
}

// cancelRunning ends the exclusive command under way at its next safe point; what it did is undone, and the agent goes on. cause wraps
// commandproc.ErrAborted and says who asked. An empty identity means whichever command runs. False: that command does not run (any more).
func (a *Agent) cancelRunning(identity string, cause error) (current, bool) {
	a.mu.Lock()
	c := a.current
	a.mu.Unlock()
	if c == nil || c.cancel == nil || identity != "" && c.Identity != identity {
		return current{}, false
	}
	c.cancel(cause)
	a.noteAbort(*c, cause)
	return *c, true
}

// noteAbort journals that the end of a command was asked for: it stays asked for, also where the agent ends before the command does.
func (a *Agent) noteAbort(c current, cause error) {
	payload, err := encode(a.Redact.String(cause.Error()))
	if err == nil {
		err = a.appendRecord(journal.Record{Type: journal.Abort, Command: c.Identity, Payload: payload})
	}
	if err != nil {
		a.log.Error("abort not journalled", slog.String("identity", c.Identity), slog.Any("error", err))
	}
}

// withdrawWaiting answers a command that waits in the exclusive lane, as aborted for that cause, and takes it out: nothing of it was begun. False:
// it does not wait there.
func (a *Agent) withdrawWaiting(identity string, cause error) bool {
	if !a.exclusive.withdraw(identity) {
		return false
	}
	c, known := a.Journal.Command(identity)
	j, readable := a.jobOfJournal(c)
	if known && readable {
		a.concludeOrLog(identity, j.Command, answer{response: a.Processor.Withdrawn(j, cause)})
	}
	return true
}

// logAction tells the listener's log that a command begins, and in which environment.
func (a *Agent) logAction(j commandproc.Job) {
	a.Logs.Listener.Infof("Running action for %s", handler)
	env := map[string]string{"PATH": hooks.DefaultPath, "LANG": "en_US.UTF-8", "PWD": "/"}
	for _, variable := range a.Processor.Environment(j) {
		name, value, _ := strings.Cut(variable, "=")
		env[name] = value
	}
	if text, err := json.Marshal(env); err == nil { // texts alone: there is none
		a.Logs.Listener.Debugf("Action environment: %s", text)
	}
}

// finish journals the response of a command that was begun and hands it to the outbox.
func (a *Agent) finish(j commandproc.Job, response *protocol.Response) {
	a.log.Info("command finished", slog.String("command", j.Request.CommandName), slog.String("identity", j.Identity),
		slog.String("status", string(response.Status)), slog.String("reason", response.Entry().Msg))
	a.noteDeployed(j, response)
	if err := a.conclude(j.Identity, j.Command, answer{response: response, ran: true}); err != nil {
		a.log.Error("result not journalled", slog.Any("error", err))
		return
	}
	if a.laneOf(j.Request.CommandName) == a.exclusive {
		a.forgetPrevious()
	}
}

// forgetPrevious removes the copy of properties that no command needs any more.
func (a *Agent) forgetPrevious() {
	if err := removeFile(previousManifest(a.Root)); err != nil {
		a.log.Warn("manifest of the version before not removed", slog.Any("error", err))
	}
}

func (a *Agent) setCurrent(c *current) {
	a.mu.Lock()
	a.current = c
	a.mu.Unlock()
	a.registrar.poke()
	select {
	case a.worked <- struct{}{}:
	default:
	}
}

// previous finds the exclusive command that ran last before this one: what the order of stages is judged by, also after a restart. A command that
// began nothing does not count.
func (a *Agent) previous(identity string) *commandproc.Past {
	if c, ok := a.lastExclusive(identity); ok {
		return a.pastOf(c)
	}
	return nil
}

// lastExclusive is the journal's command behind previous.
func (a *Agent) lastExclusive(identity string) (journal.Command, bool) {
	for c := range a.Journal.Ended() {
		ran := !commandproc.Untouched(c.Steps) || c.Lost
		if c.Identity != identity && ran && a.pastOf(c) != nil {
			return c, true
		}
	}
	return journal.Command{}, false
}

// pastOf is nil for a command of the shared lane. One that cannot be read any more counts: it came between.
func (a *Agent) pastOf(c journal.Command) *commandproc.Past {
	_, request, err := decodeAccepted(c)
	if err != nil {
		return &commandproc.Past{CommandName: "a command the journal no longer holds"}
	}
	if a.laneOf(request.CommandName) != a.exclusive {
		return nil
	}
	past := &commandproc.Past{CommandName: request.CommandName, RequestID: request.RequestID, StageNum: request.StageNum}
	var o outcome
	if json.Unmarshal(c.Result, &o) == nil {
		past.Succeeded = o.Verdict == protocol.Success
	}
	return past
}

// decodeAccepted reads back what accept journalled.
func decodeAccepted(c journal.Command) (protocol.Command, protocol.Request, error) {
	command, err := protocol.DecodeCommand(c.Message)
	if err != nil {
		return command, protocol.Request{}, fmt.Errorf("read journalled command: %w", err)
	}
	request, err := protocol.DecodeRequest(command.Data)
	if err != nil {
		return command, request, fmt.Errorf("read journalled command: %w", err)
	}
	return command, request, nil
}

// journalSteps is the journal as the processor uses it.
type journalSteps struct {
	journal *journal.Journal
	redact  *redact.Redactor
}

// Recorder returns the recorder of a command's steps.
func (s journalSteps) Recorder(identity string) commandproc.Recorder {
	return maskingRecorder{s.journal.Recorder(identity), s.redact}
}

// Command returns what the journal says of a command.
func (s journalSteps) Command(identity string) journal.Command {
	c, _ := s.journal.Command(identity)
	return c
}

// maskingRecorder hides secrets in what is said by people and hooks before the journal keeps it.
type maskingRecorder struct {
	*journal.Recorder
	redact *redact.Redactor
}

// Done implements commandproc.Recorder.
func (r maskingRecorder) Done(step string, events json.RawMessage) error {
	events, err := r.mask(events)
	if err != nil {
		return err
	}
	return r.Recorder.Done(step, events)
}

// Verdict implements commandproc.Recorder.
func (r maskingRecorder) Verdict(payload json.RawMessage) error {
	payload, err := r.mask(payload)
	if err != nil {
		return err
	}
	return r.Recorder.Verdict(payload)
}

// mask hides secrets in every member msg, however deep; names and numbers of the protocol stay.
func (r maskingRecorder) mask(payload json.RawMessage) (json.RawMessage, error) {
	if len(payload) == 0 {
		return payload, nil
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("read journal payload: %w", err)
	}
	maskMessages(v, r.redact)
	return encode(v)
}

func maskMessages(v any, hide *redact.Redactor) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			maskMessages(e, hide)
		}
	case map[string]any:
		for k, e := range v {
			if text, ok := e.(string); ok && k == "msg" {
				v[k] = hide.String(text)
			}
			maskMessages(e, hide)
		}
	}
}
