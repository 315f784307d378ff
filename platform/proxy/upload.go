package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// upload sends a request body beside the reading of the response, so that a target may answer while it still reads, or before.
type upload struct {
	done chan struct{} // closed when the goroutine has ended; then err may be read
	err  error

	read       atomic.Int64 // bytes of the body taken from the client
	fromClient bool         // err is on the client's side: nothing more can be read there; valid as err is

	mu       sync.Mutex
	headDone bool // the response header was read: its deadline is no longer ours to set
	slow     bool // the client let its time for the next piece pass
	stopped  bool // nobody wants the rest of the body: reading it fails because we made it fail
	sendErr  error

	headMu  sync.Mutex
	headOut bool // the request's head is no longer held in the connection's buffer
	headErr error
}

// headHold is how long the head waits for the first piece of the body, to leave with it: mostly that is here already, and the target is then woken
// once, not twice.
const headHold = 300 * time.Microsecond

// flushHead sends the held head, once.
func (u *upload) flushHead(c *upstreamConn) error {
	u.headMu.Lock()
	defer u.headMu.Unlock()
	if !u.headOut {
		u.headOut = true
		u.headErr = c.bw.Flush()
	}
	return u.headErr
}

// sendWithHead sends p, behind the head where that is still held.
func (u *upload) sendWithHead(c *upstreamConn, p []byte) error {
	u.headMu.Lock()
	defer u.headMu.Unlock()
	if u.headErr != nil {
		return u.headErr
	}
	if u.headOut {
		_, err := c.Write(p)
		return err
	}
	u.headOut = true
	_, err := c.bw.Write(p)
	if err == nil {
		err = c.bw.Flush()
	}
	u.headErr = err
	return err
}

// tooSlow says whether the client let its time pass. net/http takes the read that timed out for the end of the client and cancels the request: that may
// be noticed first.
func (u *upload) tooSlow() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.slow
}

func (u *upload) setSlow(slow bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.slow = slow
}

// sendError is why the target could not be written to, or nil.
func (u *upload) sendError() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sendErr
}

func (x *exchange) startUpload() {
	_ = x.c.SetReadDeadline(time.Time{}) // the time for the answer starts when the body is out
	x.up = &upload{done: make(chan struct{})}
	go x.upload(x.up, x.c)
}

func (x *exchange) upload(u *upload, c *upstreamConn) {
	defer close(u.done)
	hold := time.AfterFunc(headHold, func() { _ = u.flushHead(c) })
	fromClient, err := x.sendBody(u, c)
	hold.Stop()
	u.err, u.fromClient = err, err != nil && fromClient
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil && fromClient {
		if !u.stopped {
			x.flight.cancel(err)
		}
		return
	}
	wait := x.p.opts.ResponseTimeout
	if err != nil {
		u.sendErr = err
		wait = resetGrace // it may have answered before it closed
	}
	if !u.headDone {
		_ = c.SetReadDeadline(time.Now().Add(wait))
	}
}

// sendBody copies the body with its framing. fromClient tells whose side the error is on.
func (x *exchange) sendBody(u *upload, c *upstreamConn) (fromClient bool, err error) {
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	buf := *bp
	chunked := x.r.ContentLength < 0
	const head, tail = 10, 2 // room for the length line of a chunk and its end
	for {
		x.bumpRead()
		begun := time.Now()
		n, rerr := x.r.Body.Read(buf[head : len(buf)-tail])
		if n > 0 {
			u.read.Add(int64(n))
			out := buf[head : head+n]
			if chunked {
				out = frameChunk(buf, head, n)
			}
			if err := x.send(u, c, out); err != nil {
				return false, err
			}
		}
		if errors.Is(rerr, io.EOF) {
			break
		}
		if rerr != nil {
			u.setSlow(isTimeout(rerr) && time.Since(begun) >= x.p.opts.IOTimeout) // else we broke the read ourselves
			return true, clientError(x.r.Context(), rerr)
		}
	}
	x.flight.clearClientRead()
	if chunked {
		return false, x.send(u, c, lastChunk(x.r.Trailer))
	}
	return false, nil
}

// frameChunk writes the length line before and the line end behind the n bytes at buf[at:].
func frameChunk(buf []byte, at, n int) []byte {
	var hex [10]byte
	line := append(strconv.AppendInt(hex[:0], int64(n), 16), '\r', '\n')
	from := at - len(line)
	copy(buf[from:], line)
	copy(buf[at+n:], "\r\n")
	return buf[from : at+n+2]
}

