package agent

import (
	"context"
	"slices"
	"sync"

	"hostmanager/commandproc"
)

// laneRoom is how many commands may wait in a lane before intake pauses; the rest waits in the queue, which is durable as well.
const laneRoom = 100

// job is one piece of work of a lane.
type job struct {
	identity string
	do       func(context.Context)
	command  *commandproc.Job // nil: none that somebody sent
}

// lane runs jobs in the order they were pushed, at most width at once.
type lane struct {
	width int

	mu      sync.Mutex
	waiting []job
	running map[string]struct{}
	changed chan struct{} // closed and replaced whenever something changes
	closed  bool
	held    bool
}

func newLane(width int) *lane {
	return &lane{width: width, running: map[string]struct{}{}, changed: make(chan struct{})}
}

// notify wakes everybody who waits. The caller holds the lock.
func (l *lane) notify() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// push adds a job at the end, or at the front.
func (l *lane) push(j job, front bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if front {
		l.waiting = append([]job{j}, l.waiting...)
	} else {
		l.waiting = append(l.waiting, j)
	}
	l.notify()
}

// withdraw takes a job out that waits. False: none of that identity waits.
func (l *lane) withdraw(identity string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.waiting, func(j job) bool { return j.identity == identity })
	if i < 0 {
		return false
	}
	l.waiting = slices.Delete(l.waiting, i, i+1)
	l.notify()
	return true
}

// behind returns the commands that wait, in their order.
func (l *lane) behind() []commandproc.Job {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []commandproc.Job
	for _, j := range l.waiting {
		if j.command != nil {
			all = append(all, *j.command)
		}
	}
	return all
}

// change is closed when something changes in the lane the next time.
func (l *lane) change() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed
}

// room waits until the lane takes more, which it tells, or ctx ends.
func (l *lane) room(ctx context.Context) bool {
	for {
		l.mu.Lock()
		full, changed := len(l.waiting) >= laneRoom, l.changed
		l.mu.Unlock()
		if !full {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// full tells whether no more should be pushed.
func (l *lane) full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting) >= laneRoom
}

// depth tells how many jobs wait and run.
func (l *lane) depth() (waiting, running int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.waiting), len(l.running)
}

// run works until close, then returns when the running jobs have ended; what still waits stays in the journal. Jobs get ctx, whose end aborts
// them.
func (l *lane) run(ctx context.Context) {
	var wg sync.WaitGroup
	for range l.width {
		wg.Go(func() {
			for {
				j, ok := l.next(ctx)
				if !ok {
					return
				}
				j.do(ctx)
				l.done(j)
			}
		})
	}
	wg.Wait()
}

func (l *lane) next(ctx context.Context) (job, bool) {
	for {
		l.mu.Lock()
		if l.closed || ctx.Err() != nil {
			l.mu.Unlock()
			return job{}, false
		}
		if len(l.waiting) > 0 && !l.held {
			j := l.waiting[0]
			l.waiting = l.waiting[1:]
			l.running[j.identity] = struct{}{}
			l.notify()
			l.mu.Unlock()
			return j, true
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

func (l *lane) done(j job) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.running, j.identity)
	l.notify()
}

// hold lets no further job begin until release: what comes together is looked at together.
func (l *lane) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = true
}

// release lets jobs begin again after hold.
func (l *lane) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = false
	l.notify()
}

// close lets no further job begin.
func (l *lane) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.notify()
}
