package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"time"

	"hostmanager/commandproc"
	"hostmanager/hooks"
	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
	"hostmanager/internal/proc"
	"hostmanager/journal"
	"hostmanager/platform/bundle"
	"hostmanager/protocol"
)

// recoverAll puts the journal's unfinished business in its place: commands that were begun are taken up first, then what boot wants, then the
// commands that wait; results that were not sent go to the outbox. It only reads the journal and fills the lanes, so it never delays a poll.
func (a *Agent) recoverAll() {
	var waiting []commandproc.Job
	a.exclusive.push(job{identity: "recover", do: a.recoverPlatform}, false)
	for _, c := range a.Journal.Commands() {
		switch {
		case c.Finished() && c.SentAt.IsZero():
			a.outbox.put(c.Identity)
		case c.Finished():
		default:
			j, ok := a.jobOfJournal(c)
			if !ok {
				continue
			}
			if c.Lost || len(c.Steps) > 0 {
				a.exclusive.push(job{identity: c.Identity, do: func(ctx context.Context) { a.resume(ctx, j, c) }}, false)
				continue
			}
			waiting = append(waiting, j)
		}
	}
	a.exclusive.push(job{identity: "recovered", do: func(context.Context) { close(a.recovered) }}, false)
	a.pushBoot(false)
	for _, j := range waiting {
		if fromBoot(j.Command) { // what it wanted is judged anew by boot itself
			a.concludeOrLog(j.Identity, j.Command, answer{response: protocol.NewResponse(protocol.ResponseEntry{
				Status: protocol.Failure, ReturnCode: 1, Msg: "interrupted: the agent stopped before this command began",
			})})
			continue
		}
		if !a.refuseAgain(j) {
			a.enqueue(j)
		}
	}
}

// recoverTimeout bounds the look at what the platform left and serves.
const recoverTimeout = time.Minute

// recoverPlatform makes what runs agree with what was deployed, at every start. That it cannot (the Engine is not up yet) keeps nobody from
// sending commands.
func (a *Agent) recoverPlatform(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	if err := a.sweep(); err != nil {
		a.log.Warn("temporary files of a killed agent not removed", slog.Any("error", err))
	}
	for _, c := range a.Journal.Commands() {
		if !c.Finished() && !c.Lost && !commandproc.Untouched(c.Steps) {
			return // what it left is part of its work; the rest is removed when its outcome is settled
		}
	}
	a.forgetPrevious() // of a kill right behind a result
	if err := a.Platform.Recover(ctx); err != nil {
		a.owed.Store(true) // the tender does it as soon as the platform answers
		a.log.Warn("platform not recovered", slog.Any("error", err))
	}
}

// sweep removes what a kill left half written; nothing of it is named anywhere.
func (a *Agent) sweep() error {
	_, err := bundle.Sweep(a.Root.Releases())
	errs := []error{err, hooks.SweepEventFiles(a.Root)}
	for _, dir := range []string{ // those that only the exclusive lane writes to, and that nobody else sweeps
		a.Root.Deploy(), filepath.Dir(a.Root.ContainerConfiguration()), filepath.Dir(a.Root.SourceBundle()),
	} {
		errs = append(errs, atomicfile.Sweep(dir))
	}
	return errors.Join(errs...)
}

// jobOfJournal reads an accepted command back. One whose data cannot be decoded was to be refused and gets its refusal now.
func (a *Agent) jobOfJournal(c journal.Command) (commandproc.Job, bool) {
	j, err := jobOf(c)
	switch {
	case err == nil:
		return j, true
	case j.Identity == "":
		a.log.Error("accepted command is unreadable", slog.String("identity", c.Identity), slog.Any("error", err))
	default:
		a.concludeOrLog(c.Identity, j.Command, answer{message: err.Error()})
	}
	return commandproc.Job{}, false
}

// jobOf reads an accepted command; without a request where only its data cannot be read, without anything where all of it cannot.
func jobOf(c journal.Command) (commandproc.Job, error) {
	command, err := protocol.DecodeCommand(c.Message)
	if err != nil {
		return commandproc.Job{}, err
	}
	request, err := protocol.DecodeRequest(command.Data)
	return commandproc.Job{Identity: c.Identity, Command: command, Request: request}, err
}

// refuseAgain gives a command its refusal if the agent stopped between accepting and refusing it. Expiry is judged once, at acceptance: a
// command that was accepted in time is run however late.
func (a *Agent) refuseAgain(j commandproc.Job) bool {
	c, _ := a.Journal.Command(j.Identity)
	_, refusal := a.judge(j.Command, c.AcceptedAt)
	if refusal != nil {
		a.concludeOrLog(j.Identity, j.Command, *refusal)
	}
	return refusal != nil
}

func (a *Agent) concludeOrLog(identity string, c protocol.Command, verdict answer) {
	if err := a.conclude(identity, c, verdict); err != nil {
		a.log.Error("result not journalled", slog.String("identity", identity), slog.Any("error", err))
	}
}

// resume goes on with a command that an earlier agent began.
func (a *Agent) resume(ctx context.Context, j commandproc.Job, c journal.Command) {
	ctx, end := a.begin(ctx, j)
	defer end()
	if c.Lost {
		a.finish(j, a.Processor.Lost(j))
		return
	}
	a.awaitPlatform(ctx)
	_ = endLeftovers(ctx, a.Root, a.log, j, c.Steps) // logged; the command goes on
	j.Pause = a.leave
	if fromBoot(j.Command) {
		a.ownJob(&j)
	}
	a.log.Info("command taken up again", slog.String("command", j.Request.CommandName), slog.String("identity", j.Identity))
	response, err := a.Processor.Resume(ctx, j, a.Platform.Recover)
	a.over(j, response, err)
}

// platformPatience is how long a command that is to be taken up waits for what it acts upon: after a power loss the Engine may come up later than
// the agent, and neither going on nor undoing works without it.
const platformPatience = 2 * time.Minute

func (a *Agent) awaitPlatform(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, platformPatience)
	defer cancel()
	again := newPatience(100*time.Millisecond, 5*time.Second)
	for {
		_, err := a.Platform.Astray(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if again.speaks() {
			a.log.Warn("a command waits to be taken up until the platform answers", slog.Any("error", err))
		}
		select {
		case <-time.After(again.next()):
		case <-ctx.Done():
		case <-a.drain:
			return
		}
	}
}

// leftoverGrace is what processes of an interrupted command get to end by themselves.
const leftoverGrace = 2 * time.Second

// endLeftovers ends what the hooks left running that were under way when the agent stopped: the kernel ended the agent's child, not its children.
// What a hook that was done left, it left on purpose.
func endLeftovers(ctx context.Context, root layout.Root, log *slog.Logger, j commandproc.Job, steps []journal.Step) error {
	ctx, cancel := context.WithTimeout(ctx, 5*leftoverGrace)
	defer cancel()
	var errs []error
	of := hooks.Deployment{CommandName: j.Request.CommandName, InvocationID: j.Command.InvocationID}
	for _, step := range commandproc.Open(steps) {
		n, err := proc.EndMarked(ctx, hooks.StepMark(root, of, step), leftoverGrace)
		if n > 0 || err != nil {
			log.Warn("processes of an interrupted hook ended", slog.String("identity", j.Identity), slog.String("hook", step), slog.Int("processes", n), slog.Any("error", err))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// marshalIndent is for files people read.
func marshalIndent(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	return append(b, '\n'), err
}
