// Package disktest gives tests a real small file system of their own, and fills it, and bounds what waits for a file. Only tests import it.
package disktest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hostmanager/internal/disk"
	"hostmanager/internal/powercut"
)

// Options of a file system.
type Options struct {
	Bytes  int64 // of the image; some of it is the file system's own
	Inodes int64 // 0: as mkfs thinks
}

// cannot skips a test that needs a file system of its own, and fails it in CI.
func cannot(t testing.TB, format string, args ...any) {
	t.Helper()
	text := "a loop-mounted ext4 is needed here: " + fmt.Sprintf(format, args...)
	if os.Getenv("CI") == "true" {
		t.Fatal(text)
	}
	t.Skip(text)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		cannot(t, "run as root")
	}
}

// MountPlugged mounts a file system until the test's end whose power cut takes away: what nobody synced is gone then. Nobody may have files open
// on it at that moment.
func MountPlugged(t testing.TB, bytes int64) (dir string, cut func()) {
	t.Helper()
	needRoot(t)
	dir = filepath.Join(t.TempDir(), "mnt")
	d, err := powercut.New(dir, bytes)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		cannot(t, "%v", err)
	}
	return dir, func() {
		t.Helper()
		if err := d.Cut(); err != nil {
			t.Fatal(err)
		}
	}
}

// Mount makes an ext4 file system in a file and mounts it until the test's end. Where that cannot be done the test is skipped, and fails in CI.
func Mount(t testing.TB, o Options) string {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	image, mount := filepath.Join(dir, "image"), filepath.Join(dir, "mnt")
	f, err := os.OpenFile(image, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(o.Bytes), f.Close(), os.Mkdir(mount, 0o755)); err != nil {
		t.Fatal(err)
	}
	mkfs := []string{"-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"}
	if o.Inodes > 0 {
		mkfs = append(mkfs, "-N", fmt.Sprint(o.Inodes))
	}
	if out, err := exec.CommandContext(t.Context(), "mkfs.ext4", append(mkfs, image)...).CombinedOutput(); err != nil {
		cannot(t, "mkfs.ext4: %v: %s", err, strings.TrimSpace(string(out)))
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", image, mount).CombinedOutput(); err != nil {
		cannot(t, "mount: %v: %s", err, strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { // the loop device goes with the mount
		if err := unix.Unmount(mount, 0); err != nil {
			t.Errorf("unmount %s: %v; it is detached instead", mount, err)
			if err := unix.Unmount(mount, unix.MNT_DETACH); err != nil {
				t.Errorf("detach %s: %v", mount, err)
			}
		}
	})
	return mount
}

// Fill writes to the file at path until only left bytes are free on its file system, 0 for the last block.
func Fill(t testing.TB, path string, left int64) {
	t.Helper()
	if err := fill(path, left); err != nil {
		t.Fatalf("fill %s: %v", path, err)
	}
}

func fill(path string, left int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for size := int64(1 << 20); size >= 512; {
		if left > 0 {
			err := f.Sync()
			space, errOf := disk.Of(path)
			if err := errors.Join(err, errOf); err != nil {
				return err
			}
			over := space.RootBytes - left
			if over < space.Block {
				return nil
			}
			size = min(size, over)
		}
		_, err := f.Write(make([]byte, size))
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			return err
		}
	}
	return f.Sync()
}

// FillInodes makes empty files in the new folder dir until only left inodes are free.
func FillInodes(t testing.TB, dir string, left int64) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if int64(st.Ffree) <= left {
			return
		}
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(n)), os.O_CREATE|os.O_WRONLY, 0o600)
		if errors.Is(err, syscall.ENOSPC) {
			return
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// Soon fails a test whose function hangs, as opening a pipe does.
func Soon(t *testing.T, what string, do func() error) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() { ended <- do() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(10 * time.Second):
		t.Fatalf("%s hangs", what)
		return nil
	}
}
