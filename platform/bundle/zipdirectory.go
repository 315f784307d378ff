package bundle

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The zip records that are read here, by the numbers of the format (APPNOTE 4.3.12 to 4.3.16).
const (
	zipMemberBytes  = 46
	zipEndBytes     = 22
	zipEnd64Bytes   = 56
	zipLocatorBytes = 20
	zipMemberMagic  = "PK\x01\x02"
	zipEndMagic     = "PK\x05\x06"
	zipEnd64Magic   = "PK\x06\x06"
	zipLocatorMagic = "PK\x06\x07"
)

// directorySlack is what archive/zip may read besides the directory itself while opening an archive.
const directorySlack = 256 << 10

// checkDirectory counts a zip's members before archive/zip makes an object of each: the count in the trailer is 16 bits wide and may lie.
// It answers how many bytes reading the directory may take.
func checkDirectory(r io.ReaderAt, size int64, limits Limits) (int64, error) {
	start, err := directoryStart(r, size)
	if err != nil {
		return 0, err
	}
	most := int64(limits.Files) * int64(zipMemberBytes+limits.PathBytes)
	br := bufio.NewReaderSize(io.NewSectionReader(r, start, size-start), 64<<10)
	var total int64
	for members := 0; ; members++ {
		head, err := br.Peek(zipMemberBytes)
		if err != nil || string(head[:4]) != zipMemberMagic {
			if err != nil && !errors.Is(err, io.EOF) {
				return 0, fmt.Errorf("read zip directory: %w", err)
			}
			return total + directorySlack, nil
		}
		n := zipMemberBytes
		for _, at := range []int{28, 30, 32} { // name, extra field, comment
			n += int(binary.LittleEndian.Uint16(head[at:]))
		}
		if members >= limits.Files {
			return 0, refuse("it holds more than %d files, folders and links; that is the limit", limits.Files)
		}
		if total += int64(n); total > most {
			return 0, refuse("the directory of the zip archive is larger than %d bytes", most)
		}
		if _, err := br.Discard(n); err != nil {
			return 0, refuse("the archive is cut short")
		}
	}
}

func directoryStart(r io.ReaderAt, size int64) (int64, error) {
	tail := make([]byte, min(size, 65<<10))
	if _, err := r.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("read end of zip archive: %w", err)
	}
	at := bytes.LastIndex(tail, []byte(zipEndMagic))
	if at < 0 || at+zipEndBytes > len(tail) {
		return 0, refuse("the archive is cut short: a zip archive ends with a directory, and this one does not")
	}
	end := size - int64(len(tail)) + int64(at)
	rec := tail[at:]
	if disk := binary.LittleEndian.Uint16(rec[4:]); disk != 0 && disk != 0xffff {
		return 0, refuse("it is a part of a split zip archive")
	}
	length, offset := int64(binary.LittleEndian.Uint32(rec[12:])), int64(binary.LittleEndian.Uint32(rec[16:]))
	if length == 0xffffffff || offset == 0xffffffff || binary.LittleEndian.Uint16(rec[10:]) == 0xffff {
		if end64, n, ok := directory64(r, end); ok {
			end, length = end64, n
		}
	}
	if length < 0 || length > end {
		return 0, refuse("the archive is damaged: its directory is larger than the archive")
	}
	return end - length, nil
}

// directory64 answers where the zip64 trailer stands and how long the directory before it is.
func directory64(r io.ReaderAt, end int64) (at, length int64, ok bool) {
	loc := make([]byte, zipLocatorBytes)
	if _, err := r.ReadAt(loc, end-zipLocatorBytes); err != nil || string(loc[:4]) != zipLocatorMagic {
		return 0, 0, false
	}
	at = int64(binary.LittleEndian.Uint64(loc[8:]))
	rec := make([]byte, zipEnd64Bytes)
	if at < 0 || at > end {
		return 0, 0, false
	}
	if _, err := r.ReadAt(rec, at); err != nil || string(rec[:4]) != zipEnd64Magic {
		return 0, 0, false
	}
	return at, int64(binary.LittleEndian.Uint64(rec[40:])), true
}

// budgetReader stops archive/zip where it would read more directory than was counted: two readers of one damaged trailer may disagree.
// Once opened is set it is an ordinary ReaderAt, safe for concurrent use.
type budgetReader struct {
	in     io.ReaderAt
	left   int64
	opened bool
}

func (b *budgetReader) ReadAt(p []byte, off int64) (int, error) {
	if b.opened {
		return b.in.ReadAt(p, off)
	}
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, refuse("the archive is damaged: its directory is not where its end says")
	}
	return b.in.ReadAt(p, off)
}
