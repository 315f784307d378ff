// Package disk tells how much room file systems have, judges whether they can take what somebody is about to write, and keeps a reserve for
// the moment they cannot. It knows nothing of what is written.
//
// Invariants: it looks at the file system a path lies on, also where the path is not there yet; what lies on one file system is judged
// together; the reserve holds real blocks and inodes, and giving them up needs no room.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNoRoom is what a ShortError is.
var ErrNoRoom = errors.New("no room")

// Space is what one file system has. Sizes are in bytes.
type Space struct {
	Dev         uint64 // the same for two paths on one file system
	Mount       string // where it begins, as far as the path tells
	Block       int64
	Bytes       int64 // free for everybody
	RootBytes   int64 // free for root, who may take what a file system keeps back
	Inodes      int64 // free; -1 where the file system does not count them
	TotalBytes  int64
	TotalInodes int64
}

// Of looks at the file system path lies on, or will lie on: folders that are missing are made on that of the nearest one above.
func Of(path string) (Space, error) {
	path, dev, err := nearest(path)
	if err != nil {
		return Space{}, fmt.Errorf("look for room: %w", err)
	}
	st, err := statfs(path)
	if err != nil {
		return Space{}, &fs.PathError{Op: "ask for room in", Path: path, Err: err}
	}
	unit := st.Frsize
	if unit <= 0 {
		unit = max(st.Bsize, 1)
	}
	s := Space{
		Dev: dev, Mount: mountOf(path, dev), Block: unit, Bytes: int64(st.Bavail) * unit, RootBytes: int64(st.Bfree) * unit,
		Inodes: int64(st.Ffree), TotalBytes: int64(st.Blocks) * unit, TotalInodes: int64(st.Files),
	}
	if st.Type == unix.EXT4_SUPER_MAGIC { // counts as free what it keeps for itself: a fiftieth, at most 4,096 blocks
		s.RootBytes = max(s.Bytes, s.RootBytes-min(s.TotalBytes/50, 4096*unit))
	}
	if st.Files == 0 {
		s.Inodes = -1
	}
	return s, nil
}

func statfs(path string) (st unix.Statfs_t, err error) {
	for {
		if err = unix.Statfs(path, &st); !errors.Is(err, unix.EINTR) {
			return st, err
		}
	}
}

// nearest returns the path, or the nearest folder above it that is there, without links, and its device.
func nearest(path string) (string, uint64, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", 0, err
	}
	for {
		real, err := filepath.EvalSymlinks(path)
		if err == nil {
			dev, err := device(real)
			return real, dev, err
		}
		if up := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && up != path {
			path = up
			continue
		}
		return "", 0, err
	}
}

func device(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	return uint64(st.Dev), nil
}

func mountOf(path string, dev uint64) string {
	for {
		up := filepath.Dir(path)
		if d, err := device(up); up == path || err != nil || d != dev {
			return path
		}
		path = up
	}
}

// Full tells whether an error is the kernel's word for a file system that has no room, or a quota that is used up.
func Full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, ErrNoRoom)
}

// Need is something that is about to be written.
type Need struct {
	What   string // for people: "tree"
	Path   string // where it will lie
	Bytes  int64
	Inodes int64
}

// ShortError tells of a file system that cannot take what is needed. It is ErrNoRoom.
type ShortError struct {
	Space
	Needs []Need // those that lie there
}

// Missing returns what would have to be freed.
func (e *ShortError) Missing() (bytes, inodes int64) {
	b, i := sum(e.Needs)
	bytes = max(0, b-e.Bytes)
	if e.Inodes >= 0 {
		inodes = max(0, i-e.Inodes)
	}
	return bytes, inodes
}

// Is makes it ErrNoRoom.
func (e *ShortError) Is(target error) bool { return target == ErrNoRoom }

func (e *ShortError) Error() string {
	bytes, inodes := e.Missing()
	needBytes, needInodes := sum(e.Needs)
	parts := make([]string, len(e.Needs))
	for n, need := range e.Needs {
		parts[n] = need.What + " " + amount(need.Bytes, need.Inodes)
	}
	has := Size(e.Bytes)
	if e.Inodes >= 0 {
		has += " and " + Count(e.Inodes) + " inodes"
	}
	return fmt.Sprintf("no room on %s: needs %s more there; has %s of the %s that are needed (%s)",
		e.Mount, amount(bytes, inodes), has, amount(needBytes, needInodes), strings.Join(parts, ", "))
}

// amount is "312 MB and 2,104 inodes"; what is zero is left out, but for the last.
func amount(bytes, inodes int64) string {
	switch {
	case inodes == 0:
		return Size(bytes)
	case bytes == 0:
		return Count(inodes) + " inodes"
	}
	return Size(bytes) + " and " + Count(inodes) + " inodes"
}

// Size writes bytes for people, in powers of ten, never less than there are.
func Size(bytes int64) string {
	up := func(unit int64) int64 { return (bytes + unit - 1) / unit }
	switch {
	case bytes < 1000:
		return Count(bytes) + " bytes"
	case bytes < 1_000_000:
		return Count(up(1000)) + " kB"
	case bytes < 10_000_000:
		tenths := up(100_000)
		return fmt.Sprintf("%d.%d MB", tenths/10, tenths%10)
	}
	return Count(up(1_000_000)) + " MB"
}

// Count writes a number with commas between the thousands.
func Count(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func sum(needs []Need) (bytes, inodes int64) {
	for _, n := range needs {
		bytes, inodes = bytes+n.Bytes, inodes+n.Inodes
	}
	return bytes, inodes
}

// Check adds up what is needed on each file system and returns a ShortError for every one that cannot take its share.
func Check(needs ...Need) error {
	var order []uint64
	spaces, shares := map[uint64]Space{}, map[uint64][]Need{}
	for _, n := range needs {
		s, err := Of(n.Path)
		if err != nil {
			return err
		}
		if _, known := spaces[s.Dev]; !known {
			order = append(order, s.Dev)
			spaces[s.Dev] = s
		}
		shares[s.Dev] = append(shares[s.Dev], n)
	}
	var errs []error
	for _, dev := range order {
		short := &ShortError{Space: spaces[dev], Needs: shares[dev]}
		if bytes, inodes := short.Missing(); bytes > 0 || inodes > 0 {
			errs = append(errs, short)
		}
	}
	return errors.Join(errs...)
}
