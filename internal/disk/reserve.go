package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// spareInodes is how many empty files a reserve keeps beside its blocks: what is written by temporary file and rename needs an inode for a moment.
const spareInodes = 32

// Reserve is room that is kept back: a folder with one file of allocated blocks and a few empty ones. Whoever must write where there is no room
// gives it up first. Whether it is there is known from the disk alone. Safe for concurrent use.
type Reserve struct {
	dir   string
	bytes int64
	mu    sync.Mutex
}

// NewReserve describes a reserve of so many bytes in the folder dir, which is its own. Nothing is touched. Of 0 bytes, it never holds anything.
func NewReserve(dir string, bytes int64) *Reserve { return &Reserve{dir: dir, bytes: bytes} }

func (r *Reserve) blocks() string { return filepath.Join(r.dir, "blocks") }

func (r *Reserve) spare(n int) string { return filepath.Join(r.dir, fmt.Sprintf("inode-%02d", n)) }

// Held tells whether all of it is kept back.
func (r *Reserve) Held() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held()
}

func (r *Reserve) held() bool {
	var st unix.Stat_t
	if r.bytes <= 0 || unix.Stat(r.blocks(), &st) != nil || st.Size != r.bytes || st.Blocks*512 < r.bytes {
		return false
	}
	_, err := os.Lstat(r.spare(spareInodes - 1)) // the last one made
	return err == nil
}

// Make keeps the room back, unless it is kept already or less than twice as much is free: then it is ErrNoRoom, and nothing is kept.
func (r *Reserve) Make() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held() {
		return nil
	}
	if _, err := r.release(); err != nil {
		return err
	}
	if r.bytes <= 0 {
		return nil
	}
	if err := Check(Need{What: "reserve", Path: r.dir, Bytes: 2 * r.bytes, Inodes: 2 * spareInodes}); err != nil {
		return err
	}
	if err := r.fill(); err != nil {
		_, rerr := r.release()
		return errors.Join(fmt.Errorf("keep room back: %w", err), rerr)
	}
	return nil
}

func (r *Reserve) fill() error {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(r.blocks(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(allocate(f, r.bytes), f.Sync(), f.Close()); err != nil {
		return err
	}
	for n := range spareInodes {
		f, err := os.OpenFile(r.spare(n), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// allocate gives the file blocks; where the file system cannot without content, it gets zeros.
func allocate(f *os.File, bytes int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, bytes)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	_, err = io.CopyN(f, zeros{}, bytes)
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// Release gives the room up and returns when it can be used. It says whether there was any.
func (r *Reserve) Release() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.release()
}

func (r *Reserve) release() (bool, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("give up reserve: %w", err)
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.Remove(filepath.Join(r.dir, e.Name())))
	}
	// What was removed can be used once the file system has written down that it is gone.
	if d, err := os.Open(r.dir); err == nil {
		errs = append(errs, d.Sync(), d.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return len(entries) > 0, fmt.Errorf("give up reserve: %w", err)
	}
	return len(entries) > 0, nil
}
