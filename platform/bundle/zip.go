package bundle

import (
	"archive/zip"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/klauspost/compress/flate"
	"golang.org/x/sync/errgroup"
)

const (
	zipEncrypted       = 1 << 0
	zipPatched         = 1 << 5
	zipStrongEncrypted = 1 << 6
	zipHiddenHeaders   = 1 << 13

	zipFromFAT  = 0
	zipFromUnix = 3
	zipFromNTFS = 10
	zipFromVFAT = 14
	zipFromMac  = 19

	// inflateBuffer is how much of the archive one read takes.
	inflateBuffer = 64 << 10
)

// member is a file of a zip, judged.
type member struct {
	entry
	in *zip.File
}

// unpackZip judges the whole directory first, then makes folders, then files on every core, then links.
func (t *tree) unpackZip(ctx context.Context, f *os.File) error {
	in := io.NewSectionReader(f, 0, t.archive) // an offset that lies outside is the archive's fault, not an error of the disk
	budget, err := checkDirectory(in, t.archive, t.limits)
	if err != nil {
		return err
	}
	guarded := &budgetReader{in: in, left: budget}
	zr, err := zip.NewReader(guarded, t.archive)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // every path is judged below, with a reason
		return damaged("", err)
	}
	guarded.opened = true
	pool := &inflaters{}
	zr.RegisterDecompressor(zip.Deflate, pool.open)
	members, err := t.plan(ctx, zr)
	if err != nil {
		return err
	}
	if err := t.makeFolders(t.dirs); err != nil {
		return err
	}
	if t.archiveBefore != nil && t.like != nil {
		t.earlier = openEarlier(t.archiveBefore, t.like, t.limits)
	}
	return t.extract(ctx, f, members)
}

func (t *tree) plan(ctx context.Context, zr *zip.Reader) ([]member, error) {
	room, err := newNeed(t.temp)
	if err != nil {
		return nil, err
	}
	var members []member
	var total int64
	for _, zf := range zr.File {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("unpack source bundle: %w", context.Cause(ctx))
		}
		e, err := t.judgeZip(zf)
		if err != nil {
			return nil, err
		}
		if e.path == "" {
			continue // the root itself
		}
		if total += e.size; total > t.limits.Bytes {
			return nil, refuse("it unpacks to more than %d bytes; that is the limit", t.limits.Bytes)
		}
		if _, err := t.add(e); err != nil {
			return nil, err
		}
		if e.kind == file {
			members = append(members, member{entry: e, in: zf})
		}
		if e.kind != folder {
			room.addEntry(e.kind, e.size)
		}
	}
	if t.limits.bombed(total, t.archive) {
		return nil, refuse("it unpacks to more than %d times its size; that is the limit", t.limits.Ratio)
	}
	if len(members)+len(t.links) == 0 {
		return nil, refuse("the zip archive holds no files")
	}
	if err := t.checkLinks(); err != nil {
		return nil, err
	}
	for range t.dirs {
		room.addEntry(folder, 0)
	}
	// Folder by folder, so that a writer opens each folder once, whatever the archive's order.
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.path, b.path) })
	return members, t.room(t.temp, room)
}

// judgeZip turns a member of the directory into an entry.
func (t *tree) judgeZip(zf *zip.File) (entry, error) {
	if err := checkZipFlags(zf); err != nil {
		return entry{}, err
	}
	name, err := t.cleanPath(zf.Name, windowsMade(&zf.FileHeader))
	if err != nil {
		return entry{}, err
	}
	e := entry{path: name, mtime: plausible(zf.Modified)}
	if zf.UncompressedSize64 > uint64(t.limits.Bytes) {
		return entry{}, refuseEntry(zf.Name, "the file unpacks to %d bytes; the limit for the whole bundle is %d", zf.UncompressedSize64, t.limits.Bytes)
	}
	mode := zipMode(&zf.FileHeader)
	if e.mode, err = checkMode(zf.Name, mode); err != nil {
		return entry{}, err
	}
	switch {
	case mode.IsDir():
		e.kind = folder
		if zf.UncompressedSize64 > 0 {
			return entry{}, refuseEntry(zf.Name, "it is a folder with content")
		}
		return e, nil
	case name == "":
		return entry{}, refuseEntry(zf.Name, "the file has no name")
	case mode&fs.ModeSymlink != 0:
		e.kind = link
		e.target, err = t.zipTarget(zf)
		return e, err
	}
	e.kind, e.size = file, int64(zf.UncompressedSize64)
	return e, nil
}

func checkZipFlags(zf *zip.File) error {
	switch {
	case zf.Flags&(zipEncrypted|zipStrongEncrypted|zipHiddenHeaders) != 0:
		return refuseEntry(zf.Name, "the file is encrypted; a source bundle has no password")
	case zf.Flags&zipPatched != 0:
		return refuseEntry(zf.Name, "the file holds patch data, which nothing unpacks")
	case zf.Method != zip.Store && zf.Method != zip.Deflate:
		return refuseEntry(zf.Name, "the file is compressed with zip method %d; use deflate", zf.Method)
	}
	return nil
}

