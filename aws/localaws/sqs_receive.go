package localaws

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// receiveMessage takes what is ready, or waits for it. It holds the mutex only
// while it looks.
func (s *sqsService) receiveMessage(c *caller, in *receiveInput) (receiveOutput, error) {
	deadline := time.Time{}
	for {
		look, err := s.look(c, in, &deadline)
		if err != nil || look.done {
			return receiveOutput{Messages: look.messages}, err
		}
		timer := s.clock.NewTimer(look.sleep)
		select {
		case <-look.changed:
		case <-timer.C():
		case <-c.ctx.Done():
		case <-s.closing:
			timer.Stop()
			return receiveOutput{}, nil
		}
		timer.Stop()
	}
}

// look is what one look at the queue gave.
type look struct {
	messages []receivedMessage
	done     bool
	changed  <-chan struct{} // tells of the queue's next change
	sleep    time.Duration   // until there is another reason to look
}

func (s *sqsService) look(c *caller, in *receiveInput, deadline *time.Time) (look, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// A poller that is gone gets nothing: checked under the lock, before
	// anything is taken.
	if err := c.ctx.Err(); err != nil {
		return look{}, err
	}
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return look{}, err
	}
	if err := in.check(q); err != nil {
		return look{}, err
	}
	now := s.clock.Now()
	wait := q.wait
	if in.WaitTimeSeconds != nil {
		wait = time.Duration(*in.WaitTimeSeconds) * time.Second
	}
	if deadline.IsZero() {
		*deadline = now.Add(wait)
	}
	taken, err := s.takeReady(c, q, in, now)
	if err != nil && wait == 0 {
		return look{}, err
	}
	sleep := deadline.Sub(now)
	if len(taken) > 0 || sleep <= 0 {
		return look{messages: taken, done: true}, nil
	}
	if due, ok := q.nextDue(); ok {
		sleep = min(sleep, due.Sub(now))
	}
	return look{changed: q.changed, sleep: sleep}, nil
}

func (in *receiveInput) check(q *queue) error {
	switch {
	case in.MaxNumberOfMessages != nil && (*in.MaxNumberOfMessages < 1 || *in.MaxNumberOfMessages > maxReceive):
		return errValue(*in.MaxNumberOfMessages, "MaxNumberOfMessages", "Must be between 1 and %d, if provided", maxReceive)
	case in.WaitTimeSeconds != nil && (*in.WaitTimeSeconds < 0 || *in.WaitTimeSeconds > maxWait):
		return errValue(*in.WaitTimeSeconds, "WaitTimeSeconds", "Must be >= 0 and <= %d, if provided", maxWait)
	case in.VisibilityTimeout != nil && (*in.VisibilityTimeout < 0 || *in.VisibilityTimeout > maxVisibility):
		return errValue(*in.VisibilityTimeout, "VisibilityTimeout", "Must be between 0 and %d, if provided", maxVisibility)
	case in.ReceiveRequestAttemptId == "":
		return nil
	case !q.fifo:
		return errValue(in.ReceiveRequestAttemptId, "ReceiveRequestAttemptId", "The request include parameter that is not valid for this queue type")
	case !fifoID(in.ReceiveRequestAttemptId):
		return errValue(in.ReceiveRequestAttemptId, "ReceiveRequestAttemptId", "Can only include alphanumeric and punctuation characters. 1 to %d in length", maxFifoID)
	}
	return nil
}

// takeReady delivers up to as many messages as asked for; s.mu is held.
func (s *sqsService) takeReady(c *caller, q *queue, in *receiveInput, now time.Time) ([]receivedMessage, error) {
	limit, visibility := 1, q.visibility
	if in.MaxNumberOfMessages != nil {
		limit = *in.MaxNumberOfMessages
	}
	if in.VisibilityTimeout != nil {
		visibility = time.Duration(*in.VisibilityTimeout) * time.Second
	}
	var taken []*message
	if in.ReceiveRequestAttemptId != "" {
		taken = q.repeat(in.ReceiveRequestAttemptId, now, visibility)
	}
	if taken == nil {
		if q.inFlight >= s.inFlightLimit {
			return nil, s.overInFlight(q)
		}
		taken = s.deliver(q, min(limit, s.inFlightLimit-q.inFlight), now, visibility)
		if in.ReceiveRequestAttemptId != "" && len(taken) > 0 {
			q.remember(in.ReceiveRequestAttemptId, now, taken)
		}
	}
	out := make([]receivedMessage, len(taken))
	for i, m := range taken {
		out[i] = m.seenBy(q, in)
		if c.duplicate {
			s.duplicate(q, m, now)
		}
	}
	return out, nil
}

