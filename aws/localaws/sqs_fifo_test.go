package localaws_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hostmanager/aws/localaws"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func TestFIFO_LocksAGroupWhileOneOfItIsInFlight(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q.fifo", in{"FifoQueue": "true"})
	for i, group := range []string{"a", "a", "b", "a"} {
		c.sendGroup(url, group, fmt.Sprint(i), fmt.Sprint(group, i))
	}
	first := c.one(url, in{"MaxNumberOfMessages": 1})
	if got := bodies(c.receive(url, 10)); first.Body != "a0" || got != "b2" {
		t.Fatalf("received %s, then %s", first.Body, got)
	}
	clock.Advance(30 * time.Second) // all of it comes back, in order
	list := c.receive(url, 10)
	if got := bodies(list); got != "a0 a1 b2 a3" {
		t.Fatalf("received %s", got)
	}
	c.remove(url, list[0])
	c.none(url) // a1 and a3 are still in flight
	c.remove(url, list[1])
	c.hold(url, list[3], 0).ok()
	if got := bodies(c.receive(url, 10)); got != "a3" {
		t.Errorf("received %s", got)
	}
}

func TestFIFO_DeleteWantsAReceiptThatHolds(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q.fifo", in{"FifoQueue": "true"})
	c.sendGroup(url, "g", "d", "x")
	m := c.one(url)
	clock.Advance(30 * time.Second)
	c.do("DeleteMessage", in{"QueueUrl": url, "ReceiptHandle": m.ReceiptHandle}).refused(badValue, badValueQ)
	again := c.one(url)
	c.do("DeleteMessage", in{"QueueUrl": url, "ReceiptHandle": m.ReceiptHandle}).refused(badValue, badValueQ)
	c.remove(url, again)
	c.remove(url, again)
}

func TestFIFO_ForgetsADuplicateAfterFiveMinutes(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q.fifo", in{"FifoQueue": "true", "ContentBasedDeduplication": "true"})
	first := c.sendGroup(url, "g", "d", "x")
	m := c.one(url)
	if m.Attributes["SequenceNumber"] != first["SequenceNumber"] || m.Attributes["MessageDeduplicationId"] != "d" || m.Attributes["MessageGroupId"] != "g" {
		t.Errorf("system attributes %v", m.Attributes)
	}
	c.remove(url, m)
	clock.Advance(5*time.Minute - time.Second)
	again := c.sendGroup(url, "g", "d", "y")
	if again["MessageId"] != first["MessageId"] || again["SequenceNumber"] != first["SequenceNumber"] || again["MD5OfMessageBody"] == first["MD5OfMessageBody"] {
		t.Errorf("duplicate answered %v, first %v", again, first)
	}
	c.none(url)
	clock.Advance(time.Second)
	third := c.sendGroup(url, "g", "d", "z")
	if third["SequenceNumber"].(string) <= first["SequenceNumber"].(string) || len(third["SequenceNumber"].(string)) != 20 {
		t.Errorf("sequence %v after %v", third["SequenceNumber"], first["SequenceNumber"])
	}
	for range 2 { // by content
		c.do("SendMessage", in{"QueueUrl": url, "MessageBody": "same", "MessageGroupId": "h"}).ok()
	}
	if got := bodies(c.receive(url, 10)); got != "z same" {
		t.Errorf("received %s", got)
	}
}

func TestFIFO_DeduplicatesWithinTheGroupWhereToldTo(t *testing.T) {
	c, _ := frozen(t)
	url := c.queue("q.fifo", in{"FifoQueue": "true", "DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"})
	c.sendGroup(url, "a", "d", "1")
	c.sendGroup(url, "b", "d", "2")
	c.sendGroup(url, "a", "d", "3")
	if got := bodies(c.receive(url, 10)); got != "1 2" {
		t.Errorf("received %s", got)
	}
}

func TestFIFO_AttemptGetsTheSameAgain(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q.fifo", in{"FifoQueue": "true"})
	for i := range 3 {
		c.sendGroup(url, "g", fmt.Sprint(i), fmt.Sprint(i))
	}
	attempt := in{"ReceiveRequestAttemptId": "try-1"}
	lost := c.receive(url, 2, attempt)
	clock.Advance(20 * time.Second)
	again := c.receive(url, 2, attempt)
	if bodies(again) != "0 1" || again[0].ReceiptHandle != lost[0].ReceiptHandle {
		t.Fatalf("again: %+v", again)
	}
	clock.Advance(20 * time.Second) // visibility was renewed
	c.none(url)
	c.remove(url, again[0])
	if got := c.receive(url, 2, attempt); len(got) != 0 {
		t.Errorf("after a delete: %s", bodies(got))
	}
	clock.Advance(30 * time.Second)
	if got := bodies(c.receive(url, 2, attempt)); got != "1 2" {
		t.Errorf("as a new receive: %s", got)
	}
}

func TestFIFO_OverInFlightLimitGivesNothing(t *testing.T) {
	c := client{t, direct(t, localaws.Options{Clock: localaws.NewFakeClock(noon), InFlightLimit: 1})}
	url := c.queue("q.fifo", in{"FifoQueue": "true"})
	c.sendGroup(url, "a", "1", "1")
	c.sendGroup(url, "b", "2", "2")
	c.one(url)
	c.none(url)
}

func TestFIFO_DeadLettersToAFIFO(t *testing.T) {
	c, clock := frozen(t)
	dlq := c.queue("dlq.fifo", in{"FifoQueue": "true"})
	src := c.queue("src.fifo", in{"FifoQueue": "true", "RedrivePolicy": `{"deadLetterTargetArn":"` + c.arn(dlq) + `","maxReceiveCount":1}`})
	c.sendGroup(src, "g", "1", "poison")
	c.sendGroup(src, "g", "2", "next")
	c.one(src, in{"MaxNumberOfMessages": 1})
	clock.Advance(30 * time.Second)
	if got := bodies(c.receive(src, 10)); got != "next" {
		t.Errorf("received %s", got)
	}
	if m := c.one(dlq); m.Body != "poison" || m.Attributes["MessageGroupId"] != "g" {
		t.Errorf("dead letter %+v", m)
	}
}

