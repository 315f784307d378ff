package hooks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hostmanager/hooks"
	"hostmanager/protocol"
)

const (
	sayName  = "#!/bin/sh\nbasename $0\n"
	sayAgain = "#!/bin/sh\n# hostmanager: repeatable\nbasename $0\n"
)

// What an earlier agent did is passed over, what is open runs again as its journalled semantics allow.
func TestRun_GoesOnWhereItStopped(t *testing.T) {
	for _, c := range []struct {
		name  string
		prior map[string]hooks.Prior
		ran   string
		fails string
	}{
		{"nothing is done", nil, "01a\n02b\n03c\n", ""},
		{"the first is done", map[string]hooks.Prior{dir + "/01a": {Done: true}}, "02b\n03c\n", ""},
		{"a repeatable one is open", map[string]hooks.Prior{dir + "/01a": {Done: true}, dir + "/02b": {Semantics: protocol.Repeatable}}, "02b\n03c\n", ""},
		{"a compensated one is open", map[string]hooks.Prior{
			dir + "/01a": {Done: true}, dir + "/02b": {Done: true}, dir + "/03c": {Semantics: protocol.Compensated, Saved: json.RawMessage(`"x"`)},
		}, `undo "x"` + "\n03c\n", ""},
		{"one that may run once is open", map[string]hooks.Prior{dir + "/01a": {Semantics: protocol.Once}}, "", "it may run only once"},
		{"all is done", map[string]hooks.Prior{dir + "/01a": {Done: true}, dir + "/02b": {Done: true}, dir + "/03c": {Done: true}}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.file(dir, "01a", sayName, 0o755)
			b.file(dir, "02b", sayAgain, 0o755)
			compensated := says("03c")
			compensated.Semantics = protocol.Compensated
			compensated.Undo = func(_ context.Context, c *hooks.Call) error {
				if !c.Again {
					t.Error("the undo is not told what comes after it")
				}
				_, err := fmt.Fprintf(c.Output, "undo %s\n", c.Saved)
				return err
			}
			call := b.call(dir)
			call.Prior = c.prior
			err := b.runner(hooks.Options{Builtins: map[string][]hooks.Builtin{dir: {compensated}}}).Run(t.Context(), call, b, nil)
			if (err == nil) != (c.fails == "") || err != nil && !strings.Contains(errors.Unwrap(err).Error(), c.fails) {
				t.Errorf("error %v", err)
			}
			if got := b.output.String(); got != c.ran {
				t.Errorf("ran %q, want %q", got, c.ran)
			}
			for step := range c.prior {
				if c.prior[step].Done && strings.Contains(strings.Join(b.steps, "\n"), step) {
					t.Errorf("%s was journalled again: %v", step, b.steps)
				}
			}
		})
	}
}

// A bundle's hooks are steps of their own, inside the built-in hook that stands for them.
func TestPlatformHook_IsResumedInside(t *testing.T) {
	b := newBench(t)
	staging := b.tree(map[string]string{".platform/hooks/prebuild/01a": sayName, ".platform/hooks/prebuild/02b": sayName})
	hook := hooks.PlatformHook("02platform-prebuild", func(*hooks.Call) (hooks.Bundle, error) {
		return hooks.Bundle{Tree: staging, Dir: "hooks/prebuild"}, nil
	})
	call := b.call(dir)
	call.Prior = map[string]hooks.Prior{
		dir + "/02platform-prebuild": {Semantics: protocol.Repeatable}, ".platform/hooks/prebuild/01a": {Done: true, Semantics: protocol.Once},
	}
	if err := b.runner(hooks.Options{Builtins: map[string][]hooks.Builtin{dir: {hook}}}).Run(t.Context(), call, b, nil); err != nil {
		t.Fatal(err)
	}
	want := "started " + dir + "/02platform-prebuild repeatable \nstarted .platform/hooks/prebuild/02b once \ndone .platform/hooks/prebuild/02b\ndone " + dir + "/02platform-prebuild"
	if got := strings.Join(b.steps, "\n"); got != want || b.output.String() != "02b\n" {
		t.Errorf("ran %q, journalled\n%s", b.output.String(), got)
	}
}

