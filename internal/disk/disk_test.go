package disk_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"hostmanager/internal/disk"
	"hostmanager/internal/disktest"
)

func TestOf_LooksAtTheNearestFolderThatIsThere(t *testing.T) {
	dir := disktest.Mount(t, disktest.Options{Bytes: 16 << 20, Inodes: 512})
	here, err := disk.Of(dir)
	if err != nil {
		t.Fatal(err)
	}
	below, err := disk.Of(filepath.Join(dir, "not", "there", "yet"))
	if err != nil || below != here {
		t.Errorf("got %+v, %v, want %+v", below, err, here)
	}
	if here.Mount != dir || here.TotalInodes != 512 || here.Inodes < 1 || here.Bytes < 1<<20 || here.Bytes > 16<<20 {
		t.Errorf("got %+v", here)
	}
	outside, err := disk.Of(filepath.Dir(dir))
	if err != nil || outside.Dev == here.Dev {
		t.Errorf("two file systems are one: %+v, %v", outside, err)
	}
}

func TestOf_AFullDiskHasNothingForRootEither(t *testing.T) {
	dir := disktest.Mount(t, disktest.Options{Bytes: 128 << 20})
	disktest.Fill(t, filepath.Join(dir, "fill"), 0)
	if s, err := disk.Of(dir); err != nil || s.Bytes != 0 || s.RootBytes >= 1<<20 {
		t.Errorf("got %+v, %v", s, err)
	}
}

func TestCheck_AddsUpWhatLiesOnOneFileSystem(t *testing.T) {
	dir := disktest.Mount(t, disktest.Options{Bytes: 16 << 20, Inodes: 512})
	s, err := disk.Of(dir)
	if err != nil {
		t.Fatal(err)
	}
	half := disk.Need{What: "tree", Path: filepath.Join(dir, "a"), Bytes: s.Bytes/2 + 500, Inodes: s.Inodes / 2}
	elsewhere := disk.Need{What: "image", Path: t.TempDir(), Bytes: 1}
	if err := disk.Check(half, elsewhere); err != nil {
		t.Errorf("one half: %v", err)
	}
	err = disk.Check(half, elsewhere, disk.Need{What: "log", Path: dir, Bytes: s.Bytes/2 + 500, Inodes: s.Inodes/2 + 7})
	var short *disk.ShortError
	if !errors.As(err, &short) || !errors.Is(err, disk.ErrNoRoom) || !disk.Full(err) {
		t.Fatalf("two halves and more: %v", err)
	}
	bytes, inodes := short.Missing()
	if bytes < 999 || bytes > 1000 || inodes < 6 || inodes > 7 || len(short.Needs) != 2 {
		t.Errorf("missing %d, %d in %+v", bytes, inodes, short)
	}
	for _, part := range []string{"no room on " + dir + ": needs ", " inodes more there; has ", "(tree ", ", log "} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
}

func TestSize_ForPeople(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 bytes", 999: "999 bytes", 1001: "2 kB", 999_999: "1,000 kB", 1_000_001: "1.1 MB", 9_950_000: "10.0 MB", 312_000_000: "312 MB", 312_000_001: "313 MB",
		12_345_678_901: "12,346 MB",
	} {
		if got := disk.Size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 2104: "2,104", 1234567: "1,234,567", -1234: "-1,234", -123: "-123"} {
		if got := disk.Count(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

func TestReserve_GivesRoomWhereThereIsNone(t *testing.T) {
	dir := disktest.Mount(t, disktest.Options{Bytes: 16 << 20, Inodes: 512})
	r := disk.NewReserve(filepath.Join(dir, "reserve"), 1<<20)
	if r.Held() {
		t.Error("held before it was made")
	}
	for range 2 {
		if err := r.Make(); err != nil || !r.Held() {
			t.Fatalf("made: %v", err)
		}
	}
	if another := disk.NewReserve(filepath.Join(dir, "reserve"), 1<<20); !another.Held() {
		t.Error("another process does not find it")
	}
	disktest.FillInodes(t, filepath.Join(dir, "fill.d"), 1)
	disktest.Fill(t, filepath.Join(dir, "fill"), 0)
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("the disk is not full: %v", err)
	}
	if was, err := r.Release(); !was || err != nil {
		t.Fatalf("released: %t, %v", was, err)
	}
	for n := range 20 {
		if err := os.WriteFile(fmt.Sprint(path, n), make([]byte, 40<<10), 0o600); err != nil {
			t.Fatalf("after the release: %v", err)
		}
	}
	if err := r.Make(); !errors.Is(err, disk.ErrNoRoom) || r.Held() {
		t.Errorf("made on a full disk: %v", err)
	}
	if was, err := r.Release(); was || err != nil {
		t.Errorf("released twice: %t, %v", was, err)
	}
	for _, old := range []string{"fill", "fill.d"} {
		if err := os.RemoveAll(filepath.Join(dir, old)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Make(); err != nil || !r.Held() {
		t.Errorf("made again: %v", err)
	}
	larger := disk.NewReserve(filepath.Join(dir, "reserve"), 2<<20)
	if larger.Held() {
		t.Error("another size is taken for its own")
	}
	if err := larger.Make(); err != nil || !larger.Held() {
		t.Errorf("another size: %v", err)
	}
}

func TestReserve_OfNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "reserve")
	if err := disk.NewReserve(dir, 1<<20).Make(); err != nil {
		t.Fatal(err)
	}
	none := disk.NewReserve(dir, 0)
	if err := none.Make(); err != nil || none.Held() {
		t.Errorf("held %t, %v", none.Held(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
