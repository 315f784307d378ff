package bundle_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"hostmanager/aws/objects"
	"hostmanager/platform/bundle"
)

const childEnv = "BUNDLE_TEST_FETCH" // endpoint of the child that is to be killed

func TestMain(m *testing.M) {
	if endpoint := os.Getenv(childEnv); endpoint != "" {
		if err := fetchAsChild(endpoint, os.Args[1], os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func fetchAsChild(endpoint, dir, digest, dest string) error {
	ctx := context.Background()
	c, err := objects.New(ctx, objects.Options{Region: "us-east-1", Endpoint: endpoint})
	if err != nil {
		return err
	}
	f := bundle.NewFetcher(c, dir)
	f.Chunk = 64 << 10
	_, err = f.Stage(ctx, bundle.Source{Bucket: "bkt", Key: "app.zip", SHA256: digest}, dest, bundle.Before{})
	return err
}

// TestFetch_KilledInTheMiddleGoesOn kills a whole process with SIGKILL when it has fetched about so much, several times over one cache, and then lets one end.
func TestFetch_KilledInTheMiddleGoesOn(t *testing.T) {
	body := zipBytes(t, zipMode("blob", string(randomBytes(40, 4<<20)), 0o644))
	b := startBucket(t, body)
	dir := filepath.Join(t.TempDir(), "cache")
	digest := sourceOf(body).SHA256
	newFetcher(t, b, dir) // credentials for the child, too
	for _, at := range []int64{100_000, 1 << 20, 2 << 20, 3 << 20} {
		killAt(t, b, dir, digest, at)
		if _, err := os.Stat(filepath.Join(dir, "sha256", digest)); err == nil {
			t.Fatalf("killed at %d: a bundle stands under its final name", at)
		}
	}
	b.fault(nil)
	path, err := newFetcher(t, b, dir).Fetch(t.Context(), sourceOf(body))
	must(t, err)
	mustHold(t, path, body)
	// Four kills lose at most the chunks that were under way (4 at a time, 64 KiB each).
	if most := int64(len(body)) + 4*5*64<<10; b.served.Load() > most {
		t.Fatalf("%d bytes were served for a bundle of %d; at most %d may be", b.served.Load(), len(body), most)
	}
}

func killAt(t *testing.T, b *bucketServer, dir, digest string, at int64) {
	t.Helper()
	reached, release := make(chan struct{}, 64), make(chan struct{})
	b.fault(func(_ http.ResponseWriter, _ *http.Request, off, _ int64) bool {
		if off < at {
			return false
		}
		reached <- struct{}{}
		<-release
		panic(http.ErrAbortHandler)
	})
	child := exec.CommandContext(t.Context(), os.Args[0], dir, digest, filepath.Join(filepath.Dir(dir), "tree"))
	child.Env = append(os.Environ(), childEnv+"="+b.URL)
	must(t, child.Start())
	<-reached
	must(t, child.Process.Kill())
	_ = child.Wait()
	close(release)
}

func TestUnpack_KilledInTheMiddleLeavesOnlyWhatSweepRemoves(t *testing.T) {
	var members []zmember
	for i := range 3000 {
		members = append(members, zipMode(fmt.Sprintf("d%d/f%d", i%50, i), string(randomBytes(uint64(i), 2000)), 0o644))
	}
	body := zipBytes(t, members...)
	b := startBucket(t, body)
	root := t.TempDir()
	dir, dest := filepath.Join(root, "cache"), filepath.Join(root, "releases", "1-a")
	newFetcher(t, b, dir)
	child := exec.CommandContext(t.Context(), os.Args[0], dir, sourceOf(body).SHA256, dest)
	child.Env = append(os.Environ(), childEnv+"="+b.URL)
	must(t, child.Start())
	awaitTemp(t, filepath.Dir(dest))
	must(t, child.Process.Kill())
	_ = child.Wait()
	_, err := bundle.Sweep(filepath.Dir(dest))
	must(t, err)
	if _, err := os.Stat(dest); err == nil {
		if got := len(filesUnder(t, dest)); got != len(members) {
			t.Fatalf("the tree stands with %d of %d files", got, len(members))
		}
		return // it was faster than the kill
	}
	if entries, _ := os.ReadDir(filepath.Dir(dest)); len(entries) > 0 {
		t.Fatalf("left behind: %v", entries)
	}
}

// awaitTemp waits until a folder of a tree under way shows, or the finished tree: that is another process's doing.
func awaitTemp(t *testing.T, parent string) {
	t.Helper()
	for {
		if entries, _ := os.ReadDir(parent); len(entries) > 0 {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("nothing was unpacked")
		}
		runtime.Gosched()
	}
}
