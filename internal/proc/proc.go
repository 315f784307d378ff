// Package proc starts child processes and ends them again. Every program the host manager runs (hooks, commands of a bundle, tools) goes through
// here: no input, an environment that was named and nothing else, output passed on line by line in bounded memory, an end that nothing the child
// leaves behind can hold up, and errors that say what to do.
//
// Run is for programs that are trusted to end with their children: a process group of its own is all that holds them. A Spawner is for hooks,
// which are not: it runs each in a leaf (a control group where there are any) that takes its limits and can be emptied for sure, whatever the
// hook does.
//
// The package knows nothing of what it runs.
//
// # Invariants
//
//   - Run returns only after the process itself is gone and reaped; Spawner.Run also only after everything the process started is gone, but for
//     what a detached one left on purpose.
//   - When ctx ends, the whole group, or leaf, gets SIGTERM, then after Grace SIGKILL. The group's number cannot have passed to others meanwhile:
//     its leader is reaped last. A leaf's processes are signalled by pidfd.
//   - In a leaf from the first instruction on: a process joins before it can run, so before it can fork.
//   - When this process dies, the kernel kills the child; the child's own children outlive it until the service manager ends them, or Sweep and
//     EndMarked do at the next start.
package proc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"time"
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
	// Mask, where set, makes the way of the output to w: it passes everything before it is cut, kept or passed on, and is closed at the end.
	Mask func(w io.Writer) io.WriteCloser
	Log  *slog.Logger

	Grace   time.Duration // between SIGTERM and SIGKILL; default DefaultGrace
	Drain   time.Duration // how long to read on when the process has ended but its output is still held open; default DefaultDrain
	MaxLine int           // bytes; a longer line is passed on as several; default DefaultMaxLine
	Tail    int           // bytes of the end of the output kept for the error; default DefaultTail

	// Head and End bound the output that is passed on: of a longer one the first Head and the last End bytes, and between them a line that says
	// how much was left out. A line counts 128 bytes more than it has. The end is passed on when the process has ended. Head 0: all of it
	// (Spawner.Run: DefaultHead, DefaultEnd).
	Head, End int64

	// The rest counts only with a Spawner.

	Limits Limits
	Within string      // a folder, without links, that the file must lie in; empty: anywhere
	Asked  []slog.Attr // who wants it, for the audit line
	// MayDetach is asked with the content of the file: where it says so, what still runs when the process has ended well is left running, in a
	// leaf that is never touched again. Nil: never.
	MayDetach func(file io.Reader) bool
}

// Result says how a process that ended well did.
type Result struct {
	PID      int
	Duration time.Duration
	Tail     string // the end of its output
	// HeldOpen is set when something the process left behind still had its output open; that pipe is closed now.
	HeldOpen bool
	Left     int // processes it left behind, which were ended
	Detached int // processes it left on purpose
}

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

func setDefault[T int | int64 | time.Duration](v *T, fallback T) {
	if *v <= 0 {
		*v = fallback
	}
}

// Run starts the command in a process group of its own and waits for its end. The error is nil, a *StartError, an *ExitError, or the cause of a
// ctx that was over already.
func Run(ctx context.Context, c Command) (Result, error) {
	if err := c.complete(); err != nil {
		return Result{}, err
	}
	return (&run{c: &c, leaf: &group{}, exec: c.Path}).do(ctx)
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
