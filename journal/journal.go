package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/disk"
	"hostmanager/protocol"
)

var (
	// ErrLocked is returned by Open when another process holds the journal.
	ErrLocked = errors.New("another agent holds the journal")
	// ErrBroken is returned by Append after a write that failed: the agent must be restarted once the disk is well.
	ErrBroken = errors.New("journal is no longer written to")
	// ErrKnown is returned by Append for an accepted record of a command that is in the journal already: it is a duplicate.
	ErrKnown = errors.New("command was accepted before")
	// ErrUnknown is returned by Append for a record of a command that was never accepted.
	ErrUnknown = errors.New("command was never accepted")
	// ErrFull is returned by Append where the file system has no room for the record. The journal is as it was, and the call can be made again.
	ErrFull = errors.New("no room for the journal")
	// ErrTooLarge is returned by Append for a record over MaxRecord.
	ErrTooLarge = errors.New("record is larger than a journal frame holds")
)

// Defaults of Options.
const (
	Window           = 14 * 24 * time.Hour // the longest an SQS queue keeps a message
	DefaultCompactAt = 1 << 20
	DefaultKeepBytes = 512 << 10

	// compactFloor is the file size from which Open compacts: rewriting less gains nothing and makes every start wait for the disk.
	compactFloor = 64 << 10

	// ahead is how much room the file keeps behind its end: what one command writes fits, also where others took all the rest.
	ahead = 256 << 10
)

// Options of Open. InstanceID is required, the rest has defaults.
type Options struct {
	InstanceID string               // whose journal it is
	Log        *slog.Logger         // default: discards
	OnEvent    func(protocol.Event) // what people must know: a cut, a quarantine. Called from Open only. Default: ignored
	Now        func() time.Time     // default: time.Now
	CompactAt  int64                // file size in bytes from which Append compacts; default DefaultCompactAt
	// OnFull is called from Append where there is no room for a record; it may free some, and says whether trying once more makes sense.
	OnFull func() bool
	// KeepBytes bounds what messages, results and steps of sent commands hold in memory and, after compaction, in the file: the newest stay. Of old
	// ones beyond it only the identity and the time of its end are remembered, so a duplicate is still known but its result no longer sent again.
	// Default DefaultKeepBytes.
	KeepBytes int64
}

func (o *Options) complete() error {
	if o.InstanceID == "" {
		return errors.New("open journal: no instance id given")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnEvent == nil {
		o.OnEvent = func(protocol.Event) {}
	}
	if o.OnFull == nil {
		o.OnFull = func() bool { return false }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CompactAt <= 0 {
		o.CompactAt = DefaultCompactAt
	}
	if o.KeepBytes <= 0 {
		o.KeepBytes = DefaultKeepBytes
	}
	return nil
}

// Journal is an open journal. Safe for concurrent use.
type Journal struct {
	path string
	opts Options
	lock *os.File

	mu        sync.Mutex
	file      *os.File // at its end
	size      int64
	allocated int64 // blocks are there up to here, where the file system can do that
	format    int
	state     *state
	compactAt int64 // size of the next compaction
	broken    error // why nothing is appended any more
	frame     []byte
}

// Open opens the journal at path, or makes one, and holds it until Close: ErrLocked tells that somebody else does. What it had to mend it
// tells through OnEvent.
func Open(path string, opts Options) (*Journal, error) {
	if err := opts.complete(); err != nil {
		return nil, err
	}
	if err := atomicfile.MakeDir(filepath.Dir(path), 0o700); err != nil { // 0755 above it
		return nil, fmt.Errorf("make folder of journal: %w", err)
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	j := &Journal{path: path, opts: opts, lock: lock, compactAt: opts.CompactAt}
	if err := j.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal: %w", err), j.Close())
	}
	return j, nil
}

// lockPatience is how long a start waits for a lock that may be about to go: a child that the agent was starting when it was killed has it until
// its program begins.
const lockPatience = time.Second

// takeLock locks a file of its own: the journal itself is replaced by compaction, and a lock goes with the replaced file.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal lock: %w", err)
	}
	for deadline := time.Now().Add(lockPatience); ; time.Sleep(lockPatience / 100) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			break
		}
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		holder := make([]byte, 32)
		n, _ := f.Read(holder)
		_ = f.Close()
		return nil, fmt.Errorf("%w: process %s holds %s; stop it first", ErrLocked, strings.TrimSpace(string(holder[:n])), path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock journal: %w", err), f.Close())
	}
	// Only for the sentence above; a lock file without a process id locks as well.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return f, nil
}

