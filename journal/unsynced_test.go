package journal_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"hostmanager/internal/disktest"
	"hostmanager/journal"
)

// failingDisk is a file system that takes writes and cannot bring them to its disk once fail was called: the image it is in has no room to grow.
func failingDisk(t *testing.T) (dir string, fail func()) {
	t.Helper()
	below := t.TempDir()
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, "size=24m"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount a disk below the disk: %v", err)
		}
		t.Skipf("no right to mount a disk here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	image := filepath.Join(below, "image")
	dir = filepath.Join(t.TempDir(), "mnt")
	for _, step := range []func() ([]byte, error){
		func() ([]byte, error) {
			return nil, errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 64<<20), os.Mkdir(dir, 0o755))
		},
		exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-F", "-O", "^has_journal", image).CombinedOutput,
		exec.CommandContext(t.Context(), "mount", "-o", "loop", image, dir).CombinedOutput,
	} {
		if out, err := step(); err != nil {
			t.Fatalf("make disk: %v: %s", err, out)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, func() { disktest.Fill(t, filepath.Join(below, "ballast"), 0) }
}

// A sync that failed may have dropped what it could not write, so one that is tried again would succeed for nothing: the journal ends there.
func TestAppend_AFailedSyncBreaksTheJournal(t *testing.T) {
	dir, fail := failingDisk(t)
	j := open(t, filepath.Join(dir, "state", "journal"), nil)
	add(t, j, life("one")...)
	fail()
	var err error
	for n := 0; err == nil && n < 1000; n++ {
		err = j.Append(accepted(n))
	}
	if !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the disk failed with %v", err)
	}
	if !errors.Is(err, journal.ErrBroken) || j.Broken() == nil {
		t.Errorf("after %v the journal is not broken", err)
	}
	if again := j.Append(accepted(2000)); !errors.Is(again, journal.ErrBroken) {
		t.Errorf("a further record: %v", again)
	}
}