// windowsMade says whether `\` separates, as unzip has it: only in archives from FAT or NTFS, and only where the name holds no `/`.
func windowsMade(h *zip.FileHeader) bool {
	switch h.CreatorVersion >> 8 {
	case zipFromFAT, zipFromNTFS, zipFromVFAT:
		return !strings.Contains(h.Name, "/")
	}
	return false
}

// zipMode gives a member's mode; where the maker told no Unix mode it is 0644, 0755 for a folder.
func zipMode(h *zip.FileHeader) fs.FileMode {
	isDir := strings.HasSuffix(h.Name, "/") || windowsMade(h) && strings.HasSuffix(h.Name, `\`)
	switch h.CreatorVersion >> 8 {
	case zipFromUnix, zipFromMac:
		if h.ExternalAttrs>>16 != 0 {
			mode := h.Mode()
			if isDir {
				mode |= fs.ModeDir
			}
			return mode
		}
	default:
		isDir = isDir || h.Mode().IsDir()
	}
	if isDir {
		return fs.ModeDir | 0o755
	}
	return 0o644
}

// checkMode refuses what is neither file, folder nor link, and bits that would give a program another user's rights. On a folder setgid only hands
// the group on (build machines with shared folders set it everywhere); it is dropped.
func checkMode(name string, mode fs.FileMode) (fs.FileMode, error) {
	switch {
	case mode&fs.ModeDevice != 0:
		return 0, refuseEntry(name, "it is a device; a bundle holds files, folders and links")
	case mode&fs.ModeNamedPipe != 0:
		return 0, refuseEntry(name, "it is a named pipe; a bundle holds files, folders and links")
	case mode&fs.ModeSocket != 0:
		return 0, refuseEntry(name, "it is a socket; a bundle holds files, folders and links")
	case mode&fs.ModeSetuid != 0:
		return 0, refuseEntry(name, "it has the setuid bit")
	case mode&fs.ModeSetgid != 0 && !mode.IsDir():
		return 0, refuseEntry(name, "it has the setgid bit")
	}
	return mode.Perm(), nil
}

func (t *tree) zipTarget(zf *zip.File) (string, error) {
	r, err := zf.Open()
	if err != nil {
		return "", damaged(zf.Name, err)
	}
	defer r.Close()
	target, err := io.ReadAll(io.LimitReader(r, int64(t.limits.PathBytes)+1))
	if err != nil {
		return "", damaged(zf.Name, err)
	}
	return string(target), t.checkTarget(zf.Name, string(target))
}

// extract inflates on every core; a goroutine takes the next members when it is done with some.
func (t *tree) extract(ctx context.Context, archive *os.File, members []member) error {
	next := make(chan []member)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(next)
		for rest := members; len(rest) > 0; {
			n := batch(rest)
			select {
			case next <- rest[:n]:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			rest = rest[n:]
		}
		return nil
	})
	for range min(runtime.GOMAXPROCS(0), len(members)) {
		g.Go(func() error {
			w := newWriter(t)
			defer w.close()
			for some := range next {
				for _, m := range some {
					if err := extractOne(ctx, w, archive, m); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// batch says how many members a goroutine takes at a time: neighbours, so that two of them seldom make files in one folder, which the kernel
// allows one at a time, yet few enough that none is left alone with the work at the end.
func batch(members []member) int {
	const most, mostBytes = 64, 4 << 20
	var size int64
	for i, m := range members {
		if size += m.size; i+1 == most || size >= mostBytes {
			return i + 1
		}
	}
	return len(members)
}

func extractOne(ctx context.Context, w *writer, archive *os.File, m member) error {
	if from := w.t.earlier.content(archive, m, w.buf, w.second()); from != nil {
		done, err := w.reuse(m, from, func(src io.Reader) error { return w.file(ctx, m.entry, src) })
		if done || err != nil {
			return err
		}
	}
	r, err := m.in.Open()
	if err != nil {
		return damaged(m.path, err)
	}
	defer r.Close()
	return w.file(ctx, m.entry, r)
}

// inflaters keeps decompressors for the next file: each holds a 32 KiB window and its tables.
type inflaters struct{ pool sync.Pool }

type inflater struct {
	in  *bufio.Reader
	out io.ReadCloser
	to  *sync.Pool
}

func (p *inflaters) open(r io.Reader) io.ReadCloser {
	d, ok := p.pool.Get().(*inflater)
	if !ok {
		d = &inflater{in: bufio.NewReaderSize(r, inflateBuffer), to: &p.pool}
		d.out = flate.NewReader(d.in)
		return d
	}
	d.in.Reset(r)
	if err := d.out.(flate.Resetter).Reset(d.in, nil); err != nil {
		d.out = flate.NewReader(d.in)
	}
	return d
}

func (d *inflater) Read(p []byte) (int, error) { return d.out.Read(p) }

func (d *inflater) Close() error {
	d.in.Reset(nil)
	d.to.Put(d)
	return nil
}
