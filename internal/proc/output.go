package proc

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// output carries what a child writes to its log, line by line, and keeps the end of it.
type output struct {
	c    *Command
	r, w *os.File
	in   io.WriteCloser // what is read goes here, and from it, masked, to take
	done chan struct{}

	line   []byte // begun and not yet passed on
	ring   []byte // the last c.Tail bytes, oldest first once cut
	failed bool   // the log refused a line
	held   bool

	cost   int64  // of what was given to split, up to c.Head where that bounds it
	end    []byte // what came after, the last c.End bytes of it as a ring
	at     int    // where in the ring the next byte goes, once it is full
	beyond int64  // bytes that came after
}

func newOutput(c *Command) (*output, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make pipe for output: %w", err)
	}
	o := &output{c: c, r: r, w: w, done: make(chan struct{})}
	if o.in = taker(o.take); c.Mask != nil {
		o.in = c.Mask(o.in)
	}
	return o, nil
}

// taker is take as a writer that never fails.
type taker func(p []byte)

func (t taker) Write(p []byte) (int, error) {
	t(p)
	return len(p), nil
}

func (taker) Close() error { return nil }

// abandon is for a process that never started.
func (o *output) abandon() {
	_ = o.w.Close()
	_ = o.r.Close()
}

// copy runs until every holder of the pipe is gone, or finish stops it.
func (o *output) copy() {
	defer close(o.done)
	_ = o.w.Close() // ours; the child has its own
	buf := make([]byte, 32<<10)
	for {
		n, err := o.r.Read(buf)
		_, _ = o.in.Write(buf[:n])
		if err != nil {
			if os.IsTimeout(err) {
				o.rest(buf)
			}
			break
		}
	}
	_ = o.in.Close()
	o.flush()
	o.passEnd()
}

// flush passes on a line that was begun.
func (o *output) flush() {
	if len(o.line) > 0 {
		o.pass(o.line)
		o.line = o.line[:0]
	}
}

// lineCost is what a line costs beside its bytes: logs write a prefix to each, and a million empty lines are a flood too.
const lineCost = 128

// take is given the output as it comes.
func (o *output) take(p []byte) {
	o.keep(p)
	if o.c.Head > 0 {
		head := o.c.Head - o.cost
		room := 0
		for room < len(p) && head > 0 && o.beyond == 0 {
			n := bytes.IndexByte(p[room:], '\n') + 1
			if n == 0 {
				n = len(p) - room
			}
			n = int(min(int64(n), head))
			head -= int64(n)
			if room += n; p[room-1] == '\n' {
				head -= lineCost
			}
		}
		o.cost = o.c.Head - head
		o.store(p[room:])
		p = p[:room]
	}
	o.split(p)
}

// store keeps what is beyond the head, as much of its end as is to be passed on.
func (o *output) store(p []byte) {
	if len(p) == 0 {
		return
	}
	o.beyond += int64(len(p))
	limit := int(o.c.End)
	if len(p) > limit {
		p = p[len(p)-limit:]
	}
	n := min(limit-len(o.end), len(p))
	o.end = append(o.end, p[:n]...)
	for p = p[n:]; len(p) > 0; p = p[n:] {
		n = copy(o.end[o.at:], p)
		o.at = (o.at + n) % limit
	}
}

// passEnd passes on the end of an output that was longer than its head.
func (o *output) passEnd() {
	if o.beyond == 0 {
		return
	}
	end := append(o.end[o.at:len(o.end):len(o.end)], o.end[:o.at]...)
	end = affordable(end, o.c.End)
	if left := o.beyond - int64(len(end)); left > 0 {
		if i := bytes.IndexByte(end, '\n'); i >= 0 && i < len(end)-1 { // from a whole line on
			left += int64(i + 1)
			end = end[i+1:]
		}
		o.pass(fmt.Appendf(nil, "[hostmanager: %d bytes of output are left out here]", left))
	}
	o.line = o.line[:0]
	o.split(end)
	o.flush()
}

// affordable returns the end of p, from a whole line on where it has several, that costs no more than budget.
func affordable(p []byte, budget int64) []byte {
	at, cost := len(p), int64(0)
	for at > 0 {
		n := at - 1 - bytes.LastIndexByte(p[:at-1], '\n')
		if cost += int64(n) + lineCost; cost > budget && at < len(p) {
			break
		}
		at -= n
	}
	return p[at:]
}

// rest reads what lies in the pipe when the deadline has passed: on a slow machine that can be the process's own last words.
func (o *output) rest(buf []byte) {
	const pipeMax = 1 << 20
	raw, err := o.r.SyscallConn()
	if err != nil {
		return
	}
	for left := pipeMax; left > 0; {
		n, errno := 0, error(nil)
		if raw.Control(func(fd uintptr) { n, errno = unix.Read(int(fd), buf) }) != nil {
			return
		}
		if n <= 0 {
			o.held = errno == unix.EAGAIN
			return
		}
		_, _ = o.in.Write(buf[:n])
		left -= n
	}
	o.held = true
}

// finish is called when the process has ended: what it wrote is in the pipe and is read, what its leavings write is read for drain at most.
func (o *output) finish(drain time.Duration) (held bool) {
	_ = o.r.SetReadDeadline(time.Now().Add(drain))
	<-o.done
	_ = o.r.Close()
	return o.held
}

func (o *output) split(p []byte) {
	for len(p) > 0 {
		n := bytes.IndexByte(p, '\n')
		room := o.c.MaxLine - len(o.line)
		switch {
		case n >= 0 && n <= room:
			o.pass(append(o.line, p[:n]...))
			o.line, p = o.line[:0], p[n+1:]
		case len(p) <= room:
			o.line, p = append(o.line, p...), nil
		default:
			o.pass(append(o.line, p[:room]...))
			o.line, p = o.line[:0], p[room:]
		}
	}
}

// pass writes one line. A log that takes no more must not end the child, so its first refusal is told and the rest dropped.
func (o *output) pass(line []byte) {
	if o.failed {
		return
	}
	o.line = append(line, '\n')
	if _, err := o.c.Output.Write(o.line); err != nil {
		o.failed = true
		o.c.Log.Warn("output of process is dropped from here on", slog.Any("error", err))
	}
}

func (o *output) keep(p []byte) {
	o.ring = append(o.ring, p...)
	if len(o.ring) > 4*o.c.Tail+32<<10 { // cut seldom, so that copying stays cheap
		o.ring = append(o.ring[:0], o.ring[len(o.ring)-o.c.Tail:]...)
	}
}

// tail returns the end of the output as text: from a whole character on, without what is not UTF-8 and without trailing white space.
func (o *output) tail() string {
	b := o.ring[max(0, len(o.ring)-o.c.Tail):]
	if len(b) < len(o.ring) {
		for i := 0; i < utf8.UTFMax && i < len(b); i++ {
			if utf8.RuneStart(b[i]) {
				b = b[i:]
				break
			}
		}
	}
	return strings.TrimRight(strings.ToValidUTF8(string(b), "\uFFFD"), " \t\r\n")
}
