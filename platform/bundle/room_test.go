package bundle_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hostmanager/platform/bundle"
)

// smallDisk mounts a real file system of its own. It needs root; where CI runs, that is a must.
func smallDisk(t *testing.T, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("a small disk is mounted here: run as root")
		}
		t.Skip("a small disk is mounted here: run as root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	return dir
}

func noRoom(t *testing.T, err error, says string) {
	t.Helper()
	var refused *bundle.Refused
	if !errors.As(err, &refused) || !errors.Is(err, bundle.ErrNoRoom) {
		t.Fatalf("err = %v, want *Refused with ErrNoRoom", err)
	}
	if !regexp.MustCompile(says).MatchString(err.Error()) {
		t.Fatalf("err = %v\nwant it to match %q", err, says)
	}
}

func TestUnpack_ChecksRoomFirst(t *testing.T) {
	var small []zmember
	var tsmall []tmember
	for i := range 100 {
		small = append(small, zipFile(fmt.Sprintf("f%d", i), "x"))
		tsmall = append(tsmall, tarFile(fmt.Sprintf("f%d", i), "x"))
	}
	large := string(randomBytes(1, 3<<20))
	tests := []struct {
		name    string
		options string
		archive []byte
		says    string
	}{
		{"zip bytes", "size=2m", zipBytes(t, zipFile("large", large)), `no room .* 3145728 bytes are needed, \d+ are free, \d+ are missing`},
		{"tar bytes", "size=2m", tarBytes(t, tarFile("large", large)), `no room .* 3145728 bytes are needed, \d+ are free, \d+ are missing`},
		{"tar.gz bytes", "size=2m", gzipBytes(t, tarBytes(t, tarFile("large", large))), `no room .* \d+ are missing`},
		{"zip inodes", "size=20m,nr_inodes=50", zipBytes(t, small...), `100 inodes are needed, \d+ are free, \d+ are missing`},
		{"tar.gz inodes", "size=20m,nr_inodes=50", gzipBytes(t, tarBytes(t, tsmall...)), `100 inodes are needed, \d+ are free, \d+ are missing`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			disk := smallDisk(t, tt.options)
			path := filepath.Join(t.TempDir(), "b")
			must(t, os.WriteFile(path, tt.archive, 0o600))
			_, err := bundle.Unpack(t.Context(), path, filepath.Join(disk, "t", "1"), bundle.Limits{})
			noRoom(t, err, tt.says)
			if entries, _ := os.ReadDir(filepath.Join(disk, "t")); len(entries) > 0 {
				t.Fatalf("left behind: %v", entries)
			}
		})
	}
}

// The check is only a look beforehand: another process may take the room meanwhile.
func TestUnpack_ADiskThatFillsUpMeanwhileLeavesNothing(t *testing.T) {
	disk := smallDisk(t, "size=1m")
	archive := zipBytes(t, zipFile("a", string(randomBytes(1, 600<<10))), zipFile("b", strings.Repeat("b", 100)))
	path := filepath.Join(t.TempDir(), "b")
	must(t, os.WriteFile(path, archive, 0o600))
	_, err := bundle.UnpackAfter(t.Context(), path, filepath.Join(disk, "t", "1"), func() {
		must(t, os.WriteFile(filepath.Join(disk, "other"), make([]byte, 800<<10), 0o600))
	})
	noRoom(t, err, "the disk became full")
	if entries, _ := os.ReadDir(filepath.Join(disk, "t")); len(entries) > 0 {
		t.Fatalf("left behind: %v", entries)
	}
}

func TestFetch_ChecksRoomFirstAndEvictsForIt(t *testing.T) {
	disk := smallDisk(t, "size=1m")
	first := randomBytes(1, 600<<10)
	b := startBucket(t, first)
	f := newFetcher(t, b, disk)
	h, err := f.Hold(t.Context(), sourceOf(first))
	must(t, err)
	second := randomBytes(2, 600<<10)
	b.body.Store(&second)
	_, err = f.Fetch(t.Context(), sourceOf(second))
	noRoom(t, err, `no room .* \d+ are missing`)
	if left := filesUnder(t, filepath.Join(disk, "partial")); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
	h.Release()
	path, err := f.Fetch(t.Context(), sourceOf(second))
	must(t, err)
	mustHold(t, path, second)
	if _, err := os.Stat(h.Path); err == nil {
		t.Fatal("the unused bundle was not evicted for the new one")
	}
}

// One old bundle is enough here, so the younger one stays; the one being unpacked, and one that is held, stay anyway.
func TestStage_EvictsForTheTree(t *testing.T) {
	disk := smallDisk(t, "size=8m")
	cache := filepath.Join(disk, "cache")
	b := startBucket(t, nil)
	f := newFetcher(t, b, cache)
	put := func(body []byte) string {
		t.Helper()
		b.body.Store(&body)
		path, err := f.Fetch(t.Context(), sourceOf(body))
		must(t, err)
		return path
	}
	oldest, younger := put(randomBytes(1, 3<<20)), put(randomBytes(2, 1<<20))
	past := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(oldest+".verified", past, past))
	archive := zipBytes(t, zipFile("large", strings.Repeat("x", 6<<20)))
	b.body.Store(&archive)
	_, err := f.Stage(t.Context(), sourceOf(archive), filepath.Join(disk, "t", "1"), bundle.Before{})
	must(t, err)
	if _, err := os.Stat(oldest); err == nil {
		t.Error("the longest unused bundle was not given up")
	}
	for _, path := range []string{younger, filepath.Join(cache, "sha256", sourceOf(archive).SHA256)} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("given up without need: %v", err)
		}
	}
}

func TestStage_TellsThatEmptyingTheCacheWasNotEnough(t *testing.T) {
	disk, elsewhere := smallDisk(t, "size=4m"), smallDisk(t, "size=4m")
	old, held := randomBytes(1, 1<<20), randomBytes(2, 100<<10)
	archive := zipBytes(t, zipFile("large", strings.Repeat("x", 6<<20)))
	b := startBucket(t, old)
	f := newFetcher(t, b, filepath.Join(disk, "cache"))
	path, err := f.Fetch(t.Context(), sourceOf(old))
	must(t, err)
	b.body.Store(&held)
	h, err := f.Hold(t.Context(), sourceOf(held))
	must(t, err)
	defer h.Release()
	b.body.Store(&archive)

	_, err = f.Stage(t.Context(), sourceOf(archive), filepath.Join(elsewhere, "1"), bundle.Before{})
	noRoom(t, err, `are missing; free them and deploy again$`)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("given up although the tree is on another disk: %v", err)
	}
	_, err = f.Stage(t.Context(), sourceOf(archive), filepath.Join(disk, "t", "1"), bundle.Before{})
	noRoom(t, err, `no room .* are missing; .* \(the cache of source bundles was emptied for it already: 1 bundles, 1048576 bytes\)$`)
	if _, err := os.Stat(path); err == nil {
		t.Error("refused with an old bundle in the cache")
	}
	if _, err := os.Stat(h.Path); err != nil {
		t.Errorf("a held bundle: %v", err)
	}
	if left := filesUnder(t, filepath.Join(disk, "t")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
