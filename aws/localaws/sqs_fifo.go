package localaws

import (
	"container/list"
	"time"
)

// fifoWindow is how long a deduplication id, and a receive request attempt id,
// is remembered.
const fifoWindow = 5 * time.Minute

// dedupWindow remembers what was sent to a FIFO queue lately, oldest first.
// An entry outlives its message.
type dedupWindow struct {
	byID  map[string]*list.Element
	order *list.List // of dedupEntry
}

type dedupEntry struct {
	dedupID string
	expires time.Time
	id, seq string // of the message that was let in
}

func newDedupWindow() dedupWindow {
	return dedupWindow{byID: map[string]*list.Element{}, order: list.New()}
}

// seen returns the first message with this id. The empty id is never seen.
func (d *dedupWindow) seen(dedupID string, now time.Time) (dedupEntry, bool) {
	for e := d.order.Front(); e != nil; e = d.order.Front() {
		old := e.Value.(dedupEntry)
		if old.expires.After(now) {
			break
		}
		d.order.Remove(e)
		delete(d.byID, old.dedupID)
	}
	if e, ok := d.byID[dedupID]; ok {
		return e.Value.(dedupEntry), true
	}
	return dedupEntry{}, false
}

func (d *dedupWindow) remember(dedupID string, now time.Time, m *message) {
	d.byID[dedupID] = d.order.PushBack(dedupEntry{dedupID: dedupID, expires: now.Add(fifoWindow), id: m.id, seq: m.seq})
}

// attempt is what one receive request of a FIFO queue was given, to be given
// again when its answer got lost on the way.
type attempt struct {
	expires    time.Time
	deliveries map[*message]uint64
	order      []*message
}

// repeat returns the messages of an earlier receive with the same attempt id,
// as long as none of them was touched since, in flight for visibility again.
func (q *queue) repeat(id string, now time.Time, visibility time.Duration) []*message {
	for old, a := range q.attempts {
		if !a.expires.After(now) {
			delete(q.attempts, old)
		}
	}
	a := q.attempts[id]
	if a == nil {
		return nil
	}
	for m, delivery := range a.deliveries {
		if q.messages[m.key] != m || m.state != inFlight || m.delivery != delivery {
			delete(q.attempts, id)
			return nil
		}
	}
	for _, m := range a.order {
		q.hold(m, now.Add(visibility), now)
	}
	return a.order
}

// remember notes what a receive with an attempt id was given.
func (q *queue) remember(id string, now time.Time, taken []*message) {
	a := &attempt{expires: now.Add(fifoWindow), deliveries: map[*message]uint64{}, order: taken}
	for _, m := range taken {
		a.deliveries[m] = m.delivery
	}
	q.attempts[id] = a
}

// touched forgets the attempts a message was part of: its receiver has shown
// that it got the answer.
func (q *queue) touched(m *message) {
	for id, a := range q.attempts {
		if _, ok := a.deliveries[m]; ok {
			delete(q.attempts, id)
		}
	}
}
