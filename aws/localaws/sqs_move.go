package localaws

import (
	"encoding/base64"
	"fmt"
	"slices"
	"time"
)

const (
	maxMoveRate    = 500
	maxActiveMoves = 100
	maxMovesListed = 10
)

// moveTask takes the messages out of a dead-letter queue again. Without a rate
// it is over before its start is answered; with one it runs on by the clock.
type moveTask struct {
	handle      string
	source      *queue
	destination string // ARN; empty: where each message came from
	rate        int    // messages a second; 0: all at once
	status      string
	reason      string
	started     time.Time
	moved       int64
	total       int64
	cancelled   chan struct{}
}

const (
	moveRunning   = "RUNNING"
	moveCompleted = "COMPLETED"
	moveCancelled = "CANCELLED"
	moveFailed    = "FAILED"
)

func (s *sqsService) startMessageMoveTask(_ *caller, in *startMoveInput) (moveHandle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	source, err := s.moveSource(in.SourceArn)
	if err != nil {
		return moveHandle{}, err
	}
	if in.DestinationArn != "" && s.queueByARN(in.DestinationArn) == nil {
		return moveHandle{}, errNotFound("The resource that you specified for the DestinationArn parameter doesn't exist.")
	}
	if r := in.MaxNumberOfMessagesPerSecond; r != nil && (*r < 1 || *r > maxMoveRate) {
		return moveHandle{}, errValue(*r, "MaxNumberOfMessagesPerSecond", "Value must be between 1 and %d", maxMoveRate)
	}
	if err := s.roomForMove(source); err != nil {
		return moveHandle{}, err
	}
	visible, _, _ := source.counts()
	t := &moveTask{
		source: source, destination: in.DestinationArn, status: moveRunning, started: s.clock.Now(),
		total: int64(visible), cancelled: make(chan struct{}),
		handle: base64.StdEncoding.EncodeToString(fmt.Appendf(nil, `{"taskId":"%s","sourceArn":"%s"}`, newUUID(), source.arn())),
	}
	s.moves = append(s.moves, t)
	if in.MaxNumberOfMessagesPerSecond == nil {
		s.advance(t, t.total)
		return moveHandle{t.handle}, nil
	}
	t.rate = *in.MaxNumberOfMessagesPerSecond
	s.running.Go(func() { s.runMove(t) })
	return moveHandle{t.handle}, nil
}

// moveSource finds the queue and insists that it is a dead-letter queue.
func (s *sqsService) moveSource(arn string) (*queue, error) {
	if arn == "" {
		return nil, errMissing("SourceArn")
	}
	source := s.queueByARN(arn)
	if source == nil {
		return nil, errNotFound("The resource that you specified for the SourceArn parameter doesn't exist.")
	}
	source.settle(s.clock.Now())
	for _, q := range s.queues {
		if q.redrive != nil && q.redrive.target == arn {
			return source, nil
		}
	}
	return nil, errParameter("Source queue must be configured as a Dead Letter Queue.")
}

func (s *sqsService) roomForMove(source *queue) error {
	active := 0
	for _, t := range s.moves {
		if t.status != moveRunning {
			continue
		}
		active++
		if t.source == source {
			return errUnsupported("There is already a task running. Only one active task is allowed for a source queue arn at a given time.")
		}
	}
	if active >= maxActiveMoves {
		return errOverLimit("At most %d message movement tasks can be active.", maxActiveMoves)
	}
	return nil
}

// runMove moves at the task's rate until it is over.
func (s *sqsService) runMove(t *moveTask) {
	step := time.Second / time.Duration(t.rate)
	for {
		timer := s.clock.NewTimer(step)
		select {
		case <-timer.C():
		case <-t.cancelled:
			timer.Stop()
			return
		case <-s.closing:
			timer.Stop()
			return
		}
		s.mu.Lock()
		due := int64(s.clock.Now().Sub(t.started) / step)
		s.advance(t, due)
		over := t.status != moveRunning
		s.mu.Unlock()
		if over {
			return
		}
	}
}

// advance moves until due messages are moved; s.mu is held.
func (s *sqsService) advance(t *moveTask, due int64) {
	if t.status != moveRunning {
		return
	}
	now := s.clock.Now()
	t.source.settle(now)
	for t.moved < min(due, t.total) {
		m := t.source.first()
		if m == nil {
			break
		}
		if reason := s.move(t, m, now); reason != "" {
			t.status, t.reason = moveFailed, reason
			return
		}
		t.moved++
	}
	if t.moved >= t.total || t.source.first() == nil || t.source.gone {
		t.status = moveCompleted
	}
}

// first returns the message that would be delivered next, or nil.
func (q *queue) first() (next *message) {
	q.each(func(m *message) bool {
		next = m
		return false
	})
	return next
}

// move puts one message where it belongs, as a new message, or says why not.
func (s *sqsService) move(t *moveTask, m *message, now time.Time) (reason string) {
	arn := t.destination
	if arn == "" {
		arn = m.source
	}
	target := s.queueByARN(arn)
	switch {
	case target == nil:
		return "AWS.SimpleQueueService.NonExistentQueue"
	case target.fifo != t.source.fifo:
		return "InvalidParameterValue"
	}
	t.source.remove(m)
	m.key, m.id, m.source = s.nextKey(), newUUID(), ""
	m.sent, m.enqueued, m.received, m.receivedHere = now, now, 0, 0
	if target.fifo {
		m.seq = s.nextSequence()
	}
	target.settle(now)
	target.add(m, now, 0)
	return ""
}

func (s *sqsService) listMessageMoveTasks(_ *caller, in *listMovesInput) (listMovesOutput, error) {
	limit := 1
	if in.MaxResults != nil {
		if limit = *in.MaxResults; limit < 1 || limit > maxMovesListed {
			return listMovesOutput{}, errValue(limit, "MaxResults", "Value must be between 1 and %d", maxMovesListed)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	source, err := s.moveSource(in.SourceArn)
	if err != nil {
		return listMovesOutput{}, err
	}
	out := listMovesOutput{Results: []moveStatus{}}
	for _, t := range slices.Backward(s.moves) {
		if t.source == source && len(out.Results) < limit {
			out.Results = append(out.Results, t.report())
		}
	}
	return out, nil
}

func (t *moveTask) report() moveStatus {
	st := moveStatus{
		Status: t.status, SourceArn: t.source.arn(), DestinationArn: t.destination, FailureReason: t.reason,
		ApproximateNumberOfMessagesMoved: t.moved, ApproximateNumberOfMessagesToMove: t.total,
		StartedTimestamp: t.started.UnixMilli(),
	}
	if t.status == moveRunning {
		st.TaskHandle = t.handle // only a running task can be cancelled
	}
	if t.rate > 0 {
		rate := t.rate
		st.MaxNumberOfMessagesPerSecond = &rate
	}
	return st
}

func (s *sqsService) cancelMessageMoveTask(_ *caller, in *moveHandle) (cancelMoveOutput, error) {
	if in.TaskHandle == "" {
		return cancelMoveOutput{}, errMissing("TaskHandle")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.moves {
		if t.handle != in.TaskHandle {
			continue
		}
		if t.status != moveRunning {
			return cancelMoveOutput{}, errUnsupported("Only active tasks can be cancelled.")
		}
		t.status = moveCancelled
		close(t.cancelled)
		return cancelMoveOutput{t.moved}, nil
	}
	return cancelMoveOutput{}, errNotFound("The resource that you specified for the TaskHandle parameter doesn't exist.")
}
