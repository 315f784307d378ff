package journal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hostmanager/journal"
	"hostmanager/protocol"
)

// TestJournal_AsItsModel drives a journal and the plainest possible model of it with the same random calls, reopening and compacting between;
// with room for all commands that were sent, and with little.
func TestJournal_AsItsModel(t *testing.T) {
	for name, keep := range map[string]int64{"room": 0, "little room": 1000} {
		t.Run(name, func(t *testing.T) { asItsModel(t, keep) })
	}
}

func asItsModel(t *testing.T, keep int64) {
	folder := fast(t)
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(folder, "model")
		if err != nil {
			t.Fatal(err)
		}
		m := &model{path: filepath.Join(dir, "journal"), keep: keep, now: day, commands: map[string]*journal.Command{}, sentBare: map[string]bool{}}
		m.reopen(t)
		defer func() { _ = m.journal.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"append":  m.append,
			"reopen":  m.reopen,
			"compact": m.compact,
			"pass": func(t *rapid.T) {
				m.now = m.now.Add(time.Duration(rapid.IntRange(1, 200).Draw(t, "hours")) * time.Hour)
			},
			"": m.check,
		})
	})
}

type model struct {
	path     string
	keep     int64
	now      time.Time
	journal  *journal.Journal
	order    []string
	commands map[string]*journal.Command
	sentBare map[string]bool // had nothing but its identity when it was sent
}

func (m *model) append(t *rapid.T) {
	id := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "command")
	r := journal.Record{
		Type:    rapid.SampledFrom([]journal.Type{journal.Accepted, journal.Started, journal.Done, journal.Undone, journal.Resumed, journal.Paused, journal.Abort, journal.Verdict, journal.Result, journal.Sent}).Draw(t, "type"),
		Command: id, Time: m.now,
	}
	if rapid.Bool().Draw(t, "has payload") {
		r.Payload = raw(`{"n":"` + rapid.StringMatching(`[a-z<>&]{0,8}`).Draw(t, "payload") + `"}`)
	}
	switch r.Type {
	case journal.Started, journal.Done, journal.Undone:
		r.Step = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "step")
		r.Semantics = protocol.Once
		if r.Type == journal.Done && rapid.Bool().Draw(t, "has events") {
			r.Events = raw(`[{"msg":"` + rapid.StringMatching(`[a-z<>&]{1,8}`).Draw(t, "event") + `"}]`)
		}
	}
	c := m.commands[id]
	err := m.journal.Append(r)
	if (err == nil) != ((r.Type == journal.Accepted) == (c == nil)) {
		t.Fatalf("append %s of %s: %v", r.Type, id, err)
	}
	if err == nil {
		m.apply(r, c)
	}
}

func (m *model) apply(r journal.Record, c *journal.Command) {
	switch r.Type {
	case journal.Accepted:
		m.sentBare[r.Command] = false
		m.commands[r.Command] = &journal.Command{Identity: r.Command, AcceptedAt: r.Time, Message: r.Payload}
		m.order = append(m.order, r.Command)
	case journal.Result:
		c.Result, c.ResultAt = r.Payload, r.Time
	case journal.Sent:
		m.sentBare[r.Command] = m.sentBare[r.Command] || c.Message == nil && c.Result == nil && len(c.Steps) == 0
		c.SentAt, c.Verdict, c.Abort = r.Time, nil, nil
		for i := range c.Steps {
			c.Steps[i].Payload, c.Steps[i].Events = nil, nil
		}
	case journal.Resumed:
		if !c.Paused {
			c.Resumed++
		}
		c.Paused = false
	case journal.Paused:
		c.Paused = true
	case journal.Abort:
		c.Abort = r.Payload
		if c.Abort == nil {
			c.Abort = raw("null")
		}
	case journal.Verdict:
		c.Verdict, c.Resumed = r.Payload, 0
	default:
		m.step(r, c)
	}
}

func (m *model) step(r journal.Record, c *journal.Command) {
	for i := range c.Steps {
		if s := &c.Steps[i]; s.Name == r.Step {
			if r.Type != journal.Started && s.State != r.Type {
				c.Resumed = 0
			}
			s.State, s.At, s.Events = r.Type, r.Time, r.Events
			if r.Type == journal.Started {
				s.Semantics = r.Semantics
			}
			if r.Payload != nil || r.Type == journal.Started {
				s.Payload = r.Payload
			}
			return
		}
	}
	s := journal.Step{Name: r.Step, State: r.Type, Payload: r.Payload, Events: r.Events, At: r.Time}
	if r.Type != journal.Started {
		c.Resumed = 0
	}
	if r.Type == journal.Started {
		s.Semantics = r.Semantics
	}
	c.Steps = append(c.Steps, s)
}

