package atomicfile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/disktest"
)

// What was written when WriteFile returned is there after the power was lost, whole: also in folders that were made for it, and in place of an
// older file.
func TestWriteFile_OutlivesAPowerLoss(t *testing.T) {
	dir, cut := disktest.MountPlugged(t, 16<<20)
	file := filepath.Join(dir, "a", "b", "file")
	for _, content := range []string{"new", "another"} {
		want := bytes.Repeat([]byte(content), 10_000) // too much for the inode itself
		if err := atomicfile.WriteFile(file, want, 0o600); err != nil {
			t.Fatal(err)
		}
		cut()
		if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d of %d bytes of %q are left, %v", len(got), len(want), content, err)
		}
		if st, err := os.Stat(file); err == nil && st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", st.Mode())
		}
	}
}

func TestLinkFolderAndRemoval_OutliveAPowerLoss(t *testing.T) {
	dir, cut := disktest.MountPlugged(t, 16<<20)
	link, folder, old := filepath.Join(dir, "link"), filepath.Join(dir, "folder"), filepath.Join(dir, "old")
	if err := os.WriteFile(old, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, step := range map[string]struct {
		do   func() error
		held func() bool
	}{
		"a link": {
			func() error { return atomicfile.Symlink("target", link) },
			func() bool { to, err := os.Readlink(link); return err == nil && to == "target" },
		},
		"a folder": {
			func() error { return atomicfile.MakeDir(folder, 0o700) },
			func() bool { st, err := os.Stat(folder); return err == nil && st.Mode().Perm() == 0o700 },
		},
		"a removal": {
			func() error { return atomicfile.Remove(old) },
			func() bool { _, err := os.Stat(old); return os.IsNotExist(err) },
		},
	} {
		if err := atomicfile.SyncDir(dir); err != nil {
			t.Fatal(err)
		}
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		cut()
		if !step.held() {
			t.Errorf("%s is lost", name)
		}
	}
}
