package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"hostmanager/commandproc"
	"hostmanager/internal/layout"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// An abort is of one operation, named by its request id, whatever of it is here: running, waiting, between two stages, or still to come. CMD-Abort stays
// in the journal like every command, and that is the memory by which a later stage is refused.

// abortPause is how often a command that is being undone is looked at where nothing tells of its end.
const abortPause = 50 * time.Millisecond

// abortOf says which operation an accepted command aborts, and for whom; false where it is no abort.
func abortOf(r protocol.Request) (operation string, cause error, ok bool) {
	if r.CommandName != protocol.CmdAbort {
		return "", nil, false
	}
	return r.Data, abortCause(protocol.DecodeAbort(r.ExecutionData)), true
}

func abortCause(o protocol.AbortOrder) error {
	text := "by " + o.By
	if o.By == "" {
		text = "by an operator"
	}
	if o.Reason != "" {
		text += ": " + o.Reason
	}
	return fmt.Errorf("%w %s", commandproc.ErrAborted, text)
}

// abortedBefore finds whether the operation was aborted here, and by whom; nil where it was not.
func (a *Agent) abortedBefore(operation string) error {
	for c := range a.Journal.Backward() {
		if !bytes.Contains(c.Message, []byte(protocol.CmdAbort)) { // decoding them all would cost every command of a long journal its time
			continue
		}
		_, r, err := decodeAccepted(c)
		if err != nil {
			continue
		}
		if of, cause, ok := abortOf(r); ok && of == operation && r.AppliesTo(a.InstanceID) {
			return cause
		}
	}
	return nil
}

// refuseAborted answers a command of an operation that was aborted here before its turn came. Nil: it is to run.
func (a *Agent) refuseAborted(j commandproc.Job) *protocol.Response {
	cause := a.abortedBefore(j.Request.RequestID)
	if cause == nil {
		return nil
	}
	response := a.Processor.Withdrawn(j, cause)
	a.concludeOrLog(j.Identity, j.Command, answer{response: response})
	return response
}

// runAbort carries CMD-Abort out: it answers when what it aborts has come to its end. Nil: the agent stops, and the next one goes on.
func (a *Agent) runAbort(ctx context.Context, j commandproc.Job) *protocol.Response {
	a.logAction(j)
	bounded, cancel := context.WithTimeoutCause(ctx, j.Request.Timeout, commandproc.ErrDeadline)
	defer cancel()
	operation, cause, _ := abortOf(j.Request)
	entry, err := a.abortOperation(bounded, operation, cause)
	switch {
	case err != nil && (ctx.Err() != nil || errors.Is(err, ErrStopped)):
		return nil
	case errors.Is(err, commandproc.ErrDeadline):
		entry = protocol.ResponseEntry{Status: protocol.Failure, ReturnCode: 1, Cause: protocol.CauseTimeout, Msg: fmt.Sprintf(
			"The abort was asked for, and what it ends was not undone after %s; it goes on being undone.", j.Request.Timeout)}
	case err != nil:
		entry = protocol.ResponseEntry{Status: protocol.Failure, ReturnCode: 1, Msg: err.Error()}
	}
	entry.StageNum = j.Request.StageNum
	a.sayServing(ctx, &entry)
	response := protocol.NewResponse(entry)
	a.finish(j, response)
	return response
}

// sayServing puts what serves now into an answer: by that an operator knows what the instances run. An answer without it is no success.
func (a *Agent) sayServing(ctx context.Context, entry *protocol.ResponseEntry) {
	ctx, cancel := context.WithTimeout(ctx, applicationTimeout)
	defer cancel()
	app, err := a.Platform.Status(ctx)
	if err != nil {
		entry.Status, entry.ReturnCode = protocol.Failure, 1
		entry.Msg += fmt.Sprintf(" What serves now could not be found out: %v.", err)
		return
	}
	entry.DeploymentID, entry.VersionLabel, entry.Serial = app.DeploymentID, app.VersionLabel, app.Serial
}

