package docker

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
)

// The methods of a session that BuildKit calls here: gRPC over HTTP/2, the Engine being the client.
const (
	methodDiffCopy = "/moby.filesync.v1.FileSync/DiffCopy"
	methodHealth   = "/grpc.health.v1.Health/Check" // a session whose health is not answered is ended after a while
)

// session lends a tree to BuildKit while it builds. It asks for the files it needs and has not kept from the build before, so a deployment sends
// what changed instead of everything.
type session struct {
	id     string
	tree   *buildContext
	server *http.Server
	served chan struct{}

	mu      sync.Mutex
	closed  bool
	calls   sync.WaitGroup
	failure error // why the tree could not be sent
}

// openSession offers the tree to the Engine. An Engine that has no sessions is an error.
func (p *Platform) openSession(ctx context.Context, tree *buildContext) (*session, error) {
	s := &session{id: rand.Text(), tree: tree, served: make(chan struct{})}
	conn, err := bound(ctx, func() (net.Conn, error) {
		return p.cli.DialHijack(ctx, "/session", "h2c", map[string][]string{
			"X-Docker-Expose-Session-Uuid":        {s.id},
			"X-Docker-Expose-Session-Name":        {p.names.network()},
			"X-Docker-Expose-Session-Sharedkey":   {p.names.network()}, // by which the next session finds what this one sent
			"X-Docker-Expose-Session-Grpc-Method": {methodDiffCopy, methodHealth},
		})
	})
	if err != nil {
		return nil, fmt.Errorf("open build session: %w", err)
	}
	s.server = &http.Server{Handler: s, Protocols: new(http.Protocols), ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)}
	s.server.Protocols.SetUnencryptedHTTP2(true)
	go func() {
		defer close(s.served)
		_ = s.server.Serve(&loneListener{conn: conn, end: make(chan struct{})})
	}()
	return s, nil
}

// close ends the session and tells what kept it from sending the tree.
func (s *session) close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	_ = s.server.Close()
	<-s.served
	s.calls.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failure
}

// ServeHTTP answers one call.
func (s *session) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.calls.Add(1)
	s.mu.Unlock()
	defer s.calls.Done()
	w.Header().Set("Content-Type", "application/grpc")
	c := &rpc{in: r.Body, out: w, flush: http.NewResponseController(w).Flush}
	status, text := "0", ""
	switch r.URL.Path {
	case methodDiffCopy:
		if err := s.tree.offer(r.Context(), c, wantedOf(r.Header)); err != nil {
			s.note(err)
			status, text = "2", "the application tree could not be sent" // unknown
		}
	case methodHealth:
		if c.send([]byte{1 << 3, 1}) != nil { // status: serving
			return
		}
	default:
		status = "12" // unimplemented
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", status)
	if text != "" {
		w.Header().Set(http.TrailerPrefix+"Grpc-Message", text)
	}
}

// note keeps the first failure that was the tree's. That the Engine hung up is no news to whoever reads its answer.
func (s *session) note(err error) {
	var t *treeError
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil && errors.As(err, &t) {
		s.failure = t
	}
}

// loneListener is a listener of one connection.
type loneListener struct {
	mu   sync.Mutex
	conn net.Conn
	once sync.Once
	end  chan struct{}
}

func (l *loneListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	conn := l.conn
	l.conn = nil
	l.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	<-l.end
	return nil, net.ErrClosed
}

// Close also closes a connection that was never taken.
func (l *loneListener) Close() error {
	l.once.Do(func() { close(l.end) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return nil
	}
	conn := l.conn
	l.conn = nil
	return conn.Close()
}

func (l *loneListener) Addr() net.Addr { return &net.UnixAddr{Name: "session", Net: "unix"} }

// rpc is one gRPC call: messages in both directions, each behind a byte that says whether it is compressed and four of length. Many goroutines
// may send, one may receive.
type rpc struct {
	in    io.ReadCloser
	mu    sync.Mutex
	out   io.Writer
	flush func() error
}

// maxRequest bounds a message of the Engine: it asks for files by number.
const maxRequest = 64 << 10

var errMessage = errors.New("message of the builder is not what a session expects")

// hangUp has receive fail, also one that waits.
func (c *rpc) hangUp() { _ = c.in.Close() }

// push has what was sent so far on its way. What is large, or the last of a call, goes by itself.
func (c *rpc) push() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

// send writes the parts of one message.
func (c *rpc) send(message ...[]byte) error {
	n := 0
	for _, part := range message {
		n += len(part)
	}
	var head [5]byte
	binary.BigEndian.PutUint32(head[1:], uint32(n))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, part := range append([][]byte{head[:]}, message...) {
		if _, err := c.out.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// receive returns the next message, or io.EOF.
func (c *rpc) receive() ([]byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if head[0] != 0 || n > maxRequest {
		return nil, errMessage
	}
	message := make([]byte, n)
	_, err := io.ReadFull(c.in, message)
	return message, err
}
