package commandproc

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"hostmanager/hooks"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// Untouched tells whether a command that has these steps has changed nothing.
func Untouched(steps []journal.Step) bool {
	return !slices.ContainsFunc(steps, func(s journal.Step) bool { return s.Name != beginStep })
}

// interruptedError is why a command that a crash cut short is not taken up again.
type interruptedError struct{ text string }

func (e *interruptedError) Error() string { return "interrupted: " + e.text }

// FailureCause implements WithCause.
func (e *interruptedError) FailureCause() string { return protocol.CauseInterrupted }

// askedError is an abort that somebody asked an earlier agent for.
type askedError struct{ text string }

func (e *askedError) Error() string { return e.text }

func (e *askedError) Unwrap() error { return ErrAborted }

// Resume takes a command up that an earlier agent began, where the journal says that it stopped: what is done stays done, an open step that is
// repeatable runs again, one that is compensated is taken back and runs again, one that may run only once fails the command. A command that had
// failed goes on being undone and answers what it would have answered. putAway removes what the earlier agent left and the journal does not
// tell; it runs when the command's outcome is settled. Result and error are those of Run.
func (p *Processor) Resume(ctx context.Context, j Job, putAway func(context.Context) error) (*protocol.Response, error) {
	r := p.newRun(j)
	past := p.Steps.Command(j.Identity)
	def, known := Lookup(j.Request.CommandName)
	r.define(def)
	r.putAway, r.env = putAway, p.Environment(j)
	r.remember(past)
	p.Log.Infof("Resuming command %s, which an earlier start of the agent began%s.", j.Request.CommandName, where(past.Steps))
	if err := r.rec.Resumed(); err != nil {
		return nil, fmt.Errorf("journal that %s is taken up again: %w", j.Request.CommandName, err)
	}
	if past.Verdict != nil {
		return r.resumeUnwinding(ctx, past)
	}
	if p.committed(past.Steps) {
		return r.finish(ctx, nil)
	}
	ctx, cancel := r.bound(ctx, past)
	defer cancel(nil)
	if err := r.obstacle(past.Steps, known); err != nil {
		return r.finish(ctx, err)
	}
	bounded, stop := context.WithTimeoutCause(ctx, r.left(), ErrDeadline)
	defer stop()
	return r.finish(bounded, r.execute(bounded))
}

// resumeUnwinding goes on with a command that had failed.
func (r *run) resumeUnwinding(ctx context.Context, past journal.Command) (*protocol.Response, error) {
	var v verdict
	if err := json.Unmarshal(past.Verdict, &v); err != nil {
		r.Structured.Error("verdict in the journal is unreadable", slog.Any("error", err))
		v.Entry = protocol.ResponseEntry{Status: protocol.Failure, ReturnCode: 1, Cause: protocol.CauseInterrupted, Msg: "interrupted: the reason is lost."}
	}
	if err := r.unwind(ctx, past.Resumed >= max(r.ResumeLimit, DefaultResumeLimit) && !past.Paused); err != nil {
		return r.pause()
	}
	return r.end(ctx, v.Entry)
}

// tooOften tells whether the command was taken up as often as it may be without getting further. Its undoing has to get further in the end
// wherever the limit is low.
func (r *run) tooOften(past journal.Command) bool {
	return !past.Paused && past.Resumed >= r.ResumeLimit
}

// bound ends the context at once where nothing of the command may run any more. Whether that matters is found out on the way: where nothing is
// left to do the command has succeeded.
func (r *run) bound(ctx context.Context, past journal.Command) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	switch {
	case past.Abort != nil:
		asked := &askedError{ErrAborted.Error()}
		var text string
		if json.Unmarshal(past.Abort, &text) == nil && text != "" {
			asked.text = text
		}
		cancel(asked)
	case r.tooOften(past):
		cancel(&interruptedError{fmt.Sprintf("the agent stopped %d times%s without getting further, so %s was not taken up again. "+
			"Its steps were undone; the version deployed before serves", past.Resumed+1, where(past.Steps), r.job.Request.CommandName)})
	}
	return ctx, cancel
}

// left is what is left of the command's time, which runs from its first start, by the machine's own clock: a corrected one has to learn first
// how far that is off. A clock that was set back takes nothing from it.
func (r *run) left() time.Duration {
	return max(r.job.Request.Timeout-max(time.Since(r.began), 0), 0)
}