func (j *Journal) open() error {
	if err := atomicfile.Sweep(filepath.Dir(j.path)); err != nil {
		return fmt.Errorf("sweep unfinished files: %w", err)
	}
	f, err := openRegular(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return j.replace(nil)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	l, err := load(f, st.Size(), j.opts.KeepBytes)
	if err != nil {
		return err
	}
	if err := j.adopt(f, l); err != nil {
		return err
	}
	// Nothing is dropped for its age yet: a machine's clock may be anywhere when it starts, and a command that was forgotten would run again.
	if j.state.waste > 0 && j.size >= compactFloor || j.size >= j.compactAt {
		j.compactNow(plan{state: j.state})
	}
	return j.broken
}

// adopt makes the journal that was read the open one, after whatever has to be mended.
func (j *Journal) adopt(f *os.File, l *loaded) error {
	owner := l.state.instance
	switch {
	case owner != "" && owner != j.opts.InstanceID:
		return j.setAsideForeign(owner)
	case l.damaged:
		return j.quarantine(f, l)
	case owner == "": // never got its first record
		if l.size > 0 {
			j.warn(fmt.Sprintf("The journal held no record (%d bytes); a new one was started.", l.size))
		}
		return j.replace(nil)
	}
	file, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	j.file, j.size, j.format, j.state = file, l.sound, l.format, l.state
	if l.torn() == 0 {
		return nil
	}
	if err := errors.Join(file.Truncate(l.sound), file.Sync()); err != nil {
		return fmt.Errorf("cut unfinished record: %w", err)
	}
	j.warn(fmt.Sprintf("The journal ended in an unfinished record of %d bytes, which was cut: the agent or the machine stopped while writing it.", l.torn()))
	return nil
}

func (j *Journal) warn(msg string) { j.event(protocol.Warn, msg) }

func (j *Journal) event(severity protocol.Severity, msg string) {
	j.opts.OnEvent(protocol.Event{Msg: msg, Severity: severity, Time: j.opts.Now()})
}

// Append writes a record and returns once it is durable. A zero Time means now. ErrKnown, ErrUnknown, ErrTooLarge and ErrFull leave the journal
// as it was; after any other error of the disk every further call returns ErrBroken.
func (j *Journal) Append(r Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	if r.Time.IsZero() {
		r.Time = j.opts.Now()
	}
	if err := j.check(r); err != nil {
		return err
	}
	payload, err := encode(r)
	if err != nil {
		return fmt.Errorf("encode journal record: %w", err)
	}
	if len(payload) > MaxRecord {
		return fmt.Errorf("%w: %s of %s has %d bytes, limit %d", ErrTooLarge, r.Type, r.Command, len(payload), MaxRecord)
	}
	if err := j.write(payload); err != nil {
		return err
	}
	w, err := decode(payload) // fold what was written: the caller may change its payload, and a reader will see exactly this
	if err != nil {
		return j.breakOff(fmt.Errorf("read back record: %w", err))
	}
	j.state.apply(w)
	if j.removed() {
		return j.comeBack()
	}
	if j.size >= j.compactAt {
		j.compactNow(plan{j.state, j.opts.Now()})
	}
	return nil
}

// removed tells whether somebody took the file's name away: what is written to it then is gone with this process.
func (j *Journal) removed() bool {
	var st unix.Stat_t
	return unix.Fstat(int(j.file.Fd()), &st) == nil && st.Nlink == 0
}

// comeBack writes the journal anew under its name, out of the file that is still open.
func (j *Journal) comeBack() error {
	err := os.MkdirAll(filepath.Dir(j.path), 0o700)
	if err == nil {
		err = j.compact(plan{j.state, j.opts.Now()})
	}
	if err != nil {
		return j.breakOff(fmt.Errorf("make the journal anew, whose file was removed: %w", err))
	}
	j.warn("The journal's file was removed while the agent was working; it was written anew. Whoever cleans " + filepath.Dir(j.path) + " must leave it alone.")
	return nil
}

func (j *Journal) check(r Record) error {
	switch r.Type {
	case Accepted, Result, Sent, Resumed, Paused, Abort, Verdict:
	case Started, Done, Undone:
		if r.Step == "" {
			return fmt.Errorf("append to journal: record %q without a step", r.Type)
		}
	default:
		return fmt.Errorf("append to journal: unknown record type %q", r.Type)
	}
	known := j.state.knows(r.Command)
	switch {
	case !utf8.ValidString(r.Command) || !utf8.ValidString(r.Step):
		return fmt.Errorf("append to journal: command or step is not valid UTF-8")
	case r.Command == "":
		return fmt.Errorf("append to journal: record %q without a command", r.Type)
	case r.Type == Accepted && known:
		return fmt.Errorf("%w: %s", ErrKnown, r.Command)
	case r.Type != Accepted && !known:
		return fmt.Errorf("%w: %s", ErrUnknown, r.Command)
	}
	return nil
}

func (j *Journal) write(payload []byte) error {
	j.frame = appendFrame(j.frame[:0], payload)
	n := len(j.frame)
	err := j.put()
	if errors.Is(err, ErrFull) && j.opts.OnFull() {
		err = j.put()
	}
	if cap(j.frame) > windowSize {
		j.frame = nil
	}
	if err != nil {
		return err
	}
	if err := unix.Fdatasync(int(j.file.Fd())); err != nil {
		return j.breakOff(fmt.Errorf("sync journal: %w", err))
	}
	j.size += int64(n)
	return nil
}

// put writes the frame at the end of the file. Where there is no room, what was written of it is cut off again.
func (j *Journal) put() error {
	if end := j.size + int64(len(j.frame)); end > j.allocated {
		if unix.Fallocate(int(j.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, j.size, end-j.size+ahead) == nil {
			j.allocated = end + ahead
		}
	}
	_, err := j.file.Write(j.frame)
	if err == nil {
		return nil
	}
	err = fmt.Errorf("write journal: %w", err)
	if !disk.Full(err) {
		return j.breakOff(err)
	}
	cut := j.file.Truncate(j.size)
	if cut == nil {
		_, cut = j.file.Seek(j.size, io.SeekStart) // past what was cut off a further write would leave a gap
	}
	if cut != nil {
		return j.breakOff(errors.Join(err, cut))
	}
	j.allocated = j.size // the cut gives back what was kept behind the end
	return fmt.Errorf("%w: %w", ErrFull, err)
}

// breakOff ends all writing. A failed sync may have dropped the pages it could not write, so trying again would report success for nothing.
func (j *Journal) breakOff(cause error) error {
	j.broken = fmt.Errorf("%w: %w; mend the disk and restart the agent", ErrBroken, cause)
	return j.broken
}

// Broken returns why nothing can be appended any more, or nil.
func (j *Journal) Broken() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

// Command returns the state of one command.
func (j *Journal) Command(identity string) (Command, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.find(identity)
}

// Commands returns all commands but old ones (see Options.KeepBytes), in the order of acceptance.
func (j *Journal) Commands() []Command {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state.commands()
}

// Backward gives what Commands does, from the last accepted on: each command as it is when its turn comes. The journal may be used meanwhile.
func (j *Journal) Backward() iter.Seq[Command] {
	return j.backward(func(s *state) []*Command { return s.order })
}

// Ended is Backward for those commands whose end is known, in the order of their ends, the last one first.
func (j *Journal) Ended() iter.Seq[Command] {
	return j.backward(func(s *state) []*Command { return s.ended })
}

func (j *Journal) backward(of func(*state) []*Command) iter.Seq[Command] {
	return func(yield func(Command) bool) {
		j.mu.Lock()
		all := slices.Clone(of(j.state))
		j.mu.Unlock()
		for _, c := range slices.Backward(all) {
			j.mu.Lock()
			if now := j.state.byID[c.Identity]; now != nil { // compaction made it anew
				c = now
			}
			one := c.clone()
			j.mu.Unlock()
			if !yield(one) {
				return
			}
		}
	}
}

// Close lets go of the journal. Further appends fail.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lock == nil {
		return nil
	}
	var err error
	if j.file != nil {
		err = j.file.Close()
	}
	err = errors.Join(err, j.lock.Close())
	j.lock, j.broken = nil, fmt.Errorf("%w: closed", ErrBroken)
	return err
}
