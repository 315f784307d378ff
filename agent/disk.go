package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"hostmanager/agent/config"
	"hostmanager/commandproc"
	"hostmanager/hooks"
	"hostmanager/internal/disk"
	"hostmanager/internal/layout"
	"hostmanager/journal"
	"hostmanager/platform/bundle"
	"hostmanager/protocol"
)

// Where the disk counts as full, and as short.
const (
	fullBytes   = 1 << 20
	fullInodes  = 16
	shortShare  = 20        // short of room is what has less than one part in so many
	shortBytes  = 128 << 20 // and less than this: a large disk is not short with a gigabyte
	shortInodes = 2000
)

// diskKeeper cares for the file systems the agent and its platform write to: it refuses what they cannot take, gives up the reserve for what must
// be written nevertheless, removes what nobody needs, and says once how things stand. Safe for concurrent use.
type diskKeeper struct {
	root    layout.Root
	conf    config.Config
	reserve *disk.Reserve
	log     *slog.Logger
	event   func(protocol.Event)
	bundles *bundle.Fetcher
	infra   *infra
	images  imageRoom // nil where the platform has none
	garbage collector // nil where the platform has none
	journal *journal.Journal
	lost    func() int64 // lines of log so far
	pulse   func()       // tells the watchdog that waiting is right
	stop    <-chan struct{}

	mu      sync.Mutex
	short   map[string]time.Time // mounts that are said to be short of room, since when
	waiting time.Time            // since when the journal takes nothing
	told    int64                // lost lines
	needs   []disk.Need          // of the deployment that was let in last
	of      string               // its invocation
	docker  string               // where the Engine keeps its data, once known
}

// imageRoom is a platform that makes images.
type imageRoom interface {
	// ImageRoom tells where the next image will lie ("" where that is not this host's affair) and how large the last one is.
	ImageRoom(ctx context.Context) (dir string, last int64, err error)
}

// serve tells the keeper whom it serves.
func (k *diskKeeper) serve(a *Agent, platform Platform, lost func() int64) {
	k.log, k.event, k.lost, k.journal = a.log, a.event, lost, a.Journal
	k.stop, k.pulse = a.drain, a.beat
	k.images, _ = platform.(imageRoom)
	k.garbage, _ = platform.(collector)
	a.disk = k
}

func newDiskKeeper(root layout.Root, conf config.Config) *diskKeeper {
	return &diskKeeper{
		root: root, conf: conf, reserve: disk.NewReserve(root.DiskReserve(), conf.DiskReserve), short: map[string]time.Time{},
		log: slog.New(slog.DiscardHandler),
	}
}

// makeWay gives up the reserve where there is no room to begin anything.
func (k *diskKeeper) makeWay() {
	if s, err := disk.Of(k.root.AgentState()); err == nil && full(s) {
		k.release("what begins on a full disk")
	}
}

func full(s disk.Space) bool {
	return s.RootBytes < fullBytes || s.Inodes >= 0 && s.Inodes < fullInodes
}

func short(s disk.Space) bool {
	return s.Bytes < min(s.TotalBytes/shortShare, shortBytes) || s.Inodes >= 0 && s.Inodes < min(s.TotalInodes/shortShare, shortInodes)
}

// release gives up the reserve because something must be written, and says whether there was any.
func (k *diskKeeper) release(why string) bool {
	was, err := k.reserve.Release()
	if was || err != nil {
		k.log.Warn("disk reserve given up", slog.String("for", why), slog.Any("error", err))
	}
	return was
}

// onFull is asked by the journal where it has no room for a record.
func (k *diskKeeper) onFull() bool { return k.release("the journal") }

// spaces returns the file systems that the agent writes to, each once.
func (k *diskKeeper) spaces() []disk.Space {
	k.mu.Lock()
	dirs := []string{k.root.AgentState(), k.root.Releases(), k.root.Log(""), k.docker}
	k.mu.Unlock()
	var all []disk.Space
	seen := map[uint64]bool{}
	for _, dir := range dirs {
		if dir == "" {
			continue
		}
		if s, err := disk.Of(dir); err == nil && !seen[s.Dev] {
			seen[s.Dev] = true
			all = append(all, s)
		}
	}
	return all
}

// fullError is a failure on a disk that has no room.
type fullError struct {
	cause error
	text  string
}

func (e *fullError) Error() string { return e.text + ": " + strings.TrimRight(e.cause.Error(), ". \n") }
func (e *fullError) Unwrap() error { return e.cause }

// Is makes it disk.ErrNoRoom.
func (e *fullError) Is(target error) bool { return target == disk.ErrNoRoom }

// FailureCause is what it is for those who decide by it.
func (e *fullError) FailureCause() string { return protocol.CauseNoRoom }

// explain says of a failed step whether a full disk had to do with it, which one, and how much is missing. Then the reserve is given up: what
// is to follow is the unwinding and the result.
func (k *diskKeeper) explain(d hooks.Deployment, err error) error {
	var known *fullError
	if err == nil || errors.As(err, &known) {
		return err
	}
	told, spaces := disk.Full(err), k.spaces()
	isFull := slices.ContainsFunc(spaces, full)
	if told || isFull {
		k.release("a command that failed")
	}
	var other commandproc.WithCause
	if !told && (!isFull || errors.As(err, &other) && other.FailureCause() != "") {
		return err // it has nothing to do with it, or knows better
	}
	var texts []string
	for _, s := range spaces {
		need := k.needOn(s, d)
		gaveBack := !isFull && (need.Bytes > s.Bytes || s.Inodes >= 0 && need.Inodes > s.Inodes || short(s))
		if full(s) || gaveBack {
			texts = append(texts, k.describe(s, d))
		}
	}
	text := "the disk is full"
	if len(texts) > 0 {
		text += " (" + strings.Join(texts, "; ") + "; free some room and try again)"
	}
	return &fullError{cause: err, text: text}
}

