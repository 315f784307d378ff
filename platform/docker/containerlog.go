package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sys/unix"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
)

// noteEvery is how long written output may stay without its position noted. A crash in between costs reading it again, nothing else.
const noteEvery = 2 * time.Second

// Bounds of the log files of containers. All that stands in the folder beside them is the application's own.
const (
	maxContainerLog  = 10 << 20 // bytes of a file; it is then set aside as .1, .2, ...
	keptContainerLog = 4        // files set aside
	goneContainers   = 3        // how many removed containers' log files stay
)

// position says how far a container's output was copied. File and position agree: what the file holds beyond it is cut off when it is opened, and
// read from the Engine again.
type position struct {
	Time    string `json:"time"`  // the Engine's timestamp of the last message
	Same    int    `json:"same"`  // messages copied with that very timestamp: a long line comes in pieces
	Size    int64  `json:"size"`  // of the file, after it
	Inode   uint64 `json:"inode"` // of the file
	Skipped int    `json:"-"`     // while catching up: messages of that timestamp seen again
}

// containerLog is the log file of one container. Its methods may be called from one goroutine beside its own timer.
type containerLog struct {
	path, note string

	mu    sync.Mutex
	file  *os.File
	pos   position
	timer *time.Timer // runs while there is something to note
	fail  error       // of the timer, returned by the next call
}

func openContainerLog(root layout.Root, id string) (*containerLog, error) {
	l := &containerLog{
		path: filepath.Join(root.ContainerLogs(), shortID(id)+"-stdouterr.log"),
		note: filepath.Join(positions(root), shortID(id)+".json"),
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder for container output: %w", err)
	}
	data, err := atomicfile.ReadFileLimit(l.note, maxStateFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read position: %w", err)
	}
	if err == nil && json.Unmarshal(data, &l.pos) != nil {
		l.pos = position{} // unreadable: from the start, lines twice before lines lost
	}
	l.pos.Skipped = 0
	return l, l.reopen(true)
}

// reopen opens the file, and cuts off what was written after the noted position where cut is set.
func (l *containerLog) reopen(cut bool) error {
	f, err := openLog(l.path, os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open container log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	inode := inodeOf(info)
	size := info.Size()
	if cut && inode == l.pos.Inode && size > l.pos.Size {
		if err := f.Truncate(l.pos.Size); err != nil {
			return errors.Join(fmt.Errorf("cut container log: %w", err), f.Close())
		}
		size = l.pos.Size
	}
	if cut && l.pos.Time == "" && l.pos.Inode == 0 && size > 0 { // killed before the first note
		if err := f.Truncate(0); err != nil {
			return errors.Join(fmt.Errorf("cut container log: %w", err), f.Close())
		}
		size = 0
	}
	l.file, l.pos.Inode, l.pos.Size = f, inode, size
	return nil
}

// openLog opens a log file of ours for writing, in a folder where a container, or a hook, may put anything in its place: what is no regular file,
// such as a link or a pipe, makes way for a new one, but for a folder that holds something.
func openLog(path string, flag int, perm fs.FileMode) (*os.File, error) {
	flag |= os.O_CREATE | os.O_WRONLY | unix.O_NOFOLLOW
	f, err := atomicfile.OpenRegular(path, flag, perm)
	if !errors.Is(err, atomicfile.ErrNotRegular) {
		return f, err
	}
	if err := os.Remove(path); err != nil {
		return nil, fmt.Errorf("make way for a log file: %w", err)
	}
	return atomicfile.OpenRegular(path, flag, perm)
}

func inodeOf(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

// add writes one message, unless it was written before.
func (l *containerLog) add(stamp, line string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	switch {
	case l.pos.Time == "":
	case olderStamp(stamp, l.pos.Time):
		return nil
	case stamp == l.pos.Time && l.pos.Skipped < l.pos.Same:
		l.pos.Skipped++
		return nil
	}
	if l.pos.Size > 0 && l.pos.Size+int64(len(line)) > maxContainerLog {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(l.file, line); err != nil { // it will be read again from the Engine: half of it may not stay
		return errors.Join(fmt.Errorf("write container log: %w", err), l.file.Truncate(l.pos.Size))
	}
	l.pos.Size += int64(len(line))
	if stamp != l.pos.Time {
		l.pos.Time, l.pos.Same = stamp, 0
	}
	l.pos.Same++
	l.pos.Skipped = l.pos.Same
	if l.timer == nil {
		l.timer = time.AfterFunc(noteEvery, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.timer = nil
			l.fail = l.save()
		})
	}
	return nil
}

// olderStamp compares two of the Engine's timestamps. Their fractions have trailing zeros cut off.
func olderStamp(a, b string) bool {
	ta, errA := time.Parse(time.RFC3339Nano, a)
	tb, errB := time.Parse(time.RFC3339Nano, b)
	return errA == nil && errB == nil && ta.Before(tb)
}

// save makes the file durable, then the position, and sees to it that the file is still the one of that name.
func (l *containerLog) save() error {
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("sync container log: %w", err)
	}
	if info, err := os.Lstat(l.path); err != nil || inodeOf(info) != l.pos.Inode { // rotated away
		_ = l.file.Close()
		if err := l.reopen(false); err != nil {
			return err
		}
	}
	return l.notePosition()
}

// rotate sets the full file aside and begins a new one. The position is noted before and after, so that a crash costs no line and writes none twice.
func (l *containerLog) rotate() error {
	if err := l.save(); err != nil {
		return err
	}
	for n := keptContainerLog; n > 0; n-- {
		older := l.path
		if n > 1 {
			older = fmt.Sprintf("%s.%d", l.path, n-1)
		}
		newer := fmt.Sprintf("%s.%d", l.path, n)
		err := os.Rename(older, newer)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the container, which may write here, put something in its place
			err = errors.Join(os.RemoveAll(newer), os.Rename(older, newer))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("set container log aside: %w", err)
		}
	}
	_ = l.file.Close()
	if err := l.reopen(false); err != nil {
		return err
	}
	return l.notePosition()
}

