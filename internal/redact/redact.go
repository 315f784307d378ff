// Package redact hides secret values in everything the agent itself puts out: logs, events, results, journal. The application's own logs
// never pass through it. A value is hidden byte for byte and in the forms it takes inside JSON strings, quoted text, URLs and base64.
//
// # Invariants
//
//   - Wherever hidden values overlap, everything any of them covers is hidden.
//   - How a text is cut into writes changes nothing, but for values of several lines: those are hidden whole where they arrive whole, and line
//     by line (from MinLength bytes) where not.
//   - Memory is bounded by the values given and, in a Writer, by 64 KiB and the longest form of a value.
package redact

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"sync"
)

// MinLength is the length in bytes from which a value is hidden; shorter ones ("true", "8080") would blank ordinary words.
const MinLength = 6

// Mask stands where a hidden value stood.
const Mask = "[redacted]"

// Redactor hides the values it was given. Safe for concurrent use; the zero value is not ready, use New.
type Redactor struct {
	mu      sync.RWMutex
	known   map[string]struct{}
	forms   map[uint32][]string // by their first four bytes
	starts  [1 << 10]uint64     // one bit for each pair of bytes a form begins with
	longest int
}

// New returns a redactor that hides nothing yet.
func New() *Redactor {
	return &Redactor{known: map[string]struct{}{}, forms: map[uint32][]string{}}
}

// Add hides these values from now on. Values under MinLength bytes are ignored. Values are never forgotten: an old version's secret may still
// stand in a line that is written later.
func (r *Redactor) Add(values ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range values {
		if _, ok := r.known[v]; ok || len(v) < MinLength {
			continue
		}
		r.known[v] = struct{}{}
		r.addForms(v)
		if trimmed := strings.TrimSpace(v); trimmed != v {
			r.addForms(trimmed)
		}
		for line := range strings.Lines(v) { // a key of several lines is written line by line
			if line = strings.TrimSpace(line); line != v {
				r.addForms(line)
			}
		}
	}
}

func (r *Redactor) addForms(v string) {
	if len(v) < MinLength {
		return
	}
	for _, f := range formsOf(v) {
		key := binary.LittleEndian.Uint32([]byte(f[:4]))
		if slices.Contains(r.forms[key], f) {
			continue
		}
		r.forms[key] = append(r.forms[key], f)
		pair := uint16(key)
		r.starts[pair>>6] |= 1 << (pair & 63)
		r.longest = max(r.longest, len(f))
	}
}

// span is a part of a text that must not be seen.
type span struct{ from, to int }

// spans returns what to hide of b, in order; overlapping values give one span. The first hidden bytes are hidden in any case.
func (r *Redactor) spans(b []byte, hidden int) []span {
	var all []span
	if hidden > 0 {
		all = append(all, span{0, hidden})
	}
	for i := 0; i+MinLength <= len(b); i++ {
		pair := binary.LittleEndian.Uint16(b[i:])
		if r.starts[pair>>6]&(1<<(pair&63)) == 0 {
			continue
		}
		n := 0
		for _, f := range r.forms[binary.LittleEndian.Uint32(b[i:])] {
			if len(f) > n && len(f) <= len(b)-i && string(b[i:i+len(f)]) == f {
				n = len(f)
			}
		}
		if n == 0 {
			continue
		}
		if last := len(all) - 1; last >= 0 && i < all[last].to {
			all[last].to = max(all[last].to, i+n)
		} else {
			all = append(all, span{i, i + n})
		}
	}
	return all
}

// String returns s with every hidden value masked.
func (r *Redactor) String(s string) string {
	b := []byte(s)
	if out := r.Bytes(b); !bytes.Equal(out, b) {
		return string(out)
	}
	return s
}

// Bytes returns a copy of b with every hidden value masked.
func (r *Redactor) Bytes(b []byte) []byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	out := make([]byte, 0, len(b))
	at := 0
	for _, s := range r.spans(b, 0) {
		out = append(append(out, b[at:s.from]...), Mask...)
		at = s.to
	}
	return append(out, b[at:]...)
}

// Writer masks what passes through to w line by line, so that a value split over two writes is found. A line longer than 64 KiB passes in
// pieces; what a value could still need stays behind. Close writes the last unfinished line; it does not close w. Not for concurrent use.
func (r *Redactor) Writer(w io.Writer) io.WriteCloser { return &lineWriter{r: r, w: w} }

const maxLine = 64 << 10

type lineWriter struct {
	r      *Redactor
	w      io.Writer
	buf    []byte // as it came
	hidden int    // bytes at its beginning whose mask is written already
}

func (l *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		take := min(len(p), maxLine)
		l.buf, p = append(l.buf, p[:take]...), p[take:]
		if i := bytes.LastIndexByte(l.buf, '\n'); i >= 0 {
			if err := l.pass(i + 1); err != nil {
				return 0, err
			}
		}
		if len(l.buf) > maxLine {
			if err := l.pass(len(l.buf) - l.longest()); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (l *lineWriter) longest() int {
	l.r.mu.RLock()
	defer l.r.mu.RUnlock()
	return l.r.longest
}

// pass writes the first n bytes of the buffer, masked as they are in the whole of it.
func (l *lineWriter) pass(n int) error {
	if n <= 0 {
		return nil
	}
	l.r.mu.RLock()
	spans := l.r.spans(l.buf, l.hidden)
	l.r.mu.RUnlock()
	out := make([]byte, 0, n)
	at, hidden := 0, 0
	for _, s := range spans {
		if s.from >= n {
			break
		}
		out = append(out, l.buf[at:s.from]...)
		if s.from > 0 || l.hidden == 0 {
			out = append(out, Mask...)
		}
		at = s.to
		hidden = max(0, s.to-n)
	}
	if at < n {
		out = append(out, l.buf[at:n]...)
	}
	l.buf = append(l.buf[:0], l.buf[n:]...)
	l.hidden = hidden
	_, err := l.w.Write(out)
	return err
}

// Close writes what is left of an unfinished line.
func (l *lineWriter) Close() error { return l.pass(len(l.buf)) }