// abortOperation ends what is here of an operation and waits for its end. The entry has the cause "aborted" where the operation did not, and will not,
// come to its end here; ctx's end is an error.
func (a *Agent) abortOperation(ctx context.Context, operation string, cause error) (protocol.ResponseEntry, error) {
	entry := protocol.ResponseEntry{Status: protocol.Success}
	if !protocol.ValidID(operation) {
		return entry, fmt.Errorf("%w: data %.80q names no operation to abort (its request_id)", protocol.ErrBadRequest, operation)
	}
	stopped := "" // the command that was ended, or kept from running
	for _, c := range a.commandsOf(operation) {
		if c.Finished() {
			continue
		}
		if err := a.abortCommand(ctx, c.Identity, cause); err != nil {
			return entry, err
		}
		stopped = c.Identity
	}
	all := a.commandsOf(operation)
	if len(all) == 0 {
		entry.Cause, entry.Msg = protocol.CauseAborted, "Nothing of operation "+operation+" came here; what comes is not run."
		return entry, nil
	}
	last := all[len(all)-1]
	past, stage := a.pastOf(last), commandStatus(last)
	name := past.CommandName + stageText(stage.StageNum)
	ended := past.Succeeded && lastStage(past)
	switch {
	case ended && stopped == last.Identity:
		entry.Msg = fmt.Sprintf("%s could not be aborted any more: it ended with SUCCESS.", name)
	case ended, stopped == "" && !past.Succeeded:
		entry.Msg = fmt.Sprintf("Nothing to abort: %s ended with %s.", name, stage.Verdict)
		if !ended && stage.Verdict == protocol.Failure {
			entry.Cause = protocol.CauseAborted // it changed nothing, and nothing of it runs any more
		}
	case past.Succeeded:
		entry.Cause, entry.Msg = protocol.CauseAborted, fmt.Sprintf("Aborted behind %s: its next stage is not run.", name)
	default:
		entry.Cause, entry.Msg = protocol.CauseAborted, fmt.Sprintf("%s was aborted and undone.", name)
	}
	if entry.Cause != "" && stopped != "" {
		a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("%s (%s)", entry.Msg, cause)})
	}
	return entry, nil
}

func stageText(n *int) string {
	if n == nil {
		return ""
	}
	return " stage " + strconv.Itoa(*n)
}

// lastStage tells whether nothing of the operation comes behind this command.
func lastStage(p *commandproc.Past) bool {
	def, _ := commandproc.Lookup(p.CommandName)
	return p.StageNum == nil || *p.StageNum >= len(def.Stages)-1
}

// commandsOf returns the exclusive commands of an operation, in the order they were accepted.
func (a *Agent) commandsOf(operation string) []journal.Command {
	var all []journal.Command
	for _, c := range a.Journal.Commands() {
		if _, r, err := decodeAccepted(c); err == nil && r.RequestID == operation && a.laneOf(r.CommandName) == a.exclusive {
			all = append(all, c)
		}
	}
	return all
}

// abortCommand ends one command and returns when its result is journalled. One that an earlier agent began is not taken out of the lane: it is to be
// undone, and its journal says that its end was asked for.
func (a *Agent) abortCommand(ctx context.Context, identity string, cause error) error {
	asked := false
	for {
		changed := a.exclusive.change()
		c, known := a.Journal.Command(identity)
		switch {
		case !known || c.Finished():
			return nil
		case asked:
		case len(c.Steps) == 0 && a.withdrawWaiting(identity, cause):
			continue
		default:
			_, asked = a.cancelRunning(identity, cause)
			if !asked && len(c.Steps) > 0 && c.Abort == nil {
				a.noteAbort(current{Identity: identity}, cause)
			}
		}
		if _, running := a.exclusive.depth(); running == 0 && a.draining() {
			return ErrStopped // the command is left to the next agent, and so is this
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		case <-time.After(abortPause): // between the lane and its first step a command is in neither's hands
		}
	}
}

func (a *Agent) draining() bool {
	select {
	case <-a.drain:
		return true
	default:
		return false
	}
}