// obstacle finds what keeps a command from being taken up at all.
func (r *run) obstacle(steps []journal.Step, known bool) error {
	const undone = "Its steps were undone; the version deployed before serves"
	for _, s := range steps {
		switch {
		case s.State == journal.Undone: // by an agent that journalled no verdict
			return &interruptedError{fmt.Sprintf("the agent stopped while %s, which had failed, was being undone. %s", r.job.Request.CommandName, undone)}
		case s.State == journal.Started && s.Semantics == protocol.Once && !r.cleans(s.Name):
			return &interruptedError{fmt.Sprintf("hook %s was running when the agent stopped; it may run only once, so %s was not taken up again. %s",
				s.Name, r.job.Request.CommandName, undone)}
		}
	}
	if r.job.Void != "" {
		return &interruptedError{fmt.Sprintf("%s. %s", r.job.Void, undone)}
	}
	if !known {
		return &interruptedError{fmt.Sprintf("this version of the agent does not know %s. %s", r.job.Request.CommandName, undone)}
	}
	return nil
}

// removeLeavings has what an earlier agent left removed. That some remains changes no verdict.
func (r *run) removeLeavings(ctx context.Context) {
	ctx, cancel := r.undoContext(ctx)
	defer cancel()
	if err := r.putAway(ctx); err != nil {
		r.Structured.Error("leavings of interrupted command remain", slog.Any("error", err))
		r.events.once(protocol.Event{Severity: protocol.Error, Msg: fmt.Sprintf("What the interrupted %s left could not be removed wholly: %v.", r.job.Request.CommandName, err)})
	}
}

// Lost answers a command whose end a damaged journal does not tell. Nothing is undone on a guess.
func (p *Processor) Lost(j Job) *protocol.Response {
	return p.newRun(j).respond(protocol.ResponseEntry{
		Status: protocol.Failure, ReturnCode: 1, Cause: protocol.CauseInterrupted,
		Msg: "interrupted: the journal of this instance was damaged, so the end of " + j.Request.CommandName + " is unknown. Nothing that runs was touched; look at the instance, then send the command again",
	})
}

// remember takes from the journal what the run knew: the deployment, when it began, its steps and what they reported.
func (r *run) remember(past journal.Command) {
	r.prior = map[string]hooks.Prior{}
	var events []json.RawMessage
	for _, s := range past.Steps {
		if s.Name == beginStep {
			r.rememberBeginning(s)
			continue
		}
		r.prior[s.Name] = hooks.Prior{Done: s.State == journal.Done, Semantics: s.Semantics, Saved: s.Payload}
		if past.Verdict == nil || r.cleans(s.Name) { // a verdict holds what was reported before it
			events = append(events, s.Events)
		}
	}
	if past.Verdict != nil {
		var v verdict
		if json.Unmarshal(past.Verdict, &v) == nil { // else resumeUnwinding tells
			events = slices.Insert(events, 0, v.Events)
		}
	}
	for _, list := range events {
		if err := r.events.restore(list); err != nil {
			r.Structured.Warn("events in the journal are unreadable", slog.Any("error", err))
		}
	}
	r.job.Begun = &r.deployment
}

func (r *run) rememberBeginning(s journal.Step) {
	b := beginning{Began: s.At}
	if s.Payload != nil {
		if err := json.Unmarshal(s.Payload, &b); err != nil {
			r.Structured.Warn("deployment in the journal is unreadable", slog.Any("error", err))
		}
	}
	r.deployment, r.began = b.Deployment, b.Began
}

// committed tells whether the command's last step is done: then only cleaning up and its result are missing.
func (p *Processor) committed(steps []journal.Step) bool {
	return slices.ContainsFunc(steps, func(s journal.Step) bool { return s.Name == p.Commit.Name && s.State == journal.Done })
}

// where names the innermost step that was begun and is not done.
func where(steps []journal.Step) string {
	for _, s := range slices.Backward(steps) {
		if s.State == journal.Started && s.Name != beginStep {
			return " in " + s.Name
		}
	}
	return ""
}

// Open returns the steps that were running when the agent stopped, without those that only hold others.
func Open(steps []journal.Step) []string {
	var open []string
	for _, s := range steps {
		if s.State == journal.Started && strings.ContainsRune(s.Name, '/') {
			open = append(open, s.Name)
		}
	}
	return open
}
