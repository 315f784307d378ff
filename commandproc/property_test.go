package commandproc_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hostmanager/commandproc"
	"hostmanager/hooks"
	"hostmanager/internal/layout"
	"hostmanager/internal/logfile"
	"hostmanager/internal/redact"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// TestProcessor_WhateverDiesInItsMiddle runs a command over random hooks through lives that end at random moments: killed, paused or aborted. However
// often that happens, a step that may run once runs once at most, a compensated one is in a success or undone, and there is one result that tells
// all.
func TestProcessor_WhateverDiesInItsMiddle(t *testing.T) {
	folder := fastFolder(t)
	rapid.Check(t, func(t *rapid.T) {
		root, err := os.MkdirTemp(folder, "life")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(root)
		w := drawWorld(t, layout.Root(root))
		w.live(t)
		w.check(t)
	})
}

// fastFolder is one in memory where there is one: a disk would spend its time on syncing.
func fastFolder(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "commandproc")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// moment is what happens to the agent at one tick of a life.
type moment struct {
	tick int
	what string // killed, paused, aborted
	then int    // an aborted one is killed as many ticks later; 0: it is not
}

// randomWorld is a table of steps, what each has done to the world, and the moments at which lives end.
type randomWorld struct {
	root     layout.Root
	command  string
	infra    []hooks.Builtin
	dirs     map[string][]hooks.Builtin
	commit   hooks.Builtin
	lives    []moment
	limit    int
	semantic map[string]protocol.Semantics
	fails    map[string]bool

	ran     map[string]int  // how often a step's effect happened
	applied map[string]bool // compensated ones that are in effect
	told    []string        // EB_COMMAND_STATUS of cleanup hooks
	settled int
	late    []string // steps that a life began after the end of the command had been asked for in an earlier one

	// of the life under way
	ticks   int
	now     moment
	pause   chan struct{}
	abort   context.CancelCauseFunc
	journal *journal.Journal
	id      string
	life    int
	aborted int // the life in which somebody asked for the command's end, counted from 1
}

var semantics = []protocol.Semantics{protocol.Repeatable, protocol.Once, protocol.Compensated}

func drawWorld(t *rapid.T, root layout.Root) *randomWorld {
	w := &randomWorld{
		root: root, dirs: map[string][]hooks.Builtin{}, semantic: map[string]protocol.Semantics{}, fails: map[string]bool{},
		ran: map[string]int{}, applied: map[string]bool{},
		command: rapid.SampledFrom([]string{protocol.CmdAppDeploy, protocol.CmdConfigDeploy, protocol.CmdRestartAppServer}).Draw(t, "command"),
		limit:   rapid.IntRange(0, 3).Draw(t, "limit"),
	}
	def, _ := commandproc.Lookup(w.command)
	var names []string
	for _, stage := range def.Stages {
		for _, a := range stage {
			if a.Dir == "" {
				w.infra = append(w.infra, w.step(a.Name, rapid.SampledFrom(semantics).Draw(t, a.Name)))
				names = append(names, a.Name)
				continue
			}
			for n := range rapid.IntRange(0, 3).Draw(t, a.Dir) {
				name := fmt.Sprintf("%s/%02d", a.Dir, n)
				w.dirs[a.Dir] = append(w.dirs[a.Dir], w.step(name, rapid.SampledFrom(semantics).Draw(t, name)))
				names = append(names, name)
			}
		}
	}
	for n := range rapid.IntRange(0, 3).Draw(t, "cleanup") {
		name := fmt.Sprintf("%s/%02d", def.Cleanup.Dir, n)
		w.dirs[def.Cleanup.Dir] = append(w.dirs[def.Cleanup.Dir], w.step(name, rapid.SampledFrom(semantics[:2]).Draw(t, name)))
		w.fails[name] = rapid.IntRange(0, 3).Draw(t, "fails") == 0
	}
	w.commit = w.step("Promote", protocol.Compensated)
	if rapid.IntRange(0, 2).Draw(t, "fails") == 0 {
		w.fails[rapid.SampledFrom(append(names, "Promote")).Draw(t, "failing")] = true
	}
	for range rapid.IntRange(0, 5).Draw(t, "lives") {
		w.lives = append(w.lives, moment{
			tick: rapid.IntRange(1, 60).Draw(t, "tick"),
			what: rapid.SampledFrom([]string{"killed", "killed", "killed", "paused", "aborted"}).Draw(t, "what"),
			then: rapid.IntRange(0, 6).Draw(t, "then"),
		})
	}
	return w
}

// tick is a moment between two effects; the life's moment happens at its tick.
func (w *randomWorld) tick() {
	w.ticks++
	if w.ticks != w.now.tick {
		return
	}
	switch w.now.what {
	case "killed":
		runtime.Goexit()
	case "paused":
		close(w.pause)
	case "aborted":
		if c, _ := w.journal.Command(w.id); c.Finished() {
			return
		}
		w.aborted = w.life
		if w.now.then > 0 {
			defer func() { w.now = moment{tick: w.ticks + w.now.then, what: "killed"} }()
		}
		w.abort(fmt.Errorf("%w by a test", commandproc.ErrAborted))
		if err := w.journal.Append(journal.Record{Type: journal.Abort, Command: w.id, Payload: json.RawMessage(`"command was aborted by a test"`)}); err != nil {
			panic(err)
		}
	}
}

