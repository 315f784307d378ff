package localaws

import (
	"container/heap"
	"container/list"
	"strconv"
	"time"
)

// queue is one queue and its messages. A message is in exactly one state:
//
//	ready     in the ready heap (a FIFO queue reads its order instead)
//	delayed   in the hidden heap until its delay ends
//	inFlight  in the hidden heap until its visibility ends
//
// and always in byAge and, in a FIFO queue, in order. The service's mutex
// guards all of it. settle must run before the states are looked at.
type queue struct {
	id       uint64
	name     string
	region   string
	fifo     bool
	attrs    map[string]string
	tags     map[string]string
	policy   queuePolicy
	created  time.Time
	modified time.Time
	purged   time.Time

	visibility time.Duration
	delay      time.Duration
	retention  time.Duration
	wait       time.Duration
	maxSize    int
	redrive    *redrivePolicy

	messages map[uint64]*message
	ready    messageHeap
	hidden   messageHeap
	byAge    messageHeap
	order    list.List // of *message, FIFO queues only, by sequence
	inFlight int
	groups   map[string]int // messages in flight by group, FIFO queues only
	dedup    dedupWindow
	attempts map[string]*attempt
	changed  chan struct{} // closed and replaced when something became ready
	gone     bool          // the queue was deleted
}

type messageState int

const (
	ready messageState = iota
	delayed
	inFlight
)

// message is one message of a queue. A duplicate delivery is a message of its
// own with the same id.
type message struct {
	key    uint64 // its number in the service, rising with arrival
	id     string
	body   string
	md5    string
	attrs  map[string]attributeValue
	trace  string // AWSTraceHeader
	group  string
	dedup  string
	seq    string
	source string // ARN of the queue it was dead-lettered from

	sent          time.Time
	enqueued      time.Time // what retention counts from
	firstReceived time.Time
	received      int // in all queues
	receivedHere  int // in this queue, for its redrive policy

	state    messageState
	due      time.Time // end of the delay or the visibility
	taken    time.Time // start of this delivery
	delivery uint64    // number of the last delivery, part of its receipt
	index    [heaps]int
	elem     *list.Element
}

func newQueue(id uint64, name, region string, fifo bool, now time.Time) *queue {
	q := &queue{
		id: id, name: name, region: region, fifo: fifo, created: now, modified: now,
		tags: map[string]string{}, messages: map[uint64]*message{}, groups: map[string]int{},
		dedup: newDedupWindow(), attempts: map[string]*attempt{}, changed: make(chan struct{}),
		ready:  messageHeap{slot: byReady, less: func(a, b *message) bool { return a.key < b.key }},
		hidden: messageHeap{slot: byDue, less: func(a, b *message) bool { return a.due.Before(b.due) }},
		byAge:  messageHeap{slot: byEnqueued, less: func(a, b *message) bool { return a.enqueued.Before(b.enqueued) }},
	}
	return q
}

func (q *queue) arn() string {
	return "arn:aws:sqs:" + q.region + ":" + AccountID + ":" + q.name
}

// notify wakes the long polls.
func (q *queue) notify() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// add puts a new message in, hidden for delay.
func (q *queue) add(m *message, now time.Time, delay time.Duration) {
	m.index = [heaps]int{-1, -1, -1}
	q.messages[m.key] = m
	heap.Push(&q.byAge, m)
	if q.fifo {
		m.elem = q.order.PushBack(m)
	}
	if delay > 0 {
		m.state, m.due = delayed, now.Add(delay)
		heap.Push(&q.hidden, m)
	} else {
		q.makeReady(m)
	}
	// A poll that waits must learn of the new due time too.
	q.notify()
}

func (q *queue) makeReady(m *message) {
	m.state = ready
	if !q.fifo {
		heap.Push(&q.ready, m)
	}
}

// leave takes the message out of the state it is in.
func (q *queue) leave(m *message) {
	q.ready.remove(m)
	q.hidden.remove(m)
	if m.state == inFlight {
		q.inFlight--
		if q.fifo {
			if q.groups[m.group]--; q.groups[m.group] == 0 {
				delete(q.groups, m.group)
			}
		}
	}
}