func (m *model) reopen(t *rapid.T) {
	if m.journal != nil {
		_ = m.journal.Close()
	}
	var err error
	m.journal, err = journal.Open(m.path, journal.Options{
		InstanceID: instance, CompactAt: 1 << 10, KeepBytes: m.keep, Now: func() time.Time { return m.now },
		OnEvent: func(e protocol.Event) { t.Fatalf("event: %s", e.Msg) },
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (m *model) compact(t *rapid.T) {
	if err := m.journal.Compact(m.now); err != nil {
		t.Fatal(err)
	}
	for _, c := range m.journal.Commands() {
		if m.mayGo(c) {
			t.Fatalf("%+v outlived the window", c)
		}
	}
}

// mayGo tells whether a command may be forgotten: its result was sent or given up, the window ago.
func (m *model) mayGo(c journal.Command) bool {
	return !c.SentAt.IsZero() && m.now.Sub(latest(c)) > journal.Window
}

func latest(c journal.Command) time.Time {
	if c.SentAt.After(c.ResultAt) {
		return c.SentAt
	}
	return c.ResultAt
}

// check compares. Any append or open may compact, so a command past the window may be gone, and what came after Sent may be slimmed.
func (m *model) check(t *rapid.T) {
	var want []journal.Command
	var order []string
	listed := map[string]bool{}
	got := m.journal.Commands()
	if back := slices.Collect(m.journal.Backward()); len(back) != len(got) || len(got) > 0 && back[0].Identity != got[len(got)-1].Identity {
		t.Fatalf("backward: %+v", back)
	}
	for i := range got {
		listed[got[i].Identity] = true
		got[i] = strip(got[i])
	}
	for _, id := range m.order {
		c := m.commands[id]
		known, ok := m.journal.Command(id)
		if !ok && m.mayGo(*c) {
			delete(m.commands, id)
			continue
		}
		order = append(order, id)
		if ok && !listed[id] {
			m.checkOld(t, *c, known)
			continue
		}
		want = append(want, strip(*c))
	}
	m.order = order
	if diff := cmp.Diff(want, got, cmp.Transformer("nil", func(c []journal.Command) []journal.Command { return append([]journal.Command{}, c...) })); diff != "" {
		t.Fatal(diff)
	}
}

// checkOld holds that only what was sent is reduced to its identity and its end, and only for want of room, or where there was no more to it.
func (m *model) checkOld(t *rapid.T, want, got journal.Command) {
	ended := latest(want).Truncate(time.Millisecond)
	if want.SentAt.IsZero() || m.keep == 0 && !m.sentBare[want.Identity] ||
		!cmp.Equal(got, journal.Command{Identity: want.Identity, ResultAt: ended, SentAt: ended}) {
		t.Fatalf("%+v became %+v", want, got)
	}
}

// strip removes the payloads that compaction may take: those of the work of sent commands, whenever they were written.
func strip(c journal.Command) journal.Command {
	steps := append([]journal.Step(nil), c.Steps...)
	if !c.SentAt.IsZero() {
		for i := range steps {
			steps[i].Payload, steps[i].Events = nil, nil
		}
		c.Verdict, c.Abort = nil, nil
	}
	c.Steps = steps
	return c
}

func FuzzRead(f *testing.F) {
	f.Add([]byte{})
	f.Add(newer())
	sample, err := os.ReadFile(filepath.Join("testdata", "journal-v1"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sample)
	f.Add(sample[:len(sample)-5])
	flipped := bytes.Clone(sample)
	flipped[200] ^= 4
	f.Add(flipped)
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(fast(t), "journal")
		put(t, path, data)
		s, err := journal.Read(path)
		if err != nil {
			t.Fatal(err)
		}
		j, err := journal.Open(path, options(nil))
		if err != nil {
			t.Fatal(err)
		}
		if s.Instance == instance && !s.Damaged && len(j.Commands()) > len(s.Commands) {
			t.Errorf("open knows more than read: %+v, %+v", j.Commands(), s.Commands)
		}
		if err := j.Append(journal.Record{Type: journal.Accepted, Command: "a command no fuzzer guesses"}); err != nil {
			t.Fatal(err)
		}
		want := len(j.Commands())
		_ = j.Close()
		again, err := journal.Read(path)
		if err != nil || again.Damaged || again.Torn != 0 || len(again.Commands) != want {
			t.Fatalf("after open and append: %+v, %v", again, err)
		}
	})
}
