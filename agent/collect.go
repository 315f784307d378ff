package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"hostmanager/internal/disk"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// collector is a platform that leaves things behind.
type collector interface {
	// Spare tells what Collect with failed would remove: trees, and at most so many bytes of images. It changes nothing.
	Spare(ctx context.Context) (trees []string, imageBytes int64, err error)
	// Collect removes what nobody needs, but for what serves and the versions that are kept; failed: also what the last failed deployment left
	// and what is staged, because another one begins; hard: also caches within their bounds. It runs beside no command.
	Collect(ctx context.Context, failed, hard bool) error
}

// collection says how far collecting goes.
type collection struct {
	failed bool   // a deployment begins: what the last one left as evidence goes
	hard   bool   // the disk is short: caches go wholly
	except string // digest of a bundle that stays
}

// Times of the disk keeper.
const (
	collectEvery   = time.Hour
	collectShort   = 10 * time.Minute // between two collections because the disk is short
	collectTimeout = 30 * time.Second
)

// How many of what is set aside stays, the latest first.
const (
	keptAside = 5
	// spillAge is how old a large response that no result names must be to be a leaving.
	spillAge = time.Hour
)

// careForDisk looks at the disks until ctx ends, and collects in the exclusive lane, beside no command.
func (a *Agent) careForDisk(ctx context.Context) {
	a.awaitRecovery(ctx)
	tick := time.NewTicker(a.LookEvery)
	defer tick.Stop()
	var collected, changed time.Time
	for ctx.Err() == nil {
		pressed := a.disk.look()
		waiting, running := a.exclusive.depth()
		since, now := time.Since(collected), a.disk.treesChanged()
		if waiting+running == 0 && (since > collectEvery || pressed && since > collectShort || !now.Equal(changed)) {
			a.collectInLane(ctx, pressed)
			collected, changed = time.Now(), now
		}
		if _, running := a.exclusive.depth(); running == 0 {
			a.disk.replenish()
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (a *Agent) collectInLane(ctx context.Context, hard bool) {
	done := make(chan struct{})
	a.exclusive.push(job{identity: "collect", do: func(ctx context.Context) {
		defer close(done)
		ctx, cancel := context.WithTimeout(ctx, collectTimeout)
		defer cancel()
		a.disk.collect(ctx, collection{hard: hard})
	}}, false)
	select {
	case <-done:
	case <-ctx.Done(): // the lane may be closed
	}
}

// replenish makes the reserve where there is room for it again.
func (k *diskKeeper) replenish() {
	if k.reserve.Held() {
		return
	}
	if err := k.reserve.Make(); err != nil && !errors.Is(err, disk.ErrNoRoom) {
		k.log.Warn("disk reserve not made", slog.Any("error", err))
	}
}

// look says what changed since the last look, and whether a disk is short of room.
func (k *diskKeeper) look() (pressed bool) {
	spaces := k.spaces()
	k.mu.Lock()
	var events []protocol.Event
	say := func(severity protocol.Severity, format string, args ...any) {
		events = append(events, protocol.Event{Severity: severity, Msg: fmt.Sprintf(format, args...)})
	}
	for _, s := range spaces {
		since, said := k.short[s.Mount]
		switch {
		case short(s) && !said:
			k.short[s.Mount] = time.Now()
			say(protocol.Warn, "The disk of %s is short of room: %s of %s%s are free. What nobody needs is removed; a deployment that does not fit is refused.",
				s.Mount, disk.Size(max(s.Bytes, 0)), disk.Size(s.TotalBytes), inodesOf(s))
		case !short(s) && said:
			delete(k.short, s.Mount)
			say(protocol.Info, "The disk of %s has room again, after %s.", s.Mount, time.Since(since).Round(time.Second))
		}
		pressed = pressed || short(s)
	}
	if lost := k.lost(); lost > k.told && !pressed {
		say(protocol.Warn, "%s lines of log could not be written while the disk was full.", disk.Count(lost-k.told))
		k.told = lost
	}
	if !k.waiting.IsZero() && !slices.ContainsFunc(spaces, full) {
		say(protocol.Info, "Commands are taken again: for %s the journal had no room.", time.Since(k.waiting).Round(time.Second))
		k.waiting = time.Time{}
	}
	k.mu.Unlock()
	for _, e := range events {
		k.event(e)
	}
	return pressed
}

func inodesOf(s disk.Space) string {
	if s.Inodes < 0 {
		return ""
	}
	return fmt.Sprintf(" and %s of %s inodes", disk.Count(s.Inodes), disk.Count(s.TotalInodes))
}

// collect removes what nobody needs. It goes by what is on the disk, in the journal and on the platform, and by nothing it remembers. What it
// cannot remove is for the log.
func (k *diskKeeper) collect(ctx context.Context, c collection) {
	before := k.spaces()
	var errs []error
	if k.garbage != nil {
		errs = append(errs, k.garbage.Collect(ctx, c.failed, c.hard))
	}
	errs = append(errs, k.collectBundles(c))
	for _, pattern := range []string{k.root.Journal() + ".quarantine-*", k.root.Journal() + ".instance-*", k.root.ProxyState() + ".corrupt-*"} {
		errs = append(errs, keepLatest(pattern, keptAside))
	}
	errs = append(errs, k.collectSpills())
	if err := errors.Join(errs...); err != nil && ctx.Err() == nil {
		k.log.Warn("not everything that nobody needs was removed", slog.Any("error", err))
	}
	for i, s := range k.spaces() {
		if i < len(before) && before[i].Dev == s.Dev && s.Bytes-before[i].Bytes > fullBytes {
			k.log.Info("removed what nobody needs", slog.String("mount", s.Mount), slog.Int64("bytes", s.Bytes-before[i].Bytes), slog.Bool("short", c.hard))
		}
	}
}

// treesChanged returns when a tree came or went last: its bundle came or went with it.
func (k *diskKeeper) treesChanged() time.Time {
	info, err := os.Stat(k.root.Releases())
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// trees returns the names of the application trees that are there.
func (k *diskKeeper) trees() ([]string, error) {
	entries, err := os.ReadDir(k.root.Releases())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list application trees: %w", err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// collectBundles keeps the bundles of the trees that are there, and of others as many as fit into the cache; none where the disk is short.
func (k *diskKeeper) collectBundles(c collection) error {
	trees, err := k.trees()
	if err != nil {
		return err
	}
	if err := k.bundles.Keep(trees); err != nil {
		return err
	}
	bound := k.conf.BundleCache
	if c.hard {
		bound = 0
	}
	return k.bundles.Shrink(bound, c.except)
}

// keepLatest removes the oldest files of a pattern, by their time, down to a number.
func keepLatest(pattern string, most int) error {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	type file struct {
		path string
		at   time.Time
	}
	var all []file
	for _, path := range found {
		if info, err := os.Lstat(path); err == nil {
			all = append(all, file{path, info.ModTime()})
		}
	}
	slices.SortFunc(all, func(x, y file) int { return cmp.Or(y.at.Compare(x.at), cmp.Compare(y.path, x.path)) })
	var errs []error
	for _, f := range all[min(most, len(all)):] {
		errs = append(errs, removeFile(f.path))
	}
	return errors.Join(errs...)
}

// collectSpills removes large responses that no result of the journal waits to send.
func (k *diskKeeper) collectSpills() error {
	entries, err := os.ReadDir(k.root.Outbox())
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look through the outbox: %w", err)
	}
	named := spillsOf(k.journal.Commands())
	var errs []error
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && !named[e.Name()] && time.Since(info.ModTime()) > spillAge {
			errs = append(errs, removeFile(filepath.Join(k.root.Outbox(), e.Name())))
		}
	}
	return errors.Join(errs...)
}

func spillsOf(all []journal.Command) map[string]bool {
	named := map[string]bool{}
	for _, c := range all {
		var o outcome
		if c.SentAt.IsZero() && json.Unmarshal(c.Result, &o) == nil && o.Spill != nil {
			named[o.Spill.File] = true
		}
	}
	return named
}
