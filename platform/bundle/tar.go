package bundle

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/gzip"
)

// tarHeadBytes is what one member may cost in headers: the stream's own bound is content plus this per member.
const tarHeadBytes = 4 << 10

// tarTail bounds what may stand behind the end mark of a tar; the usual padding is 10 KiB.
const tarTail = 1 << 20

// unpackTar makes the tree member by member. A stream does not say beforehand what it holds, so where the disk might not take the largest bundle
// the limits allow, the stream is read twice: once to know what it needs.
func (t *tree) unpackTar(ctx context.Context, f *os.File, zipped bool) error {
	if err := t.checkTarRoom(ctx, f, zipped); err != nil {
		return err
	}
	w := newWriter(t)
	defer w.close()
	members := 0
	err := t.eachTar(ctx, f, zipped, func(h *tar.Header, content io.Reader) error {
		members++
		return t.makeTar(ctx, w, h, content)
	})
	if err != nil {
		return err
	}
	if members == 0 {
		return refuse("the tar archive holds no files")
	}
	return t.checkLinks()
}

// checkTarRoom refuses before a byte is written when the tree does not fit.
func (t *tree) checkTarRoom(ctx context.Context, f *os.File, zipped bool) error {
	bytesFree, inodesFree, err := free(t.temp)
	if err != nil {
		return err
	}
	room, err := newNeed(t.temp)
	if err != nil {
		return err
	}
	worst := min(t.limits.Bytes, max(t.archive*t.limits.Ratio, ratioFloor)) + int64(t.limits.Files)*room.block
	if bytesFree >= worst && (inodesFree < 0 || inodesFree >= int64(t.limits.Files)) {
		return nil
	}
	trial := newNames(t.limits)
	total := int64(0)
	err = t.eachTar(ctx, f, zipped, func(h *tar.Header, _ io.Reader) error {
		e, _, err := trial.judgeTar(h)
		if err != nil || e.path == "" {
			return err
		}
		if _, err := trial.add(e); err != nil {
			return err
		}
		if h.Typeflag != tar.TypeLink && e.kind != folder {
			room.addEntry(e.kind, e.size)
			total += e.size
		}
		if total > t.limits.Bytes {
			return refuse("it unpacks to more than %d bytes; that is the limit", t.limits.Bytes)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for range trial.dirs {
		room.addEntry(folder, 0)
	}
	return t.room(t.temp, room)
}

// eachTar calls visit for each member and then makes sure that the stream is whole.
func (t *tree) eachTar(ctx context.Context, f *os.File, zipped bool, visit func(*tar.Header, io.Reader) error) error {
	var src io.Reader = bufio.NewReaderSize(io.NewSectionReader(f, 0, t.archive), inflateBuffer)
	if zipped {
		z, err := gzip.NewReader(src)
		if err != nil {
			return damaged("", err)
		}
		defer z.Close()
		src = z
	}
	guard := &streamGuard{ctx: ctx, in: src, archive: t.archive, limits: t.limits}
	tr := tar.NewReader(guard)
	for first := true; ; first = false {
		h, err := tr.Next()
		if err == io.EOF {
			return guard.finish()
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // every path is judged with a reason of our own
			if first && zipped && errors.Is(err, tar.ErrHeader) {
				return &Refused{Reason: "no archive that can be unpacked: it is a gzip file with no tar in it", Err: err}
			}
			return damaged("", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // git archive writes its commit there
		}
		if err := visit(h, tr); err != nil {
			return err
		}
	}
}

// judgeTar turns a header into an entry; hard links come back as files with the path they share.
func (n *names) judgeTar(h *tar.Header) (e entry, sameAs string, err error) {
	name, err := n.cleanPath(h.Name, false)
	if err != nil {
		return e, "", err
	}
	e = entry{path: name, mtime: plausible(h.ModTime)}
	if e.mode, err = checkMode(h.Name, h.FileInfo().Mode()); err != nil {
		return e, "", err
	}
	if name == "" && h.Typeflag != tar.TypeDir {
		return e, "", refuseEntry(h.Name, "the file has no name")
	}
	switch h.Typeflag {
	case tar.TypeDir:
		e.kind = folder
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.kind, e.size = file, h.Size
	case tar.TypeSymlink:
		e.kind, e.target = link, h.Linkname
		err = n.checkTarget(h.Name, h.Linkname)
	case tar.TypeLink:
		e.kind = file
		sameAs, err = n.hardTarget(h)
	default:
		err = refuseEntry(h.Name, "it is of a kind (tar type %q) that a bundle cannot hold", h.Typeflag)
	}
	return e, sameAs, err
}

// hardTarget finds the file a hard link shares: one that came before it in this archive, and nothing else on the machine.
func (n *names) hardTarget(h *tar.Header) (string, error) {
	target, err := n.cleanPath(h.Linkname, false)
	if err != nil {
		return "", refuseEntry(h.Name, "the hard link leads out of the bundle: its target is %q", h.Linkname)
	}
	if to, ok := n.nodes[target]; !ok || to.kind != file {
		return "", refuseEntry(h.Name, "the hard link's target %q is no file that comes before it in the archive", h.Linkname)
	}
	return target, nil
}

func (t *tree) makeTar(ctx context.Context, w *writer, h *tar.Header, content io.Reader) error {
	e, sameAs, err := t.judgeTar(h)
	if err != nil || e.path == "" {
		return err
	}
	dirs, err := t.add(e)
	if err != nil {
		return err
	}
	if err := t.makeFolders(dirs); err != nil {
		return err
	}
	switch {
	case sameAs != "":
		if err := t.root.Link(filepath.FromSlash(sameAs), filepath.FromSlash(e.path)); err != nil {
			return fmt.Errorf("make hard link %q: %w", e.path, diskFull(err, t.dest))
		}
		t.files.Add(1)
		return nil
	case e.kind == file:
		if e.size > t.limits.Bytes {
			return refuseEntry(h.Name, "the file unpacks to %d bytes; the limit for the whole bundle is %d", e.size, t.limits.Bytes)
		}
		return w.file(ctx, e, content)
	}
	return nil
}

// streamGuard bounds an unpacked tar stream, headers and all, and remembers its end.
type streamGuard struct {
	ctx     context.Context
	in      io.Reader
	archive int64
	limits  Limits
	n       int64
	last    [tarBlock]byte // the end of what was read, oldest byte first
}

func (g *streamGuard) Read(p []byte) (int, error) {
	if g.ctx.Err() != nil {
		return 0, context.Cause(g.ctx)
	}
	n, err := g.in.Read(p)
	g.n += int64(n)
	g.remember(p[:n])
	switch {
	case g.n > g.limits.Bytes+tarTail+int64(g.limits.Files)*tarHeadBytes:
		return n, refuse("it unpacks to more than %d bytes; that is the limit", g.limits.Bytes)
	case g.limits.bombed(g.n, g.archive):
		return n, refuse("it unpacks to more than %d times its size; that is the limit", g.limits.Ratio)
	}
	return n, err
}

func (g *streamGuard) remember(p []byte) {
	if len(p) >= tarBlock {
		copy(g.last[:], p[len(p)-tarBlock:])
		return
	}
	copy(g.last[:], g.last[len(p):])
	copy(g.last[tarBlock-len(p):], p)
}

// finish is called at the end of the tar. archive/tar takes the end of the stream for the end of the archive, too: a tar cut between two members
// is told by its missing end mark. What follows the mark is read, since gzip's checksum stands behind it.
func (g *streamGuard) finish() error {
	if g.n < tarBlock || !bytes.Equal(g.last[:], make([]byte, tarBlock)) {
		return refuse("the archive is cut short: the end mark of the tar is missing")
	}
	n, err := io.Copy(io.Discard, io.LimitReader(g, tarTail+1))
	if err != nil {
		return damaged("", err)
	}
	if n > tarTail {
		return refuse("the archive is damaged: more than %d bytes follow the end of the tar", tarTail)
	}
	return nil
}
