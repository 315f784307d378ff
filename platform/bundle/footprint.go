package bundle

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"hostmanager/aws/objects"
)

// Footprint is what a source bundle is going to take on the disk.
type Footprint struct {
	Archive int64 // bytes that its download adds to the cache; 0 where the cache has it
	Bytes   int64 // of its tree, in whole blocks
	Inodes  int64 // of its tree
	Exact   bool  // read in the archive's directory; else Bytes and Inodes are a guess (Guess) or a bound (Worst)
}

// The guess for an archive without a directory: what a packed tree of source text grows to, and how large its files are.
const (
	guessRatio = 4
	guessFile  = 16 << 10
)

// Worst is the most that the bundle can take, from its size and the limits alone. It asks nobody.
func (f *Fetcher) Worst(src Source, block int64) Footprint {
	limits := f.Limits.orDefaults()
	size := src.Size
	if size <= 0 || size > limits.ArchiveBytes {
		size = limits.ArchiveBytes
	}
	content := min(limits.Bytes, max(size*limits.Ratio, ratioFloor))
	// The smallest member of an archive is a header of 30 bytes and more; of a compressed one, one of 512 bytes that packs well.
	inodes := min(int64(limits.Files), max(size/30, size*limits.Ratio/512)+1)
	return Footprint{Archive: size, Bytes: content + inodes*block, Inodes: inodes}
}

// Measure finds out what the bundle is going to take, on a file system with blocks of so many bytes. Of a zip it reads the directory, in the cache or by
// two or three small ranges of the object; of another archive, and where that does not go, it guesses. It changes nothing, and trusts nothing it
// reads: unpacking holds every bound again.
func (f *Fetcher) Measure(ctx context.Context, src Source, block int64) Footprint {
	guess := f.guess(src, block)
	if f.Open() != nil {
		return guess
	}
	if file, err := os.Open(f.store.file(src.SHA256)); err == nil {
		defer file.Close()
		guess.Archive = 0
		if st, err := file.Stat(); err == nil {
			return measured(guess, file, st.Size(), f.Limits, block)
		}
		return guess
	}
	if src.Size <= 0 || src.Size > f.Limits.ArchiveBytes {
		return guess
	}
	ref := objects.Ref{Bucket: src.Bucket, Key: src.Key, VersionID: src.VersionID}
	return measured(guess, &remote{ctx: ctx, from: f.Objects, ref: ref, size: src.Size}, src.Size, f.Limits, block)
}

func (f *Fetcher) guess(src Source, block int64) Footprint {
	worst := f.Worst(src, block)
	inodes := min(worst.Inodes, worst.Archive*guessRatio/guessFile+16)
	return Footprint{Archive: worst.Archive, Bytes: min(worst.Bytes, worst.Archive*guessRatio+inodes*block), Inodes: inodes}
}

// measured adds up the directory of a zip.
func measured(guess Footprint, r io.ReaderAt, size int64, limits Limits, block int64) Footprint {
	budget, err := checkDirectory(r, size, limits)
	if err != nil {
		return guess
	}
	guarded := &budgetReader{in: r, left: budget}
	zr, err := zip.NewReader(guarded, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return guess
	}
	room := need{block: max(block, 1)}
	folders := map[string]bool{}
	for _, zf := range zr.File {
		if zf.Mode()&fs.ModeDir == 0 {
			room.addEntry(file, int64(min(zf.UncompressedSize64, uint64(limits.Bytes))))
		}
		for i, c := range zf.Name {
			if c == '/' {
				folders[zf.Name[:i]] = true
			}
		}
		if len(folders) > limits.Files {
			return guess // it will be refused
		}
	}
	for range len(folders) + 1 { // and the tree's own
		room.addEntry(folder, 0)
	}
	return Footprint{Archive: guess.Archive, Bytes: min(room.bytes, limits.Bytes+room.inodes*block), Inodes: room.inodes, Exact: true}
}

// remoteBlock is how much one read of an object brings; a directory is read in small pieces, one after the other.
const remoteBlock = 256 << 10

// remote reads an object in place. It remembers the last piece it brought. Not safe for concurrent use.
type remote struct {
	ctx  context.Context
	from ObjectGetter
	ref  objects.Ref
	size int64

	at   int64
	last []byte
}

func (r *remote) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		if off < 0 || off >= r.size {
			return n, io.EOF
		}
		if off < r.at || off >= r.at+int64(len(r.last)) {
			if err := r.bring(off, int64(len(p)-n)); err != nil {
				return n, err
			}
		}
		m := copy(p[n:], r.last[off-r.at:])
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

// bring fetches the piece around off: more before it than behind it at the end of the object, where a directory is found backwards.
func (r *remote) bring(off, want int64) error {
	start := off
	if r.size-off < remoteBlock {
		start = max(0, r.size-remoteBlock)
	}
	length := min(max(want+off-start, remoteBlock), r.size-start)
	if length > maxRemote {
		return fmt.Errorf("read %d bytes of a directory at once", length)
	}
	body, err := r.from.GetRangeRef(r.ctx, r.ref, start, length)
	if err != nil {
		return err
	}
	defer body.Close()
	piece := make([]byte, length)
	if _, err := io.ReadFull(body, piece); err != nil {
		return err
	}
	r.at, r.last = start, piece
	return nil
}

// maxRemote bounds one piece of a directory; archive/zip reads by a small buffer.
const maxRemote = 4 << 20
