package hooks_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"hostmanager/hooks"
	"hostmanager/internal/layout"
)

func TestSweepEventFiles_RemovesWhatAKillLeft(t *testing.T) {
	root := layout.Root(t.TempDir())
	if err := hooks.SweepEventFiles(root); err != nil {
		t.Fatalf("without a folder: %v", err)
	}
	dir := root.Join("tmp")
	if err := os.MkdirAll(filepath.Join(dir, "eventsfile20200101-9"), 0o755); err != nil {
		t.Fatal(err)
	}
	stays := []string{"eventsfile", "eventsfile20200101", "eventsfile20200101-1.txt", "my-eventsfile20200101-1", "eventsfile20200101-other"}
	gone := []string{"eventsfile20200101-1", "eventsfile20261231-3405691582"}
	for _, name := range append(gone, stays...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("eventsfile", filepath.Join(dir, "eventsfile20200101-7")); err != nil {
		t.Fatal(err)
	}
	stays = append(stays, "eventsfile20200101-9", "eventsfile20200101-7")
	if os.Geteuid() == 0 {
		if err := os.WriteFile(filepath.Join(dir, "eventsfile20200101-8"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(dir, "eventsfile20200101-8"), 12345, 12345); err != nil {
			t.Fatal(err)
		}
		stays = append(stays, "eventsfile20200101-8")
	}
	if err := hooks.SweepEventFiles(root); err != nil {
		t.Fatal(err)
	}
	for _, name := range gone {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range stays {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Hooks of any user find the /tmp of a root as they would find the machine's.
func TestRun_TmpIsForAll(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	b := newBench(t)
	b.file(dir, "01x", "#!/bin/sh\ntrue\n", 0o755)
	if err := b.runner(hooks.Options{}).Run(t.Context(), b.call(dir), b, nil); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(b.root.Join("tmp"))
	if err != nil || st.Mode() != fs.ModeDir|fs.ModeSticky|0o777 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}
