package bundle

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// tempPrefix marks the folder a tree is made in; Sweep removes what a crash left.
const tempPrefix = ".unpack-"

// copyBytes is the buffer between decompression and the file; most files of a bundle fit and are one write.
const copyBytes = 256 << 10

// roomCheck refuses, with ErrNoRoom, what the file system of dir cannot take.
type roomCheck func(dir string, n need) error

// tree is the tree being made. Its folder is locked, so that Sweep of another process leaves it alone.
type tree struct {
	*names
	dest string
	like *os.Root // the tree of the version before, nil where there is none
	// archiveBefore is that version's bundle, nil where there is none, and earlier what it is good for.
	archiveBefore *os.File
	earlier       *earlier
	temp          string
	lock          *os.File
	root          *os.Root
	room          roomCheck
	archive       int64 // size of the archive, for the ratio
	written       atomic.Int64
	files         atomic.Int64
	reused        atomic.Int64
	synced        time.Duration // what the sync took
}

func newTree(dest string, archive int64, limits Limits) (*tree, error) {
	if _, err := os.Lstat(dest); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fs.ErrExist
		}
		return nil, fmt.Errorf("unpack into %s: %w", dest, err)
	}
	parent := filepath.Dir(dest)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("make folder for source bundles: %w", err)
	}
	temp, err := os.MkdirTemp(parent, tempPrefix+filepath.Base(dest)+"-")
	if err != nil {
		return nil, fmt.Errorf("make temporary folder: %w", diskFull(err, parent))
	}
	t := &tree{names: newNames(limits), dest: dest, temp: temp, archive: archive, room: checkRoom}
	if t.lock, err = os.Open(temp); err == nil {
		err = unix.Flock(int(t.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		t.root, err = os.OpenRoot(temp)
	}
	if err != nil {
		t.discard()
		return nil, fmt.Errorf("open temporary folder: %w", err)
	}
	return t, nil
}

func (t *tree) close() {
	if t.root != nil {
		_ = t.root.Close()
	}
	if t.lock != nil {
		_ = t.lock.Close()
	}
	if t.like != nil {
		_ = t.like.Close()
	}
}

// discard removes all of it.
func (t *tree) discard() {
	_ = os.RemoveAll(t.temp)
	t.close()
}

func (t *tree) makeFolders(dirs []entry) error {
	for _, d := range dirs {
		if err := t.root.Mkdir(filepath.FromSlash(d.path), 0o755); err != nil {
			return fmt.Errorf("make folder %q: %w", d.path, diskFull(err, t.dest))
		}
	}
	return nil
}

// writer makes files of a tree; each goroutine has its own. It keeps the last folder open, since an archive goes folder by folder.
type writer struct {
	t       *tree
	buf     []byte
	old     []byte // see second
	dir     *os.Root
	dirPath string
}

func newWriter(t *tree) *writer { return &writer{t: t, buf: make([]byte, copyBytes)} }

// second is a buffer of the size of buf, for what is compared with it.
func (w *writer) second() []byte {
	if w.old == nil {
		w.old = make([]byte, len(w.buf))
	}
	return w.old
}

func (w *writer) close() {
	if w.dir != nil {
		_ = w.dir.Close()
		w.dir = nil
	}
}

func (w *writer) open(dir string) error {
	if w.dir != nil && w.dirPath == dir {
		return nil
	}
	w.close()
	r, err := w.t.root.OpenRoot(filepath.FromSlash(dir))
	if err != nil {
		return fmt.Errorf("open folder %q: %w", dir, err)
	}
	w.dir, w.dirPath = r, dir
	return nil
}

// file makes one file with the content of src. The bounds of the bundle are held while the bytes stream.
func (w *writer) file(ctx context.Context, e entry, src io.Reader) error {
	dir, base := path.Split(e.path)
	if err := w.open(path.Clean(dir)); err != nil {
		return err
	}
	f, err := w.dir.OpenFile(base, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("make file %q: %w", e.path, diskFull(err, w.t.dest))
	}
	before := w.before(e)
	err = w.fill(ctx, f, e, src, before)
	if same, at := before.same(); err == nil && same {
		e.mtime = at
	}
	if err == nil {
		err = f.Chmod(e.mode.Perm())
	}
	if cerr := f.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("close file %q: %w", e.path, diskFull(cerr, w.t.dest))
	}
	if err == nil && !e.mtime.IsZero() {
		err = w.dir.Chtimes(base, e.mtime, e.mtime)
	}
	if err == nil {
		w.t.files.Add(1)
	}
	return err
}

