package commandproc

import (
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

// sorted returns the events by time, and whether some are missing.
func (c *collector) sorted() ([]protocol.Event, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(c.events)
	slices.SortStableFunc(all, func(a, b protocol.Event) int { return a.Time.Compare(b.Time) })
	return all, c.dropped > 0
}
