package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"
)

// wireRecord is a Record as it stands in the file, with what only the first one has.
type wireRecord struct {
	Record
	Instance string `json:"instance,omitempty"`
}

// encode writes JSON as it is given: without the escaping of <, > and & that would change payloads.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func decode(payload []byte) (wireRecord, error) {
	var w wireRecord
	if err := json.Unmarshal(payload, &w); err != nil {
		return w, err
	}
	if w.Type == "" {
		return w, fmt.Errorf("record without a type")
	}
	return w, nil
}

// state is everything the journal's records say.
type state struct {
	instance string
	order    []*Command // as accepted, without old ones
	ended    []*Command // those of them whose end is known, in the order of their ends: no clock is asked for it, which may be set back
	byID     map[string]*Command
	old      oldCommands
	keep     int64 // see Options.KeepBytes
	held     int64 // weight of the commands that were sent and are not old
	records  int
	waste    int64 // bytes in the file that nobody needs any more
}

func newState(keep int64) *state {
	return &state{byID: map[string]*Command{}, old: oldCommands{}, keep: keep}
}

// apply folds one record in. Types it does not know change nothing.
func (s *state) apply(w wireRecord) {
	s.records++
	if s.byID[w.Command] == nil && s.old.take(w.Record) {
		return
	}
	switch w.Type {
	case identity:
		if s.instance == "" {
			s.instance = w.Instance
		}
	case Accepted:
		c := s.command(w.Record)
		c.Message = w.Payload
	case Started, Done, Undone:
		s.command(w.Record).applyStep(w.Record)
	case Resumed:
		c := s.command(w.Record)
		if !c.Paused {
			c.Resumed++
		}
		c.Paused = false
	case Paused:
		s.command(w.Record).Paused = true
	case Abort:
		c := s.command(w.Record)
		if c.Abort = w.Payload; c.Abort == nil {
			c.Abort = json.RawMessage("null")
		}
	case Verdict:
		c := s.command(w.Record)
		c.Verdict, c.Resumed = w.Payload, 0
	case Result:
		c := s.command(w.Record)
		c.Result, c.ResultAt, c.Lost = w.Payload, w.Time, false
		s.end(c)
	case Sent:
		c := s.command(w.Record)
		s.end(c)
		s.sent(c, w.Time)
	case lost:
		c := s.command(w.Record)
		*c = Command{Identity: c.Identity, AcceptedAt: c.AcceptedAt, Message: c.Message, Result: c.Result, ResultAt: c.ResultAt, SentAt: c.SentAt, Lost: true}
	}
}

// end notes the end of a command, once.
func (s *state) end(c *Command) {
	if !slices.Contains(s.ended, c) {
		s.ended = append(s.ended, c)
	}
}

// sent folds in that a command's result was sent: what its steps kept is of no more use, and it may be time to forget older commands.
func (s *state) sent(c *Command, at time.Time) {
	if !c.SentAt.IsZero() {
		s.held -= weight(c)
	}
	c.SentAt = at
	for i := range c.Steps {
		s.waste += int64(len(c.Steps[i].Payload) + len(c.Steps[i].Events))
		c.Steps[i].Payload, c.Steps[i].Events = nil, nil
	}
	s.waste += int64(len(c.Verdict) + len(c.Abort))
	c.Verdict, c.Abort = nil, nil
	if weight(c) == bareWeight { // what compaction left of it
		s.retire(func(other *Command) bool { return other == c })
		return
	}
	if s.held += weight(c); s.held > s.keep {
		s.forget()
	}
}

// command finds or adds the command of a record. Only a damaged journal holds records of a command it never accepted.
func (s *state) command(r Record) *Command {
	c := s.byID[r.Command]
	if c == nil {
		c = &Command{Identity: r.Command, AcceptedAt: r.Time}
		s.byID[r.Command] = c
		s.order = append(s.order, c)
	}
	return c
}

