package journal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hostmanager/journal"
	"hostmanager/protocol"
)

const instance = "i-0a1b2c3d"

var day = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// events collects what Open told.
type events []protocol.Event

func (e *events) add(v protocol.Event) { *e = append(*e, v) }

func (e *events) String() string {
	var b strings.Builder
	for _, v := range *e {
		fmt.Fprintf(&b, "%s %s\n", v.Severity, v.Msg)
	}
	return b.String()
}

func open(t testing.TB, path string, e *events) *journal.Journal {
	t.Helper()
	j, err := journal.Open(path, options(e))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j
}

func options(e *events) journal.Options {
	o := journal.Options{InstanceID: instance, Now: func() time.Time { return day }}
	if e != nil {
		o.OnEvent = e.add
	}
	return o
}

func add(t testing.TB, j *journal.Journal, records ...journal.Record) {
	t.Helper()
	for _, r := range records {
		if err := j.Append(r); err != nil {
			t.Fatalf("append %s of %s: %v", r.Type, r.Command, err)
		}
	}
}

func raw(text string) json.RawMessage { return json.RawMessage(text) }

// life is the whole life of one command as records.
func life(id string) []journal.Record {
	return []journal.Record{
		{Type: journal.Accepted, Command: id, Payload: raw(`{"Data":"<a&b>","of":"` + id + `"}`)},
		{Type: journal.Started, Command: id, Step: "pre/01", Semantics: protocol.Compensated, Payload: raw(`{"image":"x"}`)},
		{Type: journal.Done, Command: id, Step: "pre/01"},
		{Type: journal.Started, Command: id, Step: "pre/02", Semantics: protocol.Once},
		{Type: journal.Undone, Command: id, Step: "pre/01"},
		{Type: journal.Result, Command: id, Payload: raw(`{"Status":"SUCCESS","of":"` + id + `"}`)},
		{Type: journal.Sent, Command: id},
	}
}

func TestOpen_GivesBackWhatWasAppended(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "journal")
	j := open(t, path, nil)
	add(t, j, life("one")[:5]...)
	add(t, j, life("two")[:1]...)
	rec := j.Recorder("two")
	if err := errors.Join(rec.Started("s", protocol.Repeatable, nil), rec.Started("s", protocol.Repeatable, raw(`1`)), rec.Done("s", nil)); err != nil {
		t.Fatal(err)
	}
	want := []journal.Command{
		{
			Identity: "one", AcceptedAt: day, Message: raw(`{"Data":"<a&b>","of":"one"}`),
			Steps: []journal.Step{
				{Name: "pre/01", Semantics: protocol.Compensated, State: journal.Undone, Payload: raw(`{"image":"x"}`), At: day},
				{Name: "pre/02", Semantics: protocol.Once, State: journal.Started, At: day},
			},
		},
		{
			Identity: "two", AcceptedAt: day, Message: raw(`{"Data":"<a&b>","of":"two"}`),
			Steps: []journal.Step{{Name: "s", Semantics: protocol.Repeatable, State: journal.Done, Payload: raw(`1`), At: day}},
		},
	}
	if diff := cmp.Diff(want, j.Commands()); diff != "" {
		t.Error("live:", diff)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	var e events
	if diff := cmp.Diff(want, open(t, path, &e).Commands()); diff != "" {
		t.Error("opened again:", diff)
	}
	if len(e) != 0 {
		t.Errorf("a sound journal gave events:\n%s", e.String())
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("journal has mode %v, %v; want 0600", st.Mode(), err)
	}
}

func TestCommand_SentKeepsResultAndForgetsStepPayloads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path, nil)
	add(t, j, life("one")...)
	c, ok := j.Command("one")
	if !ok || !c.Finished() || c.SentAt != day || string(c.Result) != `{"Status":"SUCCESS","of":"one"}` {
		t.Fatalf("got %+v", c)
	}
	if len(c.Steps) != 2 || c.Steps[0].Payload != nil {
		t.Errorf("steps %+v, want two without payloads", c.Steps)
	}
	if _, ok := j.Command("other"); ok {
		t.Error("an unknown identity was found")
	}
}