// In a cleanup directory each hook runs, whatever became of the others.
func TestCleanup_RunsAll(t *testing.T) {
	const dir = "appdeploy/cleanup"
	b := newBench(t)
	b.file(dir, "01fails", "#!/bin/sh\nexit 3\n", 0o755)
	b.file(dir, "02open", sayName, 0o755)
	b.file(dir, "04last", sayName, 0o755)
	staging := b.tree(map[string]string{".platform/hooks/cleanup/01a": "#!/bin/sh\nexit 1\n", ".platform/hooks/cleanup/02b": sayName})
	bundled := func(tree, moment string) hooks.Builtin {
		return hooks.PlatformCleanup("03platform", func(*hooks.Call) (hooks.Bundle, error) { return hooks.Bundle{Tree: tree, Dir: moment}, nil })
	}
	call := b.call(dir)
	call.Prior = map[string]hooks.Prior{dir + "/02open": {Semantics: protocol.Once}}
	if err := b.runner(hooks.Options{Builtins: map[string][]hooks.Builtin{dir: {bundled(staging, "hooks/cleanup")}}}).Cleanup(t.Context(), call, b, nil); err != nil {
		t.Fatal(err)
	}
	if got := b.output.String(); got != "02b\n04last\n" {
		t.Errorf("ran %q", got)
	}
	texts := b.eventTexts()
	for _, want := range []string{"01fails failed", "02open was running when the agent stopped", "cleanup/01a failed"} {
		if !strings.Contains(texts, "WARN The cleanup hook ") || !strings.Contains(texts, want) {
			t.Errorf("events lack %q:\n%s", want, texts)
		}
	}
	for _, none := range []hooks.Builtin{bundled("", "hooks/cleanup"), bundled(staging, "confighooks/cleanup")} { // no bundle, none in it
		b.steps = nil
		if err := os.RemoveAll(b.root.HookDir(dir)); err != nil {
			t.Fatal(err)
		}
		if err := b.runner(hooks.Options{Builtins: map[string][]hooks.Builtin{dir: {none}}}).Cleanup(t.Context(), b.call(dir), b, nil); err != nil || len(b.steps) > 0 {
			t.Errorf("journalled %v, %v", b.steps, err)
		}
	}
}

// A pause ends a repeatable file at once; one that may run once comes to its end first, and what is behind it stays.
func TestRun_Pause(t *testing.T) {
	for _, c := range []struct{ name, header, done string }{
		{"repeatable", "# hostmanager: repeatable\n", ""},
		{"once", "", "done " + dir + "/01waits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			ready, let := filepath.Join(t.TempDir(), "ready"), filepath.Join(t.TempDir(), "go")
			b.file(dir, "01waits", "#!/bin/sh\n"+c.header+"echo x > "+ready+"\nwhile [ ! -e "+let+" ]; do sleep 0.01; done\n", 0o755)
			b.file(dir, "02never", sayName, 0o755)
			pause := make(chan struct{})
			call := b.call(dir)
			call.Pause = pause
			ended := make(chan error, 1)
			runner := b.runner(hooks.Options{Grace: time.Second})
			go func() {
				ended <- runner.Run(context.WithoutCancel(t.Context()), call, b, func(string) (io.Writer, func(error)) { return io.Discard, func(error) {} })
			}()
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
				if _, err := os.Stat(ready); err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("the hook did not begin")
				}
			}
			close(pause)
			if c.header == "" {
				if err := os.WriteFile(let, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := <-ended; !errors.Is(err, hooks.ErrPaused) {
				t.Errorf("ended with %v", err)
			}
			if got := strings.Join(b.steps[1:], "\n"); got != c.done {
				t.Errorf("journalled %v", b.steps)
			}
		})
	}
}
