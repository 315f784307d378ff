package bundle

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"time"
)

// predecessor is the file of the version before that has the path of one being written. An archive that tells no times would otherwise give every
// file of every version a new one, though most are what they were: builders and browsers would take none from their caches.
// A nil predecessor is like nothing.
type predecessor struct {
	f     *os.File
	mtime time.Time
	left  int64 // bytes not compared yet
	buf   []byte
}

// before returns the predecessor of an entry without a time of its own, nil where there is none of the same size.
func (w *writer) before(e entry) *predecessor {
	if w.t.like == nil || !e.mtime.IsZero() {
		return nil
	}
	name := filepath.FromSlash(e.path)
	info, err := w.t.like.Lstat(name) // before opening: opening a pipe would wait for its writer
	if err != nil || !info.Mode().IsRegular() || info.Size() != e.size {
		return nil
	}
	f, err := w.t.like.Open(name)
	if err != nil {
		return nil
	}
	return &predecessor{f: f, mtime: info.ModTime(), left: info.Size(), buf: w.second()}
}

// compare takes the next bytes that were written. At the first difference the predecessor is given up.
func (p *predecessor) compare(written []byte) {
	if p == nil || p.f == nil {
		return
	}
	old := p.buf[:len(written)]
	if _, err := io.ReadFull(p.f, old); err != nil || !bytes.Equal(old, written) {
		p.close()
		return
	}
	p.left -= int64(len(written))
}

// same tells whether all that was written is what the predecessor holds, and since when it does. It ends the comparison.
func (p *predecessor) same() (bool, time.Time) {
	if p == nil || p.f == nil {
		return false, time.Time{}
	}
	p.close()
	return p.left == 0, p.mtime
}

func (p *predecessor) close() {
	_ = p.f.Close()
	p.f = nil
}
