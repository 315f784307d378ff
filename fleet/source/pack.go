package source

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"

	"hostmanager/internal/atomicfile"
)

// Info describes a source bundle.
type Info struct {
	SHA256 string // 64 lower-case hex digits
	Size   int64  // of the archive, bytes
	Files  int    // packed files and links; 0 for an archive that was given
}

// ErrEmpty tells of a folder in which nothing is left to deploy.
var ErrEmpty = errors.New("no file to deploy")

const (
	packBuffer = 256 << 10
	packLevel  = 6
	tempMark   = ".pack-"
)

// packTime is the time of every entry: the first a zip can tell. Readers take it for "not told".
func packTime() time.Time { return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) }

// Prepare answers the bundle that path stands for: a folder is packed into a new file in workDir, a file is taken as it is, whatever it is. The caller
// removes a packed file (packed tells). progress may be nil; it is called with bytes, never concurrently.
func Prepare(ctx context.Context, path, workDir string, progress func(done, total int64)) (file string, info Info, packed bool, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return "", Info{}, false, fmt.Errorf("look at what to deploy: %w", err)
	}
	if !fi.IsDir() && !fi.Mode().IsRegular() {
		return "", Info{}, false, fmt.Errorf("%s is neither a folder nor a file: give a source bundle or the folder of one", path)
	}
	if !fi.IsDir() {
		info, err = Describe(ctx, path, progress)
		return path, info, false, err
	}
	f, err := os.CreateTemp(workDir, "bundle-*.zip")
	if err != nil {
		return "", Info{}, false, fmt.Errorf("make file for the source bundle: %w", err)
	}
	if err := f.Close(); err != nil {
		return "", Info{}, false, fmt.Errorf("make file for the source bundle: %w", err)
	}
	if info, err = Pack(ctx, path, f.Name(), progress); err != nil {
		return "", Info{}, false, errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), info, true, nil
}

// Describe reads a given archive for its digest and size.
func Describe(ctx context.Context, file string, progress func(done, total int64)) (Info, error) {
	f, err := os.Open(file)
	if err != nil {
		return Info{}, fmt.Errorf("open source bundle: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return Info{}, fmt.Errorf("look at source bundle: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return Info{}, fmt.Errorf("source bundle %s is neither a folder nor a file", file)
	}
	h := sha256.New()
	m := &meter{ctx: ctx, total: fi.Size(), tell: progress}
	n, err := io.CopyBuffer(h, struct{ io.Reader }{io.TeeReader(f, m)}, make([]byte, packBuffer))
	if err != nil {
		return Info{}, fmt.Errorf("read source bundle: %w", err)
	}
	return Info{SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

// meter counts what passes, tells of it and stops with its ctx.
type meter struct {
	ctx         context.Context
	done, total int64
	tell        func(done, total int64)
}

func (m *meter) Write(p []byte) (int, error) {
	if m.ctx.Err() != nil {
		return 0, context.Cause(m.ctx)
	}
	m.done += int64(len(p))
	if m.tell != nil {
		m.tell(m.done, max(m.total, m.done))
	}
	return len(p), nil
}

// Pack zips dir into dst, replacing it at the end in one step. Exec bits and symbolic links are kept, all else about modes and times is not, so that the
// same tree always gives the same bytes. Which files go in is told at the package. dst may lie inside dir. ErrEmpty: nothing is left to deploy.
// progress may be nil; it is called with the bytes read, never concurrently.
func Pack(ctx context.Context, dir, dst string, progress func(done, total int64)) (Info, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return Info{}, fmt.Errorf("look at what to deploy: %w", err)
	}
	if !fi.IsDir() {
		return Info{}, fmt.Errorf("pack %s: not a folder", dir)
	}
	temp, err := os.CreateTemp(filepath.Dir(dst), "."+filepath.Base(dst)+tempMark+"*")
	if err != nil {
		return Info{}, fmt.Errorf("make file for the source bundle: %w", err)
	}
	info, err := packInto(ctx, dir, dst, temp, progress)
	if cerr := temp.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("write source bundle: %w", cerr)
	}
	if err == nil {
		err = os.Rename(temp.Name(), dst)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return Info{}, err
	}
	return info, atomicfile.SyncDir(filepath.Dir(dst))
}

func packInto(ctx context.Context, dir, dst string, temp *os.File, progress func(done, total int64)) (Info, error) {
	own, err := temp.Stat()
	if err != nil {
		return Info{}, fmt.Errorf("make file for the source bundle: %w", err)
	}
	skip := []os.FileInfo{own}
	if old, err := os.Stat(dst); err == nil {
		skip = append(skip, old)
	}
	items, err := collect(ctx, dir, skip...)
	if err != nil {
		return Info{}, err
	}
	p := &packer{ctx: ctx, sum: sha256.New(), buf: make([]byte, packBuffer), meter: &meter{ctx: ctx, tell: progress}}
	for _, it := range items {
		p.meter.total += it.size
		if !it.mode.IsDir() {
			p.files++
		}
	}
	if p.files == 0 {
		return Info{}, fmt.Errorf("%s: %w (is everything in it ignored?)", dir, ErrEmpty)
	}
	size, err := p.write(dir, items, temp)
	if err != nil {
		return Info{}, err
	}
	if err := temp.Sync(); err != nil {
		return Info{}, fmt.Errorf("write source bundle: %w", err)
	}
	return Info{SHA256: hex.EncodeToString(p.sum.Sum(nil)), Size: size, Files: p.files}, nil
}

type packer struct {
	ctx   context.Context
	sum   hash.Hash
	buf   []byte
	meter *meter
	files int
	zip   *zip.Writer
}

func (p *packer) write(dir string, items []item, temp *os.File) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, fmt.Errorf("open folder to deploy: %w", err)
	}
	defer root.Close()
	out := bufio.NewWriterSize(io.MultiWriter(temp, p.sum), packBuffer)
	p.zip = zip.NewWriter(out)
	p.zip.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, packLevel) })
	for _, it := range items {
		if err := p.add(root, it); err != nil {
			return 0, fmt.Errorf("pack %q: %w", it.path, err)
		}
	}
	if err := errors.Join(p.zip.Close(), out.Flush()); err != nil {
		return 0, fmt.Errorf("write source bundle: %w", err)
	}
	fi, err := temp.Stat()
	if err != nil {
		return 0, fmt.Errorf("write source bundle: %w", err)
	}
	return fi.Size(), nil
}

func (p *packer) add(root *os.Root, it item) error {
	h := &zip.FileHeader{Name: it.path, Method: zip.Deflate, Modified: packTime()}
	if it.mode.IsDir() {
		h.Name, h.Method = it.path+"/", zip.Store
	}
	h.SetMode(it.mode)
	out, err := p.zip.CreateHeader(h)
	if err != nil || it.mode.IsDir() {
		return err
	}
	if it.mode&fs.ModeSymlink != 0 {
		_, err := io.Copy(io.MultiWriter(out, p.meter), strings.NewReader(it.target))
		return err
	}
	f, err := root.Open(filepath.FromSlash(it.path))
	if err != nil {
		return err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return errors.Join(err, errors.New("it changed while the folder was packed; try again"))
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(out, p.meter)}, struct{ io.Reader }{f}, p.buf)
	return err
}
