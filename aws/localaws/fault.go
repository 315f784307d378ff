package localaws

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// HangUp says where a connection is cut.
type HangUp int

// The places a connection can be cut at.
const (
	NoHangUp HangUp = iota
	// HangUpRequest cuts in the middle of the request's body: nothing happened.
	HangUpRequest
	// HangUpResponse cuts in the middle of the response: it happened, and the
	// client cannot know.
	HangUpResponse
)

// Call is one request as a Fault's When sees it.
type Call struct {
	Op      string // "SQS.SendMessage", "S3.GetObject"
	Request *http.Request
}

// Fault is something that goes wrong with some calls. Op, When, Skip, Times
// and Probability choose the calls, the rest is what happens to them, all of
// it: a Latency with a Status is a late error.
type Fault struct {
	// Op is an operation as in Call.Op, a whole service ("SQS.*") or "*".
	Op string
	// When, if set, chooses among the calls of Op. It may be called from
	// several goroutines at once and must not read the request's body.
	When func(Call) bool
	// Skip lets that many chosen calls pass first.
	Skip int
	// Times ends the fault after as many calls; 0 never ends it.
	Times int
	// Probability of each remaining call; 0 is certainty.
	Probability float64

	// Throttle refuses the call as the service does when asked too often.
	Throttle bool
	// Status refuses the call with this HTTP status, and Code as error code.
	Status int
	Code   string
	// Latency, by the server's clock, passes before anything else.
	Latency time.Duration
	HangUp  HangUp
	// Duplicate makes SQS.ReceiveMessage deliver its messages once more, as
	// the service may: each delivery has its own receipt and must be deleted.
	Duplicate bool
}

// validate refuses what could never have an effect.
func (f Fault) validate() error {
	effect := f.Throttle || f.Status != 0 || f.Latency > 0 || f.HangUp != NoHangUp || f.Duplicate
	switch {
	case f.Op == "":
		return errors.New("fault names no operation")
	case !effect:
		return fmt.Errorf("fault on %s has no effect", f.Op)
	case f.Status != 0 && (f.Status < 400 || f.Status > 599):
		return fmt.Errorf("fault on %s: status %d is no error", f.Op, f.Status)
	case f.Probability < 0 || f.Probability > 1 || f.Skip < 0 || f.Times < 0:
		return fmt.Errorf("fault on %s: probability, skip or times out of range", f.Op)
	case f.Duplicate && f.Op != "SQS.ReceiveMessage":
		return errors.New("only SQS.ReceiveMessage delivers duplicates")
	}
	return nil
}

func (f Fault) matches(c Call) bool {
	service, all := strings.CutSuffix(f.Op, "*")
	if f.Op != c.Op && (!all || !strings.HasPrefix(c.Op, service)) {
		return false
	}
	return f.When == nil || f.When(c)
}

// faults is the set of active faults.
type faults struct {
	mu     sync.Mutex
	list   []*activeFault
	chance func() float64 // of Probability
}

// newFaults draws chances from a seeded source, or, without a seed, from one that is different each time.
func newFaults(seed uint64) faults {
	if seed == 0 {
		return faults{chance: rand.Float64}
	}
	return faults{chance: rand.New(rand.NewPCG(seed, seed)).Float64} // called under mu
}

type activeFault struct {
	Fault
	seen, fired int
}

// Inject adds a fault to a running server. The returned function takes it
// away again and says how many calls it met.
func (s *Server) Inject(f Fault) (remove func() (fired int), err error) {
	if err := f.validate(); err != nil {
		return nil, err
	}
	active := &activeFault{Fault: f}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.list = append(s.faults.list, active)
	return func() int { return s.faults.remove(active) }, nil
}

func (f *faults) remove(gone *activeFault) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, a := range f.list {
		if a == gone {
			f.list = append(f.list[:i:i], f.list[i+1:]...)
			break
		}
	}
	return gone.fired
}

