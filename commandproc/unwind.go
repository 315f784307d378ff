package commandproc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hostmanager/hooks"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// verdict is what the journal keeps of a failure before its undoing begins: what the result will say, whatever happens meanwhile.
type verdict struct {
	Entry  protocol.ResponseEntry `json:"entry"`
	Events json.RawMessage        `json:"events,omitempty"`
}

// Times of condemn where the disk has no room for the verdict: undoing without it could be taken for work that is done.
const (
	verdictTries = 10
	verdictPause = time.Second
)

// condemn journals that the command failed.
func (r *run) condemn(entry protocol.ResponseEntry) error {
	list, err := r.events.all()
	if err != nil {
		return err
	}
	payload, err := json.Marshal(verdict{entry, list})
	if err != nil {
		return fmt.Errorf("encode verdict: %w", err)
	}
	for try := 1; ; try++ {
		err = r.rec.Verdict(payload)
		if !errors.Is(err, journal.ErrFull) || try == verdictTries {
			return err
		}
		pause := time.NewTimer(verdictPause)
		select {
		case <-pause.C:
		case <-r.job.Pause: // the next start goes on with the command, as where the tries are over
			pause.Stop()
			return err
		}
	}
}

// unwind undoes the compensated steps of the command, the last one first, and puts the serving version's files back. What cannot be undone is
// told in an event; the rest is undone all the same. giveUp leaves the first one alone: undoing it never came to an end. The one error is
// hooks.ErrPaused.
func (r *run) unwind(ctx context.Context, giveUp bool) error {
	ctx, cancel := r.undoContext(ctx)
	defer cancel()
	var undone, stuck []string
	steps := r.Steps.Command(r.job.Identity).Steps
	for _, step := range slices.Backward(steps) {
		if step.Semantics != protocol.Compensated {
			continue
		}
		if step.State == journal.Undone { // before a crash
			undone = append(undone, step.Name)
			continue
		}
		select {
		case <-r.job.Pause:
			return hooks.ErrPaused
		default:
		}
		if err := r.takeBack(ctx, step, giveUp); err != nil {
			stuck = append(stuck, fmt.Sprintf("%s: %v", step.Name, err))
		} else {
			undone = append(undone, step.Name)
		}
		giveUp = false
	}
	if len(steps) > 0 {
		if _, err := calmly(func() (string, error) { return "", r.Settle(ctx) }); err != nil {
			stuck = append(stuck, err.Error())
		}
	}
	r.tellUndone(undone, stuck)
	return nil
}

// errUndoEndsAgent is why a step stays as it is.
var errUndoEndsAgent = errors.New("the agent ended each time it was being undone")

// takeBack undoes one step and journals that.
func (r *run) takeBack(ctx context.Context, step journal.Step, giveUp bool) error {
	if giveUp {
		return errors.Join(errUndoEndsAgent, r.rec.Undone(step.Name)) // so that it is not tried once more
	}
	if _, err := calmly(func() (string, error) { return "", r.undo(ctx, step) }); err != nil {
		return err
	}
	return r.rec.Undone(step.Name)
}

func (r *run) tellUndone(undone, stuck []string) {
	name := r.job.Request.CommandName
	if len(undone) > 0 {
		r.Log.Infof("Undid steps of command %s: %s", name, strings.Join(undone, ", "))
		r.events.once(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("%s did not succeed; undone: %s.", name, strings.Join(undone, ", "))})
	}
	if len(stuck) > 0 {
		r.Log.Errorf("Could not undo steps of command %s: %s", name, strings.Join(stuck, "; "))
		r.events.once(protocol.Event{Severity: protocol.Error, Msg: fmt.Sprintf("%s did not succeed and could not be undone wholly: %s.", name, strings.Join(stuck, "; "))})
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
	call.Save = cannotSave
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
