package bundle

import (
	"archive/zip"
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Before is the version before the one being unpacked; the zero value is none. It saves work only and never decides what the tree holds.
type Before struct {
	Tree   string // where it was unpacked
	SHA256 string // of its bundle, which may be in the cache
}

const (
	// reuseFrom is the compressed size from which looking for a member in the bundle before is cheaper than inflating it.
	reuseFrom = 64 << 10
	// reuseFiles bounds the bundle before whose directory is read beside the new one's: each member takes a few hundred bytes of memory.
	reuseFiles = 20_000
)

// earlier is the bundle of the version before. Most members of a new version are what they were: one whose compressed bytes are those of the bundle
// before inflates to the same content, which is copied from the tree before instead of being inflated once more. Somebody may have changed the
// tree meanwhile, so what is copied must have the checksum that the archive tells.
// A nil earlier is none.
type earlier struct {
	archive *os.File
	members map[string]*zip.File
	tree    *os.Root
}

// openEarlier reads the directory of the bundle before; nil where it is no zip, too large, or not to be read.
func openEarlier(archive *os.File, tree *os.Root, limits Limits) *earlier {
	limits.Files = min(limits.Files, reuseFiles)
	fi, err := archive.Stat()
	if err != nil {
		return nil
	}
	in := io.NewSectionReader(archive, 0, fi.Size())
	budget, err := checkDirectory(in, fi.Size(), limits)
	if err != nil {
		return nil
	}
	zr, err := zip.NewReader(&budgetReader{in: in, left: budget}, fi.Size())
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // names are only compared with those of members that were judged
		return nil
	}
	e := &earlier{archive: archive, members: map[string]*zip.File{}, tree: tree}
	for _, m := range zr.File {
		if m.Method == zip.Deflate && m.CompressedSize64 >= reuseFrom {
			e.members[m.Name] = m
		}
	}
	return e
}

// content opens what m inflates to in the tree before, or nothing where it must be inflated. The reader ends with errChanged instead of io.EOF
// where what it read is not that content after all. buf and old are buffers of one size.
func (e *earlier) content(in *os.File, m member, buf, old []byte) *reused {
	if e == nil || m.in.Method != zip.Deflate || m.in.CompressedSize64 < reuseFrom {
		return nil
	}
	was := e.members[m.in.Name]
	if was == nil || was.CRC32 != m.in.CRC32 || was.UncompressedSize64 != m.in.UncompressedSize64 || was.CompressedSize64 != m.in.CompressedSize64 {
		return nil
	}
	name := filepath.FromSlash(m.path)
	info, err := e.tree.Lstat(name) // before opening: opening a pipe would wait for its writer
	if err != nil || !info.Mode().IsRegular() || info.Size() != m.size || !sameCompressed(in, m.in, e.archive, was, buf, old) {
		return nil
	}
	f, err := e.tree.Open(name)
	if err != nil {
		return nil
	}
	return &reused{f: f, left: m.size, want: m.in.CRC32}
}

// sameCompressed compares the compressed bytes of two members.
func sameCompressed(a *os.File, am *zip.File, b *os.File, bm *zip.File, buf, old []byte) bool {
	aAt, errA := am.DataOffset()
	bAt, errB := bm.DataOffset()
	if errA != nil || errB != nil {
		return false
	}
	for left := int64(am.CompressedSize64); left > 0; {
		n := min(left, int64(len(buf)))
		if _, err := a.ReadAt(buf[:n], aAt); err != nil {
			return false
		}
		if _, err := b.ReadAt(old[:n], bAt); err != nil || !bytes.Equal(buf[:n], old[:n]) {
			return false
		}
		aAt, bAt, left = aAt+n, bAt+n, left-n
	}
	return true
}

// errChanged ends the reading of a file that is not what the bundle before made it.
var errChanged = errors.New("the file was changed since it was unpacked")

// reused reads a file of the tree before.
type reused struct {
	f    *os.File
	left int64
	sum  uint32
	want uint32
}

func (r *reused) Read(p []byte) (int, error) {
	if r.left == 0 {
		if r.sum != r.want {
			return 0, errChanged
		}
		return 0, io.EOF
	}
	n, err := r.f.Read(p[:min(int64(len(p)), r.left)])
	r.sum = crc32.Update(r.sum, crc32.IEEETable, p[:n])
	r.left -= int64(n)
	if err != nil {
		return n, errChanged // shorter than it was, or not to be read
	}
	return n, nil
}

// reuse makes the file of a member from the tree before, and tells whether it did.
func (w *writer) reuse(m member, from *reused, make func(io.Reader) error) (bool, error) {
	defer from.f.Close()
	err := make(from)
	if !errors.Is(err, errChanged) {
		w.t.reused.Add(1)
		return true, err
	}
	w.t.written.Add(from.left - m.size) // it counts again when it is inflated
	if err := w.dir.Remove(filepath.Base(m.path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return false, nil
}
