package journal_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hostmanager/journal"
	"hostmanager/protocol"
)

var update = flag.Bool("update", false, "write testdata anew")

// at gives records a time.
func at(when time.Time, records []journal.Record) []journal.Record {
	for i := range records {
		records[i].Time = when
	}
	return records
}

func TestCompact_ForgetsAfterTheWindow(t *testing.T) {
	path := filepath.Join(fast(t), "journal")
	j := open(t, path, nil)
	add(t, j, at(day.Add(-journal.Window-time.Hour), life("old"))...)
	add(t, j, at(day.Add(-journal.Window-time.Hour), life("old, result never sent")[:6])...)
	add(t, j, at(day.Add(-journal.Window-time.Hour), life("old, interrupted")[:3])...)
	add(t, j, at(day.Add(-journal.Window+time.Hour), life("young"))...)
	add(t, j, at(day, life("now")[:6])...)
	want := j.Commands()[1:] // a result that was not sent is the outbox's to give up
	if err := j.Compact(day); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, j.Commands()); diff != "" {
		t.Error(diff)
	}
	add(t, j, life("after")...)
	want = j.Commands()
	_ = j.Close()
	if diff := cmp.Diff(want, open(t, path, nil).Commands()); diff != "" {
		t.Error("opened again:", diff)
	}
}

// A clock that is ahead when the machine starts makes nothing forgotten: what is delivered again must not run again.
func TestOpen_DropsNothingForItsAge(t *testing.T) {
	path := filepath.Join(fast(t), "journal")
	j := open(t, path, nil)
	big := raw(`"` + strings.Repeat("undo", 50_000) + `"`) // worth a compaction
	for _, id := range []string{"sent", "unsent"} {
		records := at(day, life(id))
		records[1].Payload = big
		if id == "unsent" {
			records = records[:6]
		}
		add(t, j, records...)
	}
	_ = j.Close()
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	ahead := options(nil)
	ahead.Now = func() time.Time { return day.Add(100 * journal.Window) }
	if j, err = journal.Open(path, ahead); err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	if after, err := os.Stat(path); err != nil || after.Size() >= before.Size() {
		t.Errorf("not compacted: %v, %v", after, err)
	}
	if got := j.Commands(); len(got) != 2 || !got[0].Finished() || !got[1].Finished() {
		t.Errorf("%+v", got)
	}
}

func TestCompact_DropsPayloadsNobodyNeeds(t *testing.T) {
	path := filepath.Join(fast(t), "journal")
	secret := strings.Repeat("undo", 20000)
	j := open(t, path, nil)
	for _, id := range []string{"sent", "unsent"} {
		records := life(id)
		records[1].Payload = raw(`"` + secret + id + `"`)
		if id == "unsent" {
			records = records[:6]
		}
		add(t, j, records...)
	}
	_ = j.Close()
	want := open(t, path, nil).Commands() // Open compacts
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte(secret+"sent")) || !bytes.Contains(data, []byte(secret+"unsent")) {
		t.Errorf("payload of the sent command kept, or of the unsent one dropped:\n%q", data)
	}
	if len(want) != 2 || len(want[0].Steps) != 2 || want[1].Steps[0].Payload == nil || want[0].Result == nil {
		t.Errorf("%+v", want)
	}
}

func TestCompact_BoundsWhatOldResultsHold(t *testing.T) {
	path := filepath.Join(fast(t), "journal")
	o := options(nil)
	o.CompactAt, o.KeepBytes = 64<<10, 32<<10
	j, err := journal.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	big := `"` + strings.Repeat("r", 2000) + `"`
	for i := range 200 {
		records := life(fmt.Sprint("c", i))
		records[5].Payload = raw(big)
		add(t, j, records[0], records[5], records[6])
	}
	st, err := os.Stat(path)
	if err != nil || st.Size() > 200<<10 {
		t.Errorf("journal grew to %d bytes", st.Size())
	}
	first, last := knowsAll(t, j, 200)
	if first.Result != nil || !first.Finished() || last.Result == nil {
		t.Errorf("first %+v, last %+v", first, last)
	}
	_ = j.Close()
	s, err := journal.Read(path)
	if n := len(s.Commands); err != nil || n < 10 || n+s.Old != 200 {
		t.Errorf("read: %d commands and %d old ones, %v", n, s.Old, err)
	}
}

