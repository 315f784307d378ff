package journal

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"hostmanager/internal/atomicfile"
	"hostmanager/protocol"
)

// fate is what compaction does to the records of one command.
type fate int

const (
	keep fate = iota
	slim      // sent: payloads and events of steps are of no more use
	bare      // old: no payloads, and nothing of what happened between acceptance and result
	drop
)

// plan gives every command its fate at one moment: one whose result was sent, or given up, is forgotten after Window, counted from its last record.
type plan struct {
	state *state
	now   time.Time
}

func (p plan) outlived(ended time.Time) bool { return p.now.Sub(ended) > Window }

// fateOf a command; keep for one that the journal does not know.
func (p plan) fateOf(identity string) fate {
	c := p.state.byID[identity]
	if c == nil {
		ended, old := p.state.old.find(identity)
		switch {
		case !old:
			return keep
		case p.outlived(ended):
			return drop
		}
		return bare
	}
	switch {
	case c.SentAt.IsZero(): // the outbox gives a result up, not the journal
		return keep
	case p.outlived(c.endedAt()):
		return drop
	}
	return slim
}

// rewrite returns a record as the plan wants it, or nil to leave it out. What is kept is kept byte for byte.
func (p plan) rewrite(w wireRecord, payload []byte) ([]byte, error) {
	f := p.fateOf(w.Command)
	inner := ofWork(w.Type)
	ends := w.Type == Accepted || w.Type == Result
	switch {
	case w.Type == identity || f == keep:
		return payload, nil
	case f == drop, f == bare && inner:
		return nil, nil
	case w.Payload == nil && w.Events == nil, !inner && !ends, ends && f == slim:
		return payload, nil
	}
	var members map[string]json.RawMessage // not Record: members of a newer format stay
	if err := json.Unmarshal(payload, &members); err != nil {
		return nil, err
	}
	delete(members, "payload")
	delete(members, "events")
	return encode(members)
}

// ofWork are the types that tell of a command between acceptance and result: of no use once it was sent.
func ofWork(t Type) bool {
	switch t {
	case Started, Done, Undone, Resumed, Paused, Abort, Verdict:
		return true
	}
	return false
}

// Compact rewrites the journal without what nobody needs at now: commands whose result was sent or given up longer ago than Window, and payloads of
// steps of commands that were sent. Records of unknown types stay as long as their command does.
func (j *Journal) Compact(now time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	return j.compact(plan{j.state, now})
}

// compactNow is Compact on the way of something else, which has succeeded: a failure is for the log, and the old file stays in use.
func (j *Journal) compactNow(p plan) {
	if err := j.compact(p); err != nil {
		j.opts.Log.Warn("journal not compacted", slog.Any("error", err), slog.Int64("bytes", j.size))
	}
	// A quarter of what must stay, so that rewriting costs little for each record, and what waits to be dropped stays small beside it.
	j.compactAt = max(j.opts.CompactAt, j.size+max(j.opts.CompactAt/2, j.size/4))
}

