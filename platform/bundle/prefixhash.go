package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"sync"
)

// prefixHash computes the SHA-256 of a file whose chunks arrive out of order. The goroutine that writes at the end of the contiguous prefix hashes its
// own buffer; only bytes that arrived before their turn are read back, from the page cache.
// Invariant: once start was called, nothing is available at pos while busy is unset.
type prefixHash struct {
	file  io.ReaderAt
	size  int64
	chunk int64

	mu   sync.Mutex
	busy bool    // one goroutine is hashing; it also takes what arrives meanwhile
	pos  int64   // the prefix that is hashed
	ends []int64 // per chunk, how far its bytes have come

	sum  hash.Hash // owned by whoever set busy
	back []byte
}

func newPrefixHash(f io.ReaderAt, size, chunk int64) *prefixHash {
	h := &prefixHash{file: f, size: size, chunk: chunk, sum: sha256.New()}
	h.ends = make([]int64, (size+chunk-1)/chunk)
	for i := range h.ends {
		h.ends[i] = int64(i) * chunk
	}
	return h
}

// add tells that p has been written at off, directly after what its chunk had before.
func (h *prefixHash) add(off int64, p []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends[off/h.chunk] = off + int64(len(p))
	if h.busy || off != h.pos {
		return nil
	}
	h.busy = true
	h.mu.Unlock()
	h.sum.Write(p)
	h.mu.Lock()
	h.pos += int64(len(p))
	return h.catchUp()
}

// resume tells that a whole chunk is in the file from before.
func (h *prefixHash) resume(chunk int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends[chunk] = min(int64(chunk+1)*h.chunk, h.size)
}

// start hashes what resume told of.
func (h *prefixHash) start() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.busy {
		return nil
	}
	h.busy = true
	return h.catchUp()
}

// catchUp reads back what is available beyond the prefix. It is called with mu held and busy set, and leaves busy unset.
func (h *prefixHash) catchUp() error {
	defer func() { h.busy = false }()
	if h.back == nil {
		h.back = make([]byte, copyBytes)
	}
	for h.pos < h.size {
		n := min(h.ends[h.pos/h.chunk]-h.pos, int64(len(h.back)))
		if n <= 0 {
			return nil
		}
		off := h.pos
		h.mu.Unlock()
		_, err := h.file.ReadAt(h.back[:n], off)
		h.sum.Write(h.back[:n])
		h.mu.Lock()
		if err != nil && err != io.EOF {
			return fmt.Errorf("read back source bundle: %w", err)
		}
		h.pos += n
	}
	return nil
}

// hex answers the digest once every chunk has come.
func (h *prefixHash) hex() (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pos != h.size {
		return "", fmt.Errorf("hash source bundle: %d of %d bytes have come", h.pos, h.size)
	}
	return hex.EncodeToString(h.sum.Sum(nil)), nil
}
