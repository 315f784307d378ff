package logfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hostmanager/internal/disktest"
	"hostmanager/internal/logfile"
)

// A full disk costs lines and nothing else: writing goes on, what is there stays whole lines, and the loss is counted.
func TestFile_OnAFullDisk(t *testing.T) {
	dir := disktest.Mount(t, disktest.Options{Bytes: 16 << 20})
	path := filepath.Join(dir, "a.log")
	f := logfile.Open(path, 1, 1)
	defer f.Close()
	line := func(n int) string { return fmt.Sprintf("%04d %s\n", n, strings.Repeat("x", 900)) }
	write(t, f, line(0))
	ballast := filepath.Join(dir, "ballast")
	disktest.Fill(t, ballast, 0)
	for n := 1; n < 2000; n++ { // also past the size at which the file is rotated
		write(t, f, line(n))
	}
	lost := f.Lost()
	if lost < 1000 {
		t.Fatalf("%d lines lost", lost)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	write(t, f, line(2000))
	if f.Lost() != lost {
		t.Errorf("lines are lost with room again: %d, were %d", f.Lost(), lost)
	}
	found, err := filepath.Glob(filepath.Join(dir, "a*.log"))
	if err != nil {
		t.Fatal(err)
	}
	whole := map[string]bool{}
	for _, name := range found {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for text := range strings.Lines(string(data)) {
			whole[text] = true
		}
	}
	if !whole[line(0)] || !whole[line(2000)] {
		t.Errorf("the first or the last line is not whole in %v", found)
	}
}