func lastChunk(trailer http.Header) []byte {
	out := []byte("0\r\n")
	for key, values := range trailer {
		for _, v := range values {
			if safeTrailer(key, v) {
				out = append(out, key+": "+v+"\r\n"...)
			}
		}
	}
	return append(out, "\r\n"...)
}

func (x *exchange) send(u *upload, c *upstreamConn, p []byte) error {
	_ = c.SetWriteDeadline(time.Now().Add(x.p.opts.IOTimeout))
	err := u.sendWithHead(c, p)
	switch {
	case err == nil:
		return nil
	case isTimeout(err):
		return fmt.Errorf("%w: %w", errSendTimeout, err)
	}
	return fmt.Errorf("send request body: %w", err)
}

func clientError(ctx context.Context, err error) error {
	switch {
	case isTimeout(err):
		return fmt.Errorf("%w: %w", errClientSlow, err)
	case errors.Is(err, io.ErrUnexpectedEOF), isNetError(err), ctx.Err() != nil:
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	return fmt.Errorf("%w: %w", errClientBody, err)
}

// bumpRead gives the client the time for the next piece of its body.
func (x *exchange) bumpRead() {
	x.flight.mu.Lock()
	defer x.flight.mu.Unlock()
	if x.flight.cause == nil && !x.flight.noRead {
		_ = x.w.SetReadDeadline(time.Now().Add(x.p.opts.IOTimeout))
	}
}

// clearClientRead: net/http now watches the connection for its end, which may take as long as the response.
func (f *flight) clearClientRead() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cause == nil && !f.noRead && f.client != nil {
		_ = f.client.SetReadDeadline(time.Time{})
	}
}

// breakClientRead makes a read under way return. Under the lock, so that bumpRead cannot undo it.
func (f *flight) breakClientRead() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.noRead = true
	if f.client == nil {
		return nil
	}
	return f.client.SetReadDeadline(past)
}

// finishUpload is called when the response is complete. It reports whether the whole body was sent, so that the connection can be used again; a
// body still on its way then has a moment to end.
func (x *exchange) finishUpload() bool {
	if x.up == nil {
		return x.r.ContentLength == 0
	}
	select {
	case <-x.up.done:
		return x.up.err == nil
	default:
	}
	_ = x.w.FlushError() // the client need not wait for its answer
	grace := time.NewTimer(uploadGrace)
	defer grace.Stop()
	select {
	case <-x.up.done:
		return x.up.err == nil
	case <-grace.C:
		x.stopUpload()
		return false
	}
}

// stopUpload ends the goroutine: it must not read from the client once the handler has returned.
func (x *exchange) stopUpload() {
	if x.up == nil {
		return
	}
	select {
	case <-x.up.done:
		return
	default:
	}
	x.up.mu.Lock()
	x.up.stopped = true
	x.up.mu.Unlock()
	_ = x.c.Close()
	if !x.started && x.flight.reason() == nil && x.smallRest() {
		// A read that is broken off costs the client its connection; the next piece ends it just as well.
		moment := time.NewTimer(bodyGrace)
		defer moment.Stop()
		select {
		case <-x.up.done:
			return
		case <-moment.C:
		}
	}
	_ = x.flight.breakClientRead()
	<-x.up.done
}

// smallRest says whether so little of a body of declared length is outstanding that taking it is cheaper than a new connection.
func (x *exchange) smallRest() bool {
	rest := x.r.ContentLength
	if rest > 0 && x.up != nil {
		rest -= x.up.read.Load()
	}
	return x.r.ContentLength > 0 && rest <= maxBodyRest
}

// drainBody takes what is left of the request's body, so that the client's connection can carry the next request behind a page of our own. False: the
// body is too long, of unknown length or does not come, and the connection must be closed. Nothing else may read from the client any more.
func (x *exchange) drainBody() bool {
	switch {
	case x.r.ContentLength == 0:
		return true
	case x.up != nil && x.up.err == nil:
		return true // it went to the target
	case x.up != nil && x.up.fromClient, x.up == nil && expectsContinue(x.r), !x.smallRest():
		return false
	}
	_ = x.w.SetReadDeadline(time.Now().Add(bodyGrace))
	if _, err := io.Copy(io.Discard, x.r.Body); err != nil {
		return false
	}
	_ = x.w.SetReadDeadline(time.Time{})
	return true
}
