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
	rec        hooks.Recorder
	from, to   int // stages
}

// Run runs a command to its end and returns its result; failures are in the result. The context's end aborts the command: what it did is
// undone, then Run returns. For the cause see ErrAborted.
func (p *Processor) Run(ctx context.Context, j Job) *protocol.Response {
	r := p.newRun(j)
	def, known := Lookup(j.Request.CommandName)
	p.Log.Infof("Checking if the command processor should execute...")
	p.Log.Debugf("Command is applicable to this instance (%s)..", p.InstanceID)
	if !known {
		return r.refuse(fmt.Errorf("unknown command %s", j.Request.CommandName))
	}
	r.def, r.from, r.to = def, 0, len(def.Stages)-1
	if n := j.Request.StageNum; n != nil {
		r.from, r.to = *n, *n
		p.Log.Debugf("Stage_num %d in command.", *n)
	} else {
		p.Log.Debugf("No stage_num in command. Valid stage..")
	}
	p.Log.Infof("Received command %s: %s", def.Name, j.Command.Data)
	if err := checkStage(j, def); err != nil {
		return r.refuse(err)
	}
	p.Log.Infof("Command processor should execute command.")
	bounded, cancel := context.WithTimeoutCause(ctx, j.Request.Timeout, ErrDeadline)
	defer cancel()
	r.env = p.Environment(j)
	return r.finish(bounded, r.execute(bounded))
}

func (p *Processor) newRun(j Job) *run {
	return &run{
		Processor: p, job: j, rec: p.Steps.Recorder(j.Identity),
		events: &collector{now: p.Now, also: p.OnEvent},
	}
}

// refuse answers a command of which nothing was run.
func (r *run) refuse(err error) *protocol.Response {
	r.Log.Errorf("%s", err)
	return r.respond(protocol.ResponseEntry{Status: protocol.Failure, ReturnCode: 1, Msg: err.Error()})
}

// execute does the command's work.
func (r *run) execute(ctx context.Context) error {
	deployment, err := r.Prepare(ctx, r.job)
	if err != nil {
		return fmt.Errorf("prepare %s: %w", r.def.Name, err)
	}
	r.deployment = deployment
	payload, err := json.Marshal(deployment)
	if err != nil {
		return fmt.Errorf("encode deployment: %w", err)
	}
	if err := r.rec.Started(beginStep, protocol.Repeatable, payload); err != nil {
		return err
	}
	r.Log.Debugf("Storing current stage..")
	r.Log.Debugf("Loaded definition of Command %s.", r.def.Name)
	r.Log.Infof("Executing %s", r.def.Label(r.from))
	r.Log.Infof("Executing command: %s...", r.def.Name)
	r.Log.Debugf("Executing command %s activities...", r.def.Name)
	r.Log.Debugf("Setting environment variables..")
	root := activity{r.Activity, []string{r.rootName()}}
	root.log.Start(root.path)
	err = r.all(ctx, root)
	verdict := "succeeded"
	if err != nil {
		verdict = "failed"
	}
	// As in the original the root activity completes, whatever the verdict.
	root.log.Complete(root.path, fmt.Sprintf("%s - Command %s %s", r.def.Label(r.from), r.def.Name, verdict))
	return err
}

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
	if !r.def.Deploys {
		return nil
	}
	return root.child(r.Commit.Name).run(func() (string, error) { return "", r.builtin(ctx, root.child(r.Commit.Name), r.Commit, r.Commit.Name) })
}

func (r *run) addons(ctx context.Context, root activity, place string, list []hooks.Builtin) error {
	for _, b := range list {
		a := root.child(place).child(b.Name)
		if err := a.run(func() (string, error) { return "", r.builtin(ctx, a, b, place+"/"+b.Name) }); err != nil {
			return err
		}
	}
	return nil
}

// finish makes a failed command as if it had never been, and the result of what came of it.
func (r *run) finish(ctx context.Context, err error) *protocol.Response {
	if err == nil {
		r.Log.Infof("Command %s succeeded!", r.def.Name)
		return r.respond(protocol.ResponseEntry{Status: protocol.Success})
	}
	r.Log.Infof("Command %s failed!", r.def.Name)
	var panicked *panicError
	if errors.As(err, &panicked) {
		r.Structured.Error("action panicked", slog.String("command", r.def.Name), slog.Any("value", panicked.value), slog.String("stack", string(panicked.stack)))
	}
	entry := failureEntry(ctx, err, r.job.Request.Timeout)
	r.unwind(ctx)
	return r.respond(entry)
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
		Root: r.Root, Dir: dir, Deployment: r.deployment, Env: r.env,
		Output: newLines(func(line string) { a.log.Output(a.path, line) }),
		Event:  r.events.add,
		Log:    r.Structured.With(slog.String("command", r.job.Request.CommandName), slog.String("request", r.job.Request.RequestID)),
	}
}

// builtin runs one built-in action, journalled as step.
func (r *run) builtin(ctx context.Context, a activity, b hooks.Builtin, step string) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	call := r.call("", a)
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
	if err := b.Run(ctx, &call); err != nil {
		return err
	}
	return r.rec.Done(step, nil)
}

// undoContext gives undoing its own bounded time: it also happens when the command's time is over.
func (p *Processor) undoContext(ctx context.Context) (context.Context, context.CancelFunc) {
	limit := p.UndoTimeout
	if limit <= 0 {
		limit = DefaultUndoTimeout
	}
	return context.WithTimeoutCause(context.WithoutCancel(ctx), limit, fmt.Errorf("undoing took longer than %v", limit.Round(time.Second)))
}
