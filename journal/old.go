package journal

import (
	"crypto/sha256"
	"slices"
	"time"
)

// About what a command takes in the file beside its payloads.
const (
	bareWeight = 200 // its identity and times
	stepWeight = 400 // the two records of a step
)

// weight is what a sent command counts against Options.KeepBytes: bareWeight where only its identity and times are left.
func weight(c *Command) int64 {
	return bareWeight + int64(len(c.Message)+len(c.Result)) + stepWeight*int64(len(c.Steps))
}

// oldCommands remembers commands by which only a duplicate is known: when each ended, in Unix milliseconds, under a digest of its identity. There
// is one for every command of the last 14 days, so each takes as little memory as can be, and none that the garbage collector has to look through.
type oldCommands map[[16]byte]int64

func keyOf(identity string) [16]byte {
	sum := sha256.Sum256([]byte(identity))
	return [16]byte(sum[:16])
}

// find returns when an old command ended.
func (o oldCommands) find(identity string) (ended time.Time, ok bool) {
	if len(o) == 0 {
		return time.Time{}, false
	}
	ms, ok := o[keyOf(identity)]
	return time.UnixMilli(ms).UTC(), ok
}

func (o oldCommands) add(c *Command) { o[keyOf(c.Identity)] = c.endedAt().UnixMilli() }

// take folds in a record of an old command; false: it is of none.
func (o oldCommands) take(r Record) bool {
	ended, ok := o.find(r.Command)
	if ok && (r.Type == Result || r.Type == Sent) && r.Time.After(ended) {
		o[keyOf(r.Command)] = r.Time.UnixMilli()
	}
	return ok
}

// forget makes sent commands old ones, from the first accepted on, until what the others hold is an eighth below what may be kept: so it need not
// look through all of them for each that is sent.
func (s *state) forget() {
	room, cut := s.keep-s.keep/8, 0
	s.held = 0
	for i, c := range slices.Backward(s.order) {
		if c.SentAt.IsZero() {
			continue
		}
		if s.held+weight(c) > room {
			cut = i + 1
			break
		}
		s.held += weight(c)
	}
	n := 0
	s.retire(func(c *Command) bool {
		n++
		return n <= cut && !c.SentAt.IsZero()
	})
}

// retire makes the commands old ones for which f is true.
func (s *state) retire(f func(*Command) bool) {
	s.order = slices.DeleteFunc(s.order, func(c *Command) bool {
		if !f(c) {
			return false
		}
		s.waste += weight(c) - bareWeight
		s.old.add(c)
		delete(s.byID, c.Identity)
		return true
	})
	s.ended = slices.DeleteFunc(s.ended, func(c *Command) bool { return s.byID[c.Identity] == nil })
}
