package bundle_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/aws/objects"
	"hostmanager/platform/bundle"
)

// bucketServer speaks as much S3 as reading one object takes: HEAD, GET with Range, If-Match, versionId.
type bucketServer struct {
	*httptest.Server
	body   atomic.Pointer[[]byte]
	served atomic.Int64 // body bytes that left
	gets   atomic.Int64
	heads  atomic.Int64

	mu sync.Mutex
	// onGet may write the answer itself (true) instead of the usual one.
	onGet func(w http.ResponseWriter, r *http.Request, off, n int64) bool
}

func startBucket(t testing.TB, body []byte) *bucketServer {
	t.Helper()
	b := &bucketServer{}
	b.body.Store(&body)
	b.Server = httptest.NewServer(http.HandlerFunc(b.serve))
	t.Cleanup(b.Close)
	return b
}

func (b *bucketServer) fault(f func(w http.ResponseWriter, r *http.Request, off, n int64) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.onGet = f
}

func etagOf(body []byte) string {
	sum := sha256.Sum256(body)
	return `"` + hex.EncodeToString(sum[:16]) + `"`
}

func (b *bucketServer) serve(w http.ResponseWriter, r *http.Request) {
	body := *b.body.Load()
	if r.URL.Path != "/bkt/app.zip" || r.URL.Query().Get("versionId") == "gone" {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("ETag", etagOf(body))
	if m := r.Header.Get("If-Match"); m != "" && m != etagOf(body) {
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	}
	if r.Method == http.MethodHead {
		b.heads.Add(1)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		return
	}
	b.gets.Add(1)
	var from, to int64
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	to = min(to, int64(len(body))-1)
	w.Header().Set("Content-Length", strconv.FormatInt(to-from+1, 10))
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, len(body)))
	b.mu.Lock()
	fault := b.onGet
	b.mu.Unlock()
	if fault != nil && fault(w, r, from, to-from+1) {
		return
	}
	w.WriteHeader(http.StatusPartialContent)
	n, _ := w.Write(body[from : to+1])
	b.served.Add(int64(n))
}

// cut answers with half of the range and hangs up.
func (b *bucketServer) cut(w http.ResponseWriter, off, n int64) {
	body := *b.body.Load()
	w.WriteHeader(http.StatusPartialContent)
	m, _ := w.Write(body[off : off+n/2])
	b.served.Add(int64(m))
	panic(http.ErrAbortHandler)
}

func client(t testing.TB, endpoint string) *objects.Client {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	c, err := objects.New(t.Context(), objects.Options{Region: "us-east-1", Endpoint: endpoint})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newFetcher(t testing.TB, b *bucketServer, dir string) *bundle.Fetcher {
	t.Helper()
	f := bundle.NewFetcher(client(t, b.URL), dir)
	f.Chunk = 64 << 10
	return f
}

func randomBytes(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func sourceOf(body []byte) bundle.Source {
	sum := sha256.Sum256(body)
	return bundle.Source{Bucket: "bkt", Key: "app.zip", SHA256: hex.EncodeToString(sum[:]), Size: int64(len(body))}
}

func filesUnder(t testing.TB, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			all = append(all, rel)
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return all
}

func mustHold(t testing.TB, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if sha256.Sum256(got) != sha256.Sum256(want) {
		t.Fatalf("%s holds other bytes than the object (%d, want %d)", path, len(got), len(want))
	}
}

func TestFetch_BringsTheObjectAndKeepsItByDigest(t *testing.T) {
	for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 1_000_003} {
		t.Run(strconv.Itoa(size), func(t *testing.T) {
			body := randomBytes(uint64(size), size)
			b := startBucket(t, body)
			dir := t.TempDir()
			f := newFetcher(t, b, dir)
			path, err := f.Fetch(t.Context(), sourceOf(body))
			if err != nil {
				t.Fatal(err)
			}
			if want := filepath.Join(dir, "sha256", sourceOf(body).SHA256); path != want {
				t.Fatalf("path = %s, want %s", path, want)
			}
			mustHold(t, path, body)
			gets := b.gets.Load()
			if _, err := newFetcher(t, b, dir).Fetch(t.Context(), sourceOf(body)); err != nil {
				t.Fatal(err)
			}
			if b.gets.Load() != gets {
				t.Fatal("a cached bundle was downloaded again")
			}
			if left := filesUnder(t, filepath.Join(dir, "partial")); len(left) > 0 {
				t.Fatalf("left behind: %v", left)
			}
		})
	}
}

func TestFetch_RefusesWhatIsNotTheManifestsBundle(t *testing.T) {
	body := randomBytes(1, 300_000)
	other := sourceOf(randomBytes(2, 300_000))
	short := sourceOf(body)
	short.Size--
	huge := sourceOf(body)
	tests := []struct {
		name   string
		src    bundle.Source
		limits bundle.Limits
		says   string
		digest bool
	}{
		{"digest", other, bundle.Limits{}, "the manifest says " + other.SHA256, true},
		{"size", short, bundle.Limits{}, "has 300000 bytes, the manifest says 299999", true},
		{"limit", huge, bundle.Limits{ArchiveBytes: 1000}, "the limit is 1000", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := startBucket(t, body)
			dir := t.TempDir()
			f := newFetcher(t, b, dir)
			f.Limits = tt.limits
			_, err := f.Fetch(t.Context(), tt.src)
			var refused *bundle.Refused
			if !errors.As(err, &refused) || !strings.Contains(refused.Reason, tt.says) {
				t.Fatalf("err = %v, want a refusal with %q", err, tt.says)
			}
			if errors.Is(err, bundle.ErrDigest) != tt.digest {
				t.Fatalf("errors.Is(err, ErrDigest) = %v", !tt.digest)
			}
			if left := filesUnder(t, dir); len(left) > 0 {
				t.Fatalf("left behind: %v", left)
			}
		})
	}
}

