package proc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"hostmanager/internal/proc/cgroup"
	"hostmanager/internal/proc/table"
)

// Kinds of containment.
const (
	Auto      = "auto" // the best that works
	CgroupV2  = cgroup.V2
	CgroupV1  = cgroup.V1
	Subreaper = "subreaper"
)

// Kinds lists what SpawnerOptions.Kind may be.
func Kinds() []string { return []string{Auto, CgroupV2, CgroupV1, Subreaper} }

// Bounds of the output of a contained process that is passed on, bytes.
const (
	DefaultHead = 2 << 20
	DefaultEnd  = 512 << 10
)

// LeftGrace is the time that what a process left behind has between SIGTERM and SIGKILL.
const LeftGrace = time.Second

// SpawnerOptions of NewSpawner.
type SpawnerOptions struct {
	Kind   string       // one of Kinds; empty: Auto
	Owner  string       // whose leaves these are; the same at each start, and no other's on this machine (a root and a namespace)
	Parent string       // the control group to make leaves in; empty: the process's own
	Copies string       // folder, only for this, where programs are copied to that others than root could exchange
	Log    *slog.Logger // nil: discards
}

// Spawner runs processes that may be hostile, each in a leaf. Safe for concurrent use. One is enough for a process: it makes it the subreaper of
// all that descends from it.
type Spawner struct {
	backend backend
	table   *table.Table
	family  *family
	exits   cgroup.Exits
	copies  string
	traces  bool // children can be stopped before their first instruction
	log     *slog.Logger

	mu     sync.Mutex
	warned map[string]bool
	stop   func()
}

// NewSpawner finds out what this machine allows, by trying it, and logs what was chosen and why. It fails only where the Kind that was asked for
// does not work.
func NewSpawner(ctx context.Context, o SpawnerOptions) (*Spawner, error) {
	s := &Spawner{copies: o.Copies, log: o.Log, warned: map[string]bool{}}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if o.Kind == "" {
		o.Kind = Auto
	}
	if !slices.Contains(Kinds(), o.Kind) {
		return nil, fmt.Errorf("containment is %q, want one of %s", o.Kind, strings.Join(Kinds(), ", "))
	}
	sum := sha256.Sum256([]byte(o.Owner))
	o.Owner = hex.EncodeToString(sum[:6])
	closeOnExec()
	var err error
	if s.table, err = table.Open(); err != nil {
		return nil, err
	}
	if s.family, err = newFamily(s.table); err != nil {
		return nil, errors.Join(fmt.Errorf("become the parent of orphans: %w", err), s.table.Close())
	}
	why, err := s.choose(ctx, o)
	if err != nil {
		return nil, errors.Join(err, s.table.Close())
	}
	s.exits = cgroup.OpenExits() // of the group the agent is in from now on
	s.log.Info("containment of hooks", slog.String("kind", s.backend.kind()), slog.String("made_of", s.backend.describe()), slog.String("why", why))
	s.watch()
	return s, nil
}

