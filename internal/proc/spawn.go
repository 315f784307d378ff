package proc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/proc/table"
)

// spawn is one Run of a Spawner.
type spawn struct {
	*Spawner
	c        *Command
	id       string
	leaf     *confined
	program  *program
	detach   bool // what it leaves may stay
	left     int
	detached []table.Process
	rusage   *syscall.Rusage
	missing  []string              // limits that the kernel does not hold
	over     atomic.Pointer[error] // which of them was met, by measure
	log      *slog.Logger
}

// run prepares a leaf, runs the command in it, and writes the audit line.
func (s *Spawner) run(ctx context.Context, c *Command) (Result, error) {
	sp := &spawn{Spawner: s, c: c, id: leafName(), log: c.Log}
	begin := time.Now()
	program, err := openProgram(ctx, c.Path, c.Within, s.copies)
	if err != nil {
		err = notStarted(ctx, c, err)
		sp.audit(Result{Duration: time.Since(begin)}, err, factsOf{})
		return Result{}, err
	}
	sp.program = program
	defer func() {
		if err := program.close(); err != nil {
			sp.log.Warn("copy of a program not removed", slog.Any("error", err))
		}
	}()
	sp.missing = s.Missing(c.Limits)
	s.warnOnce(sp.missing)
	place, err := s.backend.enter(sp.id, c.Limits)
	if err != nil {
		return Result{}, fmt.Errorf("contain %s: %w", c.Path, err)
	}
	c.Env = append(slices.Clip(c.Env), markName+"="+sp.id)
	sp.detach = c.MayDetach != nil && c.MayDetach(io.NewSectionReader(program.file, 0, program.state.Size))
	if sp.detach {
		c.Env = append(c.Env, spared)
	}
	sp.leaf = &confined{spawner: s, place: place, program: program, detach: sp.detach, kin: &kin{id: sp.id, seen: map[key]bool{}, sessions: map[int]uint64{}}}
	sp.leaf.kin.leaf = func() []int { return sp.leaf.place.pids() }
	res, err := sp.do(ctx)
	return res, sp.close(res, err)
}

// notStarted says why a program that could not even be opened does not run.
func notStarted(ctx context.Context, c *Command, err error) error {
	var refused *StartError
	switch {
	case errors.As(err, &refused):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("run %s: %w", c.Path, context.Cause(ctx))
	case errors.Is(err, ErrExchanged):
		return &StartError{Path: c.Path, Err: ErrExchanged, Hint: "another process replaces it while it is run; nothing of it was executed"}
	}
	return diagnose(c, err)
}

// do runs it, watched where the kernel does not hold the limits or nothing but descent tells what belongs to it.
func (sp *spawn) do(ctx context.Context) (Result, error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var watching sync.WaitGroup
	done := make(chan struct{})
	unwatch := sync.OnceFunc(func() {
		close(done)
		watching.Wait()
	})
	defer unwatch()
	if len(sp.missing) > 0 || sp.Kind() == Subreaper {
		watching.Go(func() { sp.sample(done, stop) })
	}
	r := &run{c: sp.c, leaf: sp.leaf, exec: sp.program.exec, hopeless: func(living []table.Process) bool { return sp.beyond(living) != nil }}
	r.ended = func(cmd *exec.Cmd, stopped bool) {
		unwatch()
		sp.rusage, _ = cmd.ProcessState.SysUsage().(*syscall.Rusage)
		sp.tidy(r, cmd.ProcessState.Success() && !stopped)
	}
	res, err := r.do(ctx)
	res.Left, res.Detached = sp.left, len(sp.detached)
	return res, err
}

// tidy sees to what the process left: it is ended, unless the process ended well and may detach.
func (sp *spawn) tidy(r *run, well bool) {
	living := sp.leaf.living()
	if len(living) == 0 {
		return
	}
	if well && sp.detach {
		sp.detached = living
		sp.log.Info("processes are left running on purpose", slog.Int("processes", len(living)), slog.String("leaf", sp.leaf.place.path()))
		return
	}
	sp.left = len(living)
	sp.log.Warn("what a process left behind is ended", slog.String("path", sp.c.Path), slog.Int("processes", len(living)))
	r.terminate(min(LeftGrace, sp.c.Grace))
	r.killAll(sp.log)
}

