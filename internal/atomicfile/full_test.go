package atomicfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/disktest"
)

// Without a block or an inode free the old content stays, nothing half written does, and removing still works.
func TestWriteFile_OnAFullDiskKeepsTheOld(t *testing.T) {
	for name, fill := range map[string]func(dir string){
		"bytes":  func(dir string) { disktest.Fill(t, filepath.Join(dir, "ballast"), 0) },
		"inodes": func(dir string) { disktest.FillInodes(t, filepath.Join(dir, "ballast.d"), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := disktest.Mount(t, disktest.Options{Bytes: 16 << 20, Inodes: 256})
			file, link := filepath.Join(dir, "sub", "file"), filepath.Join(dir, "sub", "link")
			if err := errors.Join(atomicfile.WriteFile(file, []byte("old"), 0o600), atomicfile.Symlink("old", link)); err != nil {
				t.Fatal(err)
			}
			fill(dir)
			if err := atomicfile.WriteFile(file, []byte(strings.Repeat("n", 8<<10)), 0o600); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("written: %v", err)
			}
			long := strings.Repeat("n", 200) // does not fit into the inode itself
			if err := atomicfile.Symlink(long, link); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("linked: %v", err)
			}
			if err := atomicfile.MakeDir(filepath.Join(dir, "new"), 0o700); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("made: %v", err)
			}
			if text, err := os.ReadFile(file); err != nil || string(text) != "old" {
				t.Errorf("content %q, %v", text, err)
			}
			if target, err := os.Readlink(link); err != nil || target != "old" {
				t.Errorf("link %q, %v", target, err)
			}
			if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 2 {
				t.Errorf("left: %v, %v", entries, err)
			}
			if err := atomicfile.Remove(file); err != nil {
				t.Errorf("removed: %v", err)
			}
		})
	}
}
