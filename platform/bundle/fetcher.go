package bundle

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Defaults of a Fetcher.
const (
	DefaultCacheBytes = 2 << 30
	DefaultChunk      = 8 << 20
	DefaultParallel   = 4
	DefaultStall      = 30 * time.Second
)

// Fetcher downloads source bundles into a cache. Fill in the exported fields before the first call; those left zero take their default.
// Safe for concurrent use. One cache folder belongs to one Fetcher of one process.
type Fetcher struct {
	Objects    ObjectGetter  // required
	CacheDir   string        // required; made where missing, 0700 (folders above it 0755)
	Limits     Limits        // ArchiveBytes is what counts here; Stage holds all of them
	CacheBytes int64         // verified bundles kept, bytes; the one being fetched and those held may go beyond it
	Chunk      int64         // bytes per ranged GET
	Parallel   int           // ranged GETs at a time
	Stall      time.Duration // a range that brings no byte for so long is asked for again

	opening sync.Mutex
	opened  bool
	store   store // does not change once opened

	mu      sync.Mutex
	flights map[string]*flight
	holds   map[string]int
}

// flight is one download that all who want the digest wait for.
type flight struct {
	done      chan struct{}
	cancel    context.CancelCauseFunc
	waiters   int
	abandoned bool // nobody waits any more: it is ending, and no one may join
	path      string
	size      int64
	err       error
}

// errAbandoned ends a download that nobody waits for.
var errAbandoned = errors.New("nobody waits for the download any more")

// NewFetcher returns a Fetcher with its defaults set.
func NewFetcher(getter ObjectGetter, cacheDir string) *Fetcher {
	f := &Fetcher{Objects: getter, CacheDir: cacheDir}
	f.setDefaults()
	return f
}

func (f *Fetcher) setDefaults() {
	f.Limits = f.Limits.orDefaults()
	f.CacheBytes = orDefault(f.CacheBytes, DefaultCacheBytes)
	f.Chunk = orDefault(f.Chunk, DefaultChunk)
	f.Parallel = orDefault(f.Parallel, DefaultParallel)
	if f.Stall <= 0 {
		f.Stall = DefaultStall
	}
}

// Open validates the fields, makes the cache folder and removes leftovers that no download can resume. Fetch and Hold call it where nobody did; what
// failed is tried again.
func (f *Fetcher) Open() error {
	f.opening.Lock()
	defer f.opening.Unlock()
	if f.opened {
		return nil
	}
	f.setDefaults()
	if f.Objects == nil || f.CacheDir == "" {
		return errors.New("bundle fetcher: Objects and CacheDir are required")
	}
	f.store = store{dir: f.CacheDir, boot: bootID()}
	if err := f.store.open(); err != nil {
		return err // a full or read-only disk may be mended by the next call
	}
	f.flights, f.holds = map[string]*flight{}, map[string]int{}
	f.opened = true
	return nil
}

// Held is a cached bundle that is not evicted until Release.
type Held struct {
	Path string
	Size int64 // bytes
	once sync.Once
	free func()
}

// Release gives the bundle up; calling it again does nothing.
func (h *Held) Release() { h.once.Do(h.free) }

// Fetch answers the path of a file with the content src names, downloading it where the cache has none. The path stays until a later call needs its
// room: open it at once, or use Hold. Two calls for one digest share one download. A bundle that must not be used gives *Refused.
// When ctx ends the download stops, and a later call goes on where it was.
func (f *Fetcher) Fetch(ctx context.Context, src Source) (string, error) {
	h, err := f.Hold(ctx, src)
	if err != nil {
		return "", err
	}
	defer h.Release()
	return h.Path, nil
}

// Stage fetches src and unpacks it at dest, as Hold, UnpackLike and Release. Where the disk is too full for the tree, other cached bundles make room
// before it is refused. What the version before holds in the same form is copied from its tree instead of being inflated again.
// The bundle stays in the cache for as long as Keep names the tree, by the last part of dest.
func (f *Fetcher) Stage(ctx context.Context, src Source, dest string, before Before) (Stats, error) {
	h, err := f.Hold(ctx, src)
	if err != nil {
		return Stats{}, err
	}
	defer h.Release()
	room := func(dir string, n need) error { return f.store.checkRoom(dir, n, f.held) }
	stats, err := unpackAfter(ctx, h.Path, dest, before.Tree, f.store.ready(before.SHA256), f.Limits, room)
	if err != nil {
		return stats, err
	}
	return stats, f.store.pin(filepath.Base(dest), src.SHA256)
}

