package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"hostmanager/protocol"
)

// sequence is a list of hooks under way.
type sequence struct {
	call  Call
	rec   Recorder
	watch Watch
	grace time.Duration
	dir   string   // working directory of files
	env   []string // environment of files, but for EB_EVENT_FILE

	spawned spawned
}

// run runs the hooks one after the other, up to the first error.
func (s *sequence) run(ctx context.Context, hooks []entry) error {
	if s.watch == nil {
		output := s.call.Output
		s.watch = func(string) (io.Writer, func(error)) { return output, func(error) {} }
	}
	events, err := newEventFile(s.call.Root)
	if err != nil {
		return err
	}
	defer events.remove()
	s.env = append(slices.Clip(s.env), "EB_EVENT_FILE="+events.path)
	for i, e := range hooks {
		if s.call.Prior[s.step(e)].Done {
			continue
		}
		if paused(s.call.Pause) {
			return ErrPaused
		}
		if ctx.Err() != nil {
			return fmt.Errorf("before hook %s: %w", e.path, context.Cause(ctx))
		}
		report := func(failed bool) { events.report(&s.call, e.path, failed || i == len(hooks)-1) }
		if err := s.one(ctx, e, report); err != nil {
			return err
		}
	}
	return nil
}

func (s *sequence) step(e entry) string { return s.call.Dir + "/" + e.name }

// one runs a hook between its two journal records. What it reported is taken in before the second, which keeps it.
func (s *sequence) one(ctx context.Context, e entry, report func(failed bool)) error {
	if prior, begun := s.call.Prior[s.step(e)]; begun && s.call.all && prior.Semantics == protocol.Once {
		s.call.Event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
			"The cleanup hook %s was running when the agent stopped; it may run only once and is not run again.", e.path)})
		return s.rec.Done(s.step(e))
	}
	output, end := s.watch(e.name)
	err := s.within(ctx, e, output)
	end(err)
	report(err != nil)
	switch {
	case err == nil:
		return s.rec.Done(s.step(e))
	case errors.Is(err, ErrPaused):
		return err
	case s.call.all:
		s.call.Event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("The cleanup hook %s failed: %v.", e.path, err)})
		return s.rec.Done(s.step(e))
	}
	return newError(e.path, err)
}

// within journals that the hook begins, and runs it.
func (s *sequence) within(ctx context.Context, e entry, output io.Writer) error {
	call, step := s.call, s.step(e)
	call.Output = output
	semantics := semanticsOf(e)
	call.Save = func(v any) error {
		payload, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode what %s must remember: %w", step, err)
		}
		return s.rec.Started(step, semantics, payload)
	}
	if err := s.again(ctx, e, call); err != nil {
		return err
	}
	if err := s.rec.Started(step, semantics, nil); err != nil {
		return err
	}
	if e.builtin != nil && e.builtin.steps {
		call.rec = s.rec
		return e.builtin.Run(ctx, &call)
	}
	bounded, stop := Pausable(ctx, semantics, call.Pause)
	defer stop()
	if e.builtin != nil {
		return PausedOr(bounded, e.builtin.Run(bounded, &call))
	}
	return PausedOr(bounded, s.file(bounded, e, call))
}

// again readies the second run of a hook that an earlier agent began: what is compensated is taken back first.
func (s *sequence) again(ctx context.Context, e entry, call Call) error {
	prior, begun := call.Prior[s.step(e)]
	switch {
	case !begun || prior.Semantics == protocol.Repeatable:
		return nil
	case prior.Semantics != protocol.Compensated:
		return errOpenOnce
	case e.builtin == nil || e.builtin.Undo == nil:
		return fmt.Errorf("this version has no built-in hook %s that could take back what an earlier try did", s.step(e))
	}
	call.Saved, call.Save, call.Again = prior.Saved, cannotSave, true
	if err := e.builtin.Undo(ctx, &call); err != nil {
		return fmt.Errorf("take back what an earlier try of %s did: %w", s.step(e), err)
	}
	return nil
}

// errOpenOnce is why a hook that a crash cut short is not run again.
var errOpenOnce = errors.New("it was running when the agent stopped, and it may run only once")

func cannotSave(any) error { return errors.New("nothing can be saved while undoing") }

// ErrPaused says that a command was left where it is because the agent stops: a later agent takes it up. It is no failure.
var ErrPaused = errors.New("the agent stops and leaves the command to the next one")

func paused(pause <-chan struct{}) bool {
	select {
	case <-pause:
		return true
	default:
		return false
	}
}

// Pausable derives the context of one step. Where the step may run again, pause ends it with the cause ErrPaused; any other is let to its end.
func Pausable(ctx context.Context, semantics protocol.Semantics, pause <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if pause != nil && semantics == protocol.Repeatable {
		go func() {
			select {
			case <-pause:
				cancel(ErrPaused)
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

// PausedOr makes the error of a step that a pause cut short ErrPaused; any other it leaves.
func PausedOr(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), ErrPaused) {
		return ErrPaused
	}
	return err
}
