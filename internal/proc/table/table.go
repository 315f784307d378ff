// Package table reads the kernel's table of processes and signals what stands in it. It knows nothing of why a process runs.
//
// # Invariants
//
//   - The table is read through a folder that was opened once: who mounts something over /proc later changes nothing here.
//   - A signal reaches the process that was looked at or nobody: a number that has passed to another process meanwhile is left alone.
package table

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Table is an open /proc. Safe for concurrent use.
type Table struct {
	dir  *os.File
	page int64
}

// Process is one row as it was when it was read.
type Process struct {
	PID, Parent, Group, Session int
	State                       byte // of proc_pid_stat(5): R, S, D, T, Z ...
	Threads                     int
	Start                       uint64 // ticks since boot; with the PID it names the process for good
	Memory                      int64  // resident, bytes
}

// Ended tells whether only its exit status is left.
func (p Process) Ended() bool { return p.State == 'Z' || p.State == 'X' }

// Open opens /proc.
func Open() (*Table, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("open table of processes: %w", err)
	}
	return &Table{dir: dir, page: int64(os.Getpagesize())}, nil
}

// Close lets go of it.
func (t *Table) Close() error { return t.dir.Close() }

// maxEntry bounds what is read of one file there, bytes: an environment is at most this long on any system known.
const maxEntry = 8 << 20

func (t *Table) read(pid int, name string, limit int64) ([]byte, error) {
	fd, err := unix.Openat(int(t.dir.Fd()), strconv.Itoa(pid)+"/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// Get returns the process with the number, if there is one.
func (t *Table) Get(pid int) (Process, bool) {
	b, err := t.read(pid, "stat", 4<<10)
	if err != nil {
		return Process{}, false
	}
	return t.parse(pid, string(b))
}

// parse reads "pid (name) state ppid ...". The name may hold anything, so it is read from behind its last parenthesis.
func (t *Table) parse(pid int, stat string) (Process, bool) {
	f := strings.Fields(stat[max(0, strings.LastIndexByte(stat, ')')+1):])
	const known = 22
	if len(f) < known || len(f[0]) != 1 {
		return Process{}, false
	}
	number := func(i int) int64 {
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return Process{
		PID: pid, State: f[0][0], Parent: int(number(1)), Group: int(number(2)), Session: int(number(3)),
		Threads: int(number(17)), Start: uint64(number(19)), Memory: number(21) * t.page,
	}, true
}

// All returns every process there is.
func (t *Table) All() ([]Process, error) {
	fd, err := unix.Openat(int(t.dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("read table of processes: %w", err)
	}
	dir := os.NewFile(uintptr(fd), "/proc")
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read table of processes: %w", err)
	}
	var all []Process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := t.Get(pid); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// Bounds of waiting for a process that is just taking up another program: for that moment, which is long on a machine without a free processor, the
// kernel shows no environment, or a part of one.
const (
	execPatience = 500 * time.Millisecond
	execPause    = 100 * time.Microsecond
	// shortReads is how often less is read than there is: what has unmapped its environment is in no exec, and nobody waits for it.
	shortReads = 10
)

// environ reads the environment the process was started with, and reads it again where that fell into an exec: nobody must pass for unmarked.
func (t *Table) environ(pid int) ([]byte, error) {
	short := 0
	for deadline := time.Now().Add(execPatience); ; time.Sleep(execPause) {
		env, err := t.read(pid, "environ", maxEntry)
		if err != nil || len(env) > 0 && env[len(env)-1] == 0 {
			return env, err
		}
		switch t.shown(pid, len(env)) {
		case whole:
			return env, nil
		case part:
			if short++; short == shortReads {
				return env, nil
			}
		case coming:
			short = 0
		}
		if time.Now().After(deadline) {
			return env, nil
		}
	}
}

// shown is how much of an environment was read.
type shown int

const (
	whole  shown = iota // all there is, or there is none (any more)
	part                // there is more by now
	coming              // the process is in the middle of an exec
)

// shown tells how much of the process's environment size bytes are.
func (t *Table) shown(pid, size int) shown {
	b, err := t.read(pid, "stat", 4<<10)
	if err != nil {
		return whole
	}
	return shownOf(string(b), size)
}

// shownOf reads it off proc_pid_stat(5). In an exec the environment has no end yet, or, for a moment, ends where it begins, as one that is empty
// does: then the program has no code yet. The kernel's own threads never have an environment, and what is ending has none any more.
func shownOf(stat string, size int) shown {
	f := strings.Fields(stat[max(0, strings.LastIndexByte(stat, ')')+1):])
	const (
		state, flags, code, start, end = 0, 6, 24, 47, 48
		kernelThread, exiting          = 0x200000, 0x4 // PF_KTHREAD, PF_EXITING: it has no memory any more
	)
	if len(f) <= end || f[state] == "Z" || f[state] == "X" || size >= maxEntry {
		return whole
	}
	var n [end + 1]uint64
	for _, i := range []int{flags, code, start, end} {
		v, err := strconv.ParseUint(f[i], 10, 64)
		if err != nil {
			return whole
		}
		n[i] = v
	}
	switch {
	case n[flags]&(kernelThread|exiting) != 0:
		return whole
	case n[end] == 0, n[end] == n[start] && n[code] == 0:
		return coming
	case n[end]-n[start] == uint64(size):
		return whole
	}
	return part
}

// Carries tells whether one of the entries ("NAME=value") is in the environment the process was started with. It is false for one that has ended.
func (t *Table) Carries(pid int, entry string) bool {
	env, err := t.environ(pid)
	if err != nil {
		return false
	}
	return bytes.HasPrefix(env, []byte(entry+"\x00")) || bytes.Contains(env, []byte("\x00"+entry+"\x00"))
}

// Variable returns the value of a variable in the environment the process was started with.
func (t *Table) Variable(pid int, name string) (string, bool) {
	env, err := t.environ(pid)
	if err != nil {
		return "", false
	}
	for entry := range bytes.SplitSeq(env, []byte{0}) {
		if value, ok := bytes.CutPrefix(entry, []byte(name+"=")); ok {
			return string(value), true
		}
	}
	return "", false
}

// Program names the file the process executes by device and inode.
func (t *Table) Program(pid int) (dev, ino uint64, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(t.dir.Fd()), strconv.Itoa(pid)+"/exe", &st, 0); err != nil {
		return 0, 0, err
	}
	return st.Dev, st.Ino, nil
}

// Prefer sets how gladly the kernel ends the process when the machine's memory is short: -1000 to 1000; its children inherit it.
func (t *Table) Prefer(pid, score int) error {
	fd, err := unix.Openat(int(t.dir.Fd()), strconv.Itoa(pid)+"/oom_score_adj", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "oom_score_adj")
	defer f.Close()
	_, err = f.WriteString(strconv.Itoa(score))
	return err
}

// Signal sends a signal to exactly this process. One that has ended is no error.
func (t *Table) Signal(p Process, sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	switch err {
	case nil:
		defer unix.Close(fd)
	case unix.ESRCH, unix.EINVAL: // the latter for what is only a thread
		return nil
	case unix.ENOSYS: // before Linux 5.3
		fd = -1
	default:
		return fmt.Errorf("hold process %d: %w", p.PID, err)
	}
	now, ok := t.Get(p.PID)
	if !ok || now.Start != p.Start {
		return nil
	}
	if fd >= 0 {
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	} else {
		err = unix.Kill(p.PID, sig)
	}
	if err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}
