// Package proc starts child processes and ends them again. Every program the host manager runs (hooks, commands of a bundle, tools) goes through
// Run: its own process group, no input, an environment that was named and nothing else, output passed on line by line in bounded memory, an end
// that nothing the child leaves behind can hold up, and errors that say what to do.
//
// It knows nothing of what it runs. A process that leaves its group (setsid) is not followed; only its hold on the output pipe is ended.
//
// # Invariants
//
//   - Run returns only after the process itself is gone and reaped.
//   - When ctx ends, the whole group gets SIGTERM, then after Grace SIGKILL. The group's number cannot have passed to others meanwhile: the
//     leader is reaped last.
//   - When this process dies, the kernel kills the child; the child's own children outlive it until
//     the service manager ends them, or EndMarked does at the next start.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Defaults of Command.
const (
	DefaultGrace   = 10 * time.Second
	DefaultDrain   = 500 * time.Millisecond
	DefaultMaxLine = 64 << 10
	DefaultTail    = 8 << 10
)

// Command says what to run. Path is required.
type Command struct {
	Path   string    // the file, not looked up in PATH; a relative one starts at this process's own working directory
	Args   []string  // without the name of the program itself
	Dir    string    // working directory; empty: this process's own
	Env    []string  // KEY=VALUE, the whole environment; nothing is inherited
	Output io.Writer // gets stdout and stderr, every Write one line that ends in \n; nil discards. A Write that blocks holds the child
	Log    *slog.Logger

	Grace   time.Duration // between SIGTERM and SIGKILL; default DefaultGrace
	Drain   time.Duration // how long to read on when the process has ended but its output is still held open; default DefaultDrain
	MaxLine int           // bytes; a longer line is passed on as several; default DefaultMaxLine
	Tail    int           // bytes of the end of the output kept for the error; default DefaultTail
}

// Result says how a process that ended well did.
type Result struct {
	PID      int
	Duration time.Duration
	Tail     string // the end of its output
	// HeldOpen is set when something the process left behind still had its output open; that pipe is closed now.
	HeldOpen bool
}

// ExitError says that the process ran and did not end well.
type ExitError struct {
	Path   string
	Code   int            // exit status; -1 when a signal ended it
	Signal syscall.Signal // 0 when it exited
	Tail   string         // the end of its output, valid UTF-8
	Cause  error          // why it was stopped from here (context.Cause), nil when it ended by itself
}

func (e *ExitError) Error() string {
	end := "exited with status " + strconv.Itoa(e.Code)
	if e.Signal != 0 {
		end = "was ended by signal " + e.Signal.String()
	}
	if e.Cause != nil {
		return fmt.Sprintf("%s was stopped (%v) and %s", e.Path, e.Cause, end)
	}
	return e.Path + " " + end
}

// Unwrap returns the cause, so that errors.Is(err, context.DeadlineExceeded) tells of a timeout.
func (e *ExitError) Unwrap() error { return e.Cause }

// TimedOut tells whether a deadline ended the process.
func (e *ExitError) TimedOut() bool { return errors.Is(e.Cause, context.DeadlineExceeded) }

// StartError says that the process never ran. Hint is a sentence that says what is missing.
type StartError struct {
	Path string
	Err  error
	Hint string
}

func (e *StartError) Error() string { return fmt.Sprintf("start %s: %v: %s", e.Path, e.Err, e.Hint) }

// Unwrap returns the error of the system.
func (e *StartError) Unwrap() error { return e.Err }

func (c *Command) complete() error {
	if c.Path == "" {
		return errors.New("run process: no path given")
	}
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return fmt.Errorf("run process: %w", err)
	}
	c.Path = path
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Output == nil {
		c.Output = io.Discard
	}
	if c.Env == nil {
		c.Env = []string{} // nil would inherit
	}
	setDefault(&c.Grace, DefaultGrace)
	setDefault(&c.Drain, DefaultDrain)
	setDefault(&c.MaxLine, DefaultMaxLine)
	setDefault(&c.Tail, DefaultTail)
	return nil
}

func setDefault[T int | time.Duration](v *T, fallback T) {
	if *v <= 0 {
		*v = fallback
	}
}