// fifoModel is what a FIFO queue must do, said as simply as possible: per
// group, the undeleted messages in the order they were sent.
type fifoModel struct {
	c        client
	clock    *localaws.FakeClock
	url      string
	sent     int
	groups   map[string][]string  // bodies
	inFlight map[string]time.Time // body -> end of its visibility
	receipts map[string]msg
}

func (m *fifoModel) held(group string) bool {
	return slices.ContainsFunc(m.groups[group], func(b string) bool { return m.inFlight[b].After(m.clock.Now()) })
}

func (m *fifoModel) send(t *rapid.T) {
	group := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "group")
	m.sent++
	body := fmt.Sprint(group, m.sent)
	m.c.sendGroup(m.url, group, body, body)
	m.groups[group] = append(m.groups[group], body)
}

func (m *fifoModel) receive(t *rapid.T) {
	limit := rapid.IntRange(1, 10).Draw(t, "limit")
	visibility := rapid.IntRange(1, 60).Draw(t, "visibility")
	free := map[string][]string{} // what each group may give, in order
	total := 0
	for g, list := range m.groups {
		if !m.held(g) {
			free[g] = list
			total += len(list)
		}
	}
	got := m.c.receive(m.url, limit, in{"VisibilityTimeout": visibility})
	if len(got) != min(limit, total) {
		t.Fatalf("received %d (%s) of %d that are free, limit %d", len(got), bodies(got), total, limit)
	}
	for _, one := range got {
		group := one.Attributes["MessageGroupId"]
		if len(free[group]) == 0 || free[group][0] != one.Body {
			t.Fatalf("group %s gave %s, its order is %v", group, one.Body, free[group])
		}
		free[group] = free[group][1:]
		m.inFlight[one.Body] = m.clock.Now().Add(time.Duration(visibility) * time.Second)
		m.receipts[one.Body] = one
	}
}

// pick chooses a message in flight.
func (m *fifoModel) pick(t *rapid.T) (string, bool) {
	var list []string
	for body, end := range m.inFlight {
		if end.After(m.clock.Now()) {
			list = append(list, body)
		}
	}
	if len(list) == 0 {
		return "", false
	}
	slices.Sort(list)
	return rapid.SampledFrom(list).Draw(t, "message"), true
}

func (m *fifoModel) remove(t *rapid.T) {
	if body, ok := m.pick(t); ok {
		m.c.remove(m.url, m.receipts[body])
		group := m.receipts[body].Attributes["MessageGroupId"]
		m.groups[group] = slices.DeleteFunc(slices.Clone(m.groups[group]), func(b string) bool { return b == body })
		delete(m.inFlight, body)
	}
}

func (m *fifoModel) release(t *rapid.T) {
	if body, ok := m.pick(t); ok {
		m.c.hold(m.url, m.receipts[body], 0).ok()
		delete(m.inFlight, body)
	}
}

func TestFIFO_KeepsOrderWhateverHappens(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		clock := localaws.NewFakeClock(noon)
		c := client{t, direct(t, localaws.Options{Clock: clock})}
		m := &fifoModel{
			c: c, clock: clock, url: c.queue("q.fifo", in{"FifoQueue": "true"}),
			groups: map[string][]string{}, inFlight: map[string]time.Time{}, receipts: map[string]msg{},
		}
		rt.Repeat(map[string]func(*rapid.T){
			"send": m.send, "receive": m.receive, "delete": m.remove, "release": m.release,
			"wait": func(t *rapid.T) {
				clock.Advance(time.Duration(rapid.IntRange(1, 90).Draw(t, "seconds")) * time.Second)
			},
		})
	})
}

func TestStandard_LosesNothingAndHasNoTwoReceivers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		clock := localaws.NewFakeClock(noon)
		c := client{t, direct(t, localaws.Options{Clock: clock})}
		url := c.queue("q", in{"VisibilityTimeout": "10"})
		live := map[string]time.Time{} // body -> when it may be received
		sent := 0
		held := map[string]msg{}
		rt.Repeat(map[string]func(*rapid.T){
			"send": func(t *rapid.T) {
				delay := rapid.SampledFrom([]int{0, 0, 5}).Draw(t, "delay")
				sent++
				c.do("SendMessage", in{"QueueUrl": url, "MessageBody": fmt.Sprint(sent), "DelaySeconds": delay}).ok()
				live[fmt.Sprint(sent)] = clock.Now().Add(time.Duration(delay) * time.Second)
			},
			"receive": func(t *rapid.T) {
				due := 0
				for _, at := range live {
					if !at.After(clock.Now()) {
						due++
					}
				}
				got := c.receive(url, 10)
				if len(got) != min(10, due) {
					t.Fatalf("received %d of %d", len(got), due)
				}
				for _, m := range got {
					if at, ok := live[m.Body]; !ok || at.After(clock.Now()) {
						t.Fatalf("%s is with somebody else, or deleted", m.Body)
					}
					live[m.Body], held[m.Body] = clock.Now().Add(10*time.Second), m
				}
			},
			"delete": func(t *rapid.T) {
				for body, m := range held { // any will do
					c.remove(url, m)
					delete(held, body)
					delete(live, body)
					return
				}
			},
			"wait": func(t *rapid.T) { clock.Advance(time.Duration(rapid.IntRange(1, 12).Draw(t, "seconds")) * time.Second) },
		})
	})
}
