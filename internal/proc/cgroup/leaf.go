package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Leaf is one group, in every hierarchy of its tree. Not safe for concurrent use, but for PIDs.
type Leaf struct {
	tree *Tree
	name string
	dirs []*os.Root // in the order of tree.places
}

// Leaf makes a leaf, or finds the one that has this name.
func (t *Tree) Leaf(name string, limits Limits) (*Leaf, error) {
	t.bases.Lock()
	defer t.bases.Unlock()
	l := &Leaf{tree: t, name: name}
	for _, h := range t.places {
		dir, err := h.leaf(name, limits)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("make group %s: %w", name, err), l.remove())
		}
		l.dirs = append(l.dirs, dir)
	}
	return l, nil
}

// leaf makes the leaf's group in one hierarchy.
func (h *hierarchy) leaf(name string, limits Limits) (*os.Root, error) {
	base, err := h.base()
	if err != nil {
		return nil, err
	}
	defer base.Close()
	if err := base.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("in %s: %w", h.path, err)
	}
	dir, err := base.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("in %s: %w", h.path, err)
	}
	if err := h.limit(dir, limits); err != nil {
		_ = base.Remove(name)
		return nil, errors.Join(fmt.Errorf("limit it in %s: %w", h.path, err), dir.Close())
	}
	return dir, nil
}

// period is that of the processor's quota, microseconds.
const period = 100_000

// limit writes the limits that this hierarchy has controllers for.
func (h *hierarchy) limit(dir *os.Root, l Limits) error {
	set := func(on bool, file string, value int64) error {
		if !on {
			return nil
		}
		return write(dir, file, strconv.FormatInt(value, 10))
	}
	memory, cpu := l.Memory > 0 && h.has("memory"), l.CPU > 0 && h.has("cpu")
	quota := max(int64(l.CPU*period), 1000)
	errs := []error{set(l.PIDs > 0 && h.has("pids"), "pids.max", l.PIDs)}
	if h.unified {
		errs = append(errs, set(memory, "memory.max", l.Memory))
		if cpu {
			errs = append(errs, write(dir, "cpu.max", fmt.Sprintf("%d %d", quota, period)))
		}
		if memory {
			errs = append(errs, ifThere(set(true, "memory.swap.max", 0)), ifThere(set(true, "memory.oom.group", 1)))
		}
		return errors.Join(errs...)
	}
	errs = append(errs, set(memory, "memory.limit_in_bytes", l.Memory), ifThere(set(memory, "memory.memsw.limit_in_bytes", l.Memory)),
		set(cpu, "cpu.cfs_period_us", period), set(cpu, "cpu.cfs_quota_us", quota))
	return errors.Join(errs...)
}

