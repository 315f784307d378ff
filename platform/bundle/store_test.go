package bundle_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hostmanager/platform/bundle"
)

func TestFetch_ACachedFileThatWasTouchedIsHashedAgain(t *testing.T) {
	body := randomBytes(11, 200_000)
	tests := map[string]struct {
		change   func(t *testing.T, path string)
		download bool
	}{
		"flipped byte":  {func(t *testing.T, p string) { flip(t, p, 5) }, true},
		"cut":           {func(t *testing.T, p string) { must(t, os.Truncate(p, 10)) }, true},
		"lost record":   {func(t *testing.T, p string) { must(t, os.Remove(p+".verified")) }, false},
		"torn record":   {func(t *testing.T, p string) { must(t, os.Truncate(p+".verified", 9)) }, false},
		"another inode": {func(t *testing.T, p string) { must(t, os.Remove(p)); must(t, os.WriteFile(p, body, 0o600)) }, false},
		"another's byte": {func(t *testing.T, p string) {
			must(t, os.Remove(p))
			must(t, os.WriteFile(p, randomBytes(12, 200_000), 0o600))
		}, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := startBucket(t, body)
			dir := t.TempDir()
			path, err := newFetcher(t, b, dir).Fetch(t.Context(), sourceOf(body))
			must(t, err)
			tt.change(t, path)
			gets := b.gets.Load()
			path, err = newFetcher(t, b, dir).Fetch(t.Context(), sourceOf(body))
			must(t, err)
			mustHold(t, path, body)
			if got := b.gets.Load() != gets; got != tt.download {
				t.Fatalf("downloaded again: %v, want %v", got, tt.download)
			}
		})
	}
}

func TestFetch_EvictsTheLongestUnusedButNothingHeld(t *testing.T) {
	b := startBucket(t, nil)
	dir := t.TempDir()
	f := newFetcher(t, b, dir)
	f.CacheBytes = 250_000
	var held *bundle.Held
	var bodies [][]byte
	for i := range 4 {
		body := randomBytes(uint64(20+i), 100_000)
		bodies = append(bodies, body)
		b.body.Store(&body)
		h, err := f.Hold(t.Context(), sourceOf(body))
		must(t, err)
		if i == 0 {
			held = h
			continue
		}
		h.Release()
		h.Release()
	}
	if got, want := cachedOf(t, dir, bodies), []int{0, 3}; !slices.Equal(got, want) {
		t.Fatalf("cached: %v, want %v (0 is held, 3 is the newest)", got, want)
	}
	held.Release()
	body := randomBytes(30, 100_000)
	bodies = append(bodies, body)
	b.body.Store(&body)
	_, err := f.Fetch(t.Context(), sourceOf(body))
	must(t, err)
	if got, want := cachedOf(t, dir, bodies), []int{3, 4}; !slices.Equal(got, want) {
		t.Fatalf("cached: %v, want %v", got, want)
	}
}

func cachedOf(t *testing.T, dir string, bodies [][]byte) []int {
	t.Helper()
	var have []int
	for i, body := range bodies {
		if _, err := os.Stat(filepath.Join(dir, "sha256", sourceOf(body).SHA256)); err == nil {
			have = append(have, i)
		}
	}
	return have
}

func TestOpen_SweepsWhatNobodyCanUse(t *testing.T) {
	dir := t.TempDir()
	body := []byte("hello")
	digest := sourceOf(body).SHA256
	old := time.Now().Add(-48 * time.Hour)
	for name, stale := range map[string]bool{
		"sha256/" + digest:                    false,
		"sha256/tmp123":                       true,
		"sha256/" + digest[1:] + "0.verified": true,
		"partial/" + digest + ".part":         false,
		"partial/" + digest + ".ranges":       false,
		"partial/" + digest[1:] + "1.part":    true, // older than a day
		"partial/" + digest[1:] + "2.ranges":  true, // without its part
		"partial/README":                      true,
	} {
		p := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o700))
		must(t, os.WriteFile(p, body, 0o600))
		if stale && strings.HasSuffix(name, ".part") {
			must(t, os.Chtimes(p, old, old))
		}
	}
	f := newFetcher(t, startBucket(t, body), dir)
	must(t, f.Open())
	got := filesUnder(t, dir)
	want := []string{"partial/" + digest + ".part", "partial/" + digest + ".ranges", "sha256/" + digest}
	if !slices.Equal(got, want) {
		t.Fatalf("left: %v, want %v", got, want)
	}
	path, err := f.Fetch(t.Context(), sourceOf(body))
	must(t, err)
	mustHold(t, path, body)
}

// Other users' files lie below the folders above the cache.
func TestOpen_ClosesOnlyTheCache(t *testing.T) {
	dir := t.TempDir()
	must(t, newFetcher(t, startBucket(t, nil), filepath.Join(dir, "var", "lib", "cache")).Open())
	for path, want := range map[string]os.FileMode{"var": 0o755, "var/lib": 0o755, "var/lib/cache": 0o700, "var/lib/cache/sha256": 0o700} {
		if st, err := os.Stat(filepath.Join(dir, path)); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
}

// TestFetch_MakesTheCacheAnew holds that who removes the cache below a running agent, to make room, stops no later deployment.
func TestFetch_MakesTheCacheAnew(t *testing.T) {
	archive := zipBytes(t, zipFile("Dockerfile", "FROM scratch\n"))
	b := startBucket(t, archive)
	dir := t.TempDir()
	cache := filepath.Join(dir, "cache")
	f := newFetcher(t, b, cache)
	for _, release := range []string{"1-a", "2-b"} {
		_, err := f.Stage(t.Context(), sourceOf(archive), filepath.Join(dir, "releases", release), bundle.Before{})
		must(t, err)
		must(t, os.RemoveAll(cache))
	}
}
