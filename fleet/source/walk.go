package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"hostmanager/internal/atomicfile"
)

// Bounds of a pack: the ones an instance holds a bundle to by default.
const (
	maxEntries     = 100_000
	maxIgnoreBytes = 1 << 20
)

const (
	ebIgnore  = ".ebignore"
	gitIgnore = ".gitignore"
)

// item is one entry of the pack.
type item struct {
	path   string // slash path from the root
	mode   fs.FileMode
	size   int64
	target string // of a symbolic link
}

// walker collects a folder.
type walker struct {
	ctx   context.Context
	dir   string
	skip  []os.FileInfo // files that are the pack itself
	byGit bool          // .gitignore files count
	items []item
}

// collect lists what goes into the pack, sorted by path.
func collect(ctx context.Context, dir string, skip ...os.FileInfo) ([]item, error) {
	w := &walker{ctx: ctx, dir: dir, skip: skip}
	text, err := atomicfile.ReadFileLimit(filepath.Join(dir, ebIgnore), maxIgnoreBytes)
	var stack []rules
	switch {
	case err == nil:
		stack = []rules{parseRules("", text)}
	case errors.Is(err, fs.ErrNotExist):
		w.byGit = true
	default:
		return nil, fmt.Errorf("read %s: %w", ebIgnore, err)
	}
	if err := w.folder("", stack); err != nil {
		return nil, err
	}
	slices.SortFunc(w.items, func(a, b item) int { return strings.Compare(a.path, b.path) })
	return w.items, nil
}

func (w *walker) folder(rel string, stack []rules) error {
	if w.ctx.Err() != nil {
		return fmt.Errorf("look through %s: %w", w.dir, context.Cause(w.ctx))
	}
	stack, err := w.nested(rel, stack)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(w.dir, filepath.FromSlash(rel)))
	if err != nil {
		return fmt.Errorf("look through %s: %w", w.dir, err)
	}
	for _, e := range entries {
		p := path.Join(rel, e.Name())
		if e.Name() == ".git" || p == ".elasticbeanstalk" || ignores(stack, p, e.IsDir()) {
			continue
		}
		if err := w.add(p, e); err != nil {
			return err
		}
		if e.IsDir() {
			if err := w.folder(p, stack); err != nil {
				return err
			}
		}
	}
	return nil
}

// nested puts the folder's own .gitignore on the stack.
func (w *walker) nested(rel string, stack []rules) ([]rules, error) {
	if !w.byGit {
		return stack, nil
	}
	name := filepath.Join(w.dir, filepath.FromSlash(rel), gitIgnore)
	if fi, err := os.Lstat(name); err != nil || !fi.Mode().IsRegular() { // git does not follow a link here, either
		return stack, nil
	}
	text, err := atomicfile.ReadFileLimit(name, maxIgnoreBytes)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path.Join(rel, gitIgnore), err)
	}
	return append(stack[:len(stack):len(stack)], parseRules(rel, text)), nil
}

func (w *walker) add(p string, e fs.DirEntry) error {
	info, err := e.Info()
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone meanwhile
	}
	if err != nil {
		return fmt.Errorf("look at %q: %w", p, err)
	}
	for _, s := range w.skip {
		if os.SameFile(s, info) {
			return nil
		}
	}
	if len(w.items) >= maxEntries {
		return fmt.Errorf("%s holds more than %d files and folders; name what must not be deployed in %s", w.dir, maxEntries, ebIgnore)
	}
	it := item{path: p, mode: 0o644, size: info.Size()}
	switch {
	case info.IsDir():
		it.mode, it.size = fs.ModeDir|0o755, 0
	case info.Mode()&fs.ModeSymlink != 0:
		it.mode = fs.ModeSymlink | 0o777
		if it.target, err = linkTarget(filepath.Join(w.dir, filepath.FromSlash(p)), p); err != nil {
			return err
		}
		it.size = int64(len(it.target))
	case !info.Mode().IsRegular():
		return fmt.Errorf("%q is neither file, folder nor link (%v); name it in %s", p, info.Mode().Type(), ebIgnore)
	case info.Mode()&0o111 != 0:
		it.mode = 0o755
	}
	w.items = append(w.items, it)
	return nil
}

// linkTarget reads a link and refuses at once what an instance would refuse: a target outside the bundle.
func linkTarget(name, p string) (string, error) {
	target, err := os.Readlink(name)
	if err != nil {
		return "", fmt.Errorf("read link %q: %w", p, err)
	}
	inside := path.Join(path.Dir(p), target)
	if path.IsAbs(target) || inside == ".." || strings.HasPrefix(inside, "../") {
		return "", fmt.Errorf("link %q points outside the folder, to %q: an instance has no such file; name the link in %s or copy what it points to", p, target, ebIgnore)
	}
	return target, nil
}