// close judges by what the kernel counted, writes the audit line and removes the leaf.
func (sp *spawn) close(res Result, err error) error {
	facts := factsOf{sp.leaf.place.facts()}
	err = facts.judge(err, sp)
	sp.audit(res, err, facts)
	keep := len(sp.detached) > 0
	sp.family.end(sp.leaf.kin, sp.detached)
	sp.family.reap()
	if e := sp.leaf.place.leave(keep); e != nil {
		sp.log.Warn("leaf not removed; the next start of the agent will", slog.Any("error", e))
	}
	return err
}

// sampleEvery is the time between two looks at what the kernel does not limit.
const sampleEvery = 100 * time.Millisecond

// sample follows the family, so that what leaves it is known, and ends it beyond a limit.
func (sp *spawn) sample(done <-chan struct{}, stop context.CancelCauseFunc) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		if !sp.family.has(sp.leaf.kin) { // not begun
			continue
		}
		if err := sp.beyond(sp.family.find(sp.leaf.kin)); err != nil {
			stop(err)
		}
	}
}

// beyond tells which limit that the kernel does not hold the living have met together; nil: none.
func (sp *spawn) beyond(living []table.Process) (err error) {
	var pids, memory int64
	for _, p := range living {
		pids += int64(max(p.Threads, 1))
		memory += p.Memory
	}
	switch l := sp.c.Limits; {
	case l.PIDs > 0 && pids > l.PIDs && slices.Contains(sp.missing, "pids"):
		err = &PIDsError{Limit: l.PIDs, Sampled: true}
	case l.Memory > 0 && memory > l.Memory && slices.Contains(sp.missing, "memory"):
		err = &OOMError{Limit: l.Memory, Sampled: true}
	default:
		return nil
	}
	sp.over.CompareAndSwap(nil, &err)
	return err
}

// audit writes the one line that says what ran.
func (sp *spawn) audit(res Result, err error, facts factsOf) {
	attrs := slices.Clone(sp.c.Asked)
	attrs = append(attrs, slog.String("path", sp.c.Path), slog.String("user", strconv.Itoa(os.Geteuid())), slog.String("containment", sp.Kind()))
	if p := sp.program; p != nil {
		attrs = append(attrs, slog.String("executed", p.exec), slog.String("sha256", p.sum))
		if !p.native && !p.copied && p.changed() {
			attrs = append(attrs, slog.Bool("changed_meanwhile", true))
		}
	}
	if sp.leaf != nil && sp.leaf.place.path() != "" {
		attrs = append(attrs, slog.String("leaf", sp.leaf.place.path()))
	}
	if res.PID > 0 {
		attrs = append(attrs, slog.Int("pid", res.PID))
	}
	if u := sp.rusage; u != nil {
		attrs = append(attrs, slog.Int64("user_ms", u.Utime.Nano()/1e6), slog.Int64("system_ms", u.Stime.Nano()/1e6), slog.Int64("max_rss", u.Maxrss<<10))
	}
	if facts.MemoryMax > 0 {
		attrs = append(attrs, slog.Int64("leaf_memory", facts.MemoryMax))
	}
	attrs = append(attrs, slog.Int64("took_ms", res.Duration.Milliseconds()), slog.Int("left", res.Left), slog.Int("detached", res.Detached))
	var exit *ExitError
	switch {
	case err == nil:
		attrs = append(attrs, slog.Int("exit", 0))
	case errors.As(err, &exit) && exit.Signal != 0:
		attrs = append(attrs, slog.String("signal", unix.SignalName(exit.Signal)), slog.Any("error", err))
	case errors.As(err, &exit):
		attrs = append(attrs, slog.Int("exit", exit.Code), slog.Any("error", err))
	default:
		attrs = append(attrs, slog.Any("error", err))
	}
	sp.log.LogAttrs(context.Background(), slog.LevelInfo, "spawn", attrs...)
}

// readBases reads where an earlier start made its leaves. Without it only today's place is swept.
func readBases(path string) []string {
	var bases []string
	data, err := atomicfile.ReadFileLimit(path, 64<<10)
	if err != nil || json.Unmarshal(data, &bases) != nil {
		return nil
	}
	return bases
}

func writeBases(path string, bases []string) error {
	data, err := json.Marshal(bases)
	if err == nil {
		err = atomicfile.WriteFile(path, data, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remember where leaves are: %w", err)
	}
	return nil
}
