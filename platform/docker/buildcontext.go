package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// maxIgnoreFile bounds the .dockerignore that is read.
const maxIgnoreFile = 256 << 10

// buildContext is what is sent to a build: a tree, less what its ignore file names. Neither builder of the Engine reads the ignore file itself.
type buildContext struct {
	root       *os.Root
	ignore     *patternmatcher.PatternMatcher
	dockerfile []byte // takes the place of the tree's own, nil where that one is used
}

// openContext opens the tree. The caller closes root.
func openContext(tree string, dockerfile []byte) (*buildContext, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, fmt.Errorf("open application tree: %w", err)
	}
	ignore, err := readIgnore(root)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &buildContext{root: root, ignore: ignore, dockerfile: dockerfile}, nil
}

// readIgnore reads Dockerfile.dockerignore, which goes before .dockerignore as docker build has it.
func readIgnore(root *os.Root) (*patternmatcher.PatternMatcher, error) {
	for _, name := range []string{"Dockerfile.dockerignore", ".dockerignore"} {
		data, err := readInTree(root, name, maxIgnoreFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		patterns, err := ignorefile.ReadAll(bytes.NewReader(data))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		matcher, err := patternmatcher.New(patterns)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		return matcher, nil
	}
	return patternmatcher.New(nil)
}

// readInTree reads a regular file of the tree; links are followed inside the tree only.
func readInTree(root *os.Root, name string, limit int64) ([]byte, error) {
	info, err := root.Stat(name) // before opening: opening a pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	if info.Size() > limit {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are allowed", name, info.Size(), limit)
	}
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// stream writes the tree as a tar archive to the reader it returns. Close the reader, then wait for the error.
func (b *buildContext) stream(ctx context.Context) (*io.PipeReader, <-chan error) {
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := b.pack(ctx, w)
		_ = w.CloseWithError(err) // nil is the end of the archive
		done <- err
	}()
	return r, done
}

func (b *buildContext) pack(ctx context.Context, w io.Writer) error {
	archive := tar.NewWriter(w)
	err := fs.WalkDir(b.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case name == "." || b.dockerfile != nil && name == "Dockerfile":
			return nil
		}
		leaveOut, err := b.ignored(name, d)
		if leaveOut || err != nil {
			return err
		}
		return b.add(archive, name, d)
	})
	if err == nil && b.dockerfile != nil {
		err = addDockerfile(archive, b.dockerfile)
	}
	if err != nil {
		return fmt.Errorf("pack build context: %w", err)
	}
	return archive.Close()
}

// ignored tells whether an entry stays behind; fs.SkipDir is returned where nothing below it can be wanted.
func (b *buildContext) ignored(name string, d fs.DirEntry) (bool, error) {
	if name == "Dockerfile" || name == ".dockerignore" { // the builder needs the one and docker build sends the other
		return false, nil
	}
	out, err := b.ignore.MatchesOrParentMatches(filepath.FromSlash(name))
	if err != nil {
		return false, fmt.Errorf("match %s against the ignore file: %w", name, err)
	}
	if out && d.IsDir() && !b.ignore.Exclusions() {
		return true, fs.SkipDir
	}
	return out, nil
}

func (b *buildContext) add(archive *tar.Writer, name string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	var link string
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		if link, err = b.root.Readlink(name); err != nil {
			return err
		}
	case !info.Mode().IsRegular() && !info.IsDir():
		return nil // sockets, pipes and devices have no place in an image
	}
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	h.Name = path.Clean(filepath.ToSlash(name))
	if info.IsDir() {
		h.Name += "/"
	}
	plainHeader(h)
	if err := archive.WriteHeader(h); err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	return b.copyFile(archive, name, info.Size())
}

func (b *buildContext) copyFile(w io.Writer, name string, size int64) error {
	f, err := b.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if n, err := io.Copy(w, io.LimitReader(f, size)); err != nil || n != size {
		return errors.Join(err, fmt.Errorf("%s changed while it was packed: %d of %d bytes", name, n, size))
	}
	return nil
}

// plainHeader leaves in a header what the content of an image may depend on. The owner is root, as with docker build. The time of change is
// kept, to the second: builders do not count it when they look for a cached layer, but web servers make Last-Modified and ETag of it, and the
// same time for every version would have browsers keep the old one.
func plainHeader(h *tar.Header) {
	h.Uid, h.Gid, h.Uname, h.Gname = 0, 0, "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	h.ModTime = h.ModTime.Truncate(time.Second)
	h.PAXRecords, h.Format = nil, tar.FormatUnknown
}

func addDockerfile(archive *tar.Writer, text []byte) error {
	h := &tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
	if err := archive.WriteHeader(h); err != nil {
		return err
	}
	_, err := archive.Write(text)
	return err
}
