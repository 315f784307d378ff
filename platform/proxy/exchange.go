package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	copyBuffer = 32 << 10
	// uploadGrace is how long a finished response waits for the rest of its request's body before the connections are given up.
	uploadGrace = 250 * time.Millisecond
	// continueWait is how long an Expect: 100-continue waits for the target's word before the body is sent anyway.
	continueWait = time.Second
	// resetGrace is how long a response may take to arrive once the target refused to read more of the body.
	resetGrace = time.Second
	// bodyGrace is how long a page of our own waits for the rest of the request's body, and maxBodyRest how much that may be, bytes.
	bodyGrace   = time.Second
	maxBodyRest = 256 << 10
)

// responseWriter is what net/http's HTTP/1 response can do.
type responseWriter interface {
	http.ResponseWriter
	http.Hijacker
	io.ReaderFrom
	FlushError() error
	EnableFullDuplex() error
	clientBreaker
}

// exchange is one request on its way: it lives in the handler's goroutine, with one goroutine beside it while a request body is sent.
type exchange struct {
	p      *Proxy
	w      responseWriter
	r      *http.Request
	flight *flight
	entry  *entry

	c       *upstreamConn
	up      *upload
	upgrade string
	repeat  bool // the request may be sent again if no byte of an answer came
	started bool // a final response header was given to w
	tunnel  bool // the client's connection is no longer net/http's
}

// run sends the request and passes on the answer. A nil error means the client got a whole response.
func (x *exchange) run() error {
	if x.r.ContentLength != 0 {
		if err := x.w.EnableFullDuplex(); err != nil {
			return fmt.Errorf("prepare full duplex: %w", err)
		}
	} else {
		x.upgrade = upgradeOf(x.r.Header)
	}
	x.repeat = x.r.ContentLength == 0 && idempotent(x.r.Method)
	for fresh := false; ; fresh = true {
		err := x.connect(fresh)
		if err != nil {
			return x.because(err)
		}
		err = x.roundTrip()
		if err == nil {
			return nil
		}
		dead := x.c.used && (errors.Is(err, errStale) || errors.Is(err, errNotSent))
		again := dead && x.up == nil && (x.repeat || errors.Is(err, errNotSent))
		x.release(false)
		if cause := x.flight.reason(); cause != nil {
			return cause // we closed the connection ourselves; it tells nothing of the target
		}
		if dead {
			x.flight.target.backend.died()
		}
		if !again {
			return err
		}
	}
}

// because prefers the reason the flight was cancelled for over the error that cancelling caused.
func (x *exchange) because(err error) error {
	if cause := x.flight.reason(); cause != nil {
		return cause
	}
	return err
}

func (x *exchange) connect(fresh bool) error {
	b := x.flight.target.backend
	x.c = nil
	if !fresh {
		x.c = b.take(x.repeat)
	}
	if x.c == nil {
		c, err := b.dial(x.r.Context())
		if err != nil {
			return fmt.Errorf("%w: %w", errDial, err)
		}
		x.c = c
	}
	if err := x.flight.attach(x.c.Conn); err != nil {
		return errors.Join(err, x.c.Close())
	}
	return nil
}

// release gives the connection back, or closes it. The request must not use it afterwards.
func (x *exchange) release(reusable bool) {
	if x.c == nil {
		return
	}
	c := x.c
	x.c = nil
	if cause := x.flight.attach(nil); cause != nil || !reusable || c.br.Buffered() > 0 {
		_ = c.Close()
		return
	}
	if x.up != nil {
		_ = c.SetWriteDeadline(time.Time{})
	}
	x.flight.target.backend.put(c)
}

func (x *exchange) roundTrip() error {
	x.writeHead()
	if x.r.ContentLength != 0 && !expectsContinue(x.r) {
		x.startUpload() // sends the head as well
	} else if err := x.sendHead(); err != nil {
		return err
	}
	if x.r.ContentLength == 0 {
		x.setHeadDeadline()
	}
	resp, err := x.readResponse()
	if err == nil {
		err = x.deliver(resp)
	}
	if err == nil && !x.tunnel {
		ok := x.finishUpload()
		x.release(ok && !resp.Close)
		return nil
	}
	x.stopUpload()
	return err
}

func (x *exchange) writeHead() {
	c := x.c
	c.bw.Reset(c.Conn)
	writeRequestHead(c.bw, x.r, requestHead{upgrade: x.upgrade, host: c.RemoteAddr().String(), port: localPort(x.r), scheme: "http"})
}

func (x *exchange) sendHead() error {
	c := x.c
	whole := c.bw.Buffered()
	err := c.bw.Flush()
	switch {
	case err == nil:
		return nil
	case c.bw.Buffered() == whole:
		return fmt.Errorf("%w: %w", errNotSent, err)
	}
	return fmt.Errorf("%w: %w", errStale, err)
}

func localPort(r *http.Request) string {
	if a, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr); ok {
		return strconv.Itoa(a.Port)
	}
	return ""
}