// Run starts the command and waits for its end. The error is nil, a *StartError, an *ExitError, or the cause of a ctx that was over already.
func Run(ctx context.Context, c Command) (Result, error) {
	if err := c.complete(); err != nil {
		return Result{}, err
	}
	if ctx.Err() != nil {
		return Result{}, fmt.Errorf("run %s: %w", c.Path, context.Cause(ctx))
	}
	// The kernel sends the parent-death signal when the thread that forked ends, so that thread must last.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := newOutput(&c)
	if err != nil {
		return Result{}, err
	}
	begin := time.Now()
	cmd, err := start(ctx, &c, out)
	if err != nil {
		out.abandon()
		return Result{}, err
	}
	pid := cmd.Process.Pid
	log := c.Log.With(slog.Int("pid", pid))
	log.Info("process started", slog.String("argv", quote(cmd.Args)), slog.String("dir", c.Dir))
	go out.copy()
	cause := attend(ctx, pid, c.Grace, log)
	held := out.finish(c.Drain)
	res := Result{PID: pid, Duration: time.Since(begin), Tail: out.tail(), HeldOpen: held}
	err = verdict(cmd, &c, res.Tail, cause)
	log.Info("process ended", slog.String("state", cmd.ProcessState.String()), slog.Duration("took", res.Duration), slog.Bool("held_open", held))
	return res, err
}

// start forks. A file that was written a moment ago can be busy because another thread's child, between fork and exec, still has it open.
func start(ctx context.Context, c *Command, out *output) (*exec.Cmd, error) {
	const tries = 25
	for try := 1; ; try++ {
		cmd := &exec.Cmd{
			Path: c.Path, Args: append([]string{c.Path}, c.Args...), Dir: c.Dir, Env: c.Env,
			Stdout: out.w, Stderr: out.w, SysProcAttr: attributes(),
		}
		err := cmd.Start()
		if err == nil {
			return cmd, nil
		}
		if !errors.Is(err, unix.ETXTBSY) || try == tries {
			return nil, diagnose(c, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("run %s: %w", c.Path, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// attributes is the one place that says how children are contained; a cgroup leaf (UseCgroupFD) belongs here too.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// attend waits until the process has ended, without reaping it, and ends its group when ctx does. It returns why it had to.
func attend(ctx context.Context, pid int, grace time.Duration, log *slog.Logger) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		awaitEnd(pid)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	log.Warn("process is stopped", slog.Any("cause", cause))
	signalGroup(pid, unix.SIGTERM)
	deadline := time.After(grace)
	for poll := (<-chan time.Time)(nil); ; {
		select {
		case <-ended: // the leader; its children have the same time to end
			if !groupLives(pid) {
				return cause
			}
			ended, poll = nil, time.After(20*time.Millisecond)
		case <-poll:
			if !groupLives(pid) {
				return cause
			}
			poll = time.After(20 * time.Millisecond)
		case <-deadline:
			signalGroup(pid, unix.SIGKILL)
			awaitEnd(pid)
			return cause
		}
	}
}

// awaitEnd blocks until the process is a zombie.
func awaitEnd(pid int) {
	for {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			return
		}
	}
}

// signalGroup ignores the error: the only one left is a group whose members are gone.
func signalGroup(pgid int, sig unix.Signal) { _ = unix.Kill(-pgid, sig) }

// groupLives tells whether the group has a member that is no zombie.
func groupLives(pgid int) bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return true // cannot tell: the deadline decides
	}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		// pid (name) state ppid pgrp ...; the name may hold anything, so read behind its last parenthesis
		_, rest, _ := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), " ")
		f := strings.Fields(rest)
		if len(f) > 2 && f[2] == strconv.Itoa(pgid) && f[0] != "Z" && f[0] != "X" {
			return true
		}
	}
	return false
}

// verdict reaps the process.
func verdict(cmd *exec.Cmd, c *Command, tail string, cause error) error {
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("wait for %s: %w", c.Path, err)
	}
	if err == nil && cause == nil {
		return nil
	}
	e := &ExitError{Path: c.Path, Code: cmd.ProcessState.ExitCode(), Tail: tail, Cause: cause}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Code, e.Signal = -1, ws.Signal()
	}
	return e
}

// quote writes an argument vector so that it can be read back unambiguously.
func quote(argv []string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = a
		if a == "" || strings.ContainsFunc(a, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("\"'\\$`*?[]{}()<>|&;#!", r) }) {
			words[i] = strconv.Quote(a)
		}
	}
	return strings.Join(words, " ")
}
