package proxy

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	errNoTarget      = errors.New("no target")
	errHoldFull      = errors.New("too many requests are held by a pause")
	errClosing       = errors.New("the proxy is stopping")
	errDrainDeadline = errors.New("drain deadline passed")
	errAborted       = errors.New("the proxy was told to stop at once")

	// ErrServing is returned by a drain of the current target while it is not paused: it would never end.
	ErrServing = errors.New("the address is the current target; swap or pause first")
)

// unwindTime is how long a drain waits for requests it has cut to end.
const unwindTime = 2 * time.Second

// valve chooses the target of each request. mu is the swap's lock: choose and count happen under it. Nothing under it blocks.
type valve struct {
	maxHeld int

	mu         sync.Mutex
	generation uint64
	cur        *target
	swappedAt  time.Time
	retired    []*target // old targets with requests in flight
	pause      *pause
	closed     bool
	served     uint64
}

// target is one generation's target with its requests in flight, a list through the flights themselves. Guarded by valve.mu.
type target struct {
	Target
	backend   *backend
	first     *flight
	n         int
	retiredAt time.Time
	waiters   []chan struct{}
}

type pause struct {
	released chan struct{}
	timer    *time.Timer
	until    time.Time
	held     int
}

// begin chooses the target and counts the request on it; the caller must end the flight. During a pause it waits until the pause ends or
// ctx is done.
func (v *valve) begin(ctx context.Context) (*flight, error) {
	v.mu.Lock()
	for v.pause != nil && !v.closed {
		p := v.pause
		if p.held >= v.maxHeld {
			v.mu.Unlock()
			return nil, errHoldFull
		}
		p.held++
		v.mu.Unlock()
		var err error
		select {
		case <-p.released:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		v.mu.Lock()
		p.held--
		if err != nil {
			v.mu.Unlock()
			return nil, err
		}
	}
	defer v.mu.Unlock()
	if v.closed {
		return nil, errClosing
	}
	if v.cur == nil {
		return nil, errNoTarget
	}
	v.served++
	return v.cur.add(v), nil
}

func (t *target) add(v *valve) *flight {
	f := &flight{valve: v, target: t, next: t.first}
	if t.first != nil {
		t.first.prev = f
	}
	t.first = f
	t.n++
	return f
}

// end takes the flight off its target. The last one of an old target lets its drain return and closes its idle connections.
func (v *valve) end(f *flight) {
	v.mu.Lock()
	t := f.target
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		t.first = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	}
	f.prev, f.next = nil, nil
	t.n--
	var gone bool
	if t.n == 0 {
		for _, w := range t.waiters {
			close(w)
		}
		t.waiters = nil
		gone = v.forget(t)
	}
	v.mu.Unlock()
	if gone {
		t.backend.close()
	}
}

func (v *valve) forget(t *target) bool {
	for i, r := range v.retired {
		if r == t {
			v.retired = append(v.retired[:i], v.retired[i+1:]...)
			return true
		}
	}
	return false
}

// swap makes next (nil: none) the target of every request that begins from now on.
func (v *valve) swap(next *target, generation uint64, now time.Time) Swap {
	v.mu.Lock()
	old := v.cur
	v.cur, v.generation, v.swappedAt = next, generation, now
	s := Swap{Generation: generation}
	if v.pause != nil {
		s.Held = v.pause.held
	}
	if old != nil {
		was := old.Target
		s.Previous, s.InFlight = &was, old.n
		old.retiredAt = now
		if old.n > 0 {
			v.retired = append(v.retired, old)
		}
	}
	v.mu.Unlock()
	if old != nil {
		old.backend.close()
	}
	return s
}

// drain waits until no request that began on addr before is in flight, or timeout has passed; then it cancels the rest. It
// concerns old targets, and the current one only during a pause.
func (v *valve) drain(ctx context.Context, addr string, timeout time.Duration) (Drained, error) {
	start := time.Now()
	targets, n, err := v.drainable(addr)
	if err != nil {
		return Drained{}, err
	}
	out := Drained{Addr: addr, InFlight: n}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	switch err := v.waitEmpty(ctx, targets, deadline.C); {
	case err == nil:
	case errors.Is(err, errDrainDeadline):
		out.Cancelled = v.cancelAll(targets, errDrainDeadline)
		unwind := time.NewTimer(unwindTime)
		defer unwind.Stop()
		if err := v.waitEmpty(ctx, targets, unwind.C); err != nil && !errors.Is(err, errDrainDeadline) {
			return Drained{}, err
		}
		out.Remaining = v.inFlight(targets)
	default:
		return Drained{}, err
	}
	out.Took = Duration(time.Since(start))
	return out, nil
}

