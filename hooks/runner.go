package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hostmanager/internal/layout"
	"hostmanager/protocol"
)

// Watch is told of each hook before it runs: it gives the writer of the hook's output, and what to call when the hook ended, with the reason
// when it failed. It is called from one goroutine.
type Watch func(hook string) (output io.Writer, end func(err error))

// Options of New.
type Options struct {
	Root layout.Root
	// Builtins are the platform's hooks by directory ("appdeploy/pre").
	Builtins map[string][]Builtin
	// Replaceable returns the built-in hooks a file may replace, as "appdeploy/enact/01flip". It is asked at each Run, since a deployment's
	// settings say it. Nil: none.
	Replaceable func() []string
	Log         *slog.Logger // default: discards
	// Grace is the time from SIGTERM to SIGKILL of a hook whose context ended; default proc.DefaultGrace.
	Grace time.Duration
}

// Runner runs hook directories. Safe for concurrent use.
type Runner struct{ opts Options }

// New checks the built-in hooks and returns their runner.
func New(opts Options) (*Runner, error) {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Replaceable == nil {
		opts.Replaceable = func() []string { return nil }
	}
	for dir, builtins := range opts.Builtins {
		seen := map[string]bool{}
		for _, b := range builtins {
			if err := b.check(); err != nil {
				return nil, fmt.Errorf("built-in hook %s/%s: %w", dir, b.Name, err)
			}
			if seen[b.Name] {
				return nil, fmt.Errorf("built-in hook %s/%s is there twice", dir, b.Name)
			}
			seen[b.Name] = true
		}
	}
	return &Runner{opts: opts}, nil
}

func (b Builtin) check() error {
	switch {
	case b.Name == "" || strings.ContainsRune(b.Name, '/') || path.Ext(b.Name) != "":
		return errors.New("its name must be a file name without an extension")
	case b.Run == nil:
		return errors.New("it has no Run")
	case b.Semantics != protocol.Repeatable && b.Semantics != protocol.Once && b.Semantics != protocol.Compensated:
		return fmt.Errorf("unknown semantics %q", b.Semantics)
	case (b.Undo != nil) != (b.Semantics == protocol.Compensated):
		return errors.New("it needs Undo when it is compensated, and only then")
	}
	return nil
}

// Run runs the hooks of call.Dir in order and ends at the first that fails. The error is an *Error where a hook failed, ErrNotReplaceable where
// nothing ran, or the context's cause where it was over between two hooks. watch may be nil: output then goes to call.Output.
func (r *Runner) Run(ctx context.Context, call Call, rec Recorder, watch Watch) error {
	call = r.complete(call)
	hooks, warnings, err := list(call.Root.HookDir(call.Dir), call.Dir, r.opts.Builtins[call.Dir], r.opts.Replaceable())
	if err != nil {
		return err
	}
	for _, w := range warnings {
		r.warn(&call, w)
	}
	if len(hooks) == 0 {
		return nil
	}
	folder := string(call.Root)
	s := sequence{call: call, rec: rec, watch: watch, grace: r.opts.Grace, dir: folder, env: environment(ctx, call.Env, folder)}
	return s.run(ctx, hooks)
}

// sequence is a list of hooks under way.
type sequence struct {
	call  Call
	rec   Recorder
	watch Watch
	grace time.Duration
	dir   string   // working directory of files
	env   []string // environment of files, but for EB_EVENT_FILE
}

// run runs the hooks one after the other.
func (s *sequence) run(ctx context.Context, hooks []entry) error {
	call, watch := s.call, s.watch
	if watch == nil {
		watch = func(string) (io.Writer, func(error)) { return call.Output, func(error) {} }
	}
	events, err := newEventFile(call.Root)
	if err != nil {
		return err
	}
	defer events.remove()
	s.env = append(slices.Clip(s.env), "EB_EVENT_FILE="+events.path)
	for i, e := range hooks {
		if ctx.Err() != nil {
			return fmt.Errorf("before hook %s: %w", e.path, context.Cause(ctx))
		}
		output, end := watch(e.name)
		err := s.one(ctx, e, output)
		end(err)
		events.report(&call, e.path, err != nil || i == len(hooks)-1)
		if err != nil {
			return newError(e.path, err)
		}
	}
	return nil
}

// one runs a hook between its two journal records.
func (s *sequence) one(ctx context.Context, e entry, output io.Writer) error {
	call, step := s.call, s.call.Dir+"/"+e.name
	call.Output = output
	semantics := semanticsOf(e)
	call.Save = func(v any) error {
		payload, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode what %s must remember: %w", step, err)
		}
		return s.rec.Started(step, semantics, payload)
	}
	if err := s.rec.Started(step, semantics, nil); err != nil {
		return err
	}
	var err error
	if e.builtin != nil {
		err = e.builtin.Run(ctx, &call)
	} else {
		err = s.file(ctx, e, call)
	}
	if err != nil {
		return err
	}
	return s.rec.Done(step, nil)
}

// Undo takes back one step that was journalled as compensated; call.Saved is what the journal kept for it. The caller walks a command's steps
// backwards and gives ctx its own time, since the command's is often over. A step of a file, or of a hook this version does not have, is an
// error.
func (r *Runner) Undo(ctx context.Context, call Call, step string) error {
	dir, name := path.Split(step)
	call.Dir = strings.TrimSuffix(dir, "/")
	i := slices.IndexFunc(r.opts.Builtins[call.Dir], func(b Builtin) bool { return b.Name == name })
	if i < 0 || r.opts.Builtins[call.Dir][i].Undo == nil {
		return fmt.Errorf("undo %s: this version has no built-in hook that could", step)
	}
	call = r.complete(call)
	call.Save = func(any) error { return errors.New("nothing can be saved while undoing") }
	if err := r.opts.Builtins[call.Dir][i].Undo(ctx, &call); err != nil {
		return fmt.Errorf("undo %s: %w", step, err)
	}
	return nil
}

// complete fills what a caller may leave out.
func (r *Runner) complete(call Call) Call {
	if call.Root == "" {
		call.Root = r.opts.Root
	}
	if abs, err := filepath.Abs(string(call.Root)); err == nil { // an error means that there is no working directory
		call.Root = layout.Root(abs)
	}
	if call.Output == nil {
		call.Output = io.Discard
	}
	if call.Event == nil {
		call.Event = func(protocol.Event) {}
	}
	if call.Log == nil {
		call.Log = r.opts.Log
	}
	return call
}

func (r *Runner) warn(call *Call, text string) {
	call.Log.Warn("hook directory", slog.String("dir", call.Dir), slog.String("warning", text))
	call.Event(protocol.Event{Severity: protocol.Warn, Msg: text})
}
