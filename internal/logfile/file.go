// Package logfile writes the agent's log files in their original formats, so that what reads the logs of an Elastic Beanstalk instance reads
// ours: cfn-hup.log, eb-commandprocessor.log, eb-activity.log. Files are rotated by size and reopened on request. Every line passes the
// redactor before it reaches a file. The package knows nothing of commands.
package logfile

import (
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"

	"hostmanager/internal/layout"
)

// Redactor hides secret values in a text.
type Redactor interface {
	String(s string) string
}

// megabyte is lumberjack's unit of MaxSize.
const megabyte = 1 << 20

// File is a log file, rotated by size with a bounded number of backups beside it. Safe for concurrent use; made at the first write. A write is
// kept whole in one file; one larger than a file may be is cut. What cannot be written, because the disk is full, is dropped and counted: a log must
// not stop the work it tells of.
type File struct {
	log  *lumberjack.Logger
	mu   sync.Mutex
	lost int64
	torn bool // the file ends within a line
}

// Open describes the file at path: at most sizeMiB each, and backups older ones of it. Nothing is touched before the first write.
func Open(path string, sizeMiB, backups int) *File {
	return &File{log: &lumberjack.Logger{Filename: path, MaxSize: sizeMiB, MaxBackups: backups}}
}

// Write appends p. It never fails.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	line, limit := p, f.log.MaxSize*megabyte
	if f.torn { // by a disk that was full: what follows begins a line of its own
		line = append([]byte{'\n'}, p...)
	}
	if len(line) > limit {
		line = append(line[:limit-1:limit-1], '\n')
	}
	n, err := f.log.Write(line)
	if err != nil {
		f.lost++
	}
	if n > 0 {
		f.torn = line[n-1] != '\n' && n < len(line)
	}
	return len(p), nil
}

// Lost returns how many writes were dropped so far.
func (f *File) Lost() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

// Reopen lets go of the file, so that the next write opens the path anew: after a rename from outside it is a new file.
func (f *File) Reopen() error { return f.log.Close() }

// Close closes the file. A later write would open it again.
func (f *File) Close() error { return f.log.Close() }

// Set is every log file of the agent.
type Set struct {
	Listener   *Listener
	Processor  *Processor
	Activity   *Activity
	Hooks      io.Writer // eb-hooks.log: what the bundle's own hooks print
	Structured *slog.Logger
	files      []*File
}

// Options of a Set.
type Options struct {
	Root   layout.Root
	Redact Redactor
	Level  slog.Leveler     // of the structured log; nil: slog.LevelInfo
	Now    func() time.Time // nil: time.Now
	PID    int              // stands in the lines of processor and activity log
	Also   io.Writer        // gets a copy of the structured log; nil: nowhere
}

// OpenSet opens the log files below the root: the listener's 5 MiB x 5, the others 10 MiB x 5.
func OpenSet(o Options) *Set {
	s := &Set{}
	open := func(name string, size int) *File {
		f := Open(o.Root.Log(name), size, 5)
		s.files = append(s.files, f)
		return f
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s.Listener = NewListener(open("cfn-hup.log", 5), o.Redact, o.Now)
	s.Processor = NewProcessor(open("eb-commandprocessor.log", 10), o.Redact, o.Now, o.PID)
	s.Activity = NewActivity(open("eb-activity.log", 10), o.Redact, o.Now, o.PID)
	s.Hooks = redacted{open("eb-hooks.log", 10), o.Redact}
	var out io.Writer = open("hostmanager.log", 10)
	if o.Also != nil {
		out = io.MultiWriter(out, o.Also)
	}
	s.Structured = slog.New(StructuredHandler(out, o.Redact, o.Level))
	return s
}

// redacted masks each write by itself: hooks' output arrives in whole lines.
type redacted struct {
	w      io.Writer
	redact Redactor
}

func (r redacted) Write(p []byte) (int, error) {
	if _, err := io.WriteString(r.w, r.redact.String(string(p))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Lost returns how many writes to all files were dropped so far.
func (s *Set) Lost() int64 {
	var n int64
	for _, f := range s.files {
		n += f.Lost()
	}
	return n
}

// Reopen reopens all files.
func (s *Set) Reopen() error { return s.each((*File).Reopen) }

// Close closes all files.
func (s *Set) Close() error { return s.each((*File).Close) }

func (s *Set) each(do func(*File) error) error {
	var errs []error
	for _, f := range s.files {
		if err := do(f); err != nil {
			errs = append(errs, errors.Join(errors.New(filepath.Base(f.log.Filename)), err))
		}
	}
	return errors.Join(errs...)
}

// StructuredHandler writes JSON lines whose message and values have passed the redactor; keys, level and time are ours and stay.
func StructuredHandler(w io.Writer, redact Redactor, level slog.Leveler) slog.Handler {
	return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.TimeKey, slog.LevelKey:
			return a
		}
		switch v := a.Value.Resolve(); v.Kind() {
		case slog.KindString:
			a.Value = slog.StringValue(redact.String(v.String()))
		case slog.KindAny:
			if err, ok := v.Any().(error); ok {
				a.Value = slog.StringValue(redact.String(err.Error()))
				break
			}
			a.Value = slog.StringValue(redact.String(v.String()))
		}
		return a
	}})
}
