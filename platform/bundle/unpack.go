package bundle

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"

	"hostmanager/internal/atomicfile"
)

// Stats tells what Unpack made.
type Stats struct {
	Kind    Kind
	Files   int           // hard links included
	Folders int           // also those that were only implied by a path
	Links   int           // symbolic links
	Bytes   int64         // content of the files
	Archive int64         // size of the archive
	Reused  int           // files copied from the tree before, being the same in both bundles
	Sync    time.Duration // what writing all of it to the disk took in the end
}

// Unpack makes the tree of an archive at dest, which must not exist yet; its parent folder is made where missing. A zip, tar or tar.gz is unpacked,
// a text file becomes a tree with that one Dockerrun.aws.json or Dockerfile. On any error, and when ctx ends, nothing is left behind.
//
// A bundle that must not be unpacked gives *Refused. Kept: permission bits, modification times, symbolic and hard links inside the tree.
// Not kept: owners (everything belongs to the caller), extended attributes, setgid of folders and the sticky bit. Members of a zip without Unix modes get 0644 and 0755.
// Safe for concurrent use with different dest.
func Unpack(ctx context.Context, archive, dest string, limits Limits) (Stats, error) {
	return UnpackLike(ctx, archive, dest, "", limits)
}

// UnpackLike is Unpack where like is the tree of the version before, or of none: a file that the archive tells no time of, and that is in like
// byte for byte, keeps the time it has there.
func UnpackLike(ctx context.Context, archive, dest, like string, limits Limits) (Stats, error) {
	return unpackAfter(ctx, archive, dest, like, nil, limits, checkRoom)
}

// unpackAfter is UnpackLike where bundle, unless nil, is what the tree of the version before was unpacked from; it is closed.
func unpackAfter(ctx context.Context, archive, dest, like string, bundle *os.File, limits Limits, room roomCheck) (Stats, error) {
	if bundle != nil {
		defer bundle.Close()
	}
	limits = limits.orDefaults()
	f, size, err := openArchive(archive, limits)
	if err != nil {
		return Stats{}, err
	}
	defer f.Close()
	kind, err := detect(f, size)
	if err != nil {
		return Stats{}, err
	}
	t, err := newTree(dest, size, limits)
	if err != nil {
		return Stats{}, err
	}
	t.room, t.archiveBefore = room, bundle
	if like != "" {
		t.like, _ = os.OpenRoot(like) // without it every file is new
	}
	if err := t.unpack(ctx, f, kind); err != nil {
		t.discard()
		return Stats{}, err
	}
	t.close()
	if err := atomicfile.SyncDir(filepath.Dir(dest)); err != nil {
		return Stats{}, errors.Join(err, os.RemoveAll(dest))
	}
	return Stats{
		Kind: kind, Files: int(t.files.Load()), Folders: len(t.dirs), Links: len(t.links), Bytes: t.written.Load(), Archive: size,
		Sync: t.synced, Reused: int(t.reused.Load()),
	}, nil
}

func openArchive(archive string, limits Limits) (*os.File, int64, error) {
	f, err := os.OpenFile(archive, os.O_RDONLY|syscall.O_NONBLOCK, 0) // O_NONBLOCK: a fifo must not hold us
	if err != nil {
		return nil, 0, fmt.Errorf("open source bundle: %w", err)
	}
	fi, err := f.Stat()
	switch {
	case err != nil:
		err = fmt.Errorf("look at source bundle: %w", err)
	case !fi.Mode().IsRegular():
		err = refuse("it is no regular file")
	case fi.Size() > limits.ArchiveBytes:
		err = refuse("the archive has %d bytes; the limit is %d", fi.Size(), limits.ArchiveBytes)
	}
	if err != nil {
		_ = f.Close()
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

func (t *tree) unpack(ctx context.Context, f *os.File, kind Kind) error {
	var err error
	switch kind {
	case KindZip:
		err = t.unpackZip(ctx, f)
	case KindTar, KindTarGzip:
		err = t.unpackTar(ctx, f, kind == KindTarGzip)
	default:
		err = t.loneFile(ctx, f, string(kind))
	}
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("unpack source bundle: %w", context.Cause(ctx))
	}
	return t.finish()
}

func (t *tree) loneFile(ctx context.Context, f *os.File, name string) error {
	e := entry{path: name, kind: file, mode: 0o644, size: t.archive}
	n, err := newNeed(t.temp)
	if err != nil {
		return err
	}
	n.addEntry(file, e.size)
	if err := t.room(t.temp, n); err != nil {
		return err
	}
	w := newWriter(t)
	defer w.close()
	return w.file(ctx, e, io.NewSectionReader(f, 0, t.archive))
}

// damaged names what reading an archive ran into. Refusals and errors of the machine itself pass as they are.
func damaged(name string, err error) error {
	var refused *Refused
	var path *fs.PathError
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &refused):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("unpack source bundle: %w", err)
	case errors.As(err, &path):
		return fmt.Errorf("read source bundle: %w", err)
	case errors.Is(err, zip.ErrChecksum), errors.Is(err, gzip.ErrChecksum):
		return &Refused{Entry: name, Reason: "the content does not match its checksum (CRC-32): the archive is damaged", Err: err}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return &Refused{Entry: name, Reason: "the archive is cut short", Err: err}
	case errors.As(err, &corrupt), errors.Is(err, zip.ErrFormat), errors.Is(err, tar.ErrHeader), errors.Is(err, gzip.ErrHeader):
		return &Refused{Entry: name, Reason: "the archive is damaged", Err: err}
	}
	return &Refused{Entry: name, Reason: "the archive is damaged: " + printable(err), Err: err}
}

func printable(err error) string {
	s := fmt.Sprintf("%q", err.Error())
	return s[1 : len(s)-1]
}
