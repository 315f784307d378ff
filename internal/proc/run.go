package proc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hostmanager/internal/proc/table"
)

// leaf holds a process and what it starts.
type leaf interface {
	// attributes are for the start; done is called after it, with or without success.
	attributes() (a *syscall.SysProcAttr, done func())
	// started is called once with the new process, which has not run an instruction where attributes asked for tracing.
	started(pid int) error
	// living returns what is in it, but for those that have ended.
	living() []table.Process
	// kill ends all of it; the error says who is left when ctx ends first.
	kill(ctx context.Context) error
}

// run is one process under way.
type run struct {
	c    *Command
	leaf leaf
	exec string // the file as it is executed
	// ended is called when the process itself has ended, to see to what it left.
	ended func(cmd *exec.Cmd, stopped bool)
	// hopeless tells of what lives that it must not have time to end by itself, because it uses that to grow; nil: it always has.
	hopeless func(living []table.Process) bool

	out     *output
	cmd     *exec.Cmd
	cause   error // why it was stopped from here
	stuck   bool  // it does not even end when killed
	signals *table.Table
}

// do runs it to its end.
func (r *run) do(ctx context.Context) (Result, error) {
	c := r.c
	if ctx.Err() != nil {
		return Result{}, fmt.Errorf("run %s: %w", c.Path, context.Cause(ctx))
	}
	// The kernel sends the parent-death signal when the thread that forked ends, and only that thread may trace, so it must last.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var err error
	if r.signals, err = table.Open(); err != nil {
		return Result{}, err
	}
	defer r.signals.Close()
	if g, ok := r.leaf.(*group); ok {
		g.table = r.signals
	}
	if r.out, err = newOutput(c); err != nil {
		return Result{}, err
	}
	begin := time.Now()
	if err := r.start(ctx); err != nil {
		r.out.abandon()
		return Result{}, err
	}
	pid := r.cmd.Process.Pid
	log := c.Log.With(slog.Int("pid", pid))
	log.Log(ctx, r.level(), "process started", slog.String("argv", quote(r.cmd.Args)), slog.String("dir", c.Dir))
	go r.out.copy()
	r.cause = r.attend(ctx, pid, log)
	if r.stuck {
		go func() { _ = r.cmd.Wait() }() // whenever the kernel lets go of it
		r.out.finish(c.Drain)
		return Result{PID: pid, Duration: time.Since(begin), Tail: r.out.tail()}, &StuckError{Path: c.Path, PID: pid, Cause: r.cause}
	}
	var waited error
	if r.ended != nil {
		waited = r.cmd.Wait()
		r.ended(r.cmd, r.cause != nil)
	}
	held := r.out.finish(c.Drain)
	if r.ended == nil {
		waited = r.cmd.Wait()
	}
	res := Result{PID: pid, Duration: time.Since(begin), Tail: r.out.tail(), HeldOpen: held}
	log.Log(ctx, r.level(), "process ended", slog.String("state", r.cmd.ProcessState.String()), slog.Duration("took", res.Duration), slog.Bool("held_open", held))
	return res, r.verdict(waited, res.Tail)
}

