// Package shed gives memory back that a long-running program only needed for a while: freed heap, and the resident pages of program code that
// the start, or the last piece of work, ran through. The kernel keeps those pages in its cache and maps them again when they are run; nothing is
// lost but a few microseconds. It touches only mappings of code, which hold no data.
package shed

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
)

// Idle gives back what an idle program does not need.
func Idle() error {
	debug.FreeOSMemory()
	ranges, err := code()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range ranges {
		if err := dontNeed(r); err != nil {
			errs = append(errs, fmt.Errorf("give back code pages: %w", err))
		}
	}
	return errors.Join(errs...)
}

// span is a range of addresses.
type span struct{ from, to uintptr }

// dontNeed is madvise(2) on addresses that belong to no Go object.
func dontNeed(s span) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_MADVISE, s.from, s.to-s.from, syscall.MADV_DONTNEED); errno != 0 {
		return errno
	}
	return nil
}

// code lists the executable, never written mappings of this program's own file.
func code() ([]span, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return nil, fmt.Errorf("read own mappings: %w", err)
	}
	defer f.Close()
	var spans []span
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if s, ok := parse(lines.Text(), self); ok {
			spans = append(spans, s)
		}
	}
	return spans, lines.Err()
}

// parse reads a line of /proc/self/maps (proc(5)): address range, permissions, offset, device, inode, file.
func parse(line, self string) (span, bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[1] != "r-xp" || strings.Join(fields[5:], " ") != self {
		return span{}, false
	}
	from, to, found := strings.Cut(fields[0], "-")
	a, errA := strconv.ParseUint(from, 16, 64)
	b, errB := strconv.ParseUint(to, 16, 64)
	if !found || errA != nil || errB != nil || b <= a {
		return span{}, false
	}
	return span{uintptr(a), uintptr(b)}, true
}