func (w *randomWorld) step(name string, s protocol.Semantics) hooks.Builtin {
	w.semantic[name] = s
	base := name[strings.LastIndexByte(name, '/')+1:]
	b := hooks.Builtin{Name: base, Semantics: s, Run: func(_ context.Context, c *hooks.Call) error {
		if w.aborted > 0 && w.aborted < w.life && !strings.Contains(name, "/cleanup/") {
			w.late = append(w.late, name)
		}
		w.tick()
		if s == protocol.Compensated {
			if w.applied[name] {
				return errors.New("it is in effect already")
			}
			if err := c.Save(name); err != nil {
				return err
			}
			w.tick()
		}
		w.ran[name]++
		w.applied[name] = s == protocol.Compensated
		for _, v := range c.Env {
			if status, ok := strings.CutPrefix(v, "EB_COMMAND_STATUS="); ok {
				w.told = append(w.told, status)
			}
		}
		w.tick()
		if w.fails[name] {
			return fmt.Errorf("%s fails by design", name)
		}
		c.Event(protocol.Event{Severity: protocol.Info, Msg: "did " + name})
		w.tick()
		return nil
	}}
	if s == protocol.Compensated {
		b.Undo = func(_ context.Context, c *hooks.Call) error {
			w.tick()
			if w.applied[name] && string(c.Saved) != fmt.Sprintf("%q", name) {
				return fmt.Errorf("undo of %s was given %s", name, c.Saved)
			}
			w.applied[name] = false
			w.tick()
			return nil
		}
	}
	return b
}

// ticking journals, and may die behind each record.
type ticking struct {
	*journal.Recorder
	w *randomWorld
}

func (r ticking) then(err error) error { r.w.tick(); return err }

func (r ticking) Started(step string, s protocol.Semantics, p json.RawMessage) error {
	return r.then(r.Recorder.Started(step, s, p))
}

func (r ticking) Done(step string, e json.RawMessage) error { return r.then(r.Recorder.Done(step, e)) }

func (r ticking) Undone(step string) error        { return r.then(r.Recorder.Undone(step)) }
func (r ticking) Resumed() error                  { return r.then(r.Recorder.Resumed()) }
func (r ticking) Paused() error                   { return r.then(r.Recorder.Paused()) }
func (r ticking) Verdict(p json.RawMessage) error { return r.then(r.Recorder.Verdict(p)) }

type tickingSteps struct{ w *randomWorld }

func (s tickingSteps) Recorder(id string) commandproc.Recorder {
	return ticking{s.w.journal.Recorder(id), s.w}
}

func (s tickingSteps) Command(id string) journal.Command {
	c, _ := s.w.journal.Command(id)
	return c
}

func (w *randomWorld) processor(t *rapid.T) *commandproc.Processor {
	runner, err := hooks.New(hooks.Options{Root: w.root, Builtins: w.dirs})
	if err != nil {
		t.Fatal(err)
	}
	infra := map[string]hooks.Builtin{}
	for _, b := range w.infra {
		infra[b.Name] = b
	}
	hide := redact.New()
	return &commandproc.Processor{
		Root: w.root, InstanceID: "i-1", Steps: tickingSteps{w}, Dirs: runner, Infra: infra, Commit: w.commit, ResumeLimit: w.limit,
		Prepare: func(context.Context, commandproc.Job) (hooks.Deployment, error) {
			return hooks.Deployment{ID: 7, VersionLabel: "v2", Serial: 9}, nil
		},
		Settle: func(context.Context) error { w.settled++; return nil },
		Log:    logfile.NewProcessor(io.Discard, hide, time.Now, 1), Activity: logfile.NewActivity(io.Discard, hide, time.Now, 1),
		Structured: slog.New(slog.DiscardHandler), Now: time.Now,
	}
}

// live lets one agent after the other work until the command has its result.
func (w *randomWorld) live(t *rapid.T) {
	j := commandproc.Job{Identity: "c", Request: protocol.Request{CommandName: w.command, RequestID: "r", Timeout: time.Hour}}
	w.id = j.Identity
	for n := 0; ; n++ {
		w.open(t)
		if n == 0 {
			if err := w.journal.Append(journal.Record{Type: journal.Accepted, Command: w.id, Payload: json.RawMessage(`{}`)}); err != nil {
				t.Fatal(err)
			}
		}
		if c, _ := w.journal.Command(w.id); c.Finished() {
			return
		}
		w.ticks, w.now, w.life = 0, moment{}, n+1
		if n < len(w.lives) {
			w.now = w.lives[n]
		}
		w.oneLife(t, j)
		if err := w.journal.Close(); err != nil {
			t.Fatal(err)
		}
		if n > len(w.lives) {
			t.Fatalf("no result after %d lives", n)
		}
	}
}