// knowsAll checks that none of the commands c0, c1, ... is accepted again, and returns the first and the last.
func knowsAll(t *testing.T, j *journal.Journal, n int) (first, last journal.Command) {
	t.Helper()
	for i := range n {
		if err := j.Append(life(fmt.Sprint("c", i))[0]); !errors.Is(err, journal.ErrKnown) {
			t.Fatalf("c%d accepted again: %v", i, err)
		}
	}
	first, _ = j.Command("c0")
	last, _ = j.Command(fmt.Sprint("c", n-1))
	return first, last
}

// What of a command stays for 14 days must be small: there may be thousands.
func TestJournal_OldCommandsTakeLittleMemory(t *testing.T) {
	o := options(nil)
	o.CompactAt, o.KeepBytes = 64<<10, 32<<10
	j, err := journal.Open(filepath.Join(fast(t), "journal"), o)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	const early, late = 500, 2500
	var before, after runtime.MemStats
	for i := range late {
		if i == early {
			runtime.GC()
			runtime.ReadMemStats(&before)
		}
		records := life(fmt.Sprint("bench|ElasticBeanstalkCommand-AWSEBAutoScalingGroup|", i))
		add(t, j, records...)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / (late - early); each > 120 {
		t.Errorf("each command took %d bytes for good", each)
	}
	runtime.KeepAlive(j)
}

// Steps take more room than messages and results: those of old commands go with them, or the journal would grow with every command.
func TestCompact_BoundsWhatOldStepsHold(t *testing.T) {
	path := filepath.Join(fast(t), "journal")
	o := options(nil)
	o.CompactAt, o.KeepBytes = 64<<10, 16<<10
	j, err := journal.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for i := range 200 {
		records := life(fmt.Sprint("c", i))
		add(t, j, records[0])
		for n := range 20 {
			started, done := records[1], records[2]
			started.Step, done.Step = fmt.Sprint("step", n), fmt.Sprint("step", n)
			add(t, j, started, done)
		}
		add(t, j, records[5], records[6])
	}
	if err := j.Compact(o.Now()); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Size() > 128<<10 {
		t.Errorf("journal grew to %d bytes", st.Size())
	}
	first, last := knowsAll(t, j, 200)
	if len(first.Steps) != 0 || !first.Finished() || len(last.Steps) != 20 {
		t.Errorf("first %+v, last %+v", first, last)
	}
}

// newer is a journal as a later version could write it: other record types, other members, a higher format.
func newer() []byte {
	b := []byte("HMJOURNAL 00007\n")
	for _, payload := range []string{
		`{"type":"journal","instance":"` + instance + `","time":"2026-11-21T12:00:00Z","by":"hostmanager 9"}`,
		`{"type":"accepted","command":"one","time":"2026-11-21T12:00:00Z","payload":{"a":1},"lane":"exclusive"}`,
		`{"type":"paused","command":"one","time":"2026-11-21T12:00:00Z","why":"operator"}`,
		`{"type":"weather","sky":"blue"}`,
		`{"type":"started","command":"one","time":"2026-11-21T12:00:00Z","step":"s","semantics":"someday","payload":{"b":2},"try":3}`,
		`{"type":"result","command":"one","time":"2026-11-21T12:00:00Z","payload":{"c":3}}`,
		`{"type":"sent","command":"one","time":"2026-11-21T12:00:00Z"}`,
	} {
		b = append(b, frameOf(payload)...)
	}
	return b
}

func TestOpen_NewerJournalIsReadAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	put(t, path, newer())
	var e events
	j := open(t, path, &e)
	c, ok := j.Command("one")
	if !ok || !c.Finished() || len(c.Steps) != 1 || c.Steps[0].Semantics != "someday" || len(e) != 0 {
		t.Fatalf("%+v, events %s", c, e.String())
	}
	if err := j.Compact(day); err != nil {
		t.Fatal(err)
	}
	add(t, j, life("two")...)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"HMJOURNAL 00007\n", `"lane":"exclusive"`, `"why":"operator"`, `{"type":"weather","sky":"blue"}`, `"try":3`, `"by":"hostmanager 9"`} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("%s was not kept:\n%q", want, data)
		}
	}
	if bytes.Contains(data, []byte(`{"b":2}`)) {
		t.Error("the sent command's step kept its payload")
	}
}