func (x *exchange) setHeadDeadline() {
	_ = x.c.SetReadDeadline(time.Now().Add(x.p.opts.ResponseTimeout))
}

// readResponse reads up to the final response header, passing on the interim ones.
func (x *exchange) readResponse() (*http.Response, error) {
	c := x.c
	c.headLeft = maxResponseHead
	if x.r.ContentLength != 0 && expectsContinue(x.r) {
		if err := x.awaitContinue(); err != nil {
			return nil, err
		}
	}
	if _, err := c.br.Peek(1); err != nil {
		return nil, x.readError(err, c.used)
	}
	for {
		resp, err := http.ReadResponse(c.br, x.r)
		if err != nil {
			return nil, x.readError(err, false)
		}
		switch {
		case resp.StatusCode < 100:
			return nil, fmt.Errorf("%w: status %d", errBadResponse, resp.StatusCode)
		case resp.StatusCode == http.StatusRequestTimeout && c.used && resp.Close && x.repeat:
			// Some servers say this on an idle connection while they close it.
			return nil, errStale
		case resp.StatusCode == http.StatusSwitchingProtocols, resp.StatusCode >= 200:
			x.headDone()
			return resp, nil
		case resp.StatusCode == http.StatusContinue:
			if x.up == nil && x.r.ContentLength != 0 {
				x.startUpload()
			}
		default:
			x.interim(resp)
		}
	}
}

// awaitContinue waits a moment for the target's answer to an Expect. Without one the body is sent.
func (x *exchange) awaitContinue() error {
	_ = x.c.SetReadDeadline(time.Now().Add(continueWait))
	_, err := x.c.br.Peek(1)
	switch {
	case err == nil:
		x.setHeadDeadline()
		return nil
	case isTimeout(err) && x.flight.reason() == nil:
		_ = x.c.SetReadDeadline(time.Time{})
		x.startUpload()
		return nil
	}
	return x.readError(err, x.c.used)
}

func (x *exchange) readError(err error, unanswered bool) error {
	if x.up != nil {
		if uerr := x.up.sendError(); uerr != nil {
			if unanswered && !errors.Is(uerr, errSendTimeout) {
				uerr = fmt.Errorf("%w: %w", errStale, uerr)
			}
			return uerr
		}
	}
	switch {
	case errors.Is(err, errHeadTooLarge):
		return err
	case isTimeout(err):
		return fmt.Errorf("%w: %w", errHeadTimeout, err)
	case unanswered:
		return fmt.Errorf("%w: %w", errStale, err)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isNetError(err):
		return fmt.Errorf("read response: %w", err)
	}
	return fmt.Errorf("%w: %w", errBadResponse, err)
}

func isNetError(err error) bool {
	var op *net.OpError
	return errors.As(err, &op)
}

// headDone lifts the limits of the header: a body may take as long and be as large as it likes.
func (x *exchange) headDone() {
	x.c.headLeft = -1
	if x.up == nil {
		_ = x.c.SetReadDeadline(time.Time{})
		return
	}
	x.up.mu.Lock()
	defer x.up.mu.Unlock()
	x.up.headDone = true
	_ = x.c.SetReadDeadline(time.Time{})
}

// interim passes on a 1xx response (103 Early Hints, 102 Processing). HTTP/1.0 knows none.
func (x *exchange) interim(resp *http.Response) {
	if !x.r.ProtoAtLeast(1, 1) {
		return
	}
	h := x.w.Header()
	copyResponseHeader(h, resp.Header)
	x.bumpWrite(1)
	x.w.WriteHeader(resp.StatusCode)
	clear(h)
}

// bumpWrite gives the client's side the time of n IOTimeouts for what is written next.
func (x *exchange) bumpWrite(n time.Duration) {
	x.flight.mu.Lock()
	defer x.flight.mu.Unlock()
	// After a cancel the deadline is in the past and stays there.
	if x.flight.cause == nil {
		_ = x.w.SetWriteDeadline(time.Now().Add(n * x.p.opts.IOTimeout))
	}
}

// deliver passes the final response on. On an error after the header the client's connection must be cut, or it would take a part for the whole.
func (x *exchange) deliver(resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return x.switchProtocols(resp)
	}
	h := x.w.Header()
	copyResponseHeader(h, resp.Header)
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // else net/http would guess one
	}
	if !x.r.ProtoAtLeast(1, 1) {
		// HTTP/1.0 has no chunks, and net/http lets a Transfer-Encoding in such a request pass unread: never read a second one.
		h.Set("Connection", "close")
	}
	announced := make([]string, 0, len(resp.Trailer))
	for key := range resp.Trailer {
		announced = append(announced, key)
		h.Add("Trailer", key)
	}
	x.bumpWrite(1)
	x.started = true
	x.entry.status = resp.StatusCode
	x.w.WriteHeader(resp.StatusCode)
	if len(announced) > 0 {
		_ = x.w.FlushError() // trailers need chunks, chosen when the header goes out
	}
	if err := x.copyBody(resp); err != nil {
		return err
	}
	passTrailers(h, resp.Trailer, announced)
	return nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBuffer); return &b }}

