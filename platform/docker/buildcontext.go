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
	"strings"
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
	err := b.each(ctx, func(e entry) error { return b.add(archive, e) })
	if err == nil && b.dockerfile != nil {
		err = addDockerfile(archive, b.dockerfile)
	}
	if err != nil {
		return err
	}
	return archive.Close()
}

// entry is a file, folder or link of the context.
type entry struct {
	name string
	info fs.FileInfo
	link string // where it leads
}

// treeError is a tree that could not be read, as opposed to a builder that did not take it.
type treeError struct{ err error }

func (e *treeError) Error() string { return "pack build context: " + e.err.Error() }
func (e *treeError) Unwrap() error { return e.err }

// each calls fn for what is to be sent, in the order of a walk: folders before what is in them, names in byte order. A folder that is ignored comes
// too where something in it is not.
func (b *buildContext) each(ctx context.Context, fn func(entry) error) error {
	var skipped []entry // the ignored folders above where the walk is
	return fs.WalkDir(b.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return &treeError{err}
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case name == "." || b.dockerfile != nil && name == "Dockerfile":
			return nil
		}
		leaveOut, err := b.ignored(name, d)
		if err != nil || leaveOut && !d.IsDir() {
			return err
		}
		e, sent, err := b.entry(name, d)
		if err != nil {
			return &treeError{err}
		}
		for len(skipped) > 0 && !strings.HasPrefix(name, skipped[len(skipped)-1].name+"/") {
			skipped = skipped[:len(skipped)-1]
		}
		switch {
		case leaveOut:
			skipped = append(skipped, e)
			return nil
		case !sent:
			return nil
		}
		for _, folder := range skipped {
			if err := fn(folder); err != nil {
				return err
			}
		}
		skipped = nil
		return fn(e)
	})
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

// entry describes one name; sockets, pipes and devices have no place in an image.
func (b *buildContext) entry(name string, d fs.DirEntry) (e entry, sent bool, err error) {
	e = entry{name: path.Clean(filepath.ToSlash(name))}
	if e.info, err = d.Info(); err != nil {
		return entry{}, false, err
	}
	if e.info.Mode()&fs.ModeSymlink != 0 {
		e.link, err = b.root.Readlink(name)
		return e, true, err
	}
	return e, e.info.Mode().IsRegular() || e.info.IsDir(), nil
}

func (b *buildContext) add(archive *tar.Writer, e entry) error {
	h, err := tar.FileInfoHeader(e.info, e.link)
	if err != nil {
		return &treeError{err}
	}
	h.Name = e.name
	if e.info.IsDir() {
		h.Name += "/"
	}
	plainHeader(h)
	if err := archive.WriteHeader(h); err != nil {
		return err
	}
	if !e.info.Mode().IsRegular() {
		return nil
	}
	return b.copyFile(archive, e)
}

func (b *buildContext) copyFile(w io.Writer, e entry) error {
	f, err := b.root.Open(e.name)
	if err != nil {
		return &treeError{err}
	}
	defer f.Close()
	if n, err := io.Copy(w, io.LimitReader(f, e.info.Size())); err != nil || n != e.info.Size() {
		return errors.Join(err, fmt.Errorf("%s changed while it was packed: %d of %d bytes", e.name, n, e.info.Size()))
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