func TestFetch_RefusesASourceThatIsNoSource(t *testing.T) {
	good := sourceOf([]byte("x"))
	tests := map[string]func(*bundle.Source){
		"no bucket":    func(s *bundle.Source) { s.Bucket = "" },
		"no key":       func(s *bundle.Source) { s.Key = "" },
		"no digest":    func(s *bundle.Source) { s.SHA256 = "" },
		"short digest": func(s *bundle.Source) { s.SHA256 = s.SHA256[1:] },
		"traversal":    func(s *bundle.Source) { s.SHA256 = strings.Repeat("../", 21) + "x" },
		"upper case":   func(s *bundle.Source) { s.SHA256 = strings.ToUpper(s.SHA256) },
		"size":         func(s *bundle.Source) { s.Size = -1 },
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			src := good
			spoil(&src)
			f := newFetcher(t, startBucket(t, []byte("x")), t.TempDir())
			if _, err := f.Fetch(t.Context(), src); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

func TestFetch_MissingObjectIsNotFound(t *testing.T) {
	b := startBucket(t, []byte("x"))
	dir := t.TempDir()
	src := sourceOf([]byte("x"))
	src.VersionID = "gone"
	_, err := newFetcher(t, b, dir).Fetch(t.Context(), src)
	if !errors.Is(err, objects.ErrNotFound) {
		t.Fatalf("err = %v, want ErrNotFound", err)
	}
	if left := filesUnder(t, dir); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestFetch_GoesOnAfterCutConnections(t *testing.T) {
	body := randomBytes(3, 1_000_000)
	b := startBucket(t, body)
	var cuts atomic.Int64
	b.fault(func(w http.ResponseWriter, _ *http.Request, off, n int64) bool {
		if n > 10_000 && cuts.Add(1)%2 == 1 {
			b.cut(w, off, n)
		}
		return false
	})
	path, err := newFetcher(t, b, t.TempDir()).Fetch(t.Context(), sourceOf(body))
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, body)
	if cuts.Load() < 4 {
		t.Fatalf("only %d connections were cut", cuts.Load())
	}
	if extra := b.served.Load() - int64(len(body)); extra > 0 {
		t.Fatalf("%d bytes were fetched twice", extra)
	}
}

func TestFetch_AStalledRangeIsAskedForAgain(t *testing.T) {
	body := randomBytes(4, 200_000)
	b := startBucket(t, body)
	var stalls atomic.Int64
	b.fault(func(w http.ResponseWriter, r *http.Request, off, n int64) bool {
		if off == 0 && stalls.Add(1) == 1 {
			w.WriteHeader(http.StatusPartialContent)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		return false
	})
	f := newFetcher(t, b, t.TempDir())
	f.Stall = 200 * time.Millisecond
	path, err := f.Fetch(t.Context(), sourceOf(body))
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, body)
}

func TestFetch_AnObjectThatChangesInTheMiddleIsRefused(t *testing.T) {
	body, later := randomBytes(5, 500_000), randomBytes(6, 500_000)
	b := startBucket(t, body)
	var n atomic.Int64
	b.fault(func(http.ResponseWriter, *http.Request, int64, int64) bool {
		if n.Add(1) == 3 {
			b.body.Store(&later)
		}
		return false
	})
	dir := t.TempDir()
	_, err := newFetcher(t, b, dir).Fetch(t.Context(), sourceOf(body))
	var refused *bundle.Refused
	if !errors.As(err, &refused) || !strings.Contains(refused.Reason, "changed while it was downloaded") {
		t.Fatalf("err = %v, want a refusal that tells of the change", err)
	}
	if left := filesUnder(t, dir); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestFetch_ChunksThatArriveInAnyOrderHashRight(t *testing.T) {
	body := randomBytes(7, 1_200_000)
	b := startBucket(t, body)
	first := make(chan struct{})
	var once sync.Once
	b.fault(func(_ http.ResponseWriter, _ *http.Request, off, _ int64) bool {
		if off == 0 {
			<-first // the lowest chunk comes when others have long been there
		}
		if off > 600_000 {
			once.Do(func() { close(first) })
		}
		return false
	})
	path, err := newFetcher(t, b, t.TempDir()).Fetch(t.Context(), sourceOf(body))
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, body)
}

func TestFetch_TogetherShareOneDownload(t *testing.T) {
	body := randomBytes(8, 400_000)
	b := startBucket(t, body)
	started, proceed := make(chan struct{}), make(chan struct{})
	var once sync.Once
	b.fault(func(http.ResponseWriter, *http.Request, int64, int64) bool {
		once.Do(func() { close(started) })
		<-proceed
		return false
	})
	f := newFetcher(t, b, t.TempDir())
	impatient, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := f.Fetch(impatient, sourceOf(body))
		left <- err
	}()
	<-started
	results := make(chan error, 8)
	for range cap(results) {
		go func() {
			path, err := f.Fetch(t.Context(), sourceOf(body))
			if err == nil {
				_, err = os.Stat(path)
			}
			results <- err
		}()
	}
	f2done := make(chan struct{})
	go func() { // all of them have joined before the first one leaves
		defer close(f2done)
		for f.Waiting(sourceOf(body).SHA256) < 9 {
			runtime.Gosched()
		}
		leave()
	}()
	<-f2done
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("the caller that left got %v", err)
	}
	close(proceed)
	for range cap(results) {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	b.Close() // a handler counts after its write, so behind the reader
	if b.served.Load() != int64(len(body)) {
		t.Fatalf("%d bytes were served, want %d once", b.served.Load(), len(body))
	}
}

func TestFetch_ACancelledDownloadIsResumed(t *testing.T) {
	body := randomBytes(9, 1_000_000)
	b := startBucket(t, body)
	ctx, cancel := context.WithCancel(t.Context())
	b.fault(func(_ http.ResponseWriter, r *http.Request, off, _ int64) bool {
		if off >= 500_000 {
			cancel()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		return false
	})
	dir := t.TempDir()
	f := newFetcher(t, b, dir)
	f.Parallel = 1
	if _, err := f.Fetch(ctx, sourceOf(body)); !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v, want Canceled", err)
	}
	b.fault(nil)
	before := b.served.Load()
	path, err := newFetcher(t, b, dir).Fetch(t.Context(), sourceOf(body))
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, body)
	if again := b.served.Load() - before; again > 600_000 {
		t.Fatalf("the second try fetched %d bytes of %d", again, len(body))
	}
}

