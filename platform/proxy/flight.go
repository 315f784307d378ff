package proxy

import (
	"net"
	"sync"
	"time"
)

// flight is one request in flight on a target, from the choice of the target to the end of the handler (of both directions, for an upgraded
// connection). cancel may come from any goroutine.
type flight struct {
	valve      *valve
	target     *target
	prev, next *flight // guarded by valve.mu

	mu       sync.Mutex
	cause    error
	upstream net.Conn      // the connection in use
	client   clientBreaker // what makes a blocked read or write on the client's side return; nil once the flight ended
	noRead   bool          // nothing more is to be read from the client
}

type clientBreaker interface {
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// attach names the connection that cancel must close. It reports the cause when the flight is cancelled already; the caller then closes.
func (f *flight) attach(c net.Conn) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.upstream = c
	return f.cause
}

// setClient names what cancel must break on the client's side.
func (f *flight) setClient(c clientBreaker) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.client = c
	return f.cause
}

// cancel ends the request: whoever reads or writes for it gets an error, and reason tells why. The first cause stays.
func (f *flight) cancel(cause error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause != nil {
		return
	}
	f.cause = cause
	if f.upstream != nil {
		_ = f.upstream.Close()
	}
	if f.client != nil {
		_ = f.client.SetReadDeadline(past)
		_ = f.client.SetWriteDeadline(past)
	}
}

// clientGone is cancel without touching the client's side. net/http also takes a read that breakClientRead broke for the end of the client.
func (f *flight) clientGone() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil && !f.noRead {
		f.cause = errClientGone
		if f.upstream != nil {
			_ = f.upstream.Close()
		}
	}
}

// reason is the cause of a cancel, or nil.
func (f *flight) reason() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cause
}

// end must be called once, when nothing of the request runs any more.
func (f *flight) end() {
	f.mu.Lock()
	f.upstream, f.client = nil, nil
	f.mu.Unlock()
	f.valve.end(f)
}
