package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hostmanager/internal/disktest"
	"hostmanager/internal/layout"
)

// lonelyEngine answers what is asked before the build cache is pruned, as an Engine would on which the given containers are.
func lonelyEngine(t *testing.T, containers string) (host string, pruned func() []string) {
	t.Helper()
	var mu sync.Mutex
	var asked []string
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") })
	mux.HandleFunc("GET /v1.41/containers/json", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, containers) })
	mux.HandleFunc("GET /v1.41/images/json", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "[]") })
	prune := func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		text, _ := url.QueryUnescape(r.URL.RequestURI())
		asked = append(asked, text)
		fmt.Fprint(w, "{}")
	}
	mux.HandleFunc("POST /v1.41/build/prune", prune)
	mux.HandleFunc("POST /v1.41/images/prune", prune)
	return serveEngine(t, mux), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(asked)
	}
}

// serveEngine has somebody answer in the Engine's place.
func serveEngine(t *testing.T, answers http.Handler) (host string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "engine.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: answers}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return "unix://" + socket
}

// The Engine goes on with a removal that a killed agent asked for. Who asks for the same then is refused in words of all sorts, for an image that is gone.
func TestRemoveImage_ThatIsGoneMeanwhile(t *testing.T) {
	for name, there := range map[string]bool{"gone": false, "there": true} {
		t.Run(name, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") })
			mux.HandleFunc("DELETE /v1.41/images/{id}", func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, `{"message":"unrecognized image ID"}`, http.StatusInternalServerError)
			})
			mux.HandleFunc("GET /v1.41/images/{id}/json", func(w http.ResponseWriter, _ *http.Request) {
				if !there {
					w.WriteHeader(http.StatusNotFound)
				}
				fmt.Fprint(w, "{}")
			})
			p, err := New(Options{Root: layout.Root(t.TempDir()), Host: serveEngine(t, mux), Valve: noValve{}})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if err := p.connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := p.removeImage(t.Context(), "sha256:1"); (err != nil) != there {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestCollectEngine_OnlyWhereItIsOursAlone(t *testing.T) {
	const (
		ours   = `[{"Id":"1","Labels":{"hostmanager":"default"}}]`
		theirs = `[{"Id":"1","Labels":{"hostmanager":"default"}},{"Id":"2","Labels":{"hostmanager":"room-7"}}]`
	)
	for name, c := range map[string]struct {
		containers, namespace string
		whole, hard           bool
		want                  []string
	}{
		"alone":             {ours, "", true, false, []string{`/v1.41/build/prune?all=1&filters=&keep-storage=77&reserved-space=77`}},
		"the disk is short": {ours, "", true, true, []string{`/v1.41/build/prune?all=1&filters=`}},
		"others are there":  {theirs, "", true, true, nil},
		"a namespace":       {ours, "mine", true, true, nil},
		"told not to":       {ours, "", false, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			host, pruned := lonelyEngine(t, c.containers)
			p, err := New(Options{
				Root: layout.Root(t.TempDir()), Namespace: c.namespace, Host: host, Valve: noValve{}, WholeEngine: c.whole, BuildCache: 77, Log: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if err := p.connect(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := p.collectEngine(t.Context(), c.hard); err != nil {
				t.Fatal(err)
			}
			if got := pruned(); !slices.Equal(got, c.want) {
				t.Errorf("asked for\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// Who waits for an Engine that another asks already heeds its own time.
func TestConnect_HeedsItsContextWhileAnotherWaits(t *testing.T) {
	p, err := New(Options{Root: layout.Root(t.TempDir()), Valve: noValve{}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.meet(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer p.meeting.Release(1)
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if err := p.connect(ctx); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
	if _, err := p.engineDisk(ctx); !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

// noValve is a valve that nobody asks.
type noValve struct{ Valve }

const (
	idA = "aaaaaaaaaaaa0000000000000000000000000000000000000000000000000000"
	idB = "bbbbbbbbbbbb0000000000000000000000000000000000000000000000000000"
)

// The lines of a container that never ends are there once each, in files that are bounded in size and number, also after a crash at the turn.
func TestContainerLog_IsRotatedAndLosesNothing(t *testing.T) {
	root := layout.Root(t.TempDir())
	base := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	line := func(n int) (string, string) {
		return base.Add(time.Duration(n) * time.Millisecond).Format(time.RFC3339Nano), fmt.Sprintf("%08d %s\n", n, strings.Repeat("x", 8<<10))
	}
	const all = 7000 // more than the bound of all files together
	from := 0
	for _, upTo := range []int{1000, 1400, 5000, all} {
		l, err := openContainerLog(root, idA)
		if err != nil {
			t.Fatal(err)
		}
		for n := max(0, from-50); n < upTo; n++ { // the Engine repeats what it is not sure of
			if err := l.add(line(n)); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		from = upTo
	}
	var got []string
	path := filepath.Join(root.ContainerLogs(), idA[:12]+"-stdouterr.log")
	for n := keptContainerLog; n >= 0; n-- {
		name := path
		if n > 0 {
			name = fmt.Sprintf("%s.%d", path, n)
		}
		data, err := os.ReadFile(name)
		if err != nil || len(data) > maxContainerLog {
			t.Fatalf("%s: %d bytes, %v", name, len(data), err)
		}
		for text := range strings.Lines(string(data)) {
			got = append(got, text[:8])
		}
	}
	for i, text := range got {
		if want := fmt.Sprintf("%08d", all-len(got)+i); text != want {
			t.Fatalf("line %d of %d is %s, want %s", i, len(got), text, want)
		}
	}
	if least := keptContainerLog * (maxContainerLog - 9<<10) / (8 << 10); len(got) < least-1000 || len(got) == all {
		t.Errorf("%d lines are kept", len(got))
	}
	if entries, err := os.ReadDir(root.ContainerLogs()); err != nil || len(entries) != keptContainerLog+1 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}

// The container may write to the folder: what it puts in the way of a rotation costs that thing, and nothing outside.
func TestContainerLog_RotationIsNotLedAstray(t *testing.T) {
	root := layout.Root(t.TempDir())
	outside := filepath.Join(t.TempDir(), "precious")
	l, err := openContainerLog(root, idA)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(outside, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(l.path+".1/deep", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, l.path+".2"); err != nil {
		t.Fatal(err)
	}
	for n := range 4 {
		if err := l.add(time.Unix(int64(n), 0).UTC().Format(time.RFC3339Nano), strings.Repeat("x", maxContainerLog/2+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(outside); err != nil || string(data) != "x" {
		t.Errorf("outside: %q, %v", data, err)
	}
	for n := 1; n <= 3; n++ {
		if info, err := os.Lstat(fmt.Sprintf("%s.%d", l.path, n)); err != nil || !info.Mode().IsRegular() && info.Mode().Type() != os.ModeDir {
			t.Errorf("file %d: %v, %v", n, info, err)
		}
	}
}

func TestSweepContainerLogs_KeepsThoseOfContainersThatAreThereAndTheLastGone(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, age time.Duration) {
		t.Helper()
		path := filepath.Join(dir, name)
		at := time.Now().Add(-age)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 6 {
		put(fmt.Sprintf("%012d-stdouterr.log", n), time.Duration(n)*time.Hour)
		put(fmt.Sprintf("%012d-stdouterr.log.1", n), time.Duration(n+100)*time.Hour)
	}
	put(idB[:12]+"-stdouterr.log", 1000*time.Hour)
	put("app.log", 1000*time.Hour)
	put("unexpected-quit.log", 1000*time.Hour)
	if err := os.Mkdir(filepath.Join(dir, "cccccccccccc-stdouterr.log"), 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := sweepContainerLogs(dir, []string{idB}); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	want := []string{"app.log", idB[:12] + "-stdouterr.log", "cccccccccccc-stdouterr.log", "unexpected-quit.log"}
	for n := range goneContainers {
		want = append(want, fmt.Sprintf("%012d-stdouterr.log", n), fmt.Sprintf("%012d-stdouterr.log.1", n))
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
}

// What has no room is not half there: it is read again from the Engine when there is room, once.
func TestContainerLog_OnAFullDisk(t *testing.T) {
	dir := disktest.Mount(t, disktest.Options{Bytes: 16 << 20})
	root := layout.Root(filepath.Join(dir, "root"))
	add := func(from, upTo int) (done int, err error) {
		l, err := openContainerLog(root, idA)
		if err != nil {
			return from, err
		}
		for n := max(0, from-5); n < upTo && err == nil; n++ {
			err = l.add(time.Unix(int64(n), 0).UTC().Format(time.RFC3339Nano), fmt.Sprintf("%08d %s\n", n, strings.Repeat("x", 3000)))
			done = n
		}
		return done, errors.Join(err, l.close())
	}
	if _, err := add(0, 10); err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	disktest.Fill(t, ballast, 300<<10)
	reached, err := add(10, 100)
	if !errors.Is(err, syscall.ENOSPC) || reached < 20 {
		t.Fatalf("line %d: %v", reached, err)
	}
	if _, err := add(reached, 100); err == nil {
		t.Fatal("the disk is not full")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := add(10, 100); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root.ContainerLogs(), idA[:12]+"-stdouterr.log"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if want := fmt.Sprintf("%08d ", n); !strings.HasPrefix(line, want) || len(line) != 3010 {
			t.Fatalf("line %d is %.20q of %d bytes", n, line, len(line))
		}
		n++
	}
	if n != 100 {
		t.Errorf("%d lines, want 100", n)
	}
}

// What the follower is just writing is no position of a container that is gone.
func TestForgetPositions_LeavesUnfinishedFilesAlone(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{idA[:12] + ".json", idB[:12] + ".json", "." + idA[:12] + ".json.hm-tmp-1"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := forgetPositions(dir, []string{idA}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left %v, %v", left, err)
	}
}
