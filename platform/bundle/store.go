package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"hostmanager/internal/atomicfile"
)

// store is the cache on disk:
//
//	sha256/<hex>           a verified bundle, 0600
//	sha256/<hex>.verified  what its file looked like when its digest was last computed; its time is that of the last use
//	partial/<hex>.part     a download under way or cut off, locked while a process works at it
//	partial/<hex>.ranges   which ranges of it are whole (sidecar)
//	trees/<name>           a link whose target is the digest of the bundle that the tree of that name was made from
//
// Nothing here is synced: a bundle can be fetched again. Instead a record counts only within the boot that wrote it; after a power cut every bundle is
// hashed once more before it is used, and partial downloads begin anew.
type store struct {
	dir  string
	boot string // "" where the kernel does not tell it: then no record counts
}

const (
	verifiedExt = ".verified"
	partExt     = ".part"
	rangesExt   = ".ranges"
	recordBytes = 4 << 10
	// partialAge is how long a download that was cut off waits to be resumed.
	partialAge = 24 * time.Hour
)

// verified identifies a file's content without reading it: a write, a truncation or a replacement changes size, inode, mtime or ctime.
type verified struct {
	Boot  string `json:"boot"`
	Size  int64  `json:"size"`
	Inode uint64 `json:"inode"`
	Mtime int64  `json:"mtime_ns"`
	Ctime int64  `json:"ctime_ns"`
}

func bootID() string {
	id, err := atomicfile.ReadFileLimit("/proc/sys/kernel/random/boot_id", 100)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}

func (s store) file(digest string) string { return filepath.Join(s.dir, "sha256", digest) }
func (s store) part(digest string) string { return filepath.Join(s.dir, "partial", digest+partExt) }

func (s store) ranges(digest string) string { return filepath.Join(s.dir, "partial", digest+rangesExt) }

func (s store) open() error {
	if err := s.makeFolders(); err != nil {
		return err
	}
	if err := s.sweepPartials(); err != nil {
		return err
	}
	return s.sweepRecords()
}

// makeFolders is asked for before each fetch, too: somebody may have removed the cache to make room.
func (s store) makeFolders() error {
	for _, sub := range []string{"sha256", "partial", "trees"} {
		if err := errors.Join(atomicfile.MakeDir(s.dir, 0o700), atomicfile.MakeDir(filepath.Join(s.dir, sub), 0o700)); err != nil {
			return fmt.Errorf("make bundle cache: %w", err)
		}
	}
	return nil
}

// sweepPartials removes downloads that cannot or will not be resumed. One that a process works at is left alone.
func (s store) sweepPartials() error {
	dir := filepath.Join(s.dir, "partial")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for partial downloads: %w", err)
	}
	for _, e := range entries {
		digest := strings.TrimSuffix(strings.TrimSuffix(e.Name(), partExt), rangesExt)
		info, err := e.Info()
		if err != nil {
			continue // gone meanwhile
		}
		_, statErr := os.Stat(s.part(digest))
		stale := time.Since(info.ModTime()) > partialAge || !isDigest(digest) || statErr != nil
		if !stale || lockedElsewhere(s.part(digest)) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove partial download: %w", err)
		}
	}
	return nil
}

func (s store) sweepRecords() error {
	dir := filepath.Join(s.dir, "sha256")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look through bundle cache: %w", err)
	}
	for _, e := range entries {
		digest := strings.TrimSuffix(e.Name(), verifiedExt)
		_, statErr := os.Stat(s.file(digest))
		if isDigest(digest) && statErr == nil {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove leftover of bundle cache: %w", err)
		}
	}
	return nil
}

// pin notes which bundle a tree was made from. A note that is lost costs a download, no more.
func (s store) pin(tree, digest string) error {
	path := filepath.Join(s.dir, "trees", tree)
	if old, err := os.Readlink(path); err == nil && old == digest {
		return nil
	}
	if err := removeAll(path); err != nil {
		return err
	}
	if err := os.Symlink(digest, path); err != nil {
		return fmt.Errorf("note the source bundle of %s: %w", tree, diskFull(err, s.dir))
	}
	return nil
}

