// Package steadystream drives an HTTP server with a steady stream of requests and counts everything a client could notice: refused and reset connections,
// missing, short and wrong answers, 5xx. It never sends a request twice, keeps connections alive, and opens a new one only after a failure or when the
// server announced the end of the old. It is how a flip is shown to lose nothing, in tests and in benchmarks; it knows nothing of proxies.
//
// net/http's client is not used because it repeats requests by itself, which hides what is to be counted.
package steadystream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Defaults of Options.
const (
	DefaultConcurrency = 16
	DefaultPostEvery   = 2
	DefaultBodySize    = 8 << 10
	DefaultTimeout     = 30 * time.Second
)

const (
	maxAnswer   = 64 << 20
	keepErrors  = 10
	failedPause = 10 * time.Millisecond // between a failure and the next connection of the same worker
)

// Options say what to send. Only URL is needed.
type Options struct {
	URL         string
	Concurrency int           // requests in flight, each on a connection of its own
	PostEvery   int           // each nth request is a POST; 1: all; negative: none
	PostURL     string        // default URL
	BodySize    int           // bytes of a POST's body; every second one is sent in chunks
	Rate        int           // requests a second, all workers together; 0: as fast as answers come
	Timeout     time.Duration // of one request
	// Check judges an answer that arrived whole; an error counts as KindWrong. nil: every 2xx is right. It is called concurrently.
	Check func(Answer) error
}

// Answer is a whole response and what it answers.
type Answer struct {
	Method string
	Sent   []byte
	Status int
	Header http.Header
	Body   []byte
}

// Kind is the sort of a failure.
type Kind string

// The kinds of failure.
const (
	KindConnect   Kind = "connect"   // no connection
	KindReset     Kind = "reset"     // the connection broke before an answer began
	KindShort     Kind = "short"     // the answer broke off
	KindMalformed Kind = "malformed" // the answer is not HTTP
	KindTimeout   Kind = "timeout"
	Kind5xx       Kind = "5xx"
	KindStatus    Kind = "status" // neither 2xx nor 5xx, without a Check
	KindWrong     Kind = "wrong"  // Check said so
)

// Report is what happened.
type Report struct {
	Requests int // with an outcome, failures included
	Failed   int
	Failures map[Kind]int
	Errors   []string       // the first few
	By       map[string]int // right answers by their X-Backend header
	Latency  Latency        // of right answers
	Duration time.Duration
}

// Latency has percentiles, right to about 6 %.
type Latency struct{ P50, P90, P99, Max time.Duration }

// Stream is a running stream.
type Stream struct {
	opts     Options
	get      *request
	post     *request
	stop     context.CancelFunc
	workers  sync.WaitGroup
	started  time.Time
	inFlight atomic.Int64
	done     atomic.Int64

	mu     sync.Mutex
	report Report
	hist   histogram
}

