package agent

import (
	"os"
	"runtime"
	"strconv"
	"strings"
)

// Runtime is what the agent's process uses: what grows without end would be a leak.
type Runtime struct {
	Goroutines    int   `json:"goroutines"`
	Descriptors   int   `json:"descriptors"`    // open files, sockets and pipes; 0 where /proc does not tell
	ResidentBytes int64 `json:"resident_bytes"` // 0 where /proc does not tell
	JournalBytes  int64 `json:"journal_bytes"`
}

// usage looks at this process.
func (a *Agent) usage() Runtime {
	r := Runtime{Goroutines: runtime.NumGoroutine(), ResidentBytes: residentBytes()}
	if open, err := os.ReadDir("/proc/self/fd"); err == nil {
		r.Descriptors = len(open) - 1 // without the one that looks
	}
	if st, err := os.Stat(a.Root.Journal()); err == nil {
		r.JournalBytes = st.Size()
	}
	return r
}

// residentBytes reads the second number of statm (proc(5)): resident pages.
func residentBytes() int64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
