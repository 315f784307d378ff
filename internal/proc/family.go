package proc

import (
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hostmanager/internal/proc/table"
)

// markName is the variable that says of which spawn a process is.
const markName = "HOSTMANAGER_SPAWN"

// family knows which processes come from which spawn, by descent: this process is the subreaper, so whatever loses its parent becomes a child of
// it. It finds what left its leaf, and is all there is where there are no control groups.
type family struct {
	table   *table.Table
	session int
	dev     uint64 // of this process's own program
	ino     uint64

	mu      sync.Mutex
	kins    map[string]*kin
	kept    map[key]bool      // processes of detached spawns
	known   map[int]uint64    // sessions of spawns that are over, and when they began
	members map[key]bool      // and their processes, where one changed its session unseen
	zombies map[key]time.Time // nobody's, since when
}

// key names a process for good.
type key struct {
	pid   int
	start uint64
}

// kin is what is known of one spawn.
type kin struct {
	id     string
	leader table.Process
	seen   map[key]bool
	// sessions are those its processes were seen in, and the start of the spawn: numbers are given out anew.
	sessions map[int]uint64
	leaf     func() []int // the processes in its leaf
}

func newFamily(t *table.Table) (*family, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	self, _ := t.Get(os.Getpid()) // without it every child counts as of another session, and its mark decides
	dev, ino, err := t.Program(os.Getpid())
	if err != nil {
		return nil, err
	}
	return &family{
		table: t, session: self.Session, dev: dev, ino: ino,
		kins: map[string]*kin{}, kept: map[key]bool{}, known: map[int]uint64{}, members: map[key]bool{}, zombies: map[key]time.Time{},
	}, nil
}

func (f *family) begin(k *kin) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k.sessions[k.leader.PID] = k.leader.Start // it leads its own
	f.kins[k.id] = k
}

func (f *family) has(k *kin) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.kins[k.id] == k
}

// end forgets a spawn; what it detached is told apart from now on.
func (f *family) end(k *kin, detached []table.Process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.kins, k.id)
	for _, p := range detached {
		f.kept[key{p.PID, p.Start}] = true
		delete(k.seen, key{p.PID, p.Start})
	}
	maps.Copy(f.known, k.sessions)
	maps.Copy(f.members, k.seen)
}

// find returns the living processes of a spawn.
func (f *family) find(k *kin) []table.Process {
	f.mu.Lock()
	defer f.mu.Unlock()
	all, err := f.table.All()
	if err != nil {
		return nil // /proc was opened at the start; without memory to read it, the next look may
	}
	in := map[int]bool{}
	for _, pid := range k.leaf() {
		in[pid] = true
	}
	s := search{family: f, kin: k, rows: map[int]table.Process{}, leaf: in, verdicts: map[int]bool{}}
	for _, p := range all {
		s.rows[p.PID] = p
	}
	var found []table.Process
	for _, p := range all {
		if !p.Ended() && p.PID != os.Getpid() && s.belongs(p, 0) {
			k.seen[key{p.PID, p.Start}] = true
			k.sessions[p.Session] = k.leader.Start
			found = append(found, p)
		}
	}
	return found
}

// killGroups kills the process groups of what a look found, each at one blow: the members of one cannot fork away from that. What is spawned has
// sessions of its own, so nobody else stands in its groups; own is this process's session.
func killGroups(found []table.Process, own int) {
	done := map[int]bool{}
	for _, p := range found {
		if p.Group > 1 && p.Session != own && !done[p.Group] {
			done[p.Group] = true
			_ = unix.Kill(-p.Group, unix.SIGKILL) // it may have ended
		}
	}
}

// search is one look at the whole table.
type search struct {
	*family
	kin      *kin
	rows     map[int]table.Process
	leaf     map[int]bool
	verdicts map[int]bool
}

// maxAncestors bounds the way up to a parent; a table read while it changes can hold a circle.
const maxAncestors = 1 << 10

// belongs judges a process: by its leaf, by what was seen earlier, by its mark, by its parents.
func (s *search) belongs(p table.Process, depth int) bool {
	if v, ok := s.verdicts[p.PID]; ok {
		return v
	}
	v := s.judge(p, depth)
	s.verdicts[p.PID] = v
	return v
}

func (s *search) judge(p table.Process, depth int) bool {
	k := key{p.PID, p.Start}
	switch {
	case p.PID == os.Getpid() || p.PID == 1 || p.Start < s.kin.leader.Start || depth > maxAncestors:
		return false
	case s.leaf[p.PID], s.kin.seen[k], p.PID == s.kin.leader.PID && p.Start == s.kin.leader.Start:
		return true
	case s.kept[k]:
		return false
	}
	if id, ok := s.table.Variable(p.PID, markName); ok {
		return id == s.kin.id
	}
	if p.Parent == os.Getpid() {
		return s.stray(p)
	}
	parent, ok := s.rows[p.Parent]
	if !ok {
		return false
	}
	if s.kept[key{parent.PID, parent.Start}] {
		s.kept[k] = true
		return false
	}
	return s.belongs(parent, depth+1)
}

// stray judges a child of this process that carries no mark: an orphan that wiped its environment. Nobody else of this process has children in
// sessions of their own. One that executes this very program is being born: it is between fork and exec. With several spawns under way it cannot
// be told whose it is; then the last to end takes it.
func (s *search) stray(p table.Process) bool {
	if p.Session == s.session || len(s.kins) != 1 {
		return false
	}
	dev, ino, err := s.table.Program(p.PID)
	if err != nil || dev == s.dev && ino == s.ino {
		return false
	}
	for other := range s.kept { // a detached daemon that forks on stays what it is
		if row, ok := s.rows[other.pid]; ok && row.Start == other.start && row.Session == p.Session {
			return false
		}
	}
	return true
}

// foreignZombie is how long a dead child that nobody is known to wait for is left alone: whoever waits for it has done so by then.
const foreignZombie = time.Minute

// reap takes the exit status of orphans: of known ones at once, of others in a session of their own when nobody else has for a while. Children
// of os/exec are neither: spawns are left out while they last, all others share this process's session. It returns whether some are still waited with.
func (f *family) reap() (waiting bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all, err := f.table.All()
	if err != nil {
		return true
	}
	leaders, live, sessions := map[key]bool{}, map[key]bool{}, map[int]bool{}
	ours, members := maps.Clone(f.known), maps.Clone(f.members)
	for _, k := range f.kins {
		leaders[key{k.leader.PID, k.leader.Start}] = true
		maps.Copy(ours, k.sessions)
		maps.Copy(members, k.seen)
	}
	for _, p := range all {
		k := key{p.PID, p.Start}
		live[k], sessions[p.Session] = true, true
		if p.State != 'Z' || p.Parent != os.Getpid() || p.Session == f.session || leaders[k] {
			continue
		}
		began, member := ours[p.Session]
		since, met := f.zombies[k]
		switch {
		case member && p.Start >= began, members[k], f.kept[k], met && time.Since(since) >= foreignZombie:
			_, _ = unix.Wait4(p.PID, nil, unix.WNOHANG, nil) // it is a zombie, so there is nothing to wait for
		case !met:
			f.zombies[k] = time.Now()
			waiting = true
		default:
			waiting = true
		}
	}
	maps.DeleteFunc(f.known, func(id int, _ uint64) bool { return !sessions[id] })
	maps.DeleteFunc(f.members, func(k key, _ bool) bool { return !live[k] })
	maps.DeleteFunc(f.kept, func(k key, _ bool) bool { return !live[k] })
	maps.DeleteFunc(f.zombies, func(k key, _ time.Time) bool { return !live[k] })
	return waiting
}