func (w *randomWorld) open(t *rapid.T) {
	var err error
	w.journal, err = journal.Open(w.root.Journal(), journal.Options{InstanceID: "i-1"})
	if err != nil {
		t.Fatal(err)
	}
}

// oneLife runs the command as the agent does, in a goroutine of its own: what is killed ends there and then.
func (w *randomWorld) oneLife(t *rapid.T, j commandproc.Job) {
	p := w.processor(t)
	var ctx context.Context
	ctx, w.abort = context.WithCancelCause(context.Background())
	defer w.abort(nil)
	w.pause = make(chan struct{})
	j.Pause = w.pause
	ended := make(chan struct{})
	var response *protocol.Response
	var err error
	go func() {
		defer close(ended)
		if c, _ := w.journal.Command(w.id); len(c.Steps) > 0 {
			response, err = p.Resume(ctx, j, func(context.Context) error { w.tick(); return nil })
		} else {
			response, err = p.Run(ctx, j)
		}
		w.tick()
		if err == nil {
			payload, _ := json.Marshal(response.Entry())
			err = w.journal.Append(journal.Record{Type: journal.Result, Command: w.id, Payload: payload})
		}
	}()
	<-ended
	if err != nil && !errors.Is(err, hooks.ErrPaused) {
		t.Fatal(err)
	}
}

func (w *randomWorld) check(t *rapid.T) {
	c, _ := w.journal.Command(w.id)
	_ = w.journal.Close()
	var e protocol.ResponseEntry
	if err := json.Unmarshal(c.Result, &e); err != nil {
		t.Fatal(err)
	}
	for step, n := range w.ran {
		if w.semantic[step] == protocol.Once && n > 1 {
			t.Errorf("%s ran %d times", step, n)
		}
	}
	if len(w.late) > 0 {
		t.Errorf("%v began although the command was aborted", w.late)
	}
	def, _ := commandproc.Lookup(w.command)
	if !def.Deploys {
		delete(w.semantic, "Promote")
	}
	if e.Status == protocol.Success {
		w.checkSuccess(t, e, def)
	} else {
		w.checkFailure(t, e)
	}
	want := map[bool]string{true: "Success", false: "Failure"}[e.Status == protocol.Success]
	if e.Cause == protocol.CauseAborted {
		want = "Aborted"
	}
	for _, status := range w.told {
		if status != want {
			t.Errorf("a cleanup hook was told %s; the command: %+v", status, e)
		}
	}
	for step := range w.semantic {
		if strings.HasPrefix(step, def.Cleanup.Dir+"/") && len(c.Steps) > 0 && w.ran[step] == 0 && !w.cutShort(step, e) {
			t.Errorf("%s did not run", step)
		}
	}
}

// cutShort tells whether a cleanup hook was begun, and killed before its effect; the result says so.
func (w *randomWorld) cutShort(step string, e protocol.ResponseEntry) bool {
	return w.semantic[step] == protocol.Once && slices.ContainsFunc(e.Events, func(v protocol.Event) bool {
		return strings.Contains(v.Msg, step) && strings.Contains(v.Msg, "is not run again")
	})
}

func (w *randomWorld) checkSuccess(t *rapid.T, e protocol.ResponseEntry, def commandproc.Definition) {
	said := map[string]int{}
	for _, v := range e.Events {
		said[v.Msg]++
	}
	for step, s := range w.semantic {
		if strings.HasPrefix(step, def.Cleanup.Dir+"/") {
			continue
		}
		if w.fails[step] || w.ran[step] == 0 || w.applied[step] != (s == protocol.Compensated) {
			t.Errorf("success with %s (%s): fails %v, ran %d times, in effect %v", step, s, w.fails[step], w.ran[step], w.applied[step])
		}
		if n := said["did "+step]; n != 1 {
			t.Errorf("the result tells %d times of %s", n, step)
		}
	}
	if e.DeploymentID != 7 || e.VersionLabel != "v2" {
		t.Errorf("entry %+v", e)
	}
}

func (w *randomWorld) checkFailure(t *rapid.T, e protocol.ResponseEntry) {
	gaveUp := func(step string) bool { // each of the lives ended in this undo
		return len(w.lives) > commandproc.DefaultResumeLimit && slices.ContainsFunc(e.Events, func(v protocol.Event) bool {
			return strings.Contains(v.Msg, step+": the agent ended each time")
		})
	}
	for step, in := range w.applied {
		if in && !gaveUp(step) {
			t.Errorf("failure with %s in effect", step)
		}
	}
	byDesign := strings.Contains(e.Msg, "by design") || strings.Contains(cmp.Or(e.Msg, "-"), "failed")
	switch {
	case e.Cause == protocol.CauseAborted && w.aborted > 0, e.Cause == protocol.CauseInterrupted, byDesign:
	default:
		t.Errorf("nobody asked for this failure: %+v", e)
	}
	if e.Cause == protocol.CauseInterrupted && !strings.HasPrefix(e.Msg, "interrupted: ") {
		t.Errorf("entry %+v", e)
	}
}
