package proxy

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	maxIdleConns    = 256              // as EB's nginx: keepalive 256
	maxIdleAge      = 60 * time.Second // an idle connection older than this is not used again
	sendBuffer      = 8 << 10          // holds a usual head and a small body, so that they leave together
	maxResponseHead = 1 << 20          // bytes of status lines and headers of one response, 1xx included

	// Trust in idle connections for requests that cannot be repeated; see backend.trust.
	maxTrust      = time.Second
	settle        = time.Millisecond
	minEvidence   = 10 * time.Millisecond
	earlyDeathAge = 2 * time.Second
	distrustFor   = time.Minute
)

var errHeadTooLarge = errors.New("response header is too large")

// backend is the connections to one target. A connection belongs to one request at a time; no goroutine watches it meanwhile or when idle.
type backend struct {
	addr   string
	dialer net.Dialer

	mu     sync.Mutex
	idle   []*upstreamConn // the most recently used last
	closed bool
	// trust is the idle age up to which a request that cannot be repeated (a POST) may use a connection again. The peer may close an
	// idle connection just as we write to it; a repeatable request is then sent again, a POST would be lost. Looking at the socket first
	// narrows that window but cannot shut it. Peers close after a fixed idle time, or right behind a response. So such a request only uses
	// connections that have been idle for settle, so that an end behind the last response has come in, and for at most half as long as idle connections
	// to this target were seen to survive: trust starts at zero and grows by evidence to maxTrust. A target that closes one early is not
	// trusted for distrustFor.
	trust         time.Duration
	distrustUntil time.Time
}

func newBackend(addr string, connectTimeout time.Duration) *backend {
	return &backend{addr: addr, dialer: net.Dialer{Timeout: connectTimeout}}
}

// upstreamConn is one connection to the target.
type upstreamConn struct {
	net.Conn
	br        *bufio.Reader
	bw        *bufio.Writer
	headLeft  int // bytes of header still allowed; negative: reading a body
	used      bool
	idleSince time.Time

	raw   syscall.RawConn
	peek  func(fd uintptr) bool
	quiet bool // result of peek: open and nothing to read
}

// Read is what br reads from: it holds the limit on headers.
func (c *upstreamConn) Read(p []byte) (int, error) {
	if c.headLeft == 0 {
		return 0, errHeadTooLarge
	}
	if c.headLeft > 0 && len(p) > c.headLeft {
		p = p[:c.headLeft]
	}
	n, err := c.Conn.Read(p)
	if c.headLeft > 0 {
		c.headLeft -= n
	}
	return n, err
}

// alive looks at the socket without waiting: an idle connection has nothing to say, so bytes or an end mean it cannot be used.
func (c *upstreamConn) alive() bool {
	c.quiet = false
	return c.raw.Read(c.peek) == nil && c.quiet
}

func newUpstreamConn(nc net.Conn) (*upstreamConn, error) {
	c := &upstreamConn{Conn: nc}
	raw, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	c.raw = raw
	var one [1]byte
	c.peek = func(fd uintptr) bool {
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		c.quiet = errors.Is(err, syscall.EAGAIN)
		return true
	}
	c.br, c.bw = bufio.NewReader(c), bufio.NewWriterSize(nc, sendBuffer)
	return c, nil
}

func (b *backend) dial(ctx context.Context) (*upstreamConn, error) {
	nc, err := b.dialer.DialContext(ctx, "tcp", b.addr)
	if err != nil {
		return nil, err
	}
	c, err := newUpstreamConn(nc)
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return c, nil
}

// take returns an idle connection that may be used, or nil. repeatable tells that the request may be sent again should the connection turn out to
// be closing.
func (b *backend) take(repeatable bool) *upstreamConn {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if !repeatable {
		b.probeOldestLocked(now)
	}
	for i := len(b.idle) - 1; i >= 0; i-- {
		c := b.idle[i]
		age := now.Sub(c.idleSince)
		if !repeatable && age < settle {
			continue
		}
		if !repeatable && age > b.trust {
			return nil
		}
		if age > maxIdleAge || !c.alive() {
			b.dropLocked(i, age, now)
			continue
		}
		b.survivedLocked(age, now)
		b.removeLocked(i)
		c.used = true
		return c
	}
	return nil
}

// probeOldestLocked gathers evidence where only unrepeatable requests come: the longest idle connection tells the most.
func (b *backend) probeOldestLocked(now time.Time) {
	if len(b.idle) == 0 || b.trust >= maxTrust {
		return
	}
	c := b.idle[0]
	age := now.Sub(c.idleSince)
	switch {
	case age < 2*max(b.trust, minEvidence/2): // it could tell nothing new
	case c.alive():
		b.survivedLocked(age, now)
	default:
		b.dropLocked(0, age, now)
	}
}

func (b *backend) removeLocked(i int) {
	copy(b.idle[i:], b.idle[i+1:])
	b.idle[len(b.idle)-1] = nil
	b.idle = b.idle[:len(b.idle)-1]
}

func (b *backend) dropLocked(i int, age time.Duration, now time.Time) {
	_ = b.idle[i].Close()
	b.removeLocked(i)
	if age < earlyDeathAge {
		b.distrustLocked(now)
	}
}

func (b *backend) distrustLocked(now time.Time) {
	b.trust, b.distrustUntil = 0, now.Add(distrustFor)
}

func (b *backend) survivedLocked(age time.Duration, now time.Time) {
	if age >= minEvidence && !now.Before(b.distrustUntil) {
		b.trust = max(b.trust, min(age/2, maxTrust))
	}
}

// died notes that a connection used again turned out to be closed.
func (b *backend) died() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.distrustLocked(time.Now())
}

// put returns a connection whose last response was read to its end. Nothing may be buffered on it.
func (b *backend) put(c *upstreamConn) {
	c.idleSince = time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		_ = c.Close()
		return
	}
	if len(b.idle) >= maxIdleConns {
		// The oldest goes: it is the least use to requests that cannot be repeated. Nothing is under way on it, so it is reset; a port in
		// TIME_WAIT for each would run the machine out of ports.
		if tcp, ok := b.idle[0].Conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = b.idle[0].Close()
		b.removeLocked(0)
	}
	b.idle = append(b.idle, c)
}

// prune closes idle connections that are old or that the target closed, so that neither end keeps half-closed sockets.
func (b *backend) prune() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for i := 0; i < len(b.idle); {
		age := now.Sub(b.idle[i].idleSince)
		if age <= maxIdleAge && b.idle[i].alive() {
			b.survivedLocked(age, now)
			i++
			continue
		}
		b.dropLocked(i, age, now)
	}
}

// close closes the idle connections and those that come back later. Requests under way go on.
func (b *backend) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, c := range b.idle {
		_ = c.Close()
	}
	b.idle = nil
}