func (c *Command) applyStep(r Record) {
	i := slices.IndexFunc(c.Steps, func(s Step) bool { return s.Name == r.Step })
	if i < 0 {
		i = len(c.Steps)
		c.Steps = append(c.Steps, Step{Name: r.Step})
	}
	step := &c.Steps[i]
	if step.State != r.Type && r.Type != Started {
		c.Resumed = 0
	}
	step.State, step.At, step.Events = r.Type, r.Time, r.Events
	if r.Type == Started {
		step.Semantics = r.Semantics
	}
	if r.Type == Started || r.Payload != nil {
		step.Payload = r.Payload
	}
}

func (c *Command) clone() Command {
	d := *c
	d.Steps = slices.Clone(c.Steps)
	return d
}

// find returns what is known of a command.
func (s *state) find(identity string) (Command, bool) {
	if c := s.byID[identity]; c != nil {
		return c.clone(), true
	}
	if ended, ok := s.old.find(identity); ok {
		return Command{Identity: identity, ResultAt: ended, SentAt: ended}, true
	}
	return Command{}, false
}

func (s *state) knows(identity string) bool {
	_, old := s.old.find(identity)
	return old || s.byID[identity] != nil
}

func (s *state) commands() []Command {
	all := make([]Command, len(s.order))
	for i, c := range s.order {
		all[i] = c.clone()
	}
	return all
}

// loaded is what reading a file to its end found.
type loaded struct {
	state   *state
	format  int   // 0: the header is unreadable
	sound   int64 // bytes up to the end of the last frame before anything is wrong
	size    int64
	damaged bool // something is wrong that no torn write explains
}

// torn is the number of bytes an unfinished write left at the end.
func (l *loaded) torn() int64 {
	if l.damaged {
		return 0
	}
	return l.size - l.sound
}

// load reads a journal and folds all that it can read. keep is Options.KeepBytes.
func load(r io.ReaderAt, size, keep int64) (*loaded, error) {
	state := newState(keep)
	l, err := scan(r, size, func(w wireRecord, _ []byte) error {
		state.apply(w)
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.state = state
	return l, nil
}

// scan reads a journal and calls each with every record and payload it could read, in order. What it returns has no state.
func scan(r io.ReaderAt, size int64, each func(wireRecord, []byte) error) (*loaded, error) {
	l := &loaded{size: size}
	f := newFrames(r, size)
	head, err := f.view(0, headerSize)
	if err != nil {
		return nil, err
	}
	if head == nil { // too short to be anything: a file that was never finished
		return l, nil
	}
	l.format, l.sound = parseHeader(head), int64(headerSize)
	l.damaged = l.format == 0
	for {
		payload, err := f.next()
		switch {
		case err == io.EOF:
			return l, nil
		case err == errBadFrame:
			more, err := l.pass(f)
			if err != nil || !more {
				return l, err
			}
			continue
		case err != nil:
			return nil, err
		}
		w, err := decode(payload)
		if err != nil { // sound frame, unsound content: never written by us
			l.damaged = true
			continue
		}
		if err := each(w, payload); err != nil {
			return nil, err
		}
		if !l.damaged {
			l.sound = f.off
		}
	}
}

// pass judges a bad frame and moves behind it. One write is one frame, so more rubbish than a frame can hold, or a sound frame behind it, is
// no torn write.
func (l *loaded) pass(f *frames) (more bool, err error) {
	if l.size-f.off > MaxRecord+frameHead {
		l.damaged = true
	}
	more, err = f.seek()
	if more {
		l.damaged = true
	}
	return more, err
}

// Snapshot is what a journal says, read without its lock.
type Snapshot struct {
	Format   int
	Instance string
	Commands []Command // in the order of acceptance, without old ones
	Old      int       // commands of which only the identity is remembered
	Records  int
	Bytes    int64
	Torn     int64 // bytes at the end that are no whole record: being written now, or left by a crash
	Damaged  bool  // part of the file is unreadable; the agent will set it aside when it opens it
	ReadAt   time.Time
}
