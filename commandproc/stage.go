package commandproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"hostmanager/hooks"
	"hostmanager/protocol"
)

// stage runs the actions of stage n in order, up to the first that fails.
func (r *run) stage(ctx context.Context, a activity, n int) error {
	actions := r.def.Stages[n]
	r.Log.Infof("Running stage %d of command %s...", n, r.def.Name)
	r.Log.Debugf("Loaded %d actions for stage %d.", len(actions), n)
	return a.run(func() (string, error) {
		for i, action := range actions {
			if r.done(action.Name) {
				r.Log.Debugf("Action %s was done before the agent stopped.", action.Name)
				continue
			}
			r.Log.Infof("Running %d of %d actions: %s...", i+1, len(actions), action.Name)
			if err := r.action(ctx, a.child(action.Name), action); err != nil {
				return "", err
			}
		}
		return fmt.Sprintf("%s - Command %s stage %d completed", r.def.Label(n), r.def.Name, n), nil
	})
}

func (r *run) action(ctx context.Context, a activity, action Action) error {
	err := a.run(func() (string, error) {
		if action.Dir != "" {
			return r.directory(ctx, a, action)
		}
		b, known := r.Infra[action.Name]
		if !known {
			return "", fmt.Errorf("not recognized action type: %s", action.Name)
		}
		return "", r.builtin(ctx, a, b, action.Name)
	})
	if err != nil && errors.Is(context.Cause(ctx), ErrDeadline) {
		a.log.TimedOut(a.path, r.job.Request.Timeout)
	}
	return err
}

// directory runs a hook directory as one action.
func (r *run) directory(ctx context.Context, a activity, action Action) (string, error) {
	if err := r.mayBegin(ctx); err != nil {
		return "", err
	}
	if _, begun := r.prior[action.Name]; !begun {
		if err := r.rec.Started(action.Name, protocol.Repeatable, nil); err != nil {
			return "", err
		}
	}
	told := false
	err := r.Dirs.Run(ctx, r.call(action.Dir, a), r.rec, r.watch(a, func(err error) { told = told || err != nil }))
	if err != nil {
		if told {
			err = toldError{err}
		}
		return "", err
	}
	return "Successfully execute hooks in directory " + r.Root.HookDir(action.Dir) + ".", r.rec.Done(action.Name)
}

// watch shows the hooks of a directory as activities below a. ended is called as each ends.
func (r *run) watch(a activity, ended func(error)) hooks.Watch {
	return func(hook string) (io.Writer, func(error)) {
		h := a.child(hook)
		h.log.Start(h.path)
		out := newLines(func(line string) { h.log.Output(h.path, line) })
		return out, func(err error) {
			out.flush()
			ended(err)
			if err != nil {
				h.log.Fail(h.path, err.Error())
				return
			}
			h.log.Complete(h.path, "")
		}
	}
}

// maxLine bounds a line of output in the activity log; a longer one is written in pieces.
const maxLine = 16 << 10

// lines cuts what is written to it into lines. Safe for concurrent use.
type lines struct {
	mu  sync.Mutex
	buf []byte
	put func(line string)
}

func newLines(put func(string)) *lines { return &lines{put: put} }

// Write never fails: an output that cannot be logged is no reason to stop who writes it.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(p)
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		take := min(len(p), maxLine-len(l.buf))
		if i >= 0 && i <= take {
			l.put(string(append(l.buf, p[:i]...)))
			l.buf, p = l.buf[:0], p[i+1:]
			continue
		}
		l.buf, p = append(l.buf, p[:take]...), p[take:]
		if len(l.buf) >= maxLine {
			l.put(string(l.buf))
			l.buf = l.buf[:0]
		}
	}
	return n, nil
}

// flush writes the unfinished line out.
func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) > 0 {
		l.put(string(l.buf))
		l.buf = l.buf[:0]
	}
}
