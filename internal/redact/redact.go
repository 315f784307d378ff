// Package redact hides secret values in everything the agent itself puts out: logs, events, results, journal. The application's own logs
// never pass through it. A value is hidden byte for byte and in the forms in which texts carry values (see forms.go): escaped by a backslash once or
// twice (JSON, Go, C, the shell's $'..' and printf %q), in a shell's quotes, percent-encoded, in base64 and base64url at each of the three
// alignments, in hexadecimal.
//
// # Invariants
//
//   - Wherever hidden values overlap, everything any of them covers is hidden.
//   - How a text is cut into writes changes nothing, but for values of several lines: those are hidden whole where they arrive whole, and line
//     by line (from MinLength bytes) where not. Base64 and hexadecimal are found across the line ends that their encoders make.
//   - No form of a value is ever written down: texts are decoded while they are compared. Memory is that of the values, some words for each of
//     their lines, and in a Writer 64 KiB and the longest text that is still the beginning of a value. Values take Remembered bytes at most, or
//     twice what those do that were named lately.
package redact

import (
	"bytes"
	"cmp"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// MinLength is the length in bytes from which a value is hidden; shorter ones ("true", "8080") would blank ordinary words.
const MinLength = 6

// Mask stands where a hidden value stood.
const Mask = "[redacted]"

const (
	// Remembered is how much values may take, bytes with what finding them takes, until those that were not named for longest are forgotten: some
	// hundred sets of properties that have nothing in common.
	Remembered = 1 << 20
	// lately is of how many calls of Add every value is remembered in any case.
	lately = 16
	// valueCost is what finding a value takes beside its own bytes, about.
	valueCost = 128
)

// Redactor hides the values it was given. Safe for concurrent use. Use New; a nil Redactor hides nothing.
type Redactor struct {
	mu    sync.RWMutex
	calls int            // of Add
	known map[string]int // by value the call that named it last
	size  int            // of the known, bytes
	limit int            // of size, from where some are forgotten
	index *index
}

// New returns a redactor that hides nothing yet.
func New() *Redactor {
	return &Redactor{known: map[string]int{}, limit: Remembered, index: newIndex()}
}

// Add hides these values from now on. Values under MinLength bytes are ignored. An old version's secret may still stand in a line that is written
// later, so a value is remembered long after it was named last: until the known ones take more than Remembered bytes.
func (r *Redactor) Add(values ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	for _, v := range values {
		if len(v) < MinLength {
			continue
		}
		if _, ok := r.known[v]; !ok {
			v = strings.Clone(v) // what it is part of need not be kept
			r.size += len(v) + valueCost
			r.index.learn(v)
		}
		r.known[v] = r.calls
	}
	if r.size > r.limit {
		r.forget()
	}
}

// forget makes room for as much again: it keeps what was named last, and lately in any case.
func (r *Redactor) forget() {
	values := slices.SortedFunc(maps.Keys(r.known), func(a, b string) int {
		return cmp.Or(r.known[b]-r.known[a], strings.Compare(a, b))
	})
	r.size, r.index = 0, newIndex()
	for _, v := range values {
		if cost := len(v) + valueCost; r.size+cost <= Remembered/2 || r.calls-r.known[v] < lately {
			r.size += cost
			r.index.learn(v)
		} else {
			delete(r.known, v)
		}
	}
	r.limit = max(Remembered, 2*r.size) // so that it is seldom done, however much was named lately
}

// span is a part of a text that must not be seen.
type span struct{ from, to int }

// spans returns what to hide of b, in order; overlapping values give one span. The first hidden bytes are hidden in any case. open is where the
// first text begins that could become a value, or a longer one, if more came: len(b) where there is none. The first kept bytes were open before.
func (r *Redactor) spans(b []byte, hidden, kept int) (all []span, open int) {
	if hidden > 0 {
		all = append(all, span{0, hidden})
	}
	open = len(b)
	r.index.scan(b, kept, func(from, to int) { all = append(all, span{from, to}) }, func(from int) { open = min(open, from) })
	return merged(all), open
}

// merged puts spans in order and makes one of those that overlap.
func merged(all []span) []span {
	slices.SortFunc(all, func(a, b span) int { return a.from - b.from })
	out := all[:0]
	for _, s := range all {
		if last := len(out) - 1; last >= 0 && s.from < out[last].to {
			out[last].to = max(out[last].to, s.to)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// String returns s with every hidden value masked.
func (r *Redactor) String(s string) string {
	if r == nil || len(s) < MinLength {
		return s
	}
	b := []byte(s)
	r.mu.RLock()
	defer r.mu.RUnlock()
	spans, _ := r.spans(b, 0, 0)
	if len(spans) == 0 {
		return s
	}
	return string(masked(b, spans))
}

// Bytes returns a copy of b with every hidden value masked.
func (r *Redactor) Bytes(b []byte) []byte {
	if r == nil {
		return bytes.Clone(b)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	spans, _ := r.spans(b, 0, 0)
	return masked(b, spans)
}

func masked(b []byte, spans []span) []byte {
	out := make([]byte, 0, len(b))
	at := 0
	for _, s := range spans {
		out = append(append(out, b[at:s.from]...), Mask...)
		at = s.to
	}
	return append(out, b[at:]...)
}

// Writer masks what passes through to w line by line, so that a value split over two writes is found. A line longer than 64 KiB passes in
// pieces. What could still become a value stays behind, also at the end of a line. Close writes that and the last unfinished line; it does not
// close w. Not for concurrent use.
func (r *Redactor) Writer(w io.Writer) io.WriteCloser {
	if r == nil {
		return plainWriter{w}
	}
	return &lineWriter{r: r, w: w, limit: maxLine}
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

const maxLine = 64 << 10

type lineWriter struct {
	r      *Redactor
	w      io.Writer
	buf    []byte // as it came
	hidden int    // bytes at its beginning whose mask is written already
	kept   int    // bytes at its beginning that end a line and wait for the next
	limit  int    // of buf, from where a line is not waited for
}

func (l *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		take := min(len(p), maxLine)
		from := len(l.buf)
		l.buf = append(l.buf, p[:take]...)
		p = p[take:]
		end := from + bytes.LastIndexByte(l.buf[from:], '\n') + 1
		if len(l.buf) > l.limit {
			end = len(l.buf)
		} else if end == from {
			continue
		}
		if err := l.pass(end, false); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// pass writes the first n bytes of the buffer, masked as they are in the whole of it; unless final, what could become a value stays.
func (l *lineWriter) pass(n int, final bool) error {
	if len(l.buf) == 0 {
		return nil
	}
	l.r.mu.RLock()
	spans, open := l.r.spans(l.buf, l.hidden, l.kept)
	l.r.mu.RUnlock()
	if !final {
		n = min(n, open)
	}
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
	l.buf = slices.Delete(l.buf, 0, n)
	l.kept = bytes.IndexByte(l.buf, '\n') + 1
	if n > 0 {
		l.hidden = hidden
	}
	l.limit = len(l.buf) + maxLine // so that what waits is looked at again only when there is much more of it
	if len(out) == 0 {
		return nil
	}
	_, err := l.w.Write(out)
	return err
}

// Close writes what is left of an unfinished line.
func (l *lineWriter) Close() error { return l.pass(len(l.buf), true) }