// Start begins the stream. It runs until Stop, or until ctx is done; either way the requests under way are brought to their end.
func Start(ctx context.Context, o Options) (*Stream, error) {
	if o.Concurrency == 0 {
		o.Concurrency = DefaultConcurrency
	}
	if o.PostEvery == 0 {
		o.PostEvery = DefaultPostEvery
	}
	if o.BodySize == 0 {
		o.BodySize = DefaultBodySize
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.PostURL == "" {
		o.PostURL = o.URL
	}
	get, err := newRequest(http.MethodGet, o.URL, 0)
	if err != nil {
		return nil, err
	}
	post, err := newRequest(http.MethodPost, o.PostURL, o.BodySize)
	if err != nil {
		return nil, err
	}
	if get.addr != post.addr {
		return nil, fmt.Errorf("%s and %s: must be on one server", o.URL, o.PostURL)
	}
	ctx, stop := context.WithCancel(ctx)
	s := &Stream{opts: o, get: get, post: post, stop: stop, started: time.Now()}
	s.report.Failures, s.report.By = map[Kind]int{}, map[string]int{}
	for i := range o.Concurrency {
		s.workers.Go(func() { s.work(ctx, i) })
	}
	return s, nil
}

// InFlight is the number of requests sent and not yet answered.
func (s *Stream) InFlight() int { return int(s.inFlight.Load()) }

// Requests is the number of requests that had an outcome so far.
func (s *Stream) Requests() int { return int(s.done.Load()) }

// Stop ends the stream, waits for the requests under way and reports. It may be called again and reports the same.
func (s *Stream) Stop() Report {
	s.stop()
	s.workers.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.report.Duration == 0 {
		s.report.Duration = time.Since(s.started)
		s.report.Latency = s.hist.latency()
	}
	return s.report
}

func (r Report) String() string {
	out := fmt.Sprintf("requests %d, failed %d, p50 %v, p99 %v, max %v, in %v", r.Requests, r.Failed,
		r.Latency.P50.Round(time.Microsecond), r.Latency.P99.Round(time.Microsecond), r.Latency.Max.Round(time.Microsecond), r.Duration.Round(time.Millisecond))
	if r.Failed > 0 {
		out += fmt.Sprintf(", %v, first: %q", r.Failures, r.Errors)
	}
	return out
}

// request is a prepared request: its bytes do not change from one to the next.
type request struct {
	method      string
	addr        string
	body        []byte
	whole       []byte // head and body with a length
	chunked     []byte // head and body in chunks
	forResponse *http.Request
}

func newRequest(method, rawURL string, size int) (*request, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, fmt.Errorf("parse URL: %w", err)
	}
	if u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("URL %q: must be http://host", rawURL)
	}
	addr := u.Host
	if u.Port() == "" {
		addr = net.JoinHostPort(u.Hostname(), "80")
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: steadystream\r\n", method, u.RequestURI(), u.Host)
	r := &request{method: method, addr: addr, body: Pattern(size), forResponse: &http.Request{Method: method}}
	if method == http.MethodGet {
		r.whole = []byte(head + "\r\n")
		r.chunked = r.whole
		return r, nil
	}
	head += "Content-Type: application/octet-stream\r\n"
	r.whole = append([]byte(head+"Content-Length: "+strconv.Itoa(size)+"\r\n\r\n"), r.body...)
	r.chunked = chunk([]byte(head+"Transfer-Encoding: chunked\r\n\r\n"), r.body)
	return r, nil
}

func chunk(out, body []byte) []byte {
	for len(body) > 0 {
		n := min(len(body), 3000)
		out = fmt.Appendf(out, "%x\r\n", n)
		out = append(append(out, body[:n]...), "\r\n"...)
		body = body[n:]
	}
	return append(out, "0\r\n\r\n"...)
}

// Pattern is n bytes that differ from any shifted part of themselves, so that a lost or doubled piece shows.
func Pattern(n int) []byte {
	out := make([]byte, 0, n+16)
	for i := 0; len(out) < n; i++ {
		out = strconv.AppendInt(out, int64(i), 36)
		out = append(out, ',')
	}
	return out[:n]
}

// work sends one request after the other until ctx is done.
func (s *Stream) work(ctx context.Context, worker int) {
	var c *conn
	defer func() { c.close() }()
	var tick <-chan time.Time
	if s.opts.Rate > 0 {
		t := time.NewTicker(time.Duration(s.opts.Concurrency) * time.Second / time.Duration(s.opts.Rate))
		defer t.Stop()
		tick = t.C
	}
	for i := worker; ctx.Err() == nil; i++ {
		if tick != nil {
			select {
			case <-tick:
			case <-ctx.Done():
				return
			}
		}
		var ok bool
		if c, ok = s.one(c, i); !ok {
			select {
			case <-time.After(failedPause):
			case <-ctx.Done():
			}
		}
	}
}

type conn struct {
	net.Conn
	br *bufio.Reader
}

func (c *conn) close() {
	if c != nil {
		_ = c.Close()
	}
}

type failure struct {
	kind Kind
	err  error
}

