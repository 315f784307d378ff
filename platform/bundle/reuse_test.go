package bundle_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"hostmanager/platform/bundle"
)

// noise is text that deflate makes about a third smaller.
func noise(seed uint64, n int) string {
	random := rand.New(rand.NewPCG(seed, 7))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "%x ", random.Uint64())
	}
	return b.String()[:n]
}

func TestStage_CopiesWhatTheBundleBeforeHeld(t *testing.T) {
	const large = 700_001
	same, edited, other := noise(1, large), noise(2, large), noise(3, large)
	first := zipBytes(t, zipFile("d/same", same), zipFile("edited", edited), zipFile("linked", same), zipFile("gone", same), zipFile("shorter", same),
		zipFile("other", other), zipFile("small", "s"))
	dir := t.TempDir()
	b := startBucket(t, first)
	f := newFetcher(t, b, filepath.Join(dir, "cache"))
	before, after := filepath.Join(dir, "before"), filepath.Join(dir, "after")
	_, err := f.Stage(t.Context(), sourceOf(first), before, bundle.Before{})
	must(t, err)
	// What somebody did to the tree since: none of it may come into the next one.
	must(t, os.WriteFile(filepath.Join(before, "edited"), append([]byte("X"), edited[1:]...), 0o644))
	must(t, os.WriteFile(filepath.Join(before, "shorter"), []byte(same[1:]), 0o644))
	must(t, os.Remove(filepath.Join(before, "gone")))
	must(t, os.Remove(filepath.Join(before, "linked")))
	must(t, os.Symlink("edited", filepath.Join(before, "linked")))

	want := map[string]string{
		"d/same": same, "edited": edited, "linked": same, "gone": same, "shorter": same, "other": other[1:] + "x", "small": "s", "new": other,
	}
	var members []zmember
	for _, name := range []string{"d/same", "edited", "linked", "gone", "shorter", "other", "small", "new"} {
		members = append(members, zipFile(name, want[name]))
	}
	second := zipBytes(t, members...)
	b.body.Store(&second)
	stats, err := f.Stage(t.Context(), sourceOf(second), after, bundle.Before{Tree: before, SHA256: sourceOf(first).SHA256})
	must(t, err)
	var bytes int64
	for name, content := range want {
		mustHold(t, filepath.Join(after, name), []byte(content))
		bytes += int64(len(content))
	}
	if stats.Reused != 1 || stats.Files != len(want) || stats.Bytes != bytes {
		t.Errorf("%d of %d files copied, %d bytes; want 1 (d/same) of %d, %d bytes", stats.Reused, stats.Files, stats.Bytes, len(want), bytes)
	}
}

func TestStage_WithoutTheBundleBefore(t *testing.T) {
	body := zipBytes(t, zipFile("f", noise(1, 700_000)))
	dir := t.TempDir()
	f := newFetcher(t, startBucket(t, body), filepath.Join(dir, "cache"))
	_, err := f.Stage(t.Context(), sourceOf(body), filepath.Join(dir, "one"), bundle.Before{})
	must(t, err)
	for n, before := range []bundle.Before{
		{},
		{SHA256: sourceOf(body).SHA256},
		{Tree: filepath.Join(dir, "one")},
		{Tree: filepath.Join(dir, "none"), SHA256: sourceOf(body).SHA256},
		{Tree: filepath.Join(dir, "one"), SHA256: "../../etc"},
		{Tree: filepath.Join(dir, "one"), SHA256: sourceOf([]byte("other")).SHA256},
	} {
		dest := filepath.Join(dir, fmt.Sprint("next", n))
		stats, err := f.Stage(t.Context(), sourceOf(body), dest, before)
		must(t, err)
		mustHold(t, filepath.Join(dest, "f"), []byte(noise(1, 700_000)))
		if stats.Reused != 0 {
			t.Errorf("%+v: %d files copied", before, stats.Reused)
		}
	}
}
