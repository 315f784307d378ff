// Package atomicfile writes files so that a reader, or a machine that lost power, sees either the old content or the new one and never a mix:
// temporary file beside the target, write, fsync, rename, fsync of the folder. It knows nothing of what the files mean.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// ErrTooLarge is returned by ReadFileLimit for a file over the limit.
var ErrTooLarge = errors.New("file is larger than allowed")

// ErrNotRegular marks a pipe, socket, device, folder or link where a regular file is to be.
var ErrNotRegular = errors.New("it is no regular file: move it away")

const tempMark = ".hm-tmp-"

// TempPattern is the pattern for os.CreateTemp of a file that will be renamed to path: hidden, and found by Sweep.
func TempPattern(path string) string { return "." + filepath.Base(path) + tempMark + "*" }

// WriteFile replaces the content of path; a link there is replaced, not followed. Missing folders are made (0755). The file has exactly perm, whatever the umask says.
// Safe for concurrent use on one path: the last rename wins.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return fmt.Errorf("make folder of %s: %w", path, err)
	}
	f, err := os.CreateTemp(dir, TempPattern(path))
	if err != nil {
		return fmt.Errorf("create temporary file for %s: %w", path, err)
	}
	if err := fill(f, data, perm); err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("put %s in place: %w", path, err)
	}
	return SyncDir(dir)
}

func fill(f *os.File, data []byte, perm fs.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Symlink points the link at path to target, replacing an older link in one step.
func Symlink(target, path string) error {
	dir := filepath.Dir(path)
	if err := makeDir(dir); err != nil {
		return fmt.Errorf("make folder of %s: %w", path, err)
	}
	temp, err := tempLink(target, path)
	if err != nil {
		return fmt.Errorf("make link to %s: %w", target, err)
	}
	if err := os.Rename(temp, path); err != nil {
		_ = os.Remove(temp)
		return fmt.Errorf("put link %s in place: %w", path, err)
	}
	return SyncDir(dir)
}

// tempLink makes the link under a name of its own, so that two at once do not meet.
func tempLink(target, path string) (string, error) {
	for {
		temp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+tempMark+strconv.FormatUint(rand.Uint64(), 36))
		err := os.Symlink(target, temp)
		if err == nil || !errors.Is(err, fs.ErrExist) {
			return temp, err
		}
	}
}

// makeDir makes a folder and those above it, and makes the new names durable.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := mkdir(dir, 0o755); err != nil {
		return err
	}
	return SyncDir(parent)
}

// mkdir makes one folder with exactly perm, whatever the umask says. One that is there keeps its own.
func mkdir(dir string, perm fs.FileMode) error {
	switch err := os.Mkdir(dir, perm); {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return os.Chmod(dir, perm)
}

// MakeDir makes the folder dir with exactly perm, whatever the umask says; folders above it that are missing get 0755, since others' files lie below
// them too. A folder that is there keeps its mode.
func MakeDir(dir string, perm fs.FileMode) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := mkdir(dir, perm); err != nil {
		return err
	}
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return errors.Join(err, &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR})
	}
	return SyncDir(parent)
}

// Remove removes the file at path and makes that durable. A missing file is no error.
func Remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// SyncDir makes the names in a folder durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open folder to sync: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}

// OpenRegular opens as os.OpenFile does, but only a regular file: opening a pipe can wait for ever, and opening a device can do something. Anything
// else is ErrNotRegular; with O_NOFOLLOW in flag so is a link.
func OpenRegular(path string, flag int, perm fs.FileMode) (*os.File, error) {
	look := os.Stat
	if flag&syscall.O_NOFOLLOW != 0 {
		look = os.Lstat
	}
	if st, err := look(path); err == nil && !st.Mode().IsRegular() { // a device is not opened at all
		return nil, notRegular(path)
	}
	f, err := os.OpenFile(path, flag|syscall.O_NONBLOCK, perm)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() { // put there since
		err = notRegular(path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func notRegular(path string) error { return &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular} }

// ReadFileLimit reads a whole regular file of at most limit bytes; ErrTooLarge tells of a larger one, ErrNotRegular of a pipe and its like.
func ReadFileLimit(path string, limit int64) ([]byte, error) {
	f, err := OpenRegular(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	return readLimit(f, limit)
}

// ReadGivenLimit is ReadFileLimit for what the operator names, which may be a pipe: --signing-key <(...). It waits for whoever writes there.
func ReadGivenLimit(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return readLimit(f, limit)
}

func readLimit(f *os.File, limit int64) ([]byte, error) {
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, min(limit, math.MaxInt64-1)+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: %w (limit %d bytes)", f.Name(), ErrTooLarge, limit)
	}
	return data, nil
}

// Sweep removes temporary files that a crash left in dir. Call it at start, before anyone writes there.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && strings.Contains(e.Name(), tempMark) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
