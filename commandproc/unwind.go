package commandproc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"hostmanager/hooks"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// unwind undoes the compensated steps of the command, the last one first, and puts the serving version's files back. What cannot be undone is
// told in an event; the rest is undone all the same.
func (r *run) unwind(ctx context.Context) {
	ctx, cancel := r.undoContext(ctx)
	defer cancel()
	var undone, stuck []string
	steps := r.Steps.Steps(r.job.Identity)
	for _, step := range slices.Backward(steps) {
		if step.Semantics != protocol.Compensated || step.State == journal.Undone {
			continue
		}
		_, err := calmly(func() (string, error) { return "", r.undo(ctx, step) })
		if err == nil {
			err = r.rec.Undone(step.Name)
		}
		if err != nil {
			stuck = append(stuck, fmt.Sprintf("%s: %v", step.Name, err))
			continue
		}
		undone = append(undone, step.Name)
	}
	if len(steps) > 0 {
		if _, err := calmly(func() (string, error) { return "", r.Settle(ctx) }); err != nil {
			stuck = append(stuck, err.Error())
		}
	}
	r.tellUndone(undone, stuck)
}

func (r *run) tellUndone(undone, stuck []string) {
	name := r.job.Request.CommandName
	if len(undone) > 0 {
		r.Log.Infof("Undid steps of command %s: %s", name, strings.Join(undone, ", "))
		r.events.add(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("%s did not succeed; undone: %s.", name, strings.Join(undone, ", "))})
	}
	if len(stuck) > 0 {
		r.Log.Errorf("Could not undo steps of command %s: %s", name, strings.Join(stuck, "; "))
		r.events.add(protocol.Event{Severity: protocol.Error, Msg: fmt.Sprintf("%s did not succeed and could not be undone wholly: %s.", name, strings.Join(stuck, "; "))})
	}
}

// undo takes one step back.
func (r *run) undo(ctx context.Context, step journal.Step) error {
	a := activity{r.Activity, []string{"Undo " + r.def.Name, step.Name}}
	b, builtin := r.builtinOf(step.Name)
	dir := ""
	if !builtin {
		dir, _ = path(step.Name)
	}
	call := r.call(dir, a)
	call.Saved = step.Payload
	call.Save = func(any) error { return errors.New("nothing can be saved while undoing") }
	if !builtin {
		return r.Dirs.Undo(ctx, call, step.Name)
	}
	if b.Undo == nil {
		return nil
	}
	return b.Undo(ctx, &call)
}

// path splits a hook's step into directory and name: "appdeploy/pre/03build".
func path(step string) (dir, name string) {
	if i := strings.LastIndexByte(step, '/'); i >= 0 {
		return step[:i], step[i+1:]
	}
	return "", step
}

// builtinOf finds the built-in action behind a step.
func (p *Processor) builtinOf(step string) (hooks.Builtin, bool) {
	if b, ok := p.Infra[step]; ok {
		return b, true
	}
	if step == p.Commit.Name {
		return p.Commit, true
	}
	place, name := path(step)
	for at, list := range map[string][]hooks.Builtin{"AddonsBefore": p.Before, "AddonsAfter": p.After} {
		i := slices.IndexFunc(list, func(b hooks.Builtin) bool { return b.Name == name })
		if at == place && i >= 0 {
			return list[i], true
		}
	}
	return hooks.Builtin{}, false
}

// Untouched tells whether a command that has these steps has changed nothing yet and can run from its start.
func Untouched(steps []journal.Step) bool {
	return !slices.ContainsFunc(steps, func(s journal.Step) bool { return s.Name != beginStep })
}

// Interrupted ends a command that the agent's or the machine's stop cut short: what it did is undone and it fails, unless only its result was
// missing. recover removes what the interrupted command left behind, or had yet to put away; it runs after the undoing.
func (p *Processor) Interrupted(ctx context.Context, j Job, recover func(context.Context) error) *protocol.Response {
	r := p.newRun(j)
	r.def, _ = Lookup(j.Request.CommandName)
	steps := p.Steps.Steps(j.Identity)
	r.remember(steps)
	if p.committed(steps) {
		r.putAway(ctx, recover)
		r.Log.Infof("Command %s succeeded!", r.def.Name)
		return r.respond(protocol.ResponseEntry{Status: protocol.Success})
	}
	where := "before its first action"
	if i := lastOpen(steps); i >= 0 {
		where = "in " + steps[i].Name
	}
	r.Log.Errorf("Command %s was interrupted %s.", j.Request.CommandName, where)
	r.unwind(ctx)
	r.putAway(ctx, recover)
	return r.respond(protocol.ResponseEntry{
		Status: protocol.Failure, ReturnCode: 1,
		Msg: fmt.Sprintf("interrupted: the agent or the instance stopped while %s was running, %s. Its steps were undone; the version deployed before serves.",
			j.Request.CommandName, where) + moreDetail,
	})
}

// putAway has the leavings of an interrupted command removed. That some remain changes no verdict.
func (r *run) putAway(ctx context.Context, recover func(context.Context) error) {
	ctx, cancel := r.undoContext(ctx)
	defer cancel()
	if err := recover(ctx); err != nil {
		r.Structured.Error("leavings of interrupted command remain", slog.Any("error", err))
		r.events.add(protocol.Event{Severity: protocol.Error, Msg: fmt.Sprintf("What the interrupted %s left could not be removed wholly: %v.", r.job.Request.CommandName, err)})
	}
}

// Lost answers a command whose end a damaged journal does not tell. Nothing is undone on a guess.
func (p *Processor) Lost(j Job) *protocol.Response {
	return p.newRun(j).respond(protocol.ResponseEntry{
		Status: protocol.Failure, ReturnCode: 1,
		Msg: "interrupted: the journal of this instance was damaged, so the end of " + j.Request.CommandName + " is unknown. Nothing that runs was touched; look at the instance, then send the command again",
	})
}

// remember takes the deployment from the journal.
func (r *run) remember(steps []journal.Step) {
	for _, s := range steps {
		if s.Name == beginStep && s.Payload != nil {
			if err := json.Unmarshal(s.Payload, &r.deployment); err != nil {
				r.Structured.Warn("deployment in the journal is unreadable", slog.Any("error", err))
			}
		}
	}
}

// committed tells whether the command's last step is done: then it is its result alone that is missing.
func (p *Processor) committed(steps []journal.Step) bool {
	return slices.ContainsFunc(steps, func(s journal.Step) bool { return s.Name == p.Commit.Name && s.State == journal.Done })
}

// lastOpen finds the innermost step that was begun and is not done.
func lastOpen(steps []journal.Step) int {
	for i, s := range slices.Backward(steps) {
		if s.State == journal.Started && s.Name != beginStep {
			return i
		}
	}
	return -1
}
