package cgroup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// Swept says what Sweep found.
type Swept struct {
	Removed int // leaves
	Ended   int // processes
	Kept    int // leaves that live on
}

// Sweep empties and removes the leaves that a dead owner of the same name left, but for those that were kept and still hold a process. formerly
// are the Bases of an earlier start, where its own group may have been another.
func (t *Tree) Sweep(ctx context.Context, formerly []string) (Swept, error) {
	var s Swept
	err := t.sweep(ctx, &s)
	for _, h := range t.places {
		for _, path := range formerly {
			// Only a folder of exactly our name, and on the same file system: a list that was tampered with leads nowhere else.
			if path == h.path || filepath.Base(path) != filepath.Base(h.path) {
				continue
			}
			old, openErr := h.sibling(path)
			if openErr != nil {
				continue // gone, or not of this hierarchy
			}
			former := &Tree{version: t.version, log: t.log, places: []*hierarchy{old}}
			err = errors.Join(err, former.sweep(ctx, &s))
			_ = former.Close() // it opened nothing for writing
		}
	}
	return s, err
}

// sibling opens another base of the same hierarchy.
func (h *hierarchy) sibling(path string) (*hierarchy, error) {
	same, err := sameDevice(filepath.Dir(h.path), path)
	if err != nil || !same {
		return nil, errors.Join(err, errOther)
	}
	parent, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	own, err := h.own.OpenRoot(".")
	if err != nil {
		return nil, errors.Join(err, parent.Close())
	}
	return &hierarchy{unified: h.unified, limits: h.limits, kill: h.kill, own: own, home: h.home, parent: parent, name: h.name, path: path}, nil
}

func (t *Tree) sweep(ctx context.Context, s *Swept) error {
	names, err := t.Leaves()
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			continue
		}
		leaf, err := t.Leaf(name, Limits{})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		pids := leaf.PIDs()
		if leaf.Kept() && len(pids) > 0 {
			s.Kept++
			leaf.Release()
			continue
		}
		if err := leaf.Kill(ctx); err != nil {
			errs = append(errs, err)
			leaf.Release()
			continue
		}
		s.Ended += len(pids)
		s.Removed++
		errs = append(errs, leaf.Remove())
	}
	return errors.Join(errs...)
}

// errOther says that a folder lies in another hierarchy.
var errOther = errors.New("another hierarchy")
