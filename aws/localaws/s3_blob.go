package localaws

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

const (
	// chunkSize is how a body in memory is cut, so that it need not be copied
	// while it grows.
	chunkSize  = 1 << 20
	firstChunk = 4 << 10
)

// blob is the body of an object or part: pieces, one after the other, in
// memory or in files. It is never changed; a multipart object is made of the
// pieces of its parts.
type blob []piece

type piece struct {
	Size int64
	File string `json:",omitempty"` // name in the store's data folder
	mem  []byte
}

func (b blob) size() int64 {
	var n int64
	for _, p := range b {
		n += p.Size
	}
	return n
}

// readBlob stores all of r, in a file when dir is not empty. What it stored is
// gone again when it fails.
func readBlob(r io.Reader, dir string) (blob, error) {
	if dir != "" {
		return readFileBlob(r, dir)
	}
	var b blob
	for size := firstChunk; ; size = min(size*4, chunkSize) {
		buf := make([]byte, size)
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			b = append(b, piece{Size: int64(n), mem: buf[:n]})
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}

// readFileBlob writes r into a file of its own. There is no fsync: a local
// endpoint does not promise to survive the loss of power.
func readFileBlob(r io.Reader, dir string) (blob, error) {
	f, err := os.CreateTemp(dir, "body-*")
	if err != nil {
		return nil, fmt.Errorf("store body: %w", err)
	}
	n, err := io.Copy(f, r)
	if closing := f.Close(); err == nil && closing != nil {
		err = fmt.Errorf("store body: %w", closing)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return nil, err
	}
	return blob{{Size: n, File: filepath.Base(f.Name())}}, nil
}

// open reads n bytes from offset off. Everything needed is opened at once, so
// that the blob may be freed while it is read.
func (b blob) open(dir string, off, n int64) (io.ReadCloser, error) {
	out := &blobReader{}
	var readers []io.Reader
	for _, p := range b {
		if n == 0 {
			break
		}
		if off >= p.Size {
			off -= p.Size
			continue
		}
		take := min(n, p.Size-off)
		if p.File == "" {
			readers = append(readers, bytes.NewReader(p.mem[off:off+take]))
		} else {
			f, err := os.Open(filepath.Join(dir, p.File))
			if err != nil {
				_ = out.Close()
				return nil, fmt.Errorf("open body: %w", err)
			}
			out.files = append(out.files, f)
			readers = append(readers, io.NewSectionReader(f, off, take))
		}
		off, n = 0, n-take
	}
	out.Reader = io.MultiReader(readers...)
	return out, nil
}

type blobReader struct {
	io.Reader
	files []*os.File
}

func (r *blobReader) Close() error {
	for _, f := range r.files {
		_ = f.Close() // was only read
	}
	return nil
}

// clone returns a blob of its own with the same content.
func (b blob) clone(dir string) (blob, error) {
	out := make(blob, 0, len(b))
	for _, p := range b {
		if p.File != "" {
			linked, err := linkFile(dir, p.File)
			if err != nil {
				out.free(dir)
				return nil, err
			}
			p.File = linked
		}
		out = append(out, p)
	}
	return out, nil
}

func linkFile(dir, name string) (string, error) {
	linked := "body-" + newUUID()
	if err := os.Link(filepath.Join(dir, name), filepath.Join(dir, linked)); err != nil {
		return "", fmt.Errorf("copy body: %w", err)
	}
	return linked, nil
}

// free removes the blob's files. What reads it goes on to the end.
func (b blob) free(dir string) {
	for _, p := range b {
		if p.File != "" {
			_ = os.Remove(filepath.Join(dir, p.File))
		}
	}
}