// choose returns the first fault that strikes the call.
func (f *faults) choose(c Call) (Fault, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, a := range f.list {
		if (a.Times > 0 && a.fired >= a.Times) || !a.matches(c) {
			continue
		}
		if a.seen++; a.seen <= a.Skip {
			continue
		}
		if a.Probability > 0 && f.chance() >= a.Probability {
			continue
		}
		a.fired++
		return a.Fault, true
	}
	return Fault{}, false
}

// withFaults lets the handler answer, unless and as far as a fault strikes.
func (s *Server) withFaults(w http.ResponseWriter, r *http.Request, call Call, handler http.Handler) {
	fault, struck := s.faults.choose(call)
	if !struck {
		handler.ServeHTTP(w, r)
		return
	}
	if fault.Latency > 0 && !s.pause(r.Context(), fault.Latency) {
		return
	}
	if fault.HangUp == HangUpRequest {
		// The client is in the middle of its body when the line goes dead.
		_, _ = io.CopyN(io.Discard, r.Body, max(r.ContentLength/2, 1))
		panic(http.ErrAbortHandler)
	}
	var cut *cutWriter
	if fault.HangUp == HangUpResponse {
		cut = &cutWriter{ResponseWriter: w}
		w = cut
	}
	switch {
	case fault.Throttle:
		refuse(w, r, call.Op, 0, "")
	case fault.Status != 0:
		refuse(w, r, call.Op, fault.Status, fault.Code)
	default:
		if fault.Duplicate {
			r = r.WithContext(context.WithValue(r.Context(), duplicateKey{}, true))
		}
		handler.ServeHTTP(w, r)
	}
	if cut != nil {
		cut.abort()
	}
}

// duplicateKey marks the context of a receive whose messages come twice.
type duplicateKey struct{}

// pause waits by the server's clock; false when the client is gone or the
// server closes.
func (s *Server) pause(ctx context.Context, d time.Duration) bool {
	t := s.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C():
		return true
	case <-ctx.Done():
	case <-s.closing:
	}
	return false
}

// refuse answers with an error in the form of the operation's service; status
// 0 is its throttling.
func refuse(w http.ResponseWriter, r *http.Request, op string, status int, code string) {
	sqs := strings.HasPrefix(op, "SQS.")
	if status == 0 {
		status, code = http.StatusServiceUnavailable, "SlowDown"
		if sqs {
			status, code = http.StatusForbidden, "RequestThrottled"
		}
	}
	if code == "" {
		code = http.StatusText(status)
		if status >= 500 {
			code = "InternalError"
		}
	}
	message := "Injected fault on " + op
	if sqs {
		writeSQSError(w, &sqsError{Code: code, Query: code, Status: status, Message: message})
		return
	}
	writeS3Error(w, r, &s3Error{Code: code, Status: status, Message: message})
}

// cutWriter passes on half of a response and keeps the rest. Of a response
// without a body nothing is passed on.
type cutWriter struct {
	http.ResponseWriter
	status  int
	left    int64
	started bool // the header is out
}

func (c *cutWriter) WriteHeader(status int) { c.status = status }

func (c *cutWriter) Write(p []byte) (int, error) {
	if !c.started && len(p) > 0 {
		c.started = true
		c.left = int64(len(p) / 2)
		if n, err := strconv.ParseInt(c.Header().Get("Content-Length"), 10, 64); err == nil {
			c.left = n / 2
		}
		if c.status != 0 {
			c.ResponseWriter.WriteHeader(c.status)
		}
	}
	n := min(int64(len(p)), c.left)
	c.left -= n
	if n > 0 {
		if _, err := c.ResponseWriter.Write(p[:n]); err != nil {
			return 0, err
		}
	}
	// The handler goes on as if the client had it all.
	return len(p), nil
}

// abort cuts the connection after what was passed on.
func (c *cutWriter) abort() {
	if c.started {
		_ = http.NewResponseController(c.ResponseWriter).Flush()
	}
	panic(http.ErrAbortHandler)
}
