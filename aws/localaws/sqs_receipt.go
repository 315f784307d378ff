package localaws

import "time"

func (s *sqsService) deleteMessage(_ *caller, in *deleteMessageInput) (empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return empty{}, err
	}
	return empty{}, q.deleteByReceipt(in.ReceiptHandle)
}

// deleteByReceipt deletes a message for whom it was delivered to last. For
// anybody else, and when it is gone, nothing is left to do: that is no error,
// except that a FIFO queue insists on a receipt that still holds.
func (q *queue) deleteByReceipt(receipt string) error {
	m, last, err := q.delivered(receipt)
	if err != nil || m == nil {
		return err
	}
	if q.fifo && (!last || m.state != inFlight) {
		return errValue(receipt, "ReceiptHandle", "The receipt handle has expired")
	}
	if last {
		q.touched(m)
		q.remove(m)
	}
	return nil
}

func (s *sqsService) deleteMessageBatch(_ *caller, in *receiptBatchInput) (batchOutput[batchID], error) {
	return s.eachReceipt(in, func(q *queue, e receiptEntry) error { return q.deleteByReceipt(e.ReceiptHandle) })
}

func (s *sqsService) changeMessageVisibility(_ *caller, in *visibilityInput) (empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return empty{}, err
	}
	return empty{}, s.holdByReceipt(q, in.ReceiptHandle, in.VisibilityTimeout)
}

// holdByReceipt gives a message in flight a new visibility timeout, which
// counts from now; s.mu is held.
func (s *sqsService) holdByReceipt(q *queue, receipt string, timeout *int) error {
	if timeout == nil {
		return errMissing("VisibilityTimeout")
	}
	if *timeout < 0 || *timeout > maxVisibility {
		return errValue(*timeout, "VisibilityTimeout", "VisibilityTimeout must be an integer between 0 and %d", maxVisibility)
	}
	m, last, err := q.delivered(receipt)
	switch {
	case err != nil:
		return err
	case m == nil:
		return errValue(receipt, "ReceiptHandle", "Message does not exist or is not available for visibility timeout change")
	case !last || m.state != inFlight:
		return errNotInflight()
	}
	now := s.clock.Now()
	until := now.Add(time.Duration(*timeout) * time.Second)
	if until.After(m.taken.Add(maxVisibility * time.Second)) {
		return errValue(*timeout, "VisibilityTimeout", "Total VisibilityTimeout for the message is beyond the limit [%d seconds]", maxVisibility)
	}
	q.touched(m)
	q.hold(m, until, now)
	return nil
}

func (s *sqsService) changeMessageVisibilityBatch(_ *caller, in *receiptBatchInput) (batchOutput[batchID], error) {
	return s.eachReceipt(in, func(q *queue, e receiptEntry) error {
		return s.holdByReceipt(q, e.ReceiptHandle, e.VisibilityTimeout)
	})
}

// eachReceipt applies do to every entry of a batch, each on its own.
func (s *sqsService) eachReceipt(in *receiptBatchInput, do func(*queue, receiptEntry) error) (batchOutput[batchID], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := batchOutput[batchID]{Successful: []batchID{}, Failed: []batchFailure{}}
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return out, err
	}
	ids := make([]string, len(in.Entries))
	for i, e := range in.Entries {
		ids[i] = e.Id
	}
	if err := checkBatch(ids); err != nil {
		return out, err
	}
	for _, e := range in.Entries {
		if err := do(q, e); err != nil {
			out.Failed = append(out.Failed, failure(e.Id, err))
			continue
		}
		out.Successful = append(out.Successful, batchID{e.Id})
	}
	return out, nil
}