// needOn is what the deployment was taken to need on a file system.
func (k *diskKeeper) needOn(s disk.Space, d hooks.Deployment) disk.Need {
	k.mu.Lock()
	defer k.mu.Unlock()
	var sum disk.Need
	if k.of != d.InvocationID {
		return sum
	}
	for _, n := range k.needs {
		if on, err := disk.Of(n.Path); err == nil && on.Dev == s.Dev {
			sum.Bytes, sum.Inodes = sum.Bytes+n.Bytes, sum.Inodes+n.Inodes
		}
	}
	return sum
}

func (k *diskKeeper) describe(s disk.Space, d hooks.Deployment) string {
	text := fmt.Sprintf("%s has %s", s.Mount, disk.Size(s.RootBytes))
	if s.Inodes >= 0 {
		text += " and " + disk.Count(s.Inodes) + " inodes"
	}
	text += " left"
	need := k.needOn(s, d)
	missing := max(need.Bytes, k.conf.DiskReserve) - s.Bytes
	if missing > 0 {
		text += ", at least " + disk.Size(missing) + " more are needed"
	}
	if s.Inodes >= 0 && max(need.Inodes, fullInodes) > s.Inodes {
		text += ", at least " + disk.Count(max(need.Inodes, fullInodes)-s.Inodes) + " more inodes are needed"
	}
	return text
}

// roomy has an undoing step tried once more where the first try found no room and the reserve could make some. Undoing is safe to repeat.
func (k *diskKeeper) roomy(what string, do func() error) error {
	err := do()
	if disk.Full(err) && k.release(what) {
		err = do()
	}
	return err
}

// helpedDirs has the failures of hook directories explained, and their undoing helped.
type helpedDirs struct {
	commandproc.Dirs
	disk *diskKeeper
}

// Run implements commandproc.Dirs.
func (d helpedDirs) Run(ctx context.Context, call hooks.Call, rec hooks.Recorder, watch hooks.Watch) error {
	return d.disk.explain(call.Deployment, d.Dirs.Run(ctx, call, rec, watch))
}

// Undo implements commandproc.Dirs.
func (d helpedDirs) Undo(ctx context.Context, call hooks.Call, step string) error {
	return d.disk.roomy("undoing "+step, func() error { return d.Dirs.Undo(ctx, call, step) })
}

// builtin does for an action of its own what helpedDirs does for a hook directory.
func (k *diskKeeper) builtin(b hooks.Builtin) hooks.Builtin {
	run, undo := b.Run, b.Undo
	b.Run = func(ctx context.Context, c *hooks.Call) error { return k.explain(c.Deployment, run(ctx, c)) }
	if undo != nil {
		b.Undo = func(ctx context.Context, c *hooks.Call) error {
			return k.roomy("undoing "+b.Name, func() error { return undo(ctx, c) })
		}
	}
	return b
}

func (k *diskKeeper) builtins(all map[string]hooks.Builtin) map[string]hooks.Builtin {
	with := make(map[string]hooks.Builtin, len(all))
	for name, b := range all {
		with[name] = k.builtin(b)
	}
	return with
}

func (k *diskKeeper) settling(settle func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		return k.roomy("putting files back", func() error { return settle(ctx) })
	}
}

// roomPause is between two tries to journal what has to be journalled.
const roomPause = time.Second

// awaitRoom waits a moment for room in the journal. It says once that it does, and is false when the agent is to stop.
func (k *diskKeeper) awaitRoom(cause error) bool {
	k.noJournal(cause)
	timer := time.NewTimer(roomPause)
	defer timer.Stop()
	k.pulse()
	select {
	case <-k.stop:
		return false
	case <-timer.C:
		return true
	}
}

// noJournal says, once until there is room again, that the journal takes nothing.
func (k *diskKeeper) noJournal(cause error) {
	k.mu.Lock()
	first := k.waiting.IsZero()
	if first {
		k.waiting = time.Now()
	}
	k.mu.Unlock()
	if first {
		k.event(protocol.Event{Severity: protocol.Error, Msg: fmt.Sprintf(
			"The disk is full and the reserve is used up: commands wait in their queue, and what serves is left alone. Free some room. (%v)", cause)})
	}
}

// DiskStatus is one file system in a Status.
type DiskStatus struct {
	Mount       string `json:"mount"`
	Bytes       int64  `json:"bytes_free"`
	TotalBytes  int64  `json:"bytes"`
	Inodes      int64  `json:"inodes_free"` // -1 where they are not counted
	TotalInodes int64  `json:"inodes"`
	Short       bool   `json:"short,omitempty"`
}

// Disks is what a Status says of room.
type Disks struct {
	Disks    []DiskStatus `json:"disks"`
	Reserve  int64        `json:"reserve"` // bytes kept back now
	LogsLost int64        `json:"log_lines_lost,omitempty"`
}

func (k *diskKeeper) status() *Disks {
	d := &Disks{LogsLost: k.lost()}
	if k.reserve.Held() {
		d.Reserve = k.conf.DiskReserve
	}
	for _, s := range k.spaces() {
		d.Disks = append(d.Disks, DiskStatus{
			Mount: s.Mount, Bytes: s.Bytes, TotalBytes: s.TotalBytes, Inodes: s.Inodes, TotalInodes: s.TotalInodes, Short: short(s),
		})
	}
	return d
}