func (l *containerLog) notePosition() error {
	data, err := json.Marshal(l.pos)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(l.note, data, 0o600); err != nil {
		return fmt.Errorf("note position: %w", err)
	}
	return nil
}

func (l *containerLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	return errors.Join(l.save(), l.file.Close())
}

// ignoreEnd turns the ordinary ends of a stream into none.
func ignoreEnd(ctx context.Context, err error) error {
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return err
}

// forgetPositions removes the positions of containers that are no more.
func forgetPositions(dir string, ids []string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		id, isPosition := strings.CutSuffix(e.Name(), ".json")
		if isPosition && !slices.ContainsFunc(ids, func(full string) bool { return strings.HasPrefix(full, id) }) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

var containerLogName = regexp.MustCompile(`^([0-9a-f]{12})-stdouterr\.log(\.[0-9]+)?$`)

// sweepContainerLogs removes the log files of containers that are no more, but for those of the last few, and what was set aside beyond the bound.
// Only files of these names are touched, and nothing is followed: the container may write to the folder.
func sweepContainerLogs(dir string, ids []string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look through container logs: %w", err)
	}
	gone, last := map[string][]string{}, map[string]time.Time{}
	for _, e := range entries {
		m := containerLogName.FindStringSubmatch(e.Name())
		info, err := e.Info()
		if m == nil || err != nil || !info.Mode().IsRegular() || slices.ContainsFunc(ids, func(full string) bool { return strings.HasPrefix(full, m[1]) }) {
			continue
		}
		gone[m[1]] = append(gone[m[1]], filepath.Join(dir, e.Name()))
		if info.ModTime().After(last[m[1]]) {
			last[m[1]] = info.ModTime()
		}
	}
	order := slices.SortedFunc(maps.Keys(gone), func(a, b string) int { return last[b].Compare(last[a]) })
	var errs []error
	for _, id := range order[min(len(order), goneContainers):] {
		for _, path := range gone[id] {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// sweepLogs forgets the output of containers that are no more.
func (p *Platform) sweepLogs(ctx context.Context) error {
	only := p.names.ours()
	only.Add("label", labelRole+"="+roleApp)
	list, err := p.cli.ContainerList(ctx, container.ListOptions{All: true, Filters: only})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	ids := make([]string, len(list))
	for i, c := range list {
		ids[i] = c.ID
	}
	return errors.Join(forgetPositions(positions(p.root), ids), sweepContainerLogs(p.root.ContainerLogs(), ids))
}
