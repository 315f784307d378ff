// Package cgroup makes control groups below the one this process is in, puts processes into them, and ends everything that is in one. It speaks
// to both versions of the kernel's interface: the unified hierarchy (v2), and the hierarchies of single controllers (v1), beside which a unified
// one without controllers may stand. It knows nothing of hooks or commands.
//
// # Names
//
// All groups of one owner lie in a group "hostmanager-<name>" below the process's own (or a given) one, in each hierarchy. Nothing beside it is
// written to, with two exceptions, since v2 gives limits only to groups beside which no process stands: where the process's own group of the
// unified hierarchy holds nobody else, this process moves into a group "hostmanager-agent" below it and the controllers are switched on; so they are
// in a given group that holds no process.
//
// # Invariants
//
//   - Folders are opened once and reached through their descriptors: what is mounted over them later changes nothing.
//   - Kill ends when no process is left or its context is over. The calling process is never ended by it: if somebody put it into a leaf, it
//     moves back first.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a leaf. 0 is none.
type Limits struct {
	Memory int64   // bytes; swap is not given beside it
	CPU    float64 // processors
	PIDs   int64   // processes and threads
}

// The versions Open knows.
const (
	V1 = "cgroup1"
	V2 = "cgroup2"
)

// ErrUnusable says that this machine, or what this process may do on it, does not allow for a version. The text says why.
var ErrUnusable = errors.New("control groups cannot be used")

// Tree is where one owner's leaves are made. Safe for concurrent use.
type Tree struct {
	version string
	places  []*hierarchy
	log     *slog.Logger
	bases   sync.Mutex // held while leaves, and with them the bases, are made and removed
}

// hierarchy is one mounted hierarchy.
type hierarchy struct {
	unified bool
	limits  []string // controllers whose limits leaves can have; does not change once the tree is open
	own     *os.Root // the process's own group, or the one above agentGroup
	home    string   // where this process stands, from own on: "." or agentGroup
	parent  *os.Root // the group the base is made in
	name    string   // of the base, where leaves lie; it is there as long as one of them is
	path    string   // of the base
	kill    bool     // leaves have a cgroup.kill
}

// base opens the base, and makes it where it is missing.
func (h *hierarchy) base() (*os.Root, error) {
	err := h.parent.Mkdir(h.name, 0o755)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make group %s: %w", h.path, err)
	}
	dir, openErr := h.parent.OpenRoot(h.name)
	if openErr != nil {
		return nil, fmt.Errorf("open group %s: %w", h.path, openErr)
	}
	if err == nil && h.unified {
		enable(dir, h.limits) // where that does not work, writing a limit says so
	}
	return dir, nil
}

// prune removes the base; with leaves in it it stays.
func (h *hierarchy) prune() { _ = h.parent.Remove(h.name) }

func (h *hierarchy) has(controller string) bool { return slices.Contains(h.limits, controller) }

// Options of Open.
type Options struct {
	Version string       // V1 or V2
	Name    string       // of the owner: letters and digits
	Parent  string       // a group below each hierarchy's root to make leaves in ("/system.slice/x"); empty: the process's own
	Log     *slog.Logger // nil: discards
}

const prefix = "hostmanager-"

// agentGroup is where this process moves to in the unified hierarchy when limits need that.
const agentGroup = prefix + "agent"

// Open prepares the groups of one owner. The error wraps ErrUnusable.
func Open(o Options) (*Tree, error) {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	return open(o, parseMounts(string(mountinfo), string(self)))
}

func open(o Options, mounts []mount) (*Tree, error) {
	t := &Tree{version: o.Version, log: o.Log}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	for _, m := range mounts {
		if !m.unified && o.Version == V2 {
			continue
		}
		wanted := m.unified
		for _, c := range []string{"freezer", "memory", "pids", "cpu"} {
			wanted = wanted || slices.Contains(m.controllers, c)
		}
		if !wanted {
			continue
		}
		h, err := t.prepare(m, o)
		switch {
		case err == nil:
			t.places = append(t.places, h)
		case !m.unified && slices.Contains(m.controllers, "freezer"), o.Version == V2:
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnusable, err), t.Close())
		default:
			t.log.Warn("a hierarchy of control groups is left out", slog.String("group", m.own), slog.Any("error", err))
		}
	}
	if err := t.complete(); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// complete tells whether what was found is enough to end a leaf for sure.