func TestFetch_ADamagedPartIsFetchedAgain(t *testing.T) {
	body := randomBytes(10, 1_000_000)
	tests := map[string]func(t *testing.T, part, ranges string){
		"flipped byte": func(t *testing.T, part, _ string) { flip(t, part, 100) },
		"cut part":     func(t *testing.T, part, _ string) { must(t, os.Truncate(part, 1000)) },
		"torn sidecar": func(t *testing.T, _, ranges string) {
			raw, err := os.ReadFile(ranges)
			must(t, err)
			must(t, os.Truncate(ranges, int64(len(raw)-5)))
		},
		"lost sidecar":    func(t *testing.T, _, ranges string) { must(t, os.Remove(ranges)) },
		"garbage sidecar": func(t *testing.T, _, ranges string) { must(t, os.WriteFile(ranges, []byte("{}\n{}\n\x00"), 0o600)) },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			b := startBucket(t, body)
			dir := t.TempDir()
			interrupt(t, b, dir, body)
			digest := sourceOf(body).SHA256
			damage(t, filepath.Join(dir, "partial", digest+".part"), filepath.Join(dir, "partial", digest+".ranges"))
			path, err := newFetcher(t, b, dir).Fetch(t.Context(), sourceOf(body))
			must(t, err)
			mustHold(t, path, body)
		})
	}
}

