package aws

import (
	"context"
	"sync"
	"time"
)

// Pace holds all requests of a process to a service apart while the service
// throttles: one caller's patience does not help where ten others go on. The
// pause between two requests doubles with every throttled one and shrinks with
// every other. The zero value is ready, and safe for concurrent use.
type Pace struct {
	mu   sync.Mutex
	gap  time.Duration // between the starts of two requests; 0 while nothing throttles
	next time.Time     // no request starts before
}

// Bounds of the pause between two requests.
const (
	firstGap = 100 * time.Millisecond
	mostGap  = 5 * time.Second
)

// Wait waits for this request's turn, or returns ctx's error.
func (p *Pace) Wait(ctx context.Context) error {
	wait := p.turn(time.Now())
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// turn takes the next turn and says how far away it is.
func (p *Pace) turn(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gap == 0 {
		return 0
	}
	if p.next.Before(now) {
		p.next = now
	}
	wait := p.next.Sub(now)
	p.next = p.next.Add(p.gap)
	return wait
}

// Done tells how a request went.
func (p *Pace) Done(throttled bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case throttled:
		p.gap = min(max(2*p.gap, firstGap), mostGap)
		p.next = time.Now().Add(p.gap)
	case p.gap > firstGap:
		p.gap /= 2
	default:
		p.gap = 0
	}
}
