package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
	"hostmanager/internal/procid"
	"hostmanager/protocol"
)

// markFile says whose a room's folder is while the room is open, so that the next one can take away what a killed one left.
const markFile = ".hmctl-dev.json"

// tempName is what the folders of rooms without one of their own begin with.
const tempName = "hmctl-dev-"

// instanceName is what the instances of a room are called.
var instanceName = regexp.MustCompile(`^i-dev[0-9]{7}$`)

// maxMark bounds the mark in bytes.
const maxMark = 1 << 20

type mark struct {
	Process   procid.ID  `json:"process"`
	Instances []Instance `json:"instances"`
}

func (r *room) writeMark() error {
	data, err := json.Marshal(mark{procid.Self(), r.about.Instances})
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(filepath.Join(r.Root, markFile), data, 0o600)
}

// removeMark tells that the room was closed as it should be.
func (r *room) removeMark() error {
	if r.Root == "" {
		return nil
	}
	err := os.Remove(filepath.Join(r.Root, markFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// readMark reads the mark of a folder; of none there is no error and found is false. A folder that others own or may write to tells nothing: what it
// says would be removed is theirs to choose.
func readMark(root string) (m mark, found bool, err error) {
	info, err := os.Lstat(root)
	if err != nil {
		return m, false, err
	}
	stat, known := info.Sys().(*syscall.Stat_t)
	if !known || !info.IsDir() || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return m, false, nil
	}
	data, err := atomicfile.ReadFileLimit(filepath.Join(root, markFile), maxMark)
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	return m, err == nil, err
}

// tidyUp takes away what a killed room left in the folder: its containers, images and networks, and the folders of its instances. A folder that is none
// of a killed room stays as it is.
func (r *room) tidyUp(ctx context.Context, root string) error {
	m, found, err := readMark(root)
	if err != nil || !found {
		return err
	}
	if !m.Process.Gone() {
		return fmt.Errorf("%w: %s belongs to an hmctl dev that still runs (process %d)", ErrOptions, root, m.Process.PID)
	}
	for _, i := range m.Instances {
		if !instanceName.MatchString(i.ID) {
			return fmt.Errorf("%w: %s in %s names an instance %.40q", ErrOptions, markFile, root, i.ID)
		}
		i.Root = filepath.Join(root, i.ID)
		if _, err := os.Stat(layout.Root(i.Root).ConfigFile()); err == nil {
			if err := r.purge(ctx, i); err != nil {
				return fmt.Errorf("purge what %s of a killed room made: %w", i.ID, err)
			}
		}
		if err := os.RemoveAll(i.Root); err != nil {
			return fmt.Errorf("remove what a killed room left: %w", err)
		}
	}
	r.say(protocol.Warn, "Removed what an hmctl dev that was killed left in %s: %d instances.", root, len(m.Instances))
	for _, name := range []string{keyFile, markFile} { // the mark last: by it the rest is found
		if err := os.Remove(filepath.Join(root, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what a killed room left: %w", err)
		}
	}
	return nil
}

// sweep takes away what killed rooms left in temporary folders. What cannot be removed keeps no new room from opening.
func (r *room) sweep(ctx context.Context) {
	roots, err := filepath.Glob(filepath.Join(os.TempDir(), tempName+"*"))
	if err != nil {
		return
	}
	for _, root := range roots {
		m, found, err := readMark(root)
		if err != nil || !found || !m.Process.Gone() {
			continue
		}
		if err := r.tidyUp(ctx, root); err != nil {
			r.say(protocol.Warn, "What a killed hmctl dev left in %s was not removed: %v.", root, err)
			continue
		}
		_ = os.Remove(root) // where nothing else lies in it
	}
}