// copyBody streams the body. Bytes wait in a buffer only as long as more are known to be at hand.
func (x *exchange) copyBody(resp *http.Response) error {
	if resp.Body == http.NoBody || x.r.Method == http.MethodHead {
		return nil
	}
	left := resp.ContentLength // negative: unknown
	if left > spliceFrom && x.c.br.Buffered() < int(spliceFrom) {
		return x.spliceBody(resp)
	}
	if x.c.br.Buffered() == 0 && left != 0 {
		if err := x.w.FlushError(); err != nil { // the head alone may be all there is for a while
			return fmt.Errorf("%w: %w", errClientGone, err)
		}
	}
	bp := buffers.Get().(*[]byte)
	defer buffers.Put(bp)
	for first := true; ; first = false {
		n, rerr := resp.Body.Read(*bp)
		if n > 0 {
			if !first {
				x.bumpWrite(1)
			}
			if _, err := x.w.Write((*bp)[:n]); err != nil {
				return fmt.Errorf("%w: %w", errClientGone, err)
			}
			x.entry.bytes += int64(n)
			left -= int64(n)
		}
		switch {
		case rerr == io.EOF:
			return nil
		case rerr != nil:
			return fmt.Errorf("read response body: %w", rerr)
		case left != 0 && x.c.br.Buffered() == 0:
			if err := x.w.FlushError(); err != nil {
				return fmt.Errorf("%w: %w", errClientGone, err)
			}
		}
	}
}

const (
	spliceFrom  = 64 << 10 // bodies longer than this go from socket to socket in the kernel
	splicePiece = 256 << 10
	// splicePatience is how many IOTimeouts one piece may take: its deadline counts the waiting for both sides.
	splicePatience = 10
)

// spliceBody passes on a long body of known length: what is buffered first, then straight from socket to socket.
func (x *exchange) spliceBody(resp *http.Response) error {
	left := resp.ContentLength
	if n := min(int64(x.c.br.Buffered()), left); n > 0 {
		if err := x.pass(io.LimitReader(x.c.br, n), n); err != nil {
			return err
		}
		left -= n
	}
	for left > 0 {
		n := min(left, splicePiece)
		if err := x.pass(&io.LimitedReader{R: x.c.Conn, N: n}, n); err != nil {
			return err
		}
		left -= n
	}
	return nil
}

func (x *exchange) pass(src io.Reader, n int64) error {
	x.bumpWrite(splicePatience)
	m, err := x.w.ReadFrom(src)
	x.entry.bytes += m
	if err == nil && m < n {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("pass on response body: %w", err)
	}
	return nil
}

// serve handles one request from the choice of its target to its log line.
func (p *Proxy) serve(w responseWriter, r *http.Request) {
	e := entry{start: time.Now()}
	f, err := p.valve.begin(r.Context())
	x := &exchange{p: p, w: w, r: r, flight: f, entry: &e}
	if err == nil {
		err = p.fly(x)
	}
	if err != nil && !x.tunnel {
		x.fail(err)
	}
	e.end = time.Now()
	p.access.record(r, &e)
}

func (p *Proxy) fly(x *exchange) error {
	f := x.flight
	defer f.end()
	x.entry.upstream = f.target.Addr
	x.entry.upstreamStart = time.Now()
	defer func() { x.entry.upstreamEnd = time.Now() }()
	if err := f.setClient(x.w); err != nil {
		return err
	}
	stop := context.AfterFunc(x.r.Context(), f.clientGone)
	defer stop()
	return x.run()
}

// fail answers with a page, or cuts the connection when a part of a response is out already.
func (x *exchange) fail(err error) {
	if errors.Is(err, errClientGone) && x.up != nil && x.up.tooSlow() {
		err = errClientSlow
	}
	f := failureOf(err)
	if !x.started && f.status != statusClientGone {
		last := x.flight != nil && x.flight.reason() != nil || !x.r.ProtoAtLeast(1, 1) || !x.drainBody()
		if last {
			_ = x.w.SetReadDeadline(time.Now().Add(x.p.opts.IOTimeout)) // net/http still takes a part of the body
		}
		_ = x.w.SetWriteDeadline(time.Now().Add(x.p.opts.IOTimeout))
		x.entry.status = f.status
		x.entry.bytes = writePage(x.w, x.r, f, last)
		x.p.log.Debug("request not answered by the target", "status", f.status, "target", x.entry.upstream, "error", err)
		return
	}
	if x.entry.status == 0 {
		x.entry.status = f.status
	}
	x.entry.cut = true
	conn, _, err := x.w.Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a reset: not even a reader of a body without length can take this for an end
	}
	_ = conn.Close()
}