func (w *writer) fill(ctx context.Context, f *os.File, e entry, src io.Reader, before *predecessor) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(src, w.buf)
		if n > 0 {
			if lerr := w.t.count(int64(n)); lerr != nil {
				return lerr
			}
			if _, werr := f.Write(w.buf[:n]); werr != nil {
				return fmt.Errorf("write %q: %w", e.path, diskFull(werr, w.t.dest))
			}
			before.compare(w.buf[:n])
		}
		switch {
		case err == nil:
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return w.ended(e, src)
		default:
			return damaged(e.path, err)
		}
	}
}

// ended tells the end of a member from an archive cut short: ReadFull reports both as ErrUnexpectedEOF, a second read does not.
func (w *writer) ended(e entry, src io.Reader) error {
	switch _, err := src.Read(w.buf[:1]); err {
	case io.EOF:
		return nil
	case nil:
		return damaged(e.path, zip.ErrFormat)
	default:
		return damaged(e.path, err)
	}
}

func (t *tree) count(n int64) error {
	total := t.written.Add(n)
	if total > t.limits.Bytes {
		return refuse("it unpacks to more than %d bytes; that is the limit", t.limits.Bytes)
	}
	if t.limits.bombed(total, t.archive) {
		return refuse("it unpacks to more than %d times its size; that is the limit", t.limits.Ratio)
	}
	return nil
}

// finish makes the links, settles the folders, writes all of it to the disk in one go and puts the tree in its place.
func (t *tree) finish() error {
	if err := t.makeLinks(); err != nil {
		return err
	}
	if err := t.settleFolders(); err != nil {
		return err
	}
	if err := t.lock.Chmod(0o755); err != nil {
		return fmt.Errorf("set mode of tree: %w", err)
	}
	begin := time.Now()
	if err := unix.Syncfs(int(t.lock.Fd())); err != nil {
		return fmt.Errorf("write tree to disk: %w", diskFull(err, t.dest))
	}
	t.synced = time.Since(begin)
	err := unix.Renameat2(unix.AT_FDCWD, t.temp, unix.AT_FDCWD, t.dest, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system without the flag
		err = os.Rename(t.temp, t.dest)
	}
	if err != nil {
		return fmt.Errorf("put tree in place at %s: %w", t.dest, err)
	}
	return nil
}

// makeLinks comes last, when nothing else is written any more: no write can go through a link.
func (t *tree) makeLinks() error {
	for _, l := range t.links {
		if err := t.root.Symlink(l.target, filepath.FromSlash(l.path)); err != nil {
			return fmt.Errorf("make link %q: %w", l.path, diskFull(err, t.dest))
		}
	}
	return nil
}

// settleFolders sets modes and times, children first since making a child changes its parent's time. A folder always keeps rwx for its owner:
// what the agent cannot enter it can neither build nor remove.
func (t *tree) settleFolders() error {
	for i := len(t.dirs) - 1; i >= 0; i-- {
		d := t.dirs[i]
		name := filepath.FromSlash(d.path)
		if err := t.root.Chmod(name, d.mode.Perm()|0o700); err != nil { // always: the umask had its say before
			return fmt.Errorf("set mode of folder %q: %w", d.path, err)
		}
		if d.mtime.IsZero() {
			continue
		}
		if err := t.root.Chtimes(name, d.mtime, d.mtime); err != nil {
			return fmt.Errorf("set time of folder %q: %w", d.path, err)
		}
	}
	return nil
}

// Sweep removes what an unpacking that was cut off left among the trees in parent, and says how many. One that is still at work is left alone.
func Sweep(parent string) (int, error) {
	entries, err := os.ReadDir(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look for leftovers: %w", err)
	}
	removed := 0
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		gone, err := sweepOne(filepath.Join(parent, e.Name()))
		if err != nil {
			return removed, fmt.Errorf("remove leftover: %w", err)
		}
		if gone {
			removed++
		}
	}
	return removed, nil
}

func sweepOne(dir string) (bool, error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil // at work
	}
	return true, os.RemoveAll(dir)
}

// plausible drops times that no clock could have shown, and 1980, the beginning of a zip's time, which packers that want the same bytes every time
// write: a file server that compares times must not take each deployment's file for the last one's.
func plausible(t time.Time) time.Time {
	if t.Year() <= 1980 || t.Year() > 2200 {
		return time.Time{}
	}
	return t
}