// TestOpen_ReleasedFormat1 holds that the file every released version of format 1 wrote can still be read. Never write it anew.
func TestOpen_ReleasedFormat1(t *testing.T) {
	sample := filepath.Join("testdata", "journal-v1")
	if *update {
		data, _ := write(t, filepath.Join(t.TempDir(), "journal"), append(append(life("one"), life("two")[:6]...), life("three")[:4]...)...)
		put(t, sample, data)
	}
	data, err := os.ReadFile(sample)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "journal")
	put(t, path, data)
	var e events
	got := open(t, path, &e).Commands()
	step := func(name string, s protocol.Semantics, state journal.Type, payload string) journal.Step {
		st := journal.Step{Name: name, Semantics: s, State: state, At: day}
		if payload != "" {
			st.Payload = raw(payload)
		}
		return st
	}
	want := []journal.Command{
		{
			Identity: "one", AcceptedAt: day, Message: raw(`{"Data":"<a&b>","of":"one"}`),
			Steps:  []journal.Step{step("pre/01", protocol.Compensated, journal.Undone, ""), step("pre/02", protocol.Once, journal.Started, "")},
			Result: raw(`{"Status":"SUCCESS","of":"one"}`), ResultAt: day, SentAt: day,
		},
		{
			Identity: "two", AcceptedAt: day, Message: raw(`{"Data":"<a&b>","of":"two"}`),
			Steps:  []journal.Step{step("pre/01", protocol.Compensated, journal.Undone, `{"image":"x"}`), step("pre/02", protocol.Once, journal.Started, "")},
			Result: raw(`{"Status":"SUCCESS","of":"two"}`), ResultAt: day,
		},
		{
			Identity: "three", AcceptedAt: day, Message: raw(`{"Data":"<a&b>","of":"three"}`),
			Steps: []journal.Step{step("pre/01", protocol.Compensated, journal.Done, `{"image":"x"}`), step("pre/02", protocol.Once, journal.Started, "")},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" || len(e) != 0 {
		t.Errorf("events %s%s", e.String(), diff)
	}
}

// Files of every version that wrote one open without a word, say what they said, and go on being written to.
func TestOpen_SamplesOfEveryVersion(t *testing.T) {
	for name, want := range map[string]struct{ commands, finished int }{
		"journal-before-resume": {11, 2}, // every state of a command that there was
		"journal-with-resume":   {8, 1},  // resumed, paused, aborted, with a verdict
	} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(fast(t), "journal")
			put(t, path, data)
			var told events
			j := open(t, path, &told)
			finished := 0
			for _, c := range j.Commands() {
				if c.Finished() {
					finished++
				}
			}
			if len(j.Commands()) != want.commands || finished != want.finished || len(told) > 0 {
				t.Errorf("%d commands, %d finished, told %s", len(j.Commands()), finished, told.String())
			}
			before := j.Commands()
			if err := j.Compact(day); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(unfinished(before), unfinished(j.Commands())); diff != "" {
				t.Errorf("compaction changed what is not over:\n%s", diff)
			}
			add(t, j, life("new")...)
		})
	}
}

func unfinished(all []journal.Command) []journal.Command {
	return slices.DeleteFunc(slices.Clone(all), journal.Command.Finished)
}