func TestAppend_RefusesWhatItCannotKeep(t *testing.T) {
	j := open(t, filepath.Join(t.TempDir(), "journal"), nil)
	add(t, j, life("one")[0])
	tests := []struct {
		name string
		rec  journal.Record
		want error
	}{
		{"accepted twice", life("one")[0], journal.ErrKnown},
		{"never accepted", life("two")[1], journal.ErrUnknown},
		{"too large", journal.Record{Type: journal.Result, Command: "one", Payload: raw(`"` + strings.Repeat("x", journal.MaxRecord) + `"`)}, journal.ErrTooLarge},
		{"no command", journal.Record{Type: journal.Accepted}, nil},
		{"no step", journal.Record{Type: journal.Started, Command: "one"}, nil},
		{"foreign type", journal.Record{Type: "journal", Command: "one"}, nil},
		{"payload that is no JSON", journal.Record{Type: journal.Result, Command: "one", Payload: raw(`{`)}, nil},
		{"identity that is no text", journal.Record{Type: journal.Accepted, Command: "\xff"}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := j.Append(tt.rec)
			if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	if j.Broken() != nil {
		t.Errorf("a refused record broke the journal: %v", j.Broken())
	}
	add(t, j, life("one")[1])
}

func TestOpen_SecondAgentIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path, nil)
	_, err := journal.Open(path, options(nil))
	if !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("got %v, want ErrLocked that names process %d", err, os.Getpid())
	}
	add(t, j, life("one")[0])
	if err := j.Compact(day); err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Open(path, options(nil)); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("after compaction: got %v, want ErrLocked", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := j.Append(life("two")[0]); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("append after close: %v", err)
	}
	open(t, path, nil)
}

func TestOpen_OtherInstanceIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path, nil)
	add(t, j, life("one")...)
	_ = j.Close()
	var e events
	o := options(&e)
	o.InstanceID = "i-other"
	k, err := journal.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if len(k.Commands()) != 0 {
		t.Errorf("the other instance's commands are known: %+v", k.Commands())
	}
	if len(e) != 1 || e[0].Severity != protocol.Warn || !strings.Contains(e[0].Msg, instance) {
		t.Errorf("events: %s", e.String())
	}
	aside, _ := filepath.Glob(path + ".instance-" + instance + "-*")
	if len(aside) != 1 {
		t.Fatalf("set aside: %v", aside)
	}
	s, err := journal.Read(aside[0])
	if err != nil || s.Instance != instance || len(s.Commands) != 1 {
		t.Errorf("set aside journal reads %+v, %v", s, err)
	}
}

func TestAppend_ConcurrentAppendsAllLast(t *testing.T) {
	path := filepath.Join(fast(t), "journal")
	o := options(nil)
	o.CompactAt = 20 << 10
	j, err := journal.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	const workers, each = 8, 10
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				for _, r := range life(fmt.Sprintf("w%d-%d", w, i)) {
					if err := j.Append(r); err != nil {
						t.Error(err)
					}
				}
				j.Commands()
				if _, err := journal.Read(path); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_ = j.Close()
	got := open(t, path, nil).Commands()
	if len(got) != workers*each {
		t.Errorf("%d commands, want %d", len(got), workers*each)
	}
	for _, c := range got {
		if c.SentAt.IsZero() || len(c.Steps) != 2 {
			t.Errorf("command %+v is not whole", c)
		}
	}
}

// Other users' files lie below the folders above the journal's own.
func TestOpen_ClosesOnlyItsOwnFolder(t *testing.T) {
	dir := t.TempDir()
	var e events
	j := open(t, filepath.Join(dir, "var", "lib", "own", "journal"), &e)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]os.FileMode{"var": 0o755, "var/lib": 0o755, "var/lib/own": 0o700} {
		if st, err := os.Stat(filepath.Join(dir, path)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
}
