package localaws

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	sqsTarget = "AmazonSQS."

	// maxSQSRequest bounds a request's body: a full batch of 1 MiB, every byte
	// of it as a \u escape, and what stands around it.
	maxSQSRequest = 8 << 20
)

// sqsService answers AWS JSON 1.0. One mutex guards everything: an operation
// is short, and moves to a dead-letter queue touch two queues at once.
type sqsService struct {
	clock         Clock
	region        string
	inFlightLimit int
	closing       <-chan struct{}
	ops           map[string]operation
	running       sync.WaitGroup // message move tasks

	mu      sync.Mutex
	queues  map[string]*queue    // by name
	deleted map[string]time.Time // names not to be used again yet
	moves   []*moveTask
	lastKey uint64 // numbers queues, messages and deliveries
	lastSeq uint64 // FIFO sequence number
}

// operation is one of the 23, from the request's body to the response.
type operation func(c *caller, body []byte) (any, error)

// caller is what an operation may know of its request.
type caller struct {
	ctx       context.Context
	base      string // scheme and host the client used
	region    string // that the request was signed for
	duplicate bool   // an injected fault: deliver twice
}

func newSQS(clock Clock, region string, inFlightLimit int, closing <-chan struct{}) *sqsService {
	s := &sqsService{
		clock: clock, region: region, inFlightLimit: inFlightLimit, closing: closing,
		queues: map[string]*queue{}, deleted: map[string]time.Time{}, lastSeq: 18_849_496_460_467_696_128 / 2,
	}
	s.ops = map[string]operation{
		"AddPermission":                decoded(s.addPermission),
		"CancelMessageMoveTask":        decoded(s.cancelMessageMoveTask),
		"ChangeMessageVisibility":      decoded(s.changeMessageVisibility),
		"ChangeMessageVisibilityBatch": decoded(s.changeMessageVisibilityBatch),
		"CreateQueue":                  decoded(s.createQueue),
		"DeleteMessage":                decoded(s.deleteMessage),
		"DeleteMessageBatch":           decoded(s.deleteMessageBatch),
		"DeleteQueue":                  decoded(s.deleteQueue),
		"GetQueueAttributes":           decoded(s.getQueueAttributes),
		"GetQueueUrl":                  decoded(s.getQueueURL),
		"ListDeadLetterSourceQueues":   decoded(s.listDeadLetterSourceQueues),
		"ListMessageMoveTasks":         decoded(s.listMessageMoveTasks),
		"ListQueueTags":                decoded(s.listQueueTags),
		"ListQueues":                   decoded(s.listQueues),
		"PurgeQueue":                   decoded(s.purgeQueue),
		"ReceiveMessage":               decoded(s.receiveMessage),
		"RemovePermission":             decoded(s.removePermission),
		"SendMessage":                  decoded(s.sendMessage),
		"SendMessageBatch":             decoded(s.sendMessageBatch),
		"SetQueueAttributes":           decoded(s.setQueueAttributes),
		"StartMessageMoveTask":         decoded(s.startMessageMoveTask),
		"TagQueue":                     decoded(s.tagQueue),
		"UntagQueue":                   decoded(s.untagQueue),
	}
	return s
}

// decoded makes an operation of a method with typed input and output.
func decoded[In, Out any](do func(*caller, *In) (Out, error)) operation {
	return func(c *caller, body []byte) (any, error) {
		in := new(In)
		if !utf8.Valid(body) {
			return nil, errSerialization(errors.New("the request is not UTF-8"))
		}
		if len(body) > 0 {
			if err := json.Unmarshal(body, in); err != nil {
				return nil, errSerialization(err)
			}
		}
		return do(c, in)
	}
}

// wait returns when no background work is left. Closing was signalled before.
func (s *sqsService) wait() { s.running.Wait() }

// ServeHTTP answers one request with an X-Amz-Target.
func (s *sqsService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	do, ok := s.ops[strings.TrimPrefix(r.Header.Get("X-Amz-Target"), sqsTarget)]
	if !ok || r.Method != http.MethodPost {
		writeSQSError(w, errUnknownOperation())
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxSQSRequest))
	if err != nil {
		writeSQSError(w, errRequestTooLong(err))
		return
	}
	duplicate, _ := r.Context().Value(duplicateKey{}).(bool)
	out, err := do(&caller{
		ctx: r.Context(), base: "http://" + r.Host,
		region: signedRegion(r.Header.Get("Authorization"), s.region), duplicate: duplicate,
	}, body)
	var refused *sqsError
	switch {
	case errors.As(err, &refused):
		writeSQSError(w, refused)
	case err != nil:
		// Only a client that is gone ends an operation in any other way.
		panic(http.ErrAbortHandler)
	default:
		writeJSON(w, http.StatusOK, out)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	// Every response type is made of strings, numbers and maps of them.
	data, _ := json.Marshal(v)
	h := w.Header()
	h.Set("Content-Type", "application/x-amz-json-1.0")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Set("X-Amzn-Requestid", newUUID())
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// signedRegion takes the region out of a SigV4 credential scope.
func signedRegion(authorization, fallback string) string {
	_, scope, ok := strings.Cut(authorization, "Credential=")
	if !ok {
		return fallback
	}
	scope, _, _ = strings.Cut(scope, ",")
	if part := strings.Split(scope, "/"); len(part) == 5 && part[2] != "" {
		return part[2]
	}
	return fallback
}

// queueByURL finds the queue a request is about; s.mu is held.
func (s *sqsService) queueByURL(queueURL string) (*queue, error) {
	if queueURL == "" {
		return nil, errMissing("QueueUrl")
	}
	u, err := url.Parse(queueURL)
	if err != nil {
		return nil, errInvalidAddress(queueURL)
	}
	account, name, ok := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if !ok || account == "" || name == "" || strings.Contains(name, "/") {
		return nil, errInvalidAddress(queueURL)
	}
	q := s.queues[name]
	if q == nil || account != AccountID {
		return nil, errNoQueue()
	}
	q.settle(s.clock.Now())
	return q, nil
}

// queueByARN finds a queue by its ARN, or nil; s.mu is held.
func (s *sqsService) queueByARN(arn string) *queue {
	q := s.queues[arn[strings.LastIndexByte(arn, ':')+1:]]
	if q == nil || q.arn() != arn {
		return nil
	}
	return q
}

// nextKey numbers things; s.mu is held.
func (s *sqsService) nextKey() uint64 {
	s.lastKey++
	return s.lastKey
}

func (c *caller) url(q *queue) string { return c.base + "/" + AccountID + "/" + q.name }
