package agent

import (
	"context"
	"math/rand/v2"
	"time"
)

// patience is waiting between tries, with full jitter: any time up to a bound that doubles, so that a thousand instances that lost the same thing
// at the same moment do not come back for it together. It also says when a failure is worth a line in the log: the first, and then once for every
// ten minutes of waiting. Not for concurrent use.
type patience struct {
	first, most time.Duration
	bound       time.Duration // of the next wait
	tries       int
	quiet       time.Duration // waited since the last line
}

const sayAgainAfter = 10 * time.Minute

func newPatience(first, most time.Duration) *patience {
	return &patience{first: first, most: most, bound: first}
}

func (p *patience) reset() {
	p.bound, p.tries, p.quiet = p.first, 0, 0
}

// failed tells whether a failure was counted since the last reset.
func (p *patience) failed() bool { return p.tries > 0 }

// speaks counts a failure and tells whether to say so.
func (p *patience) speaks() bool {
	p.tries++
	if p.tries == 1 || p.quiet >= sayAgainAfter {
		p.quiet = 0
		return true
	}
	return false
}

// next is how long to wait now.
func (p *patience) next() time.Duration {
	d := rand.N(p.bound) + time.Millisecond
	p.bound = min(2*p.bound, p.most)
	p.quiet += d
	return d
}

// wait waits, and returns early when ctx ends or wake is signalled.
func (p *patience) wait(ctx context.Context, wake <-chan struct{}) { p.waitFor(ctx, wake, nil) }

// waitFor is wait with two that can wake it.
func (p *patience) waitFor(ctx context.Context, wake, also <-chan struct{}) {
	t := time.NewTimer(p.next())
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-also:
	case <-t.C:
	}
}