func (j *Journal) compact(p plan) error {
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", j.file.Fd())) // the file that is written to, whatever became of its name
	if err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	defer f.Close()
	err = j.replace(func(put func([]byte) error) error {
		l, err := scan(f, j.size, func(w wireRecord, payload []byte) error {
			kept, err := p.rewrite(w, payload)
			if kept == nil || err != nil {
				return err
			}
			return put(kept)
		})
		if err == nil && l.sound != j.size {
			err = fmt.Errorf("journal is damaged behind byte %d; the next start sets it aside", l.sound)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	return nil
}

// replace writes a new journal file beside the old one and renames it into place, then appends to that. fill puts its records; without fill it
// holds none but its owner's. When it fails before the rename, the old file stays in use; after it, the journal is broken.
func (j *Journal) replace(fill func(put func([]byte) error) error) (err error) {
	format, next := max(j.format, Format), newState(j.opts.KeepBytes)
	f, err := os.CreateTemp(filepath.Dir(j.path), atomicfile.TempPattern(j.path))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil && f != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	size, err := j.fillFile(f, format, next, fill)
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), j.path); err != nil {
		return err
	}
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.size, j.format, j.state, j.allocated = f, size, format, next, size
	f = nil
	if err := atomicfile.SyncDir(filepath.Dir(j.path)); err != nil {
		return j.breakOff(err) // after a power loss the old name could be back, without what is appended from here on
	}
	return nil
}

func (j *Journal) fillFile(f *os.File, format int, next *state, fill func(put func([]byte) error) error) (int64, error) {
	w := bufio.NewWriterSize(f, windowSize)
	size, err := w.Write(header(format))
	if err != nil {
		return 0, err
	}
	total := int64(size)
	put := func(payload []byte) error {
		rec, err := decode(payload)
		if err != nil {
			return err
		}
		next.apply(rec)
		n, err := w.Write(appendFrame(nil, payload))
		total += int64(n)
		return err
	}
	if fill == nil {
		fill = j.putOwner
	}
	if err := fill(put); err != nil {
		return 0, err
	}
	return total, errors.Join(w.Flush(), f.Sync())
}

func (j *Journal) putOwner(put func([]byte) error) error {
	first, err := encode(struct {
		Type     Type      `json:"type"`
		Instance string    `json:"instance"`
		Time     time.Time `json:"time"`
	}{identity, j.opts.InstanceID, j.opts.Now()})
	if err != nil {
		return err
	}
	return put(first)
}

// setAsideForeign keeps another instance's journal under a name of its own and starts an empty one.
func (j *Journal) setAsideForeign(owner string) error {
	word := owner
	if !protocol.ValidID(word) {
		word = "unknown"
	}
	aside, err := j.linkAside("instance-" + word)
	if err != nil {
		return err
	}
	if err := j.replace(nil); err != nil {
		return err
	}
	j.warn(fmt.Sprintf("The journal on this disk belongs to instance %.64q, this is %s (a cloned disk?). It was set aside as %s and a new one was started; nothing that runs was touched.",
		owner, j.opts.InstanceID, filepath.Base(aside)))
	return nil
}

// quarantine keeps a damaged journal under a name of its own and starts one with what is still readable.
func (j *Journal) quarantine(f io.ReaderAt, l *loaded) error {
	aside, err := j.linkAside("quarantine")
	if err != nil {
		return err
	}
	unsure := 0
	j.format = l.format
	err = j.replace(func(put func([]byte) error) error {
		if err := j.putOwner(put); err != nil {
			return err
		}
		_, err := scan(f, l.size, func(w wireRecord, payload []byte) error {
			c, _ := l.state.find(w.Command)
			if w.Type == identity || ofWork(w.Type) && !c.Finished() {
				return nil
			}
			return put(payload)
		})
		if err != nil {
			return err
		}
		unsure, err = putLost(put, l.state, j.opts.Now())
		return err
	})
	if err != nil {
		return err
	}
	j.event(protocol.Error, fmt.Sprintf("The journal is damaged behind byte %d. It was set aside as %s; a new one keeps the %d commands that are still readable. "+
		"%d of them have no known end: they are answered as failed and nothing that runs was touched. Check the disk.",
		l.sound, filepath.Base(aside), len(j.state.byID)+len(j.state.old), unsure))
	return nil
}

func putLost(put func([]byte) error, s *state, now time.Time) (int, error) {
	n := 0
	for _, c := range s.order {
		if c.Finished() || c.Lost {
			continue
		}
		payload, err := encode(Record{Type: lost, Command: c.Identity, Time: now})
		if err != nil {
			return n, err
		}
		if err := put(payload); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// linkAside gives the present file a second name, so that the journal's own name never stands for nothing.
func (j *Journal) linkAside(word string) (string, error) {
	stamp := j.opts.Now().UTC().Format("20060102T150405.000Z")
	for i := range 100 {
		name := fmt.Sprintf("%s.%s-%s", j.path, word, stamp)
		if i > 0 {
			name = fmt.Sprintf("%s-%d", name, i)
		}
		err := os.Link(j.path, name)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("set journal aside: %w", err)
		}
		return name, nil
	}
	return "", fmt.Errorf("set journal aside: too many files %s.%s-*", j.path, word)
}
