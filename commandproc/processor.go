package commandproc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"hostmanager/hooks"
	"hostmanager/protocol"
)

// beginStep is the first step of every command. Its payload is the deployment, so that what a crash leaves can be told and undone offline.
const beginStep = "begin"

// run is one command under way.
type run struct {
	*Processor
	job        Job
	def        Definition
	deployment hooks.Deployment
	env        []string
	events     *collector
	rec        recorder
	from, to   int // stages
	began      time.Time

	// What an earlier agent left; all zero where the command begins now.
	prior   map[string]hooks.Prior
	putAway func(context.Context) error // removes its leavings
	ready   bool                        // Prepare was called
}

// Run runs a command to its end and returns its result; failures are in the result. The context's end aborts the command: what it did is
// undone, then Run returns. For the cause see ErrAborted. An error means that the command is not over and has no result: it was left to a later
// agent's Resume, because of Job.Pause (hooks.ErrPaused) or because the journal takes no more.
func (p *Processor) Run(ctx context.Context, j Job) (*protocol.Response, error) {
	r := p.newRun(j)
	def, known := Lookup(j.Request.CommandName)
	p.Log.Infof("Checking if the command processor should execute...")
	p.Log.Debugf("Command is applicable to this instance (%s)..", p.InstanceID)
	if !known {
		return r.refuse(fmt.Errorf("unknown command %s", j.Request.CommandName)), nil
	}
	r.define(def)
	if n := j.Request.StageNum; n != nil {
		p.Log.Debugf("Stage_num %d in command.", *n)
	} else {
		p.Log.Debugf("No stage_num in command. Valid stage..")
	}
	p.Log.Infof("Received command %s: %s", def.Name, j.Command.Data)
	if err := checkStage(j, def); err != nil {
		return r.refuse(err), nil
	}
	p.Log.Infof("Command processor should execute command.")
	bounded, cancel := context.WithTimeoutCause(ctx, j.Request.Timeout, ErrDeadline)
	defer cancel()
	r.env = p.Environment(j)
	return r.finish(bounded, r.begin(bounded))
}

func (p *Processor) newRun(j Job) *run {
	events := &collector{now: p.Now, also: p.OnEvent}
	return &run{Processor: p, job: j, rec: recorder{p.Steps.Recorder(j.Identity), events}, events: events, began: time.Now()}
}

func (r *run) define(def Definition) {
	r.def, r.from, r.to = def, 0, len(def.Stages)-1
	if n := r.job.Request.StageNum; n != nil {
		r.from, r.to = *n, *n
	}
}

// recorder journals steps with the events they reported: all there are since the last step that was done.
type recorder struct {
	Recorder
	events *collector
}

// Done implements hooks.Recorder.
func (r recorder) Done(step string) error {
	list, upTo, err := r.events.unkept()
	if err != nil {
		return err
	}
	if err := r.Recorder.Done(step, list); err != nil {
		return err
	}
	r.events.keep(upTo)
	return nil
}

// refuse answers a command of which nothing was run.
func (r *run) refuse(err error) *protocol.Response {
	r.Log.Errorf("%s", err)
	return r.respond(protocol.ResponseEntry{Status: protocol.Failure, ReturnCode: 1, Msg: err.Error()})
}

// beginning is the payload of the begin step: the deployment, and when the command's time began to run.
type beginning struct {
	hooks.Deployment
	Began time.Time `json:"began,omitzero"`
}

// begin finds out what the command is about, journals that it begins, and does its work.
func (r *run) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	deployment, err := r.Prepare(ctx, r.job)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", r.def.Name, err)
	}
	r.deployment, r.ready = deployment, true
	payload, err := json.Marshal(beginning{deployment, r.began})
	if err != nil {
		return fmt.Errorf("encode deployment: %w", err)
	}
	if err := r.rec.Started(beginStep, protocol.Repeatable, payload); err != nil {
		return err
	}
	return r.execute(ctx)
}

