package localaws

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

func (s *sqsService) sendMessage(_ *caller, in *sendInput) (sendOutput, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return sendOutput{}, err
	}
	return s.send(q, &in.outgoing)
}

// send checks and enqueues one message; s.mu is held.
func (s *sqsService) send(q *queue, in *outgoing) (sendOutput, error) {
	if err := in.check(q); err != nil {
		return sendOutput{}, err
	}
	now := s.clock.Now()
	out := sendOutput{
		MD5OfMessageBody: bodyMD5(in.MessageBody), MD5OfMessageAttributes: attributesMD5(in.MessageAttributes),
		MD5OfMessageSystemAttributes: attributesMD5(in.MessageSystemAttributes),
	}
	dedupID := in.dedupID(q)
	if first, ok := q.dedup.seen(dedupID, now); ok {
		// The digests are of what was sent now: clients compare them.
		out.MessageId, out.SequenceNumber = first.id, first.seq
		return out, nil
	}
	m := &message{
		key: s.nextKey(), id: newUUID(), body: in.MessageBody, md5: out.MD5OfMessageBody,
		attrs: in.MessageAttributes, group: in.MessageGroupId, sent: now, enqueued: now,
	}
	if a, ok := in.MessageSystemAttributes["AWSTraceHeader"]; ok {
		m.trace = *a.StringValue
	}
	delay := q.delay
	if in.DelaySeconds != nil && !q.fifo {
		delay = time.Duration(*in.DelaySeconds) * time.Second
	}
	if q.fifo {
		m.seq = s.nextSequence()
		m.dedup = in.MessageDeduplicationId
		if m.dedup == "" {
			m.dedup = contentID(in.MessageBody)
		}
		q.dedup.remember(dedupID, now, m)
	}
	q.add(m, now, delay)
	out.MessageId, out.SequenceNumber = m.id, m.seq
	return out, nil
}

// nextSequence returns a 20 digit number above all before it; s.mu is held.
func (s *sqsService) nextSequence() string {
	s.lastSeq += 256
	return fmt.Sprintf("%020d", s.lastSeq)
}

// dedupID is what a message of a FIFO queue is recognised by, within its group
// where the queue's scope says so.
func (m *outgoing) dedupID(q *queue) string {
	if !q.fifo {
		return ""
	}
	id := m.MessageDeduplicationId
	if id == "" {
		id = contentID(m.MessageBody)
	}
	if q.attrs["DeduplicationScope"] == "messageGroup" {
		return m.MessageGroupId + "\x00" + id
	}
	return id
}

func contentID(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

func (s *sqsService) sendMessageBatch(_ *caller, in *sendBatchInput) (batchOutput[sendBatchResult], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := batchOutput[sendBatchResult]{Successful: []sendBatchResult{}, Failed: []batchFailure{}}
	q, err := s.queueByURL(in.QueueUrl)
	if err != nil {
		return out, err
	}
	total := 0
	ids := make([]string, len(in.Entries))
	for i := range in.Entries {
		ids[i] = in.Entries[i].Id
		total += in.Entries[i].size()
	}
	if err := checkBatch(ids); err != nil {
		return out, err
	}
	if total > maxMessage {
		return out, simple("BatchRequestTooLong",
			"Batch requests cannot be longer than %d bytes. You have sent %d bytes.", maxMessage, total)
	}
	for i := range in.Entries {
		e := &in.Entries[i]
		sent, err := s.send(q, &e.outgoing)
		if err != nil {
			out.Failed = append(out.Failed, failure(e.Id, err))
			continue
		}
		out.Successful = append(out.Successful, sendBatchResult{sendOutput: sent, Id: e.Id})
	}
	return out, nil
}

// checkBatch judges the ids of a batch's entries.
func checkBatch(ids []string) error {
	if len(ids) == 0 {
		return simple("EmptyBatchRequest", "There should be at least one entry in the request.")
	}
	if len(ids) > maxBatch {
		return simple("TooManyEntriesInBatchRequest",
			"Maximum number of entries per request are %d. You have sent %d.", maxBatch, len(ids))
	}
	seen := map[string]bool{}
	for _, id := range ids {
		if !entryID(id) {
			return simple("InvalidBatchEntryId",
				"A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most %d letters long.", maxBatchEntryName)
		}
		if seen[id] {
			return simple("BatchEntryIdsNotDistinct", "Id %s repeated.", id)
		}
		seen[id] = true
	}
	return nil
}

// failure is how an entry's error stands in the answer of a batch.
func failure(id string, err error) batchFailure {
	refused, ok := err.(*sqsError)
	if !ok {
		return batchFailure{Id: id, Code: "InternalError", Message: err.Error()}
	}
	return batchFailure{Id: id, SenderFault: refused.Status < 500, Code: refused.Query, Message: refused.Message}
}
