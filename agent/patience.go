package agent

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// patience is waiting between tries: capped exponential with jitter. It also says when a failure is worth a line in the log: the first, and then
// once for every ten minutes of waiting. Not for concurrent use.
type patience struct {
	b     *backoff.ExponentialBackOff
	tries int
	quiet time.Duration // waited since the last line
}

const sayAgainAfter = 10 * time.Minute

func newPatience(first, most time.Duration) *patience {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval, b.MaxInterval, b.Multiplier = first, most, 2
	b.Reset()
	return &patience{b: b}
}

func (p *patience) reset() {
	p.b.Reset()
	p.tries, p.quiet = 0, 0
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
	d := p.b.NextBackOff()
	p.quiet += d
	return d
}

// wait waits, and returns early when ctx ends or wake is signalled.
func (p *patience) wait(ctx context.Context, wake <-chan struct{}) {
	t := time.NewTimer(p.next())
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}