// execute does the command's work, without what is done already.
func (r *run) execute(ctx context.Context) error {
	r.Log.Debugf("Storing current stage..")
	r.Log.Debugf("Loaded definition of Command %s.", r.def.Name)
	r.Log.Infof("Executing %s", r.def.Label(r.from))
	r.Log.Infof("Executing command: %s...", r.def.Name)
	r.Log.Debugf("Executing command %s activities...", r.def.Name)
	r.Log.Debugf("Setting environment variables..")
	root := r.root()
	root.log.Start(root.path)
	err := r.all(ctx, root)
	verdict := "succeeded"
	if err != nil {
		verdict = "failed"
	}
	// As in the original the root activity completes, whatever the verdict.
	root.log.Complete(root.path, fmt.Sprintf("%s - Command %s %s", r.def.Label(r.from), r.def.Name, verdict))
	return err
}

func (r *run) root() activity { return activity{r.Activity, []string{r.rootName()}} }

// rootName is the name of the root activity: the label with the version it brings, or with the stage.
func (r *run) rootName() string {
	name := r.def.Label(r.from)
	switch {
	case r.def.Deploys && r.deployment.ID > 0:
		return fmt.Sprintf("%s %s@%d", name, r.deployment.VersionLabel, r.deployment.ID)
	case r.job.Request.StageNum != nil:
		return name + " - stage " + strconv.Itoa(r.from)
	}
	return name
}

// all runs the addons' actions, the stages, and the commit, in this order.
func (r *run) all(ctx context.Context, root activity) error {
	last := r.to == len(r.def.Stages)-1
	if r.from == 0 {
		r.Log.Infof("Running AddonsBefore for command %s...", r.def.Name)
		if err := r.addons(ctx, root, "AddonsBefore", r.Before); err != nil {
			return err
		}
	}
	r.Log.Infof("Running stages of Command %s from stage %d to stage %d...", r.def.Name, r.from, r.to)
	for n := r.from; n <= r.to; n++ {
		if err := r.stage(ctx, root.child(r.def.StageName(n)), n); err != nil {
			return err
		}
	}
	if !last {
		return nil
	}
	r.Log.Infof("Running AddonsAfter for command %s...", r.def.Name)
	if err := r.addons(ctx, root, "AddonsAfter", r.After); err != nil {
		return err
	}
	if !r.def.Deploys || r.done(r.Commit.Name) {
		return nil
	}
	return root.child(r.Commit.Name).run(func() (string, error) { return "", r.builtin(ctx, root.child(r.Commit.Name), r.Commit, r.Commit.Name) })
}

func (r *run) addons(ctx context.Context, root activity, place string, list []hooks.Builtin) error {
	for _, b := range list {
		a := root.child(place).child(b.Name)
		if r.done(place + "/" + b.Name) {
			continue
		}
		if err := a.run(func() (string, error) { return "", r.builtin(ctx, a, b, place+"/"+b.Name) }); err != nil {
			return err
		}
	}
	return nil
}

// finish makes a failed command as if it had never been, cleans up, and makes the result of what came of it.
func (r *run) finish(ctx context.Context, err error) (*protocol.Response, error) {
	if errors.Is(err, hooks.ErrPaused) {
		return r.pause()
	}
	if err == nil {
		r.Log.Infof("Command %s succeeded!", r.def.Name)
		return r.end(ctx, protocol.ResponseEntry{Status: protocol.Success})
	}
	r.Log.Infof("Command %s failed!", r.def.Name)
	var panicked *panicError
	if errors.As(err, &panicked) {
		r.Structured.Error("action panicked", slog.String("command", r.def.Name), slog.Any("value", panicked.value), slog.String("stack", string(panicked.stack)))
	}
	entry := failureEntry(ctx, err, r.job.Request.Timeout)
	if err := r.condemn(entry); err != nil {
		return nil, fmt.Errorf("journal that %s failed: %w", r.def.Name, err)
	}
	if err := r.unwind(ctx, false); err != nil {
		return r.pause()
	}
	return r.end(ctx, entry)
}