// pinned says whether a tree was made from the digest's bundle.
func (s store) pinned(digest string) bool {
	dir := filepath.Join(s.dir, "trees")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		return err == nil && target == digest
	})
}

// digestsOf returns the digests of the bundles that trees were made from, where that is noted.
func (s store) digestsOf(trees []string) []string {
	var all []string
	for _, tree := range trees {
		if digest, err := os.Readlink(filepath.Join(s.dir, "trees", tree)); err == nil {
			all = append(all, digest)
		}
	}
	return all
}

// unpin forgets trees that are none of these.
func (s store) unpin(trees []string) error {
	dir := filepath.Join(s.dir, "trees")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look through notes of trees: %w", err)
	}
	for _, e := range entries {
		if !slices.Contains(trees, e.Name()) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("forget source bundle of %s: %w", e.Name(), err)
			}
		}
	}
	return nil
}

func isDigest(s string) bool {
	return len(s) == 2*sha256.Size && strings.Trim(s, "0123456789abcdef") == ""
}

// lookup answers the verified file of a digest, "" where there is none. A file that is not what its name says is removed.
func (s store) lookup(ctx context.Context, digest string) (string, int64, error) {
	path := s.file(digest)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", 0, nil
	}
	if err != nil {
		return "", 0, fmt.Errorf("open cached source bundle: %w", err)
	}
	defer f.Close()
	now, err := s.describe(f)
	if err != nil {
		return "", 0, err
	}
	if s.recorded(digest) != now || s.boot == "" {
		sum, err := hashFile(ctx, f)
		if err != nil {
			return "", 0, err
		}
		if sum != digest {
			return "", 0, s.remove(digest)
		}
		if err := s.record(digest, now); err != nil {
			return "", 0, err
		}
	}
	t := time.Now()
	if err := os.Chtimes(path+verifiedExt, t, t); err != nil {
		return "", 0, fmt.Errorf("note use of cached source bundle: %w", err)
	}
	return path, now.Size, nil
}

// ready opens the cached bundle of a digest, nil where there is none or it would have to be hashed first.
func (s store) ready(digest string) *os.File {
	if !isDigest(digest) || s.boot == "" {
		return nil
	}
	f, err := os.Open(s.file(digest))
	if err != nil {
		return nil
	}
	if now, err := s.describe(f); err != nil || s.recorded(digest) != now {
		_ = f.Close()
		return nil
	}
	return f
}

func (s store) describe(f *os.File) (verified, error) {
	fi, err := f.Stat()
	if err != nil {
		return verified{}, fmt.Errorf("look at cached source bundle: %w", err)
	}
	v := verified{Boot: s.boot, Size: fi.Size(), Mtime: fi.ModTime().UnixNano()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		v.Inode, v.Ctime = st.Ino, st.Ctim.Nano()
	}
	return v, nil
}

// recorded answers the zero value, which describes no file, where there is no readable record.
func (s store) recorded(digest string) verified {
	raw, err := atomicfile.ReadFileLimit(s.file(digest)+verifiedExt, recordBytes)
	var v verified
	if err != nil || json.Unmarshal(raw, &v) != nil {
		return verified{}
	}
	return v
}

// record is written in place and not synced: a torn one is unreadable, and then the bundle is hashed.
func (s store) record(digest string, v verified) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write record of source bundle: %w", err)
	}
	if err := os.WriteFile(s.file(digest)+verifiedExt, raw, 0o600); err != nil {
		return fmt.Errorf("write record of source bundle: %w", diskFull(err, s.dir))
	}
	return nil
}

