package hooks

import (
	"context"
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
	Spawning    Spawning
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

// Run runs the hooks of call.Dir in order and ends at the first that fails. What call.Prior knows to be done is passed over. The error is an
// *Error where a hook failed, ErrNotReplaceable where nothing ran, ErrPaused where call.Pause asked for it, or the context's cause where it was
// over between two hooks. watch may be nil: output then goes to call.Output.
func (r *Runner) Run(ctx context.Context, call Call, rec Recorder, watch Watch) error {
	s, hooks, err := r.sequence(ctx, call, rec, watch)
	if err != nil || len(hooks) == 0 {
		return err
	}
	return s.run(ctx, hooks)
}

// Cleanup runs the hooks of call.Dir, each whatever became of those before it: one that fails is told in a WARN event and is over. So is one
// that an earlier agent began and that may run only once. The error is one of Run's, but none of a hook's own.
func (r *Runner) Cleanup(ctx context.Context, call Call, rec Recorder, watch Watch) error {
	s, hooks, err := r.sequence(ctx, call, rec, watch)
	if err != nil {
		return err
	}
	hooks = slices.DeleteFunc(hooks, func(e entry) bool { return e.builtin != nil && e.builtin.idle != nil && e.builtin.idle(&s.call) })
	if len(hooks) == 0 {
		return nil
	}
	s.call.all = true
	return s.run(ctx, hooks)
}

// sequence lists the hooks of a directory and readies what runs them.
func (r *Runner) sequence(ctx context.Context, call Call, rec Recorder, watch Watch) (*sequence, []entry, error) {
	call = r.complete(call)
	hooks, warnings, err := list(call.Root.HookDir(call.Dir), call.Dir, r.opts.Builtins[call.Dir], r.opts.Replaceable())
	if err != nil {
		return nil, nil, err
	}
	for _, w := range warnings {
		r.warn(&call, w)
	}
	folder := string(call.Root)
	return &sequence{call: call, rec: rec, watch: watch, grace: r.opts.Grace, dir: folder, env: environment(ctx, call.Env, folder)}, hooks, nil
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
	call.Save = cannotSave
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
	if r.opts.Spawning.Spawner != nil {
		call.spawning = r.opts.Spawning
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