// remove takes the message out for good.
func (q *queue) remove(m *message) {
	wasInFlight := m.state == inFlight
	q.leave(m)
	q.byAge.remove(m)
	if m.elem != nil {
		q.order.Remove(m.elem)
		m.elem = nil
	}
	delete(q.messages, m.key)
	if q.fifo && wasInFlight {
		q.notify() // the rest of its group may go on
	}
}

// take delivers a ready message: it is in flight for visibility from now.
func (q *queue) take(m *message, delivery uint64, now time.Time, visibility time.Duration) {
	q.leave(m)
	m.state, m.taken, m.due, m.delivery = inFlight, now, now.Add(visibility), delivery
	if m.received == 0 {
		m.firstReceived = now
	}
	m.received++
	m.receivedHere++
	q.inFlight++
	if q.fifo {
		q.groups[m.group]++
	}
	heap.Push(&q.hidden, m)
}

// hold changes how long a message in flight stays so.
func (q *queue) hold(m *message, until time.Time, now time.Time) {
	m.due = until
	heap.Fix(&q.hidden, m.index[byDue])
	if !until.After(now) {
		q.settle(now)
		q.notify()
		return
	}
	q.notify() // the next due time may have moved
}

// settle brings the states up to now: ends delays and visibilities, and drops
// what is older than the retention period.
func (q *queue) settle(now time.Time) {
	for q.byAge.Len() > 0 {
		m := q.byAge.items[0]
		if m.enqueued.Add(q.retention).After(now) {
			break
		}
		q.remove(m)
	}
	for q.hidden.Len() > 0 {
		m := q.hidden.items[0]
		if m.due.After(now) {
			break
		}
		q.leave(m)
		q.makeReady(m)
	}
}

// nextDue is when the next hidden message becomes ready.
func (q *queue) nextDue() (time.Time, bool) {
	if q.hidden.Len() == 0 {
		return time.Time{}, false
	}
	return q.hidden.items[0].due, true
}

// each calls fn for the messages that may be delivered now, in order, until it
// returns false. fn may take or remove the message it is given.
func (q *queue) each(fn func(*message) bool) {
	if !q.fifo {
		for q.ready.Len() > 0 && fn(q.ready.items[0]) {
		}
		return
	}
	// A group with a message in flight, or with an earlier one that cannot go
	// yet, waits; what this call takes does not block the call itself.
	blocked := make(map[string]bool, len(q.groups))
	for g := range q.groups {
		blocked[g] = true
	}
	for e := q.order.Front(); e != nil; {
		m := e.Value.(*message)
		e = e.Next()
		if m.state != ready {
			blocked[m.group] = true
		}
		if !blocked[m.group] && !fn(m) {
			return
		}
	}
}

// counts returns how many messages are ready, in flight and delayed.
func (q *queue) counts() (visible, invisible, waiting int) {
	waiting = q.hidden.Len() - q.inFlight
	return len(q.messages) - q.hidden.Len(), q.inFlight, waiting
}

// clear drops every message.
func (q *queue) clear() {
	for _, m := range q.messages {
		q.remove(m)
	}
}

// The heaps a message can be in, as places in message.index.
const (
	byReady = iota
	byDue
	byEnqueued
	heaps
)

// messageHeap is a heap that knows where each message stands in it.
type messageHeap struct {
	slot  int
	less  func(a, b *message) bool
	items []*message
}

// Len, Less, Swap, Push and Pop are for container/heap.
func (h *messageHeap) Len() int           { return len(h.items) }
func (h *messageHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }

func (h *messageHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index[h.slot], h.items[j].index[h.slot] = i, j
}

func (h *messageHeap) Push(x any) {
	m := x.(*message)
	m.index[h.slot] = len(h.items)
	h.items = append(h.items, m)
}

func (h *messageHeap) Pop() any {
	last := len(h.items) - 1
	m := h.items[last]
	h.items[last] = nil
	h.items = h.items[:last]
	m.index[h.slot] = -1
	return m
}

// remove takes m out, if it is in.
func (h *messageHeap) remove(m *message) {
	if i := m.index[h.slot]; i >= 0 {
		heap.Remove(h, i)
	}
}

func millis(t time.Time) string  { return strconv.FormatInt(t.UnixMilli(), 10) }
func seconds(t time.Time) string { return strconv.FormatInt(t.Unix(), 10) }