// ifThere forgives a file that not every kernel has.
func ifThere(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Name is the leaf's own name.
func (l *Leaf) Name() string { return l.name }

// Path is where the leaf is found, in the first of its hierarchies.
func (l *Leaf) Path() string { return path.Join(l.tree.places[0].path, l.name) }

// Unified returns a descriptor to start a process into (CLONE_INTO_CGROUP), if the tree has a unified hierarchy. The caller closes the file.
func (l *Leaf) Unified() (*os.File, bool) {
	for i, h := range l.tree.places {
		if h.unified {
			if f, err := l.dirs[i].Open("."); err == nil {
				return f, true
			}
		}
	}
	return nil, false
}

// Join puts a process into the leaf, in every hierarchy.
func (l *Leaf) Join(pid int) error {
	for i, dir := range l.dirs {
		if err := write(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("put process %d into group %s of %s: %w", pid, l.name, l.tree.places[i].path, err)
		}
	}
	return nil
}

// maxDepth bounds how deep a hook's own groups are followed.
const maxDepth = 32

// groups returns a hierarchy's folder of the leaf and all below it, deepest last, as paths from dir on.
func groups(dir *os.Root) []string {
	all := []string{"."}
	for i := 0; i < len(all); i++ {
		if strings.Count(all[i], "/") >= maxDepth {
			continue
		}
		sub, err := dir.OpenRoot(all[i])
		if err != nil {
			continue
		}
		names, _ := children(sub) // what is gone meanwhile holds nobody
		_ = sub.Close()
		for _, n := range names {
			all = append(all, path.Join(all[i], n))
		}
	}
	return all
}

// PIDs lists the processes in the leaf or below it, in any hierarchy. A leaf that was removed holds none.
func (l *Leaf) PIDs() []int {
	var all []int
	for _, dir := range l.dirs {
		for _, group := range groups(dir) {
			for _, word := range words(dir, path.Join(group, "cgroup.procs")) {
				if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
					all = append(all, pid)
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// rescue moves this very process out of the leaf, if a hook put it there.
func (l *Leaf) rescue() {
	self := os.Getpid()
	if !slices.Contains(l.PIDs(), self) {
		return
	}
	for _, h := range l.tree.places {
		_ = write(h.own, path.Join(h.home, "cgroup.procs"), strconv.Itoa(self)) // tried again as long as it is in there
	}
}

// Kill ends every process in the leaf with SIGKILL, and returns when none is left. The error says who is when ctx ends first.
func (l *Leaf) Kill(ctx context.Context) error {
	for round := 0; ; round++ {
		l.rescue()
		if len(l.PIDs()) == 0 {
			return nil
		}
		killed := false
		for i, h := range l.tree.places {
			killed = h.kill && write(l.dirs[i], "cgroup.kill", "1") == nil || killed
		}
		if killed && round < 3 {
			l.Thaw() // a process that a v1 freezer holds dies only when it runs again
		} else {
			l.strike(ctx) // also for those that left the one hierarchy and not the other
		}
		if err := pause(ctx); err != nil {
			if pids := l.PIDs(); len(pids) > 0 {
				return fmt.Errorf("processes %v of group %s cannot be ended: %w", pids, l.name, err)
			}
			return nil
		}
	}
}

// strike kills one by one. Frozen first, the leaf cannot fork meanwhile; thawed again, it takes its signals.
func (l *Leaf) strike(ctx context.Context) {
	l.freeze(ctx)
	for _, pid := range l.PIDs() {
		if pid != os.Getpid() {
			_ = unix.Kill(pid, unix.SIGKILL) // read this instant of a leaf that is frozen where that can be: its numbers are its own
		}
	}
	l.Thaw()
}

// freeze stops the leaf where a hierarchy can, and waits a moment until it has.
func (l *Leaf) freeze(ctx context.Context) {
	for i, h := range l.tree.places {
		file, on, state, frozen := "cgroup.freeze", "1", "cgroup.events", "frozen 1"
		switch {
		case h.has("freezer"):
			file, on, state, frozen = "freezer.state", "FROZEN", "freezer.state", "FROZEN"
		case !h.unified || h.kill:
			continue
		}
		if write(l.dirs[i], file, on) != nil {
			continue
		}
		for deadline := time.Now().Add(200 * time.Millisecond); time.Now().Before(deadline) && pause(ctx) == nil; {
			if text, err := read(l.dirs[i], state); err != nil || strings.Contains(text, frozen) {
				break
			}
		}
	}
}

// Thaw lets the leaf and every group a hook made in it run again.
func (l *Leaf) Thaw() {
	for i, h := range l.tree.places {
		file, off := "cgroup.freeze", "0"
		if h.has("freezer") {
			file, off = "freezer.state", "THAWED"
		} else if !h.unified {
			continue
		}
		for _, group := range groups(l.dirs[i]) {
			_ = write(l.dirs[i], path.Join(group, file), off) // a group that is gone holds nobody
		}
	}
}

// kept is the group below a leaf that says: what is in here is to live on.
const kept = "kept"

// Keep marks the leaf for good: Sweep leaves it alone as long as a process is in it.
func (l *Leaf) Keep() error {
	for _, dir := range l.dirs {
		if err := dir.Mkdir(kept, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("mark group %s as kept: %w", l.name, err)
		}
	}
	return nil
}

// Kept tells whether Keep was called, by whichever process.
func (l *Leaf) Kept() bool {
	return slices.ContainsFunc(l.dirs, func(dir *os.Root) bool { _, err := dir.Stat(kept); return err == nil })
}

// Facts are what the kernel counted in a leaf.
type Facts struct {
	OOMKills  int64 // processes ended because the memory limit was reached
	PIDsHits  int64 // times a process or thread was refused
	MemoryMax int64 // the most memory in use, bytes; 0: not known
}

// Facts reads the counters. What a kernel does not count is 0.
func (l *Leaf) Facts() Facts {
	var f Facts
	for i, h := range l.tree.places {
		dir := l.dirs[i]
		if h.has("memory") && h.unified {
			f.OOMKills, f.MemoryMax = counter(dir, "memory.events", "oom_kill"), counter(dir, "memory.peak", "")
		} else if h.has("memory") {
			f.OOMKills, f.MemoryMax = counter(dir, "memory.oom_control", "oom_kill"), counter(dir, "memory.max_usage_in_bytes", "")
		}
		if h.has("pids") {
			f.PIDsHits = counter(dir, "pids.events", "max")
		}
	}
	return f
}

// counter reads "name number" of a file, or its only number.
func counter(dir *os.Root, file, name string) int64 {
	text, err := read(dir, file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if name == "" && len(f) == 1 || len(f) == 2 && f[0] == name {
			n, err := strconv.ParseInt(f[len(f)-1], 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// Remove removes the leaf and every group below it, and lets go of its folders. It must be empty.
func (l *Leaf) Remove() error {
	l.tree.bases.Lock()
	defer l.tree.bases.Unlock()
	return l.remove()
}

func (l *Leaf) remove() error {
	var errs []error
	for i, dir := range l.dirs {
		h := l.tree.places[i]
		for _, group := range slices.Backward(groups(dir)) {
			if group != "." {
				errs = append(errs, ifThere(dir.Remove(group)))
			}
		}
		errs = append(errs, ifThere(h.parent.Remove(path.Join(h.name, l.name))), dir.Close())
		h.prune()
	}
	l.dirs = nil
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove group %s: %w", l.name, err)
	}
	return nil
}

// Release lets go of the folders of a leaf that stays.
func (l *Leaf) Release() {
	for _, dir := range l.dirs {
		_ = dir.Close() // nothing was written through it
	}
	l.dirs = nil
}