// interrupt leaves half of a download behind.
func interrupt(t *testing.T, b *bucketServer, dir string, body []byte) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b.fault(func(_ http.ResponseWriter, r *http.Request, off, _ int64) bool {
		if off >= int64(len(body)/2) {
			cancel()
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}
		return false
	})
	f := newFetcher(t, b, dir)
	f.Parallel = 1
	if _, err := f.Fetch(ctx, sourceOf(body)); err == nil {
		t.Fatal("the download was not interrupted")
	}
	b.fault(nil)
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	var c [1]byte
	_, err = f.ReadAt(c[:], at)
	must(t, err)
	c[0] ^= 0xff
	_, err = f.WriteAt(c[:], at)
	must(t, err)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFetch_TwoProcessesDoNotShareAPart(t *testing.T) {
	body := randomBytes(13, 400_000)
	b := startBucket(t, body)
	entered := make(chan struct{}, 100)
	proceed := make(chan struct{})
	b.fault(func(http.ResponseWriter, *http.Request, int64, int64) bool {
		entered <- struct{}{}
		<-proceed
		return false
	})
	dir := t.TempDir()
	done := make(chan error, 1)
	one := newFetcher(t, b, dir)
	go func() {
		_, err := one.Fetch(t.Context(), sourceOf(body))
		done <- err
	}()
	<-entered
	_, err := newFetcher(t, b, dir).Fetch(t.Context(), sourceOf(body))
	if err == nil || !strings.Contains(err.Error(), "another process") {
		t.Fatalf("err = %v, want word of the other process", err)
	}
	close(proceed)
	must(t, <-done)
}

func TestStage_FetchesAndUnpacks(t *testing.T) {
	archive := zipBytes(t, zipFile("Dockerfile", "FROM scratch\n"), zipFile("cmd/app.go", "package main\n"))
	b := startBucket(t, archive)
	dir := t.TempDir()
	stats, err := newFetcher(t, b, filepath.Join(dir, "cache")).Stage(t.Context(), sourceOf(archive), filepath.Join(dir, "releases", "1-abc"), bundle.Before{})
	must(t, err)
	if stats.Files != 2 || stats.Folders != 1 || stats.Kind != bundle.KindZip {
		t.Fatalf("stats = %+v", stats)
	}
	mustHold(t, filepath.Join(dir, "releases", "1-abc", "Dockerfile"), []byte("FROM scratch\n"))
}

// Whatever keeps the cache from being opened may be mended while the agent runs.
func TestFetch_AfterTheCacheCouldNotBeOpened(t *testing.T) {
	body := randomBytes(9, 1<<10)
	b := startBucket(t, body)
	dir := filepath.Join(t.TempDir(), "cache")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFetcher(t, b, dir)
	if _, err := f.Fetch(t.Context(), sourceOf(body)); err == nil {
		t.Fatal("a file is no cache")
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	path, err := f.Fetch(t.Context(), sourceOf(body))
	if err != nil {
		t.Fatal(err)
	}
	mustHold(t, path, body)
}