// adopt gives the part, whose digest has been computed, its final name.
func (s store) adopt(digest string, part *os.File) error {
	if err := os.Rename(s.part(digest), s.file(digest)); err != nil {
		return fmt.Errorf("put source bundle into the cache: %w", err)
	}
	v, err := s.describe(part) // after the rename: it changes the ctime
	if err != nil {
		return err
	}
	if err := s.record(digest, v); err != nil {
		return err
	}
	return removeAll(s.ranges(digest))
}

func (s store) remove(digest string) error {
	return removeAll(s.file(digest), s.file(digest)+verifiedExt)
}

func (s store) removePartial(digest string) error {
	return removeAll(s.part(digest), s.ranges(digest))
}

func removeAll(paths ...string) error {
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove from bundle cache: %w", err)
		}
	}
	return nil
}

type cached struct {
	digest string
	size   int64
	used   time.Time
}

// list answers the cached bundles, the longest unused first.
func (s store) list() ([]cached, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "sha256"))
	if err != nil {
		return nil, fmt.Errorf("look through bundle cache: %w", err)
	}
	var all []cached
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !isDigest(e.Name()) {
			continue
		}
		c := cached{digest: e.Name(), size: info.Size(), used: info.ModTime()}
		if rec, err := os.Stat(s.file(e.Name()) + verifiedExt); err == nil {
			c.used = rec.ModTime()
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b cached) int { return a.used.Compare(b.used) })
	return all, nil
}

// evict removes the longest unused bundles until those left and extra bytes together are within bound. What is held stays.
func (s store) evict(extra, bound int64, held func(string) bool) error {
	all, err := s.list()
	if err != nil {
		return err
	}
	total := extra
	for _, c := range all {
		total += c.size
	}
	for _, c := range all {
		if total <= bound {
			return nil
		}
		if held(c.digest) {
			continue
		}
		if err := s.remove(c.digest); err != nil {
			return err
		}
		total -= c.size
	}
	return nil
}

// makeRoom keeps the cache within bound with size more bytes in it, and evicts beyond that where the disk itself is short.
func (s store) makeRoom(size, bound int64, held func(string) bool) error {
	if err := s.evict(size, bound, held); err != nil {
		return err
	}
	room, err := newNeed(s.dir)
	if err != nil {
		return err
	}
	room.addEntry(file, size)
	room.inodes += 2 // the sidecar and the record
	return s.checkRoom(s.dir, room, held)
}

// checkRoom is checkRoom for dir, which may be any folder. Before it refuses, it gives up cached bundles that nobody holds, the longest unused first,
// where that makes room on the disk of dir. A refusal tells what was given up.
func (s store) checkRoom(dir string, n need, held func(string) bool) error {
	short := checkRoom(dir, n)
	if !errors.Is(short, ErrNoRoom) || !sameDisk(dir, s.dir) {
		return short
	}
	all, err := s.list()
	if err != nil {
		return err
	}
	var gone int
	var bytes int64
	for _, c := range all {
		if held(c.digest) {
			continue
		}
		if err := s.remove(c.digest); err != nil {
			return err
		}
		gone, bytes = gone+1, bytes+c.size
		if short = checkRoom(dir, n); !errors.Is(short, ErrNoRoom) {
			return short
		}
	}
	var refused *Refused
	if gone > 0 && errors.As(short, &refused) {
		refused.Reason += fmt.Sprintf(" (the cache of source bundles was emptied for it already: %d bundles, %d bytes)", gone, bytes)
	}
	return short
}

func hashFile(ctx context.Context, f *os.File) (string, error) {
	h := sha256.New()
	buf := make([]byte, copyBytes)
	for off := int64(0); ; {
		if ctx.Err() != nil {
			return "", fmt.Errorf("hash cached source bundle: %w", context.Cause(ctx))
		}
		n, err := f.ReadAt(buf, off)
		h.Write(buf[:n])
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", fmt.Errorf("hash cached source bundle: %w", err)
		}
	}
}