// Hold is Fetch, and keeps the bundle in the cache until the caller releases it.
func (f *Fetcher) Hold(ctx context.Context, src Source) (*Held, error) {
	if err := f.Open(); err != nil {
		return nil, err
	}
	if err := src.check(f.Limits); err != nil {
		return nil, err
	}
	f.hold(src.SHA256)
	h := &Held{free: func() { f.release(src.SHA256) }}
	var err error
	if h.Path, h.Size, err = f.shared(ctx, src); err == nil {
		err = src.checkSize(h.Size, f.Limits) // a cached file, or another's download, of the same digest but a size that is not the manifest's
	}
	if err != nil {
		h.Release()
		return nil, err
	}
	return h, nil
}

func (f *Fetcher) hold(digest string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.holds[digest]++
}

func (f *Fetcher) release(digest string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.holds[digest]--; f.holds[digest] <= 0 {
		delete(f.holds, digest)
	}
}

// held says whether somebody uses the digest's file now, or a tree that was made from it is kept.
func (f *Fetcher) held(digest string) bool {
	f.mu.Lock()
	used := f.holds[digest] > 0
	f.mu.Unlock()
	return used || f.store.pinned(digest)
}

// Keep says which trees are still there, by their names: bundles of others are no longer held for them.
func (f *Fetcher) Keep(trees []string) error {
	if err := f.Open(); err != nil {
		return err
	}
	return f.store.unpin(trees)
}

// Spare returns how many bytes of the cache Keep with these trees and then Shrink could give up. It changes nothing.
func (f *Fetcher) Spare(trees []string, except string) (int64, error) {
	if err := f.Open(); err != nil {
		return 0, err
	}
	all, err := f.store.list()
	kept := f.store.digestsOf(trees)
	f.mu.Lock()
	defer f.mu.Unlock()
	var bytes int64
	for _, c := range all {
		if c.digest != except && f.holds[c.digest] == 0 && !slices.Contains(kept, c.digest) {
			bytes += c.size
		}
	}
	return bytes, err
}

// Shrink removes the longest unused bundles until the cache holds at most so many bytes. What is held stays, and the one with the digest except.
func (f *Fetcher) Shrink(bytes int64, except string) error {
	if err := f.Open(); err != nil {
		return err
	}
	return f.store.evict(0, bytes, func(digest string) bool { return digest == except || f.held(digest) })
}

// shared waits for the one flight of the digest, starting it where there is none.
func (f *Fetcher) shared(ctx context.Context, src Source) (string, int64, error) {
	for {
		fl, joined := f.join(ctx, src)
		select {
		case <-fl.done:
		case <-ctx.Done():
			if joined {
				f.leave(fl)
			}
			return "", 0, fmt.Errorf("fetch source bundle %s: %w", src, context.Cause(ctx))
		}
		if joined {
			return fl.path, fl.size, fl.err
		}
	}
}

func (f *Fetcher) join(ctx context.Context, src Source) (*flight, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.flights[src.SHA256]; fl != nil {
		if fl.abandoned {
			return fl, false
		}
		fl.waiters++
		return fl, true
	}
	// The download serves everyone who joins, so one caller's end is not its end.
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	fl := &flight{done: make(chan struct{}), cancel: cancel, waiters: 1}
	f.flights[src.SHA256] = fl
	go f.fly(ctx, fl, src)
	return fl, true
}

func (f *Fetcher) leave(fl *flight) {
	f.mu.Lock()
	if fl.waiters--; fl.waiters == 0 {
		fl.abandoned = true
		fl.cancel(errAbandoned)
	}
	abandoned := fl.abandoned
	f.mu.Unlock()
	if abandoned {
		<-fl.done // its files are closed when Fetch returns
	}
}

func (f *Fetcher) fly(ctx context.Context, fl *flight, src Source) {
	defer fl.cancel(nil)
	fl.path, fl.size, fl.err = f.obtain(ctx, src)
	f.mu.Lock()
	delete(f.flights, src.SHA256)
	f.mu.Unlock()
	close(fl.done)
}

func (f *Fetcher) obtain(ctx context.Context, src Source) (string, int64, error) {
	if err := f.store.makeFolders(); err != nil {
		return "", 0, err
	}
	path, size, err := f.store.lookup(ctx, src.SHA256)
	if err != nil || path != "" {
		return path, size, err
	}
	if size, err = f.download(ctx, src); err != nil {
		return "", 0, err
	}
	if err := f.store.evict(0, f.CacheBytes, f.held); err != nil {
		return "", 0, err
	}
	return f.store.file(src.SHA256), size, nil
}
