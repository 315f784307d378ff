package journal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hostmanager/internal/disktest"
	"hostmanager/journal"
)

// smallDisk mounts a disk of 64 KiB, smaller than what a journal likes to keep behind its end.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Skipf("no right to mount a small disk here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func accepted(n int) journal.Record {
	return journal.Record{Type: journal.Accepted, Command: fmt.Sprint("c", n), Payload: raw(`"` + strings.Repeat("x", 700) + `"`)}
}

// fillUp appends until there is no room, and returns how many records were taken.
func fillUp(t *testing.T, j *journal.Journal) int {
	t.Helper()
	for n := range 5000 {
		switch err := j.Append(accepted(n)); {
		case errors.Is(err, journal.ErrFull) && errors.Is(err, unix.ENOSPC):
			return n
		case err != nil:
			t.Fatalf("record %d: %v", n, err)
		}
	}
	t.Fatal("the disk does not become full")
	return 0
}

// ballasted is a journal's path on a small disk that also holds what free removes.
func ballasted(t *testing.T) (path string, free func()) {
	t.Helper()
	dir := smallDisk(t)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 20<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "journal"), func() {
		t.Helper()
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAppend_OnAFullDiskChangesNothingAndCanBeRepeated(t *testing.T) {
	path, free := ballasted(t)
	j := open(t, path, nil)
	n := fillUp(t, j)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := j.Append(accepted(n)); !errors.Is(err, journal.ErrFull) || j.Broken() != nil {
			t.Fatalf("again: %v, broken: %v", err, j.Broken())
		}
	}
	if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
		t.Errorf("the file is another: %d bytes, were %d, %v", len(after), len(before), err)
	}
	if got := len(j.Commands()); got != n {
		t.Errorf("%d commands known, %d were acknowledged", got, n)
	}
	var e events
	_ = j.Close()
	j = open(t, path, &e) // opens on the full disk
	if got := len(j.Commands()); got != n || len(e) > 0 {
		t.Errorf("%d commands after opening again, %d were acknowledged; %s", got, n, e.String())
	}
	free()
	add(t, j, accepted(n))
	_ = j.Close()
	if got := len(open(t, path, &e).Commands()); got != n+1 || len(e) > 0 {
		t.Errorf("%d commands at last, want %d; %s", got, n+1, e.String())
	}
}

// Whoever can make room is asked once a record; the record is then taken as if nothing had been.
func TestAppend_AsksForRoom(t *testing.T) {
	dir := smallDisk(t)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 20<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := 0
	o := options(nil)
	o.OnFull = func() bool {
		asked++
		return os.Remove(ballast) == nil
	}
	path := filepath.Join(dir, "journal")
	j, err := journal.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	n := fillUp(t, j)
	st, err := os.Stat(path)
	if err != nil || asked != 2 || st.Size() < 50<<10 { // asked once with success, once in vain
		t.Errorf("asked %d times, the journal has %d records, %v", asked, n, err)
	}
}

// A journal that this process began, or compacted, goes on at its end once there is room: what a write had of a record before it found none must
// leave no gap.
func TestAppend_AfterAFullDiskLeavesNoGap(t *testing.T) {
	path, free := ballasted(t)
	j := open(t, path, nil)
	n := fillUp(t, j)
	free()
	add(t, j, accepted(n), accepted(n+1))
	_ = j.Close()
	var e events
	if got := len(open(t, path, &e).Commands()); got != n+2 || len(e) > 0 {
		t.Errorf("%d commands after opening again, %d were acknowledged; %s", got, n+2, e.String())
	}
}

// What was begun can be ended though somebody else took every block.
func TestAppend_KeepsRoomForACommandsWholeLife(t *testing.T) {
	dir := disktest.Mount(t, disktest.Options{Bytes: 16 << 20})
	path := filepath.Join(dir, "journal")
	j := open(t, path, nil)
	all := life("one")
	add(t, j, all[0])
	disktest.Fill(t, filepath.Join(dir, "fill"), 0)
	add(t, j, all[1:]...)
	for n := range 20 {
		add(t, j, life(fmt.Sprint("more", n))...)
	}
	_ = j.Close()
	var e events
	if got := open(t, path, &e).Commands(); len(got) != 21 || len(e) > 0 || got[0].SentAt.IsZero() {
		t.Errorf("%d commands after opening again on the full disk; %s", len(got), e.String())
	}
}