// level is that of the lines about start and end: a Spawner writes its audit line.
func (r *run) level() slog.Level {
	if r.ended != nil {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// start forks. A file that was written a moment ago can be busy because another thread's child, between fork and exec, still has it open.
func (r *run) start(ctx context.Context) error {
	const tries = 25
	for try := 1; ; try++ {
		a, done := r.leaf.attributes()
		cmd := &exec.Cmd{
			Path: r.exec, Args: append([]string{r.c.Path}, r.c.Args...), Dir: r.c.Dir, Env: r.c.Env,
			Stdout: r.out.w, Stderr: r.out.w, SysProcAttr: a,
		}
		err := cmd.Start()
		done()
		if err == nil {
			r.cmd = cmd
			return r.admit(a.Ptrace)
		}
		if !errors.Is(err, unix.ETXTBSY) || try == tries {
			return diagnose(r.c, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("run %s: %w", r.c.Path, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// admit gives the new process to its leaf while it is stopped before its first instruction, and then lets it run. One that is refused ends there.
func (r *run) admit(traced bool) error {
	pid := r.cmd.Process.Pid
	err := error(nil)
	if traced {
		err = awaitStop(pid)
	}
	if err == nil {
		err = r.leaf.started(pid)
	}
	if err != nil {
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait() // killed, so not well
		return err
	}
	if !traced {
		return nil
	}
	if err := unix.PtraceDetach(pid); err != nil && !errors.Is(err, unix.ESRCH) { // killed meanwhile: seen as its end
		_ = r.cmd.Process.Kill()
		_ = r.cmd.Wait()
		return fmt.Errorf("let %s run: %w", r.c.Path, err)
	}
	return nil
}

// awaitStop waits until a traced child has loaded its program. What comes before goes on to it; its end is an error.
func awaitStop(pid int) error {
	for {
		var ws unix.WaitStatus
		_, err := unix.Wait4(pid, &ws, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the start of process %d: %w", pid, err)
		case !ws.Stopped():
			return fmt.Errorf("process %d ended before it began", pid)
		case ws.StopSignal() == unix.SIGTRAP:
			return nil
		default:
			if err := unix.PtraceCont(pid, int(ws.StopSignal())); err != nil {
				return fmt.Errorf("start process %d: %w", pid, err)
			}
		}
	}
}

// attend waits until the process has ended, without reaping it, and ends its leaf when ctx does. It returns why it had to.
func (r *run) attend(ctx context.Context, pid int, log *slog.Logger) error {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		awaitEnd(pid)
	}()
	select {
	case <-ended:
		return nil
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	log.Warn("process is stopped", slog.Any("cause", cause))
	if !overLimit(cause) {
		r.terminate(r.c.Grace)
	}
	r.killAll(log)
	select {
	case <-ended:
	case <-time.After(killTime):
		r.stuck = true
	}
	return cause
}

// overLimit tells of a cause that gives no time to tidy up: every moment makes it worse.
func overLimit(cause error) bool {
	var pids *PIDsError
	var oom *OOMError
	return errors.As(cause, &pids) || errors.As(cause, &oom)
}

// look is the pause between two looks at processes that are to end.
const look = 20 * time.Millisecond

// terminate asks everything in the leaf to end, newcomers too, and returns when all have or the time is over.
func (r *run) terminate(grace time.Duration) {
	deadline := time.Now().Add(grace)
	asked := map[key]bool{}
	for {
		living := r.leaf.living()
		if r.hopeless != nil && r.hopeless(living) {
			return
		}
		for _, p := range living {
			if k := (key{p.PID, p.Start}); !asked[k] {
				asked[k] = true
				_ = r.signals.Signal(p, unix.SIGTERM) // it may have ended, and is killed if it has not
			}
		}
		left := time.Until(deadline)
		if len(living) == 0 || left <= 0 {
			return
		}
		time.Sleep(min(look, left))
	}
}

// killTime bounds how long processes are waited for that SIGKILL was sent to: what is stuck in the kernel longer must not hold the command.
const killTime = 10 * time.Second

func (r *run) killAll(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	if err := r.leaf.kill(ctx); err != nil {
		log.Error("processes do not end", slog.Any("error", err))
	}
}

// awaitEnd blocks until the process is a zombie.
func awaitEnd(pid int) {
	for {
		if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			return
		}
	}
}

// verdict judges the end; waited is what exec.Cmd.Wait said.
func (r *run) verdict(waited error, tail string) error {
	var exit *exec.ExitError
	if waited != nil && !errors.As(waited, &exit) {
		return fmt.Errorf("wait for %s: %w", r.c.Path, waited)
	}
	if waited == nil && r.cause == nil {
		return nil
	}
	e := &ExitError{Path: r.c.Path, Code: r.cmd.ProcessState.ExitCode(), Tail: tail, Cause: r.cause}
	if ws, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Code, e.Signal = -1, ws.Signal()
	}
	switch {
	case r.cause != nil && overLimit(r.cause):
		e.Cause, e.Why = nil, r.cause
	case e.TimedOut():
		e.Why = &TimeoutError{}
	case r.cause != nil:
		e.Why = &StoppedError{Cause: r.cause}
	case e.Signal != 0:
		e.Why = &SignalError{Signal: e.Signal}
	default:
		e.Why = statusError(e.Code)
	}
	return e
}

// group is the leaf of Run: the process group.
type group struct {
	table *table.Table
	pid   int
}

func (g *group) attributes() (*syscall.SysProcAttr, func()) {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}, func() {}
}

func (g *group) started(pid int) error {
	g.pid = pid
	return nil
}

func (g *group) living() []table.Process {
	all, err := g.table.All()
	if err != nil {
		return nil // the deadline decides
	}
	var in []table.Process
	for _, p := range all {
		if p.Group == g.pid && !p.Ended() {
			in = append(in, p)
		}
	}
	return in
}

// kill ignores the error: the only one left is a group whose members are gone.
func (g *group) kill(context.Context) error {
	_ = unix.Kill(-g.pid, unix.SIGKILL)
	return nil
}
