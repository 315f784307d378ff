package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
)

// Format is the version of the file format this package writes.
const Format = 1

// MaxRecord is the largest payload of a frame in bytes. A command message or a result is at most 256 KiB; JSON inside JSON can double it.
const MaxRecord = 4 << 20

const (
	magic      = "HMJOURNAL "
	headerSize = len(magic) + 6
	frameHead  = 8
	windowSize = 64 << 10
	// scanBudget bounds the bytes summed while looking for readable frames behind a damaged one.
	scanBudget = 256 << 20
)

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func header(format int) []byte { return fmt.Appendf(nil, "%s%05d\n", magic, format) }

// parseHeader returns the format version, or 0 when this is no header.
func parseHeader(b []byte) int {
	if len(b) < headerSize || string(b[:len(magic)]) != magic || b[headerSize-1] != '\n' {
		return 0
	}
	n, err := strconv.ParseUint(string(b[len(magic):headerSize-1]), 10, 16)
	if err != nil {
		return 0
	}
	return int(n)
}

func checksum(lengthAndPayload ...[]byte) uint32 {
	var sum uint32
	for _, b := range lengthAndPayload {
		sum = crc32.Update(sum, castagnoli(), b)
	}
	return sum
}

// appendFrame appends the frame of a payload to buf.
func appendFrame(buf, payload []byte) []byte {
	var head [frameHead]byte
	binary.LittleEndian.PutUint32(head[:4], uint32(len(payload)))
	binary.LittleEndian.PutUint32(head[4:], checksum(head[:4], payload))
	return append(append(buf, head[:]...), payload...)
}

// frames reads frames from a file of a known size through a small window.
type frames struct {
	r      io.ReaderAt
	size   int64
	off    int64 // of the next frame
	buf    []byte
	base   int64
	budget int64
}

func newFrames(r io.ReaderAt, size int64) *frames {
	return &frames{r: r, size: size, off: int64(headerSize), budget: scanBudget}
}

// errBadFrame is what next returns where no whole, sound frame begins.
var errBadFrame = errors.New("no sound frame here")

// view returns n bytes at off, valid until the next call; nil where the file is shorter.
func (f *frames) view(off int64, n int) ([]byte, error) {
	if off < 0 || n < 0 || off+int64(n) > f.size {
		return nil, nil
	}
	if off < f.base || off+int64(n) > f.base+int64(len(f.buf)) {
		want := min(int64(max(n, windowSize)), f.size-off)
		if int64(cap(f.buf)) < want {
			f.buf = make([]byte, want)
		}
		f.buf, f.base = f.buf[:want], off
		if m, err := f.r.ReadAt(f.buf, off); err != nil && (m < n || !errors.Is(err, io.EOF)) {
			f.buf = f.buf[:0]
			return nil, fmt.Errorf("read journal at %d: %w", off, err)
		}
	}
	from := off - f.base
	return f.buf[from : from+int64(n)], nil
}

// at returns the payload of the frame at off, valid until the next call, or errBadFrame.
func (f *frames) at(off int64) ([]byte, error) {
	head, err := f.view(off, frameHead)
	if err != nil {
		return nil, err
	}
	if head == nil {
		return nil, errBadFrame
	}
	n, sum := binary.LittleEndian.Uint32(head[:4]), binary.LittleEndian.Uint32(head[4:])
	if n == 0 || n > MaxRecord {
		return nil, errBadFrame
	}
	whole, err := f.view(off, frameHead+int(n))
	if err != nil {
		return nil, err
	}
	if whole == nil {
		return nil, errBadFrame
	}
	f.budget -= int64(n)
	if checksum(whole[:4], whole[frameHead:]) != sum {
		return nil, errBadFrame
	}
	return whole[frameHead:], nil
}

// next returns the next payload, io.EOF at the end, errBadFrame where there is no sound frame (off stays).
func (f *frames) next() ([]byte, error) {
	if f.off == f.size {
		return nil, io.EOF
	}
	payload, err := f.at(f.off)
	if err == nil {
		f.off += frameHead + int64(len(payload))
	}
	return payload, err
}

// seek moves off behind a bad frame to the next sound one and tells whether there is one.
func (f *frames) seek() (bool, error) {
	f.budget = scanBudget
	for off := f.off + 1; off+frameHead < f.size && f.budget > 0; off++ {
		_, err := f.at(off)
		if err == nil {
			f.off = off
			return true, nil
		}
		if !errors.Is(err, errBadFrame) {
			return false, err
		}
	}
	return false, nil
}