func (t *Tree) complete() error {
	unified := slices.ContainsFunc(t.places, func(h *hierarchy) bool { return h.unified })
	freezer := slices.ContainsFunc(t.places, func(h *hierarchy) bool { return h.has("freezer") })
	switch {
	case t.version == V2 && !unified:
		return fmt.Errorf("%w: no unified hierarchy (cgroup2) is mounted for writing", ErrUnusable)
	case t.version == V1 && !freezer:
		return fmt.Errorf("%w: no freezer hierarchy (cgroup v1) is mounted for writing", ErrUnusable)
	}
	return nil
}

// prepare opens the process's own group and makes the base below it.
func (t *Tree) prepare(m mount, o Options) (*hierarchy, error) {
	dir, home := m.own, "."
	if m.unified && filepath.Base(dir) == agentGroup { // it moved there at an earlier start
		dir, home = filepath.Dir(dir), agentGroup
	}
	own, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open own group: %w", err)
	}
	h := &hierarchy{unified: m.unified, own: own, home: home, limits: m.controllers, name: prefix + o.Name}
	if o.Parent != "" {
		if dir, err = belowMount(strings.TrimSuffix(m.own, "/"), o.Parent); err == nil {
			h.parent, err = openMade(dir)
		}
	} else {
		h.parent, err = own.OpenRoot(".")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open group %s to make leaves in: %w", o.Parent, err), own.Close())
	}
	h.path = filepath.Join(dir, h.name)
	if m.unified {
		h.limits = nil
		if o.Version == V2 {
			h.limits = t.delegate(h, m.top, o.Parent != "", dir)
		}
	}
	base, err := h.base()
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	defer base.Close()
	defer h.prune()
	if m.unified {
		h.limits = enable(base, h.limits) // also in a base that a dead agent left half made
		_, err := base.Stat("cgroup.kill")
		h.kill = err == nil
	}
	return h, nil
}

func (h *hierarchy) close() error { return errors.Join(h.parent.Close(), h.own.Close()) }

// belowMount finds the root of the hierarchy a group lies in and joins a path to it.
func belowMount(own, parent string) (string, error) {
	var at, up unix.Stat_t
	root := own
	if err := unix.Stat(root, &at); err != nil {
		return "", err
	}
	for root != "/" {
		if err := unix.Stat(filepath.Dir(root), &up); err != nil {
			return "", err
		}
		if up.Dev != at.Dev {
			break
		}
		root = filepath.Dir(root)
	}
	return filepath.Join(root, filepath.Clean("/"+parent)), nil
}

// openMade opens a group, and makes it and those above it where they are missing. Through what it makes the controllers reach on.
func openMade(dir string) (*os.Root, error) {
	group, err := os.OpenRoot(dir)
	if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
		return group, err
	}
	above, err := openMade(filepath.Dir(dir))
	if err != nil {
		return nil, err
	}
	defer above.Close()
	name := filepath.Base(dir)
	if err := above.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if group, err = above.OpenRoot(name); err != nil {
		return nil, err
	}
	enable(group, intersect(controllers, words(group, "cgroup.controllers")))
	return group, nil
}

// controllers of the unified hierarchy that hold limits.
var controllers = []string{"memory", "cpu", "pids"}

