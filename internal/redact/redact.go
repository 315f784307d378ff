// Package redact hides secret values in everything the agent itself puts out: logs, events, results, journal. The application's own logs
// never pass through it. A value is hidden byte for byte and in the forms it takes inside JSON strings, URLs and base64.
package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/url"
	"sort"
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
	forms   map[string]struct{}
	longest int
	replace *strings.Replacer
}

// New returns a redactor that hides nothing yet.
func New() *Redactor {
	return &Redactor{forms: map[string]struct{}{}, replace: strings.NewReplacer()}
}

// Add hides these values from now on. Values under MinLength bytes are ignored. Values are never forgotten: an old version's secret may still
// stand in a line that is written later.
func (r *Redactor) Add(values ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := len(r.forms)
	for _, v := range values {
		if len(v) < MinLength {
			continue
		}
		for _, f := range formsOf(v) {
			r.forms[f] = struct{}{}
		}
		for line := range strings.Lines(v) { // a key of several lines is written line by line
			if line = strings.TrimRight(line, "\r\n"); len(line) >= MinLength && line != v {
				r.forms[line] = struct{}{}
			}
		}
	}
	if len(r.forms) != before {
		r.rebuild()
	}
}

// rebuild orders the forms longest first: at one position the replacer takes the first that matches.
func (r *Redactor) rebuild() {
	all := make([]string, 0, len(r.forms))
	for f := range r.forms {
		all = append(all, f)
	}
	sort.Slice(all, func(i, j int) bool {
		if len(all[i]) != len(all[j]) {
			return len(all[i]) > len(all[j])
		}
		return all[i] < all[j]
	})
	pairs := make([]string, 0, 2*len(all))
	for _, f := range all {
		pairs = append(pairs, f, Mask)
	}
	r.replace = strings.NewReplacer(pairs...)
	if len(all) > 0 {
		r.longest = len(all[0])
	}
}

func formsOf(v string) []string {
	forms := []string{v}
	for level, f := 0, v; level < 2; level++ { // a result carries JSON inside a JSON string
		for _, escape := range []bool{true, false} {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(escape)
			if enc.Encode(f) == nil {
				quoted := strings.TrimSuffix(b.String(), "\n")
				forms = append(forms, quoted[1:len(quoted)-1])
			}
		}
		f = forms[len(forms)-1]
	}
	forms = append(forms, url.QueryEscape(v), url.PathEscape(v))
	for skip := range 3 { // base64 of a longer text that holds v, at each of the three alignments
		whole := base64.StdEncoding.EncodeToString(append(make([]byte, skip), v...))
		from, to := (skip*8+5)/6, (skip+len(v))*8/6
		if to-from >= MinLength {
			core := whole[from:to]
			forms = append(forms, core, strings.NewReplacer("+", "-", "/", "_").Replace(core))
		}
	}
	return forms
}

// String returns s with every hidden value masked.
func (r *Redactor) String(s string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.replace.Replace(s)
}

// Bytes returns a copy of b with every hidden value masked.
func (r *Redactor) Bytes(b []byte) []byte { return []byte(r.String(string(b))) }

// Writer masks what passes through to w line by line, so that a value split over two writes is found. A line longer than 64 KiB passes in
// pieces that overlap by the longest hidden form. Close writes the last unfinished line; it does not close w. Not for concurrent use.
func (r *Redactor) Writer(w io.Writer) io.WriteCloser { return &lineWriter{r: r, w: w} }

const maxLine = 64 << 10

type lineWriter struct {
	r   *Redactor
	w   io.Writer
	buf []byte
}

func (l *lineWriter) Write(p []byte) (int, error) {
	l.buf = append(l.buf, p...)
	if i := bytes.LastIndexByte(l.buf, '\n'); i >= 0 {
		if err := l.put(i + 1); err != nil {
			return 0, err
		}
	}
	if len(l.buf) > maxLine {
		return len(p), l.overflow()
	}
	return len(p), nil
}

// overflow lets out the front of an endless line but keeps back as much as a value cut at the end could still need.
func (l *lineWriter) overflow() error {
	l.r.mu.RLock()
	keep := l.r.longest
	l.r.mu.RUnlock()
	masked := l.r.Bytes(l.buf)
	if len(masked) <= keep {
		return nil
	}
	_, err := l.w.Write(masked[:len(masked)-keep])
	l.buf = append(l.buf[:0], masked[len(masked)-keep:]...)
	return err
}

func (l *lineWriter) put(n int) error {
	_, err := l.w.Write(l.r.Bytes(l.buf[:n]))
	l.buf = append(l.buf[:0], l.buf[n:]...)
	return err
}

func (l *lineWriter) Close() error {
	if len(l.buf) == 0 {
		return nil
	}
	return l.put(len(l.buf))
}
