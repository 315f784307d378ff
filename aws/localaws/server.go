// Package localaws is SQS and S3 on one loopback endpoint: what `hmctl dev`
// runs on and what the tests of this project talk to over real HTTP.
//
// A request with an X-Amz-Target header is SQS in AWS JSON 1.0, anything else
// is S3 addressed by path. All 23 operations of SQS follow the service's own
// rules. Of S3 there is what this project and common clients use; requests
// about a whole bucket are answered by gofakes3 over our store, requests about
// one object by this package, because conditions, checksums, multipart ETags
// and versions must be exact there. Signatures are not checked.
//
// Time comes from a Clock and faults can be injected per operation, so tests
// need neither sleep nor wait for luck. The package may not know anything of
// hostmanager, and is never linked into its binary.
//
// Invariants: a message is with at most one receiver until its visibility ends
// (unless a duplicate was asked for); a poller whose connection is gone is
// given nothing; a conditional write and its check are one step; after Close
// no goroutine of the server is left.
package localaws

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Defaults of Options.
const (
	DefaultAddr          = "127.0.0.1:0"
	DefaultRegion        = "us-east-1"
	DefaultInFlightLimit = 120_000

	// AccountID is the account everything belongs to.
	AccountID = "000000000000"

	readHeaderTimeout = 10 * time.Second
	closeTimeout      = 2 * time.Second
)

// ErrNotLoopback: the server was told to listen where others can reach it.
var ErrNotLoopback = errors.New("localaws listens on loopback only")

// Options of a Server. The zero value is a server in memory on a free port.
type Options struct {
	Addr          string // host:port, the host a loopback address; DefaultAddr
	Region        string // stands in ARNs of queues made without a signed region; DefaultRegion
	Dir           string // keeps objects in this folder across restarts; empty: in memory
	Clock         Clock  // SystemClock
	Faults        []Fault
	Seed          uint64       // of the chances of faults, for runs that can be repeated; 0: by chance
	InFlightLimit int          // messages in flight per queue; DefaultInFlightLimit
	Log           *slog.Logger // one line per request at debug level; none
}

// Server is the endpoint. Its methods are safe for concurrent use.
type Server struct {
	addr    string
	log     *slog.Logger
	clock   Clock
	faults  faults
	sqs     *sqsService
	s3      *s3Service
	closing chan struct{}
	once    sync.Once

	mu     sync.Mutex // guards what follows, and that active grows
	http   *http.Server
	ln     net.Listener
	done   chan struct{} // closed when Serve has returned
	closed bool
	unused map[net.Conn]struct{} // accepted, with no request yet
	active sync.WaitGroup        // requests being answered
}

// New builds a server; Start makes it listen. It may also be used without
// Start, as an http.Handler. An error is ErrNotLoopback or about Dir.
func New(o Options) (*Server, error) {
	setDefaults(&o)
	if err := loopback(o.Addr); err != nil {
		return nil, err
	}
	s := &Server{addr: o.Addr, log: o.Log, clock: o.Clock, faults: newFaults(o.Seed), closing: make(chan struct{}), unused: map[net.Conn]struct{}{}}
	for _, f := range o.Faults {
		if _, err := s.Inject(f); err != nil {
			return nil, err
		}
	}
	s.sqs = newSQS(o.Clock, o.Region, o.InFlightLimit, s.closing)
	s3, err := newS3(o.Clock, o.Region, o.Dir)
	if err != nil {
		return nil, err
	}
	s.s3 = s3
	return s, nil
}

func setDefaults(o *Options) {
	if o.Addr == "" {
		o.Addr = DefaultAddr
	}
	if o.Region == "" {
		o.Region = DefaultRegion
	}
	if o.Clock == nil {
		o.Clock = SystemClock{}
	}
	if o.InFlightLimit <= 0 {
		o.InFlightLimit = DefaultInFlightLimit
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func loopback(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("listen address %q: %w", addr, err)
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("%w: %q is not a loopback address", ErrNotLoopback, addr)
}

// Start listens and serves until Close.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.http != nil {
		return errors.New("localaws was started before")
	}
	ln, err := net.Listen("tcp", s.addr)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", s.addr, err)
	}
	s.ln = ln
	s.done = make(chan struct{})
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: readHeaderTimeout,
		ConnState:         s.note,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	go func(srv *http.Server) {
		defer close(s.done)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("localaws stopped serving", "error", err)
		}
	}(s.http)
	return nil
}

// URL is the endpoint to give to clients (AWS_ENDPOINT_URL); empty before
// Start. Its host is an IP address, so that SDKs address buckets by path.
func (s *Server) URL() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ln == nil {
		return ""
	}
	return "http://" + s.ln.Addr().String()
}

// Close answers waiting long polls with nothing, gives running requests a
// moment to end, cuts off the rest and returns when all of them are over.
func (s *Server) Close() error {
	s.once.Do(func() { close(s.closing) })
	s.mu.Lock()
	s.closed = true
	srv, done := s.http, s.done
	for conn := range s.unused {
		_ = conn.Close()
	}
	s.mu.Unlock()
	var err error
	if srv != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err = srv.Shutdown(ctx); err != nil {
			err = srv.Close()
		}
		<-done
	}
	s.active.Wait()
	s.sqs.wait()
	return err
}

// note keeps the connections that a client dialled and then did not need:
// Shutdown would wait seconds for their first request.
func (s *Server) note(conn net.Conn, state http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != http.StateNew {
		delete(s.unused, conn)
		return
	}
	if s.closed {
		_ = conn.Close()
		return
	}
	s.unused[conn] = struct{}{}
}

// enter counts a request; none is let in after Close.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.active.Add(1)
	}
	return !s.closed
}

// Run starts a server, tells ready its URL, and serves until ctx ends.
func Run(ctx context.Context, o Options, ready func(url string)) error {
	s, err := New(o)
	if err != nil {
		return err
	}
	if err := s.Start(); err != nil {
		return err
	}
	if ready != nil {
		ready(s.URL())
	}
	<-ctx.Done()
	return s.Close()
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		http.Error(w, "localaws is closed", http.StatusServiceUnavailable)
		return
	}
	defer s.active.Done()
	w.Header().Set("Date", s.clock.Now().UTC().Format(http.TimeFormat))
	call, handler := Call{Request: r}, http.Handler(nil)
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		call.Op = "SQS." + strings.TrimPrefix(target, sqsTarget)
		handler = s.sqs
	} else {
		call.Op = "S3." + s3Operation(r)
		handler = s.s3
	}
	began := s.clock.Now()
	s.withFaults(w, r, call, handler)
	s.log.Debug("request", "op", call.Op, "path", r.URL.Path, "took", s.clock.Now().Sub(began))
}