// delegate makes the controllers of the unified hierarchy reach the groups below the parent, and returns those that do. The order counts: with a
// process still in it a group takes cpu and pids, but not memory, and from then on no group below it takes a process.
func (t *Tree) delegate(h *hierarchy, top, given bool, path string) []string {
	wanted := intersect(controllers, words(h.parent, "cgroup.controllers"))
	on := intersect(wanted, words(h.parent, "cgroup.subtree_control"))
	if len(wanted) == 0 || len(on) == len(wanted) && (given || h.home == agentGroup) {
		return on
	}
	here, err := read(h.parent, "cgroup.procs")
	here = strings.TrimSpace(here)
	switch {
	case top && !given: // the machine's
		return on
	case err == nil && here == "":
		return enable(h.parent, wanted)
	case given || err != nil || here != strconv.Itoa(os.Getpid()):
		t.log.Warn("no limits for hooks: other processes stand in the control group that their groups are made in", slog.String("group", path),
			slog.String("hint", "run the agent in a group of its own: a systemd unit with Delegate=yes"))
		return on
	}
	if err := h.move(on); err != nil {
		t.log.Warn("no limits for hooks: the agent cannot move to a group of its own", slog.Any("error", err))
		return intersect(wanted, words(h.parent, "cgroup.subtree_control"))
	}
	return enable(h.parent, wanted)
}

// move puts this process into a group of its own below the one it is in. Controllers that are on there would forbid it.
func (h *hierarchy) move(on []string) error {
	if err := h.own.Mkdir(agentGroup, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make group %s: %w", agentGroup, err)
	}
	for _, c := range on {
		if err := write(h.own, "cgroup.subtree_control", "-"+c); err != nil {
			return fmt.Errorf("switch %s off for a moment: %w", c, err)
		}
	}
	if err := write(h.own, agentGroup+"/cgroup.procs", strconv.Itoa(os.Getpid())); err != nil {
		return fmt.Errorf("move to group %s: %w", agentGroup, err)
	}
	h.home = agentGroup
	return nil
}

// enable asks for controllers one by one and returns those that are on.
func enable(group *os.Root, wanted []string) []string {
	for _, c := range wanted {
		_ = write(group, "cgroup.subtree_control", "+"+c) // what did not work is seen below
	}
	return intersect(wanted, words(group, "cgroup.subtree_control"))
}

func intersect(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return !slices.Contains(b, s) })
}

func words(group *os.Root, name string) []string {
	text, err := read(group, name)
	if err != nil {
		return nil
	}
	return strings.Fields(text)
}

// read returns a file of a group; they are short but for the list of processes.
func read(group *os.Root, name string) (string, error) {
	b, err := group.ReadFile(name)
	return string(b), err
}

func write(group *os.Root, name, text string) error {
	f, err := group.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Bases returns the folders that hold the leaves, to be found again when this process is gone.
func (t *Tree) Bases() []string {
	var all []string
	for _, h := range t.places {
		all = append(all, h.path)
	}
	return all
}

// Missing returns what of the limits no leaf can have, as words for people.
func (t *Tree) Missing(l Limits) []string {
	var missing []string
	for name, wanted := range map[string]bool{"memory": l.Memory > 0, "cpu": l.CPU > 0, "pids": l.PIDs > 0} {
		if wanted && !slices.ContainsFunc(t.places, func(h *hierarchy) bool { return h.has(name) }) {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	return missing
}

// Describe says in a few words what the tree is made of.
func (t *Tree) Describe() string {
	var parts []string
	for _, h := range t.places {
		name := strings.Join(h.limits, ",")
		if h.unified {
			name = strings.TrimSuffix("unified "+name, " ")
			if h.kill {
				name += " with cgroup.kill"
			}
		}
		parts = append(parts, name)
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}

// Close lets go of the folders.
func (t *Tree) Close() error {
	var errs []error
	for _, h := range t.places {
		errs = append(errs, h.close())
	}
	return errors.Join(errs...)
}

// Leaves names the leaves there are, in any hierarchy.
func (t *Tree) Leaves() ([]string, error) {
	var all []string
	for _, h := range t.places {
		base, err := h.parent.OpenRoot(h.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list groups: %w", err)
		}
		names, err := children(base)
		if err = errors.Join(err, base.Close()); err != nil {
			return nil, fmt.Errorf("list groups: %w", err)
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// children lists the groups directly below a group.
func children(group *os.Root) ([]string, error) {
	dir, err := group.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// poll is the pause between two looks at a leaf that is being emptied.
const poll = 5 * time.Millisecond

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(poll):
		return nil
	}
}