func (v *valve) drainable(addr string) (targets []*target, n int, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range v.retired {
		if t.Addr == addr {
			targets = append(targets, t)
			n += t.n
		}
	}
	if v.cur != nil && v.cur.Addr == addr {
		switch {
		case v.pause != nil:
			targets = append(targets, v.cur)
			n += v.cur.n
		case len(targets) == 0:
			return nil, 0, ErrServing
		}
	}
	return targets, n, nil
}

func (v *valve) waitEmpty(ctx context.Context, targets []*target, deadline <-chan time.Time) error {
	for _, t := range targets {
		select {
		case <-v.empty(t):
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline:
			return errDrainDeadline
		}
	}
	return nil
}

// empty is closed when the target has nothing in flight.
func (v *valve) empty(t *target) <-chan struct{} {
	c := make(chan struct{})
	v.mu.Lock()
	defer v.mu.Unlock()
	if t.n == 0 {
		close(c)
	} else {
		t.waiters = append(t.waiters, c)
	}
	return c
}

func (v *valve) inFlight(targets []*target) (n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range targets {
		n += t.n
	}
	return n
}

func (v *valve) cancelAll(targets []*target, cause error) int {
	var flights []*flight
	v.mu.Lock()
	for _, t := range targets {
		for f := t.first; f != nil; f = f.next {
			flights = append(flights, f)
		}
	}
	v.mu.Unlock()
	for _, f := range flights {
		f.cancel(cause)
	}
	return len(flights)
}

// all returns every target that may have requests in flight.
func (v *valve) all() []*target {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := append([]*target(nil), v.retired...)
	if v.cur != nil {
		out = append(out, v.cur)
	}
	return out
}

// hold makes requests wait until release, at most for timeout. A second hold sets the time anew.
func (v *valve) hold(timeout time.Duration) PauseState {
	v.mu.Lock()
	defer v.mu.Unlock()
	p := v.pause
	if p == nil {
		p = &pause{released: make(chan struct{})}
		v.pause = p
	} else {
		p.timer.Stop()
	}
	p.until = time.Now().Add(timeout)
	p.timer = time.AfterFunc(timeout, func() { v.expire(p) })
	return PauseState{Until: p.until, Held: p.held}
}

func (v *valve) expire(p *pause) {
	v.mu.Lock()
	defer v.mu.Unlock()
	// A pause that was prolonged while this timer fired has a later end.
	if v.pause == p && !time.Now().Before(p.until) {
		v.releaseLocked()
	}
}

// release ends a pause and reports how many requests were waiting. Without a pause it does nothing.
func (v *valve) release() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.pause == nil {
		return 0
	}
	return v.releaseLocked()
}

func (v *valve) releaseLocked() int {
	p := v.pause
	p.timer.Stop()
	close(p.released)
	v.pause = nil
	return p.held
}

// close refuses every request from now on, also those held.
func (v *valve) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
	if v.pause != nil {
		v.releaseLocked()
	}
}

func (v *valve) fill(s *State) {
	v.mu.Lock()
	defer v.mu.Unlock()
	s.Generation, s.SwappedAt, s.Served = v.generation, v.swappedAt, v.served
	if v.cur != nil {
		t := v.cur.Target
		s.Target, s.InFlight = &t, v.cur.n
	}
	for _, t := range v.retired {
		s.Draining = append(s.Draining, Draining{Addr: t.Addr, ID: t.ID, Deployment: t.Deployment, InFlight: t.n, Since: t.retiredAt})
	}
	if v.pause != nil {
		s.Paused = &PauseState{Until: v.pause.until, Held: v.pause.held}
	}
}

func (v *valve) currentGeneration() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.generation
}

// closeBackends closes every idle connection; the proxy is ending.
func (v *valve) closeBackends() {
	for _, t := range v.all() {
		t.backend.close()
	}
}
