package aws

import (
	"net/http"
	"sync"
	"time"
)

// MaxSkew is how far this machine's clock may be from the service's before it
// is not believed any more. The service tells its time in whole seconds, and
// the answer that brings it may have been on its way for some.
const MaxSkew = 30 * time.Second

// Clock tells the time by this machine's clock, and by AWS's where answers
// show that this machine's is off by more than MaxSkew. Between two answers it
// goes by the kernel's monotonic clock, so setting the machine's clock changes
// nothing but how far that is off. It is safe for concurrent use; a nil Clock
// takes no notice of anything.
type Clock struct {
	local func() time.Time

	mu     sync.Mutex
	server time.Time // what the service said last
	at     time.Time // when, with its monotonic reading; zero before the first answer
}

// NewClock makes a clock over a local one; nil is time.Now.
func NewClock(local func() time.Time) *Clock {
	if local == nil {
		local = time.Now
	}
	return &Clock{local: local}
}

// Now is the time.
func (c *Clock) Now() time.Time {
	now := c.local()
	if skew := c.Skew(); skew > MaxSkew || skew < -MaxSkew {
		return now.Add(-skew)
	}
	return now
}

// Skew is how far the local clock is ahead of the service's, to about a
// second; 0 before the service was heard.
func (c *Clock) Skew() time.Duration {
	c.mu.Lock()
	server, at := c.server, c.at
	c.mu.Unlock()
	if at.IsZero() {
		return 0
	}
	return c.local().Round(0).Sub(server.Add(time.Since(at)))
}

// hear takes an answer's time from its header.
func (c *Clock) hear(h http.Header) {
	if c == nil {
		return
	}
	said, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	// The second that was cut off is half a second away, on average.
	c.server, c.at = said.Add(500*time.Millisecond), time.Now()
}
