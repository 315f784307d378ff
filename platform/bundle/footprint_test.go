package bundle_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/platform/bundle"
)

func TestMeasure_OfAZipIsWhatItsTreeTakes(t *testing.T) {
	var members []zmember
	for i := range 400 {
		members = append(members, zipFile(fmt.Sprintf("d%d/e/f%d", i%7, i), strings.Repeat("x", i*97)))
	}
	members = append(members, zipFile("large", string(randomBytes(1, 1<<20))))
	archive := zipBytes(t, members...)
	b := startBucket(t, archive)
	var ranges atomic.Int64
	b.fault(func(http.ResponseWriter, *http.Request, int64, int64) bool {
		ranges.Add(1)
		return false
	})
	f := newFetcher(t, b, t.TempDir())
	remote := f.Measure(t.Context(), sourceOf(archive), 4096)
	if ranges.Load() == 0 || ranges.Load() > 3 || remote.Archive != int64(len(archive)) || !remote.Exact {
		t.Errorf("%+v by %d ranges", remote, ranges.Load())
	}
	dest := filepath.Join(t.TempDir(), "1")
	if _, err := f.Stage(t.Context(), sourceOf(archive), dest, bundle.Before{}); err != nil {
		t.Fatal(err)
	}
	asked := ranges.Load()
	local := f.Measure(t.Context(), sourceOf(archive), 4096)
	if local.Archive != 0 || local.Bytes != remote.Bytes || local.Inodes != remote.Inodes || ranges.Load() != asked {
		t.Errorf("in the cache %+v, before %+v; %d ranges more", local, remote, ranges.Load()-asked)
	}
	var bytes, inodes int64
	must(t, filepath.WalkDir(dest, func(path string, d os.DirEntry, err error) error {
		inodes++
		if info, err := d.Info(); err == nil && !d.IsDir() {
			bytes += (info.Size() + 4095) / 4096 * 4096
		} else {
			bytes += 4096
		}
		return err
	}))
	if inodes != local.Inodes || bytes != local.Bytes {
		t.Errorf("the tree takes %d bytes and %d inodes, measured were %+v", bytes, inodes, local)
	}
	worst := f.Worst(sourceOf(archive), 4096)
	if worst.Bytes < local.Bytes || worst.Inodes < local.Inodes || worst.Archive < remote.Archive {
		t.Errorf("the worst %+v is less than %+v", worst, local)
	}
}

func TestMeasure_GuessesWhereThereIsNoDirectory(t *testing.T) {
	tar := gzipBytes(t, tarBytes(t, tarFile("a", strings.Repeat("x", 100<<10))))
	zip := zipBytes(t, zipFile("a", "x"))
	for name, c := range map[string]struct {
		body  []byte
		fault func(http.ResponseWriter, *http.Request, int64, int64) bool
	}{
		"tar.gz":          {body: tar},
		"a zip cut short": {body: zip[:len(zip)-5]},
		"no answer": {body: zip, fault: func(w http.ResponseWriter, _ *http.Request, _, _ int64) bool {
			http.Error(w, "<Error><Code>AccessDenied</Code></Error>", http.StatusForbidden)
			return true
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := startBucket(t, c.body)
			b.fault(c.fault)
			f := newFetcher(t, b, t.TempDir())
			got, worst := f.Measure(t.Context(), sourceOf(c.body), 4096), f.Worst(sourceOf(c.body), 4096)
			if got.Exact || got.Archive != int64(len(c.body)) || got.Bytes <= 0 || got.Inodes <= 0 || got.Bytes > worst.Bytes || got.Inodes > worst.Inodes {
				t.Errorf("got %+v, worst %+v", got, worst)
			}
		})
	}
}

// The bundle of a tree that is kept stays whatever the pressure, also for a process that knows nothing of the one that unpacked it.
func TestShrink_KeepsTheBundlesOfKeptTrees(t *testing.T) {
	cache, trees := t.TempDir(), t.TempDir()
	b := startBucket(t, nil)
	f := newFetcher(t, b, cache)
	var paths []string
	for n := range 4 {
		body := zipBytes(t, zipFile("a", fmt.Sprint(n)))
		b.body.Store(&body)
		_, err := f.Stage(t.Context(), sourceOf(body), filepath.Join(trees, fmt.Sprint(n)), bundle.Before{})
		must(t, err)
		paths = append(paths, filepath.Join(cache, "sha256", sourceOf(body).SHA256))
		past := time.Now().Add(time.Duration(n-10) * time.Hour)
		must(t, os.Chtimes(paths[n]+".verified", past, past))
	}
	f = newFetcher(t, b, cache)
	if n, err := f.Spare([]string{"0", "1", "2", "3"}, ""); n != 0 || err != nil {
		t.Errorf("%d bytes could go while every tree is there, %v", n, err)
	}
	must(t, f.Shrink(0, ""))
	must(t, f.Keep([]string{"0", "2"}))
	except := filepath.Base(paths[3])
	one, err := os.Stat(paths[1])
	must(t, err)
	if n, err := f.Spare([]string{"0", "2"}, except); n != one.Size() || err != nil {
		t.Errorf("%d bytes could go, want %d, %v", n, one.Size(), err)
	}
	must(t, f.Shrink(0, except))
	for n, path := range paths {
		if _, err := os.Stat(path); (err == nil) != (n != 1) {
			t.Errorf("bundle %d: %v", n, err)
		}
	}
	must(t, f.Shrink(0, ""))
	if _, err := os.Stat(paths[3]); err == nil {
		t.Error("a bundle nobody needs stays")
	}
}