// overInFlight is the refusal of a standard queue with too much in flight; a
// FIFO queue just gives nothing.
func (s *sqsService) overInFlight(q *queue) error {
	if q.fifo {
		return nil
	}
	return errOverLimit("The maximum number of in flight messages is reached: %d.", s.inFlightLimit)
}

// deliver takes up to limit messages; what was received too often goes to the
// dead-letter queue instead.
func (s *sqsService) deliver(q *queue, limit int, now time.Time, visibility time.Duration) []*message {
	var taken []*message
	q.each(func(m *message) bool {
		if len(taken) == limit {
			return false
		}
		if s.deadLetter(q, m, now) {
			return true
		}
		q.take(m, s.nextKey(), now, visibility)
		taken = append(taken, m)
		return true
	})
	return taken
}

// deadLetter moves m to q's dead-letter queue if it is due there.
func (s *sqsService) deadLetter(q *queue, m *message, now time.Time) bool {
	if q.redrive == nil || m.receivedHere < q.redrive.most {
		return false
	}
	target := s.queueByARN(q.redrive.target)
	if target == nil || target == q {
		return false
	}
	q.remove(m)
	m.source, m.receivedHere = q.arn(), 0
	if target.fifo {
		// Only there the move begins a new retention period.
		m.enqueued = now
		m.seq = s.nextSequence()
	}
	m.key = s.nextKey()
	target.settle(now)
	target.add(m, now, 0)
	return true
}

// duplicate puts a second copy of a message just delivered into the queue.
func (s *sqsService) duplicate(q *queue, m *message, now time.Time) {
	twin := *m
	twin.key, twin.state, twin.delivery, twin.elem = s.nextKey(), ready, 0, nil
	q.add(&twin, now, 0)
}

// seenBy is the message as this receive is to see it.
func (m *message) seenBy(q *queue, in *receiveInput) receivedMessage {
	attrs := m.chosen(in.MessageAttributeNames)
	return receivedMessage{
		MessageId: m.id, Body: m.body, MD5OfBody: m.md5, ReceiptHandle: m.receipt(q),
		Attributes:             m.system(slices.Concat(in.AttributeNames, in.MessageSystemAttributeNames)),
		MessageAttributes:      attrs,
		MD5OfMessageAttributes: attributesMD5(attrs),
	}
}

// chosen returns the attributes with the given names: exact, "prefix.*", or all.
func (m *message) chosen(names []string) map[string]attributeValue {
	out := map[string]attributeValue{}
	for name, value := range m.attrs {
		if slices.ContainsFunc(names, func(want string) bool {
			prefix, some := strings.CutSuffix(want, ".*")
			return want == "All" || want == name || (some && strings.HasPrefix(name, prefix))
		}) {
			out[name] = value
		}
	}
	return out
}

// system returns the system attributes with the given names, or all.
func (m *message) system(names []string) map[string]string {
	every := map[string]string{
		"SenderId":                         "AIDALOCALAWS00000000",
		"SentTimestamp":                    millis(m.sent),
		"ApproximateReceiveCount":          strconv.Itoa(m.received),
		"ApproximateFirstReceiveTimestamp": millis(m.firstReceived),
		"MessageGroupId":                   m.group,
		"MessageDeduplicationId":           m.dedup,
		"SequenceNumber":                   m.seq,
		"AWSTraceHeader":                   m.trace,
		"DeadLetterQueueSourceArn":         m.source,
	}
	out := map[string]string{}
	for name, value := range every {
		if value != "" && (slices.Contains(names, "All") || slices.Contains(names, name)) {
			out[name] = value
		}
	}
	return out
}

// receipt is opaque to clients: the queue, the message and the delivery.
func (m *message) receipt(q *queue) string {
	return base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "localaws %d %d %d %s", q.id, m.key, m.delivery, m.id))
}

// delivered finds what a receipt is about: the message, nil when it is gone,
// and whether this was its last delivery.
func (q *queue) delivered(receipt string) (m *message, last bool, err error) {
	if receipt == "" {
		return nil, false, errMissing("ReceiptHandle")
	}
	var queueID, key, delivery uint64
	raw, err := base64.StdEncoding.DecodeString(receipt)
	if err != nil {
		return nil, false, errReceipt(receipt)
	}
	if _, err := fmt.Sscanf(string(raw), "localaws %d %d %d ", &queueID, &key, &delivery); err != nil || queueID != q.id {
		return nil, false, errReceipt(receipt)
	}
	m = q.messages[key]
	return m, m != nil && m.delivery == delivery, nil
}