// closeOnExec keeps what this process was started with from its children; what Go opens is kept already.
func closeOnExec() {
	if unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		fd := 0
		if _, err := fmt.Sscan(e.Name(), &fd); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// choose tries back-ends, best first, and keeps the first that works.
func (s *Spawner) choose(ctx context.Context, o SpawnerOptions) (why string, err error) {
	var reasons []string
	for _, kind := range order(o.Kind) {
		b, err := s.try(ctx, kind, o)
		if err == nil {
			s.backend = b
			if o.Kind != Auto {
				reasons = []string{"configured"}
			}
			return strings.Join(append(reasons, kind+" works"), "; "), nil
		}
		reasons = append(reasons, fmt.Sprintf("%s: %v", kind, err))
	}
	return "", fmt.Errorf("containment of hooks does not work here: %s", strings.Join(reasons, "; "))
}

// order is that of the attempts: limits count most, then a sure end.
func order(kind string) []string {
	if kind != Auto {
		return []string{kind}
	}
	return []string{CgroupV2, CgroupV1, CgroupV2 + bare, Subreaper}
}

// bare marks the unified hierarchy without controllers, which ends leaves but does not limit them.
const bare = " without limits"

// try sets a back-end up and finds out how processes get into its places: stopped before their first instruction where that is allowed, and
// started into the group where the kernel can. One of both is needed, and v1 needs the first.
func (s *Spawner) try(ctx context.Context, kind string, o SpawnerOptions) (backend, error) {
	if kind == Subreaper {
		var err error
		for _, s.traces = range []bool{true, false} {
			if err = s.probe(ctx, descent{}); err == nil {
				return descent{}, nil
			}
		}
		return nil, err
	}
	version := strings.TrimSuffix(kind, bare)
	tree, err := cgroup.Open(cgroup.Options{Version: version, Name: o.Owner, Parent: o.Parent, Log: s.log})
	if err != nil {
		return nil, err
	}
	if o.Kind == Auto && kind == CgroupV2 && len(tree.Missing(Limits{Memory: 1, PIDs: 1})) > 0 {
		return nil, errors.Join(errors.New("the unified hierarchy has no controllers for memory and pids here"), tree.Close())
	}
	b := &groups{tree: tree, version: version}
	ways := []struct{ into, traces bool }{{true, true}, {false, true}} // without the first: an older kernel, or a filter before clone3
	if version == CgroupV2 {
		ways = append(ways, struct{ into, traces bool }{true, false})
	}
	var errs []error
	for _, way := range ways {
		b.into, s.traces = way.into, way.traces
		err := s.probe(ctx, b)
		if err == nil {
			return b, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errors.Join(errs...), tree.Close())
}

// probe runs this system's own "true" the way hooks will be run, kills what there is, and removes the leaf.
func (s *Spawner) probe(ctx context.Context, b backend) error {
	program := ""
	for _, p := range []string{"/bin/true", "/usr/bin/true", "/bin/sh"} {
		if real, err := filepath.EvalSymlinks(p); err == nil {
			program = real
			break
		}
	}
	trial := &Spawner{
		backend: b, table: s.table, family: s.family, traces: s.traces,
		log: slog.New(slog.DiscardHandler), warned: map[string]bool{},
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := trial.Run(ctx, Command{Path: program, Args: []string{"--version"}, Grace: time.Second})
	var exit *ExitError
	if errors.As(err, &exit) && exit.Cause == nil { // it ran, which is all that was asked
		return nil
	}
	return err
}

// Kind is the containment in use.
func (s *Spawner) Kind() string { return s.backend.kind() }

// Missing names those of the limits that the kernel does not hold here; they are measured instead, as far as that is possible.
func (s *Spawner) Missing(l Limits) []string { return s.backend.missing(l) }

// Sweep ends what a dead predecessor of the same Owner left in its leaves, and removes them; state is a file that remembers where they were.
func (s *Spawner) Sweep(ctx context.Context, state string) error {
	g, ok := s.backend.(*groups)
	if !ok {
		return nil
	}
	swept, err := g.tree.Sweep(ctx, readBases(state))
	if swept != (cgroup.Swept{}) {
		s.log.Warn("leaves of a dead agent swept", slog.Int("removed", swept.Removed), slog.Int("processes", swept.Ended), slog.Int("kept", swept.Kept))
	}
	return errors.Join(err, writeBases(state, g.tree.Bases()))
}

// watch reaps orphans when a child of this process ends, until Close.
func (s *Spawner) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	done := make(chan struct{})
	s.stop = func() {
		cancel()
		signal.Stop(ended)
		<-done
	}
	go func() {
		defer close(done)
		for again := (<-chan time.Time)(nil); ; {
			select {
			case <-ctx.Done():
				return
			case <-ended:
			case <-again:
			}
			again = nil
			if s.family.reap() {
				again = time.After(foreignZombie)
			}
		}
	}()
}

// Close lets go of everything. No Run may be under way.
func (s *Spawner) Close() error {
	s.stop()
	s.family.reap()
	return errors.Join(s.backend.close(), s.table.Close(), s.exits.Close())
}

// Run runs the command in a leaf of its own and waits for its end, and for the end of what it started. The error is nil, a *StartError, an
// *ExitError, or what kept it from being tried.
func (s *Spawner) Run(ctx context.Context, c Command) (Result, error) {
	if err := c.complete(); err != nil {
		return Result{}, err
	}
	if c.Head <= 0 {
		c.Head, c.End = DefaultHead, DefaultEnd
	}
	type outcome struct {
		Result
		error
	}
	ended := make(chan outcome, 1)
	// On a thread of its own, which ends with it: the umask there is this process's no more.
	go func() {
		runtime.LockOSThread()
		if unix.Unshare(unix.CLONE_FS) == nil {
			unix.Umask(0o022)
		}
		res, err := s.run(ctx, &c)
		ended <- outcome{res, err}
	}()
	o := <-ended
	return o.Result, o.error
}

// leafName returns a name that no other leaf has.
func leafName() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails
	return "hook-" + hex.EncodeToString(b)
}

// warnOnce tells of limits that are not held here.
func (s *Spawner) warnOnce(missing []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range missing {
		if s.warned[name] {
			continue
		}
		s.warned[name] = true
		how := "it is measured from outside a few times a second, and a hook beyond it is ended"
		if name == "cpu" {
			how = "it does not hold"
		}
		s.log.Warn("a limit of hooks is not held by the kernel here", slog.String("limit", name), slog.String("containment", s.backend.kind()), slog.String("instead", how))
	}
}

func pauseFor(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
