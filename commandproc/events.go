package commandproc

import (
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"hostmanager/protocol"
)

// maxEvents bounds what one command may report; a hook in an endless loop must not fill the memory. The rest is counted.
const maxEvents = 1000

// collector gathers the events of one command. Safe for concurrent use.
type collector struct {
	mu      sync.Mutex
	now     func() time.Time
	also    func(protocol.Event)
	events  []protocol.Event
	kept    int // how many of them the journal holds
	dropped int
}

// add takes an event in; one without a time happened now, one without a message says nothing.
func (c *collector) add(e protocol.Event) {
	if e.Msg == "" {
		return
	}
	if e.Time.IsZero() {
		e.Time = c.now()
	}
	if e.Severity.Rank() < 0 {
		e.Severity = protocol.Info
	}
	c.mu.Lock()
	if len(c.events) >= maxEvents {
		c.dropped++
		c.mu.Unlock()
		return
	}
	c.events = append(c.events, e)
	c.mu.Unlock()
	if c.also != nil {
		c.also(e)
	}
}

// once adds an event that a resumed command may have reported before.
func (c *collector) once(e protocol.Event) {
	c.mu.Lock()
	known := slices.ContainsFunc(c.events, func(old protocol.Event) bool { return old.Msg == e.Msg && old.Severity == e.Severity })
	c.mu.Unlock()
	if !known {
		c.add(e)
	}
}

// sorted returns the events by time, and whether some are missing.
func (c *collector) sorted() ([]protocol.Event, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(c.events)
	slices.SortStableFunc(all, func(a, b protocol.Event) int { return a.Time.Compare(b.Time) })
	return all, c.dropped > 0
}

// maxKept bounds in bytes what the journal keeps of the events of one step; what is beyond it is lost only where a crash follows.
const maxKept = 256 << 10

// unkept returns the events that the journal does not hold yet, and how many there are in all, for keep. The list is a JSON list or nil.
func (c *collector) unkept() (list json.RawMessage, upTo int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	list, err = encodeEvents(c.events[c.kept:])
	return list, len(c.events), err
}

// keep notes that the journal holds the first n events.
func (c *collector) keep(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kept = max(c.kept, n)
}

// all returns every event as a JSON list.
func (c *collector) all() (json.RawMessage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return encodeEvents(c.events)
}

// restore takes events back that the journal holds. Nobody is told of them again.
func (c *collector) restore(list json.RawMessage) error {
	if len(list) == 0 {
		return nil
	}
	var events []protocol.Event
	if err := json.Unmarshal(list, &events); err != nil {
		return fmt.Errorf("read journalled events: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, events...)
	c.kept = len(c.events)
	return nil
}

func encodeEvents(events []protocol.Event) (json.RawMessage, error) {
	size := 0
	for i, e := range events {
		if size += len(e.Msg) + 64; size > maxKept {
			events = events[:i]
			break
		}
	}
	if len(events) == 0 {
		return nil, nil
	}
	list, err := json.Marshal(events)
	if err != nil {
		return nil, fmt.Errorf("encode events for the journal: %w", err)
	}
	return list, nil
}