// one sends the ith request on c (nil: on a new connection) and counts its outcome. It returns the connection for the next one.
func (s *Stream) one(c *conn, i int) (*conn, bool) {
	req, wire := s.get, s.get.whole
	if n := s.opts.PostEvery; n > 0 && i%n == n-1 {
		req, wire = s.post, s.post.whole
		if i/n%2 == 1 {
			wire = s.post.chunked
		}
	}
	s.inFlight.Add(1)
	start := time.Now()
	c, a, fail := exchange(c, req, wire, start.Add(s.opts.Timeout))
	took := time.Since(start)
	s.inFlight.Add(-1)
	if fail == nil {
		fail = s.judge(a)
	}
	s.count(req, a, took, fail)
	return c, fail == nil
}

// exchange sends and reads one answer. The connection it returns is nil when it cannot be used again.
func exchange(c *conn, req *request, wire []byte, deadline time.Time) (*conn, Answer, *failure) {
	if c == nil {
		nc, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", req.addr)
		if err != nil {
			return nil, Answer{}, &failure{KindConnect, err}
		}
		c = &conn{nc, bufio.NewReader(nc)}
	}
	_ = c.SetDeadline(deadline)
	_, werr := c.Write(wire) // an answer may be there even when not all was taken
	if _, err := c.br.Peek(1); err != nil {
		c.close()
		return nil, Answer{}, &failure{kindOf(err, KindReset), errors.Join(werr, err)}
	}
	resp, err := http.ReadResponse(c.br, req.forResponse)
	if err != nil {
		c.close()
		return nil, Answer{}, &failure{kindOf(err, KindMalformed), err}
	}
	a := Answer{Method: req.method, Sent: req.body, Status: resp.StatusCode, Header: resp.Header}
	a.Body, err = readBody(resp)
	if err != nil {
		c.close()
		return nil, a, &failure{kindOf(err, KindShort), err}
	}
	if resp.Close || werr != nil {
		c.close()
		c = nil
	}
	return c, a, nil
}

func readBody(resp *http.Response) ([]byte, error) {
	if resp.ContentLength >= 0 && resp.ContentLength <= maxAnswer {
		b := make([]byte, resp.ContentLength)
		_, err := io.ReadFull(resp.Body, b)
		if errors.Is(err, io.EOF) && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return b, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("answer is larger than %d bytes", maxAnswer)
	}
	return b, err
}

func kindOf(err error, otherwise Kind) Kind {
	var ne net.Error
	switch {
	case errors.As(err, &ne) && ne.Timeout():
		return KindTimeout
	case otherwise == KindMalformed && (errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)):
		return KindShort
	}
	return otherwise
}

func (s *Stream) judge(a Answer) *failure {
	switch {
	case a.Status >= 500:
		return &failure{Kind5xx, fmt.Errorf("%s: status %d: %.200q", a.Method, a.Status, bytes.TrimSpace(a.Body))}
	case s.opts.Check != nil:
		if err := s.opts.Check(a); err != nil {
			return &failure{KindWrong, err}
		}
	case a.Status < 200 || a.Status > 299:
		return &failure{KindStatus, fmt.Errorf("%s: status %d", a.Method, a.Status)}
	}
	return nil
}

func (s *Stream) count(req *request, a Answer, took time.Duration, fail *failure) {
	s.done.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.Requests++
	if fail == nil {
		s.hist.add(took)
		if by := a.Header.Get("X-Backend"); by != "" {
			s.report.By[by]++
		}
		return
	}
	s.report.Failed++
	s.report.Failures[fail.kind]++
	if len(s.report.Errors) < keepErrors {
		s.report.Errors = append(s.report.Errors, fmt.Sprintf("%s after %v: %s: %v", req.method, took.Round(time.Microsecond), fail.kind, fail.err))
	}
}

// Probe sends one GET and returns the status of its answer.
func Probe(ctx context.Context, rawURL string) (int, error) {
	req, err := newRequest(http.MethodGet, rawURL, 0)
	if err != nil {
		return 0, err
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(DefaultTimeout)
	}
	c, a, fail := exchange(nil, req, req.whole, deadline)
	c.close()
	if fail != nil {
		return 0, fail.err
	}
	return a.Status, nil
}