// pause leaves the command to a later agent.
func (r *run) pause() (*protocol.Response, error) {
	r.Log.Infof("Command %s is left to the next start of the agent.", r.def.Name)
	if err := r.rec.Paused(); err != nil {
		return nil, fmt.Errorf("journal that %s pauses: %w", r.def.Name, err)
	}
	return nil, hooks.ErrPaused
}

// end removes what an earlier agent left, cleans up and answers.
func (r *run) end(ctx context.Context, entry protocol.ResponseEntry) (*protocol.Response, error) {
	if r.putAway != nil {
		r.removeLeavings(ctx)
	}
	if err := r.cleanup(ctx, entry); err != nil {
		return r.pause()
	}
	return r.respond(entry), nil
}

// respond completes an entry, logs it, and wraps it up.
func (r *run) respond(entry protocol.ResponseEntry) *protocol.Response {
	events, cut := r.events.sorted()
	entry.Events = events
	entry.DeploymentID, entry.VersionLabel, entry.Serial = r.deployment.ID, r.deployment.VersionLabel, r.deployment.Serial
	entry.StageNum = r.job.Request.StageNum
	response := protocol.NewResponse(entry)
	if cut {
		response.Truncated = "true"
	}
	text, err := response.Encode()
	if err != nil { // strings, numbers and times always encode
		text = err.Error()
	}
	r.Log.Infof("Command processor returning results: \n%s", text)
	return response
}

// call is what a built-in action or a hook directory is given.
func (r *run) call(dir string, a activity) hooks.Call {
	return hooks.Call{
		Root: r.Root, Dir: dir, Deployment: r.deployment, Env: r.env, Prior: r.prior, Pause: r.job.Pause,
		Output: newLines(func(line string) { a.log.Output(a.path, line) }),
		Event:  r.events.add,
		Redact: r.Redact,
		Log:    r.Structured.With(slog.String("command", r.job.Request.CommandName), slog.String("request_id", r.job.Request.RequestID)),
	}
}

// done tells whether an earlier agent did this step.
func (r *run) done(step string) bool { return r.prior[step].Done }

// mayBegin tells whether a further step may begin. Before the first one after a crash it has what the command is about read again.
func (r *run) mayBegin(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-r.job.Pause:
		return hooks.ErrPaused
	default:
	}
	if r.ready {
		return nil
	}
	if _, err := r.Prepare(ctx, r.job); err != nil {
		return fmt.Errorf("prepare %s: %w", r.def.Name, err)
	}
	r.ready = true
	return nil
}

// builtin runs one built-in action, journalled as step.
func (r *run) builtin(ctx context.Context, a activity, b hooks.Builtin, step string) error {
	if err := r.mayBegin(ctx); err != nil {
		return err
	}
	call := r.call("", a)
	if prior, begun := r.prior[step]; begun && prior.Semantics == protocol.Compensated && b.Undo != nil {
		again := call
		again.Saved, again.Save, again.Again = prior.Saved, cannotSave, true
		if err := b.Undo(ctx, &again); err != nil {
			return fmt.Errorf("take back what an earlier try of %s did: %w", step, err)
		}
	}
	call.Save = func(v any) error {
		payload, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode what %s must remember: %w", step, err)
		}
		return r.rec.Started(step, b.Semantics, payload)
	}
	if err := r.rec.Started(step, b.Semantics, nil); err != nil {
		return err
	}
	bounded, stop := hooks.Pausable(ctx, b.Semantics, r.job.Pause)
	defer stop()
	if err := hooks.PausedOr(bounded, b.Run(bounded, &call)); err != nil {
		return err
	}
	return r.rec.Done(step)
}

func cannotSave(any) error { return errors.New("nothing can be saved while undoing") }

// undoContext gives undoing its own bounded time: it also happens when the command's time is over.
func (p *Processor) undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := p.UndoTimeout
	if limit <= 0 {
		limit = DefaultUndoTimeout
	}
	return context.WithTimeoutCause(context.WithoutCancel(ctx), limit, fmt.Errorf("undoing took longer than %v", limit.Round(time.Second)))
}
