package proc

import (
	"context"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hostmanager/internal/proc/cgroup"
	"hostmanager/internal/proc/table"
)

// backend makes places for spawns. Control groups are one, plain descent another; transient units of systemd would be a third.
type backend interface {
	kind() string
	// enter makes a place with limits for one spawn.
	enter(name string, l Limits) (place, error)
	// missing names the limits that its places do not hold.
	missing(l Limits) []string
	describe() string
	close() error
}

// place is what a back-end gives to one spawn.
type place interface {
	path() string
	// descriptor is of the group to start into, if that is possible; close it after the start.
	descriptor() (*os.File, bool)
	join(pid int) error
	pids() []int
	thaw()
	kill(ctx context.Context) error
	facts() cgroup.Facts
	// leave removes the place; one that is kept stays for what is in it.
	leave(keep bool) error
}

// groups is the back-end of control groups.
type groups struct {
	tree    *cgroup.Tree
	version string
	into    bool // processes can be started into a group
}

func (g *groups) kind() string              { return g.version }
func (g *groups) missing(l Limits) []string { return g.tree.Missing(l) }
func (g *groups) describe() string          { return g.tree.Describe() }
func (g *groups) close() error              { return g.tree.Close() }

func (g *groups) enter(name string, l Limits) (place, error) {
	leaf, err := g.tree.Leaf(name, l)
	if err != nil {
		return nil, err
	}
	return &groupPlace{groups: g, leaf: leaf, limits: l}, nil
}

// groupPlace is safe for concurrent use but for leave: it is looked at while it is emptied.
type groupPlace struct {
	*groups
	limits Limits

	mu     sync.Mutex
	leaf   *cgroup.Leaf
	before cgroup.Facts // of a leaf that was removed under us
}

func (p *groupPlace) path() string { return p.now().Path() }
func (p *groupPlace) pids() []int  { return p.now().PIDs() }
func (p *groupPlace) thaw()        { p.now().Thaw() }

func (p *groupPlace) now() *cgroup.Leaf {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leaf
}

func (p *groupPlace) descriptor() (*os.File, bool) {
	if !p.into {
		return nil, false
	}
	return p.now().Unified()
}

// join puts a process in, also after a hook removed the leaf.
func (p *groupPlace) join(pid int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	err := p.leaf.Join(pid)
	if err == nil {
		return nil
	}
	again, made := p.tree.Leaf(p.leaf.Name(), p.limits)
	if made != nil {
		return err
	}
	f := p.leaf.Facts()
	p.before = cgroup.Facts{OOMKills: p.before.OOMKills + f.OOMKills, PIDsHits: p.before.PIDsHits + f.PIDsHits, MemoryMax: max(p.before.MemoryMax, f.MemoryMax)}
	p.leaf.Release()
	p.leaf = again
	return p.leaf.Join(pid)
}

func (p *groupPlace) kill(ctx context.Context) error { return p.now().Kill(ctx) }

func (p *groupPlace) facts() cgroup.Facts {
	f := p.now().Facts()
	f.OOMKills += p.before.OOMKills
	f.PIDsHits += p.before.PIDsHits
	f.MemoryMax = max(f.MemoryMax, p.before.MemoryMax)
	return f
}

func (p *groupPlace) leave(keep bool) error {
	if keep {
		err := p.leaf.Keep()
		p.leaf.Release()
		return err
	}
	return p.leaf.Remove()
}

// descent is the back-end without control groups: all that is known is who comes from whom.
type descent struct{}

func (descent) kind() string                        { return Subreaper }
func (descent) describe() string                    { return "processes are followed by descent" }
func (descent) close() error                        { return nil }
func (descent) enter(string, Limits) (place, error) { return noPlace{}, nil }

func (descent) missing(l Limits) []string {
	var names []string
	for _, limit := range []struct {
		name string
		set  bool
	}{{"cpu", l.CPU > 0}, {"memory", l.Memory > 0}, {"pids", l.PIDs > 0}} {
		if limit.set {
			names = append(names, limit.name)
		}
	}
	return names
}

type noPlace struct{}

func (noPlace) path() string                 { return "" }
func (noPlace) descriptor() (*os.File, bool) { return nil, false }
func (noPlace) join(int) error               { return nil }
func (noPlace) pids() []int                  { return nil }
func (noPlace) thaw()                        {}
func (noPlace) kill(context.Context) error   { return nil }
func (noPlace) facts() cgroup.Facts          { return cgroup.Facts{} }
func (noPlace) leave(bool) error             { return nil }

// confined is the leaf of a Spawner: a place, and the family for what has left it.
type confined struct {
	spawner *Spawner
	place   place
	kin     *kin
	program *program
	detach  bool
}

// attributes: a session of its own, so that its orphans can be told from other children of this process; stopped before its first instruction,
// where that is possible.
func (l *confined) attributes() (*syscall.SysProcAttr, func()) {
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL, Ptrace: l.spawner.traces}
	f, ok := l.place.descriptor()
	if !ok {
		return a, func() {}
	}
	a.UseCgroupFD, a.CgroupFD = true, int(f.Fd())
	return a, func() { _ = f.Close() }
}

// leastWanted is the preference of a hook when the kernel must end something for want of memory: before the agent, the Engine and what it runs.
const leastWanted = 500

func (l *confined) started(pid int) error {
	if err := l.place.join(pid); err != nil {
		return fmt.Errorf("contain process: %w", err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if !l.detach {
		_ = l.spawner.table.Prefer(pid, leastWanted) // a courtesy; some sandboxes forbid it
	}
	p, ok := l.spawner.table.Get(pid)
	if !ok {
		return fmt.Errorf("process %d is gone before it began", pid)
	}
	l.kin.leader = p
	l.spawner.family.begin(l.kin)
	return l.program.verify(l.spawner.table, pid)
}

func (l *confined) living() []table.Process {
	l.place.thaw() // what a hook froze could not heed a signal
	return l.spawner.family.find(l.kin)
}

// blowTime is how long a place may take to empty before its processes are looked at one by one: another group may hold them.
const blowTime = 250 * time.Millisecond

// kill ends the place at one blow, then whatever had left it, until nothing is found: first by process groups, since to end a thousand processes one
// by one gives them time for a thousand more.
func (l *confined) kill(ctx context.Context) error {
	for {
		blow, done := context.WithTimeout(ctx, blowTime)
		err := l.place.kill(blow)
		done()
		left := l.spawner.family.find(l.kin)
		if len(left) == 0 {
			l.spawner.family.reap()
			return err
		}
		killGroups(left, l.spawner.family.session)
		for _, p := range left {
			l.spawner.exits.Take(p.PID)
			_ = l.place.join(p.PID) // brings it out of whatever group it hid or was frozen in; the leaf is killed at the next turn
			_ = l.spawner.table.Signal(p, unix.SIGKILL)
		}
		l.spawner.family.reap()
		if ctx.Err() != nil {
			return fmt.Errorf("%d processes cannot be ended: %w", len(left), context.Cause(ctx))
		}
		pauseFor(ctx, look/4)
	}
}