// localAbort is what POST /v1/abort takes and answers.
type localAbort struct {
	By     string `json:"by,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// Aborted is what became of a local abort.
type Aborted struct {
	Aborted   bool   `json:"aborted"` // false: nothing was running, or it was too late
	RequestID string `json:"request_id,omitempty"`
	Command   string `json:"command_name,omitempty"`
	Msg       string `json:"msg"`
}

// abortHere aborts the operation under way on this instance: the one whose command runs, else the one whose next stage is to come.
func (a *Agent) abortHere(ctx context.Context, o localAbort) (Aborted, error) {
	name, operation := a.underWay()
	if operation == "" {
		return Aborted{Msg: "nothing to abort: no command is running"}, nil
	}
	r, err := a.abortOwn(ctx, operation, protocol.AbortOrder(o))
	if err != nil {
		return Aborted{}, err
	}
	a.log.Info("abort", slog.String("request", operation), slog.String("by", o.By), slog.String("answer", r.Msg))
	return Aborted{Aborted: r.Cause == protocol.CauseAborted, RequestID: operation, Command: name, Msg: r.Msg}, nil
}

// underWay finds the operation that is under way here.
func (a *Agent) underWay() (command, operation string) {
	a.mu.Lock()
	running := a.current
	a.mu.Unlock()
	if running != nil {
		return running.Name, running.Request
	}
	if a.nextStageDue() > 0 {
		if c, ok := a.lastExclusive(""); ok {
			_, r, err := decodeAccepted(c)
			if err == nil {
				return r.CommandName, r.RequestID
			}
		}
	}
	return "", ""
}

// abortOwn journals an abort like one that came from the queue, so that it is remembered, and carries it out.
func (a *Agent) abortOwn(ctx context.Context, operation string, o protocol.AbortOrder) (protocol.ResponseEntry, error) {
	id := protocol.CmdAbort + "-" + strconv.FormatInt(a.Now().UnixNano(), 36)
	data, err := protocol.Request{CommandName: protocol.CmdAbort, RequestID: id, Data: operation, ExecutionData: o.Encode()}.Encode()
	if err != nil {
		return protocol.ResponseEntry{}, err
	}
	c := protocol.Command{
		DispatcherID: bootDispatcher, CommandName: "abort", InvocationID: id,
		Expiration: a.Now().Add(keepAfterExpiry), ResultQueue: localQueue, Data: data,
	}
	if _, err := a.accept(c.Identity(), c); err != nil {
		return protocol.ResponseEntry{}, err
	}
	request, err := protocol.DecodeRequest(data)
	if err != nil {
		return protocol.ResponseEntry{}, err
	}
	response := a.runAbort(ctx, commandproc.Job{Identity: c.Identity(), Command: c, Request: request})
	if response == nil {
		return protocol.ResponseEntry{}, context.Cause(ctx)
	}
	entry := response.Entry()
	if entry.Status != protocol.Success {
		return entry, errors.New(entry.Msg)
	}
	return entry, nil
}

// maxAbortBody bounds what POST /v1/abort reads, in bytes.
const maxAbortBody = 16 << 10

// serveAbort is POST /v1/abort. The abort goes on when whoever asked has gone.
func (a *Agent) serveAbort(ctx context.Context) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var o localAbort
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxAbortBody)).Decode(&o); err != nil {
			http.Error(w, "read the request: "+err.Error(), http.StatusBadRequest)
			return
		}
		done, err := a.abortHere(ctx, o)
		if err != nil {
			http.Error(w, a.Redact.String(err.Error()), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(done); err != nil {
			a.log.Debug("answer to an abort not delivered", "error", err)
		}
	}
}

// AskAbort has the agent of a root abort what runs there, and waits until it is undone.
func AskAbort(ctx context.Context, root layout.Root, by, reason string) (Aborted, error) {
	body, err := json.Marshal(localAbort{by, reason})
	if err != nil {
		return Aborted{}, err
	}
	var done Aborted
	err = askAgent(ctx, root, http.MethodPost, "/v1/abort", body, &done)
	var unreached *url.Error
	if errors.As(err, &unreached) {
		err = fmt.Errorf("%w (%w); is it running? Look at %s", ErrNotReached, err, root.Log("hostmanager.log"))
	}
	return done, err
}
