package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hostmanager/environment"
	"hostmanager/protocol"
)

// allStages is the number of a stage in which every stage runs in one command.
const allStages = -1

// The steps of a deployment, written down before they are done.
const (
	stepPrepared = "prepared"
	stepMove     = "moving current"
)

func stepSent(stage int) string { return stageName(stage) + " sent" }
func stepDone(stage int) string { return stageName(stage) + " done" }

func stageName(stage int) string {
	if stage == allStages {
		return "all stages"
	}
	return fmt.Sprintf("stage %d", stage)
}

// Report is what became of an operation.
type Report struct {
	OperationID  string            `json:"operation_id"`
	Command      string            `json:"command"`
	State        environment.State `json:"state"` // running: it was not waited for, or interrupted
	DeploymentID int64             `json:"deployment_id,omitempty"`
	Serial       int64             `json:"serial,omitempty"`
	VersionLabel string            `json:"version_label,omitempty"`
	Failure      string            `json:"failure,omitempty"`
	Succeeded    []string          `json:"succeeded"` // in the last stage that was sent
	Failed       []string          `json:"failed"`
	TimedOut     []string          `json:"timed_out"`
}

// operation is one operation under way. It belongs to one goroutine.
type operation struct {
	*Fleet
	kind    operationKind
	d       environment.Deployment
	etag    string // of the record; unused where the kind keeps none
	results string // URL of the result queue
	noWait  bool
	raw     *SendRequest // set for a raw command
	others  []environment.Target

	validity time.Duration // how long its orders may be carried out, if longer than they are waited for
	seen     map[string]bool
	told     map[int][]string // by stage: the instances whose answers were shown
	foreign  int              // messages that were no answers
}

// newOperation prepares an operation over the targets in the given stages.
func (f *Fleet) newOperation(kind operationKind, t targets, timeout time.Duration, stages ...int) *operation {
	id := newRequestID()
	o := &operation{Fleet: f, kind: kind, others: t.others, d: environment.Deployment{
		RequestID: id, Command: kind.command, State: environment.Running, Holder: f.Holder,
		Timeout: int(timeout / time.Second), ResultQueue: protocol.ResultQueue(f.Record.EnvironmentID(), id),
		Targets: t.chosen, Partial: t.partial, StartedAt: now(),
	}}
	for _, n := range stages {
		o.d.Stages = append(o.d.Stages, environment.Stage{Num: n})
	}
	return o
}

func (o *operation) report() Report {
	r := Report{
		OperationID: o.d.RequestID, Command: o.d.Command, State: o.d.State, DeploymentID: o.d.ID, Serial: o.d.Serial,
		VersionLabel: o.d.VersionLabel, Failure: o.d.Failure, Succeeded: []string{}, Failed: []string{}, TimedOut: []string{},
	}
	for _, s := range o.d.Stages {
		if !s.SentAt.IsZero() {
			v := tally(s)
			r.Succeeded, r.Failed, r.TimedOut = v.succeeded, v.failed, v.timedOut
		}
	}
	return r
}

// execute runs the operation to its end and tidies up. Where it could not be brought to an end it says what state it leaves.
func (o *operation) execute(ctx context.Context) (Report, error) {
	if err := o.announce(); err != nil {
		return o.report(), err
	}
	watched, stop := o.watchAbort(ctx)
	err := o.run(watched)
	aborted := stop(err)
	interrupted := ctx.Err() != nil
	switch {
	case aborted != nil:
		o.d.State = environment.Aborted
		o.line(protocol.Error, KindFailure, "", "%s", o.kind.failed)
		err = aborted
	case o.d.State.Terminal():
		o.tidy(ctx)
	case err != nil && interrupted && !errors.Is(context.Cause(ctx), environment.ErrLockLost):
		o.leave()
		err = fmt.Errorf("%s: %w", o.kind.purpose, ErrInterrupted)
	case err != nil:
		o.leave()
	}
	return o.report(), err
}

func (o *operation) run(ctx context.Context) error {
	err := persist(ctx, func() (err error) {
		o.results, err = o.Queues.Create(ctx, o.d.ResultQueue, nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: make the result queue: %w", o.kind.purpose, err)
	}
	for i := range o.d.Stages {
		if err := o.stage(ctx, i); err != nil {
			return fmt.Errorf("%s: %s: %w", o.kind.purpose, stageName(o.d.Stages[i].Num), err)
		}
		if o.noWait && o.d.Stages[i].DoneAt.IsZero() {
			o.sayNotWaiting()
			return nil
		}
		if v := tally(o.d.Stages[i]); len(v.failed)+len(v.timedOut) > 0 || len(v.succeeded) == 0 {
			return o.fail(ctx, i, v)
		}
	}
	return o.succeed(ctx)
}

// stage sends one stage to everyone who has not answered it yet and waits for the answers.
func (o *operation) stage(ctx context.Context, i int) error {
	s := &o.d.Stages[i]
	if !s.DoneAt.IsZero() {
		return nil
	}
	waiting := o.waiting(*s)
	orders, err := o.orders(ctx, s.Num, waiting) // signed before the record says that anything was sent
	if err != nil {
		return err
	}
	s.SentAt, s.TimedOut = now(), nil
	if err := o.step(ctx, stepSent(s.Num)); err != nil {
		return err
	}
	if err := o.send(ctx, i, waiting, orders); err != nil || (o.noWait && len(o.waiting(*s)) > 0) {
		return err
	}
	if err := o.collect(ctx, i); err != nil {
		return err
	}
	s.DoneAt = now()
	return o.step(ctx, stepDone(s.Num))
}

// step writes the record with one more step in it.
func (o *operation) step(ctx context.Context, name string) error {
	o.d.Steps = append(o.d.Steps, environment.Step{Name: name, At: now()})
	return o.save(ctx)
}

// save writes the record. A kind without versions keeps none.
func (o *operation) save(ctx context.Context) error {
	if !o.kind.versions {
		return nil
	}
	etag, err := o.Record.PutDeployment(ctx, &o.d, o.etag)
	if err != nil {
		return err
	}
	o.etag = etag
	return nil
}

// succeed moves the desired state and ends the operation.
func (o *operation) succeed(ctx context.Context) error {
	if o.kind.versions {
		if err := o.step(ctx, stepMove); err != nil {
			return err
		}
		err := o.Record.MoveCurrent(ctx, protocol.Current{Manifest: o.d.Manifest, SHA256: o.d.SHA256, Serial: o.d.Serial})
		if errors.Is(err, environment.ErrStale) {
			return o.end(ctx, &FailedError{Operation: o.kind.purpose, Reason: err.Error()})
		}
		if err != nil {
			return err
		}
	}
	o.d.State = environment.Succeeded
	if err := o.save(ctx); err != nil {
		o.d.State = environment.Running
		return err
	}
	for _, text := range o.kind.done {
		o.line(protocol.Info, KindProgress, "", "%s", text)
	}
	if o.d.Partial && o.kind.versions && !o.kind.back {
		o.line(protocol.Warn, KindNotice, "", "Only the chosen instances run it now. It is the desired state: the others take it over when they next start, or with `hmctl deploy`.")
	}
	return nil
}

// fail says what failed where and ends the operation.
func (o *operation) fail(ctx context.Context, i int, v verdicts) error {
	timedOut := ""
	if len(v.timedOut) > 0 {
		timedOut = fmt.Sprintf(", TimedOut: %d", len(v.timedOut))
	}
	o.tellRecorded(i, v.failed)
	o.line(protocol.Info, KindSummary, "", textSummary, len(v.succeeded), len(v.failed), timedOut)
	e := &FailedError{Operation: o.kind.purpose, Failed: v.failed, TimedOut: v.timedOut, Unreached: v.unreached}
	if len(v.failed)+len(v.timedOut) == 0 {
		e.Reason = "the command applied to none of the instances"
	}
	mixed := i == len(o.d.Stages)-1 && len(v.succeeded)+len(v.timedOut) > 0
	o.sayWhy(v, mixed)
	err := o.end(ctx, e)
	if o.d.State.Terminal() {
		o.sayState(mixed)
	}
	return err
}

// tellRecorded shows failures that another hmctl took into the record and may not have come to show.
func (o *operation) tellRecorded(i int, failed []string) {
	for _, id := range failed {
		if !slices.Contains(o.told[i], id) {
			o.tell(i, answer{outcome: o.d.Stages[i].Outcomes[id]}, 0)
		}
	}
}

// sayWhy tells which instances ended the operation, and by what.
func (o *operation) sayWhy(v verdicts, mixed bool) {
	if ids := v.unsuccessful(); len(ids) > 0 {
		o.line(protocol.Error, KindFailure, "", textUnsuccessful, strings.Join(ids, ","))
	}
	if len(v.unhealthy) > 0 {
		o.line(protocol.Error, KindFailure, "", textUnhealthy, strings.Join(v.unhealthy, ","))
	}
	switch {
	case !o.kind.versions: // no update of the environment
	case v.onlyLate():
		o.line(protocol.Error, KindFailure, "", "%s", textLate)
	case mixed && o.kind.errors != "":
		o.line(protocol.Error, KindFailure, "", "%s", o.kind.errors)
	}
}

// end writes the final state of a failed operation.
func (o *operation) end(ctx context.Context, e *FailedError) error {
	o.d.State, o.d.Failure = environment.Failed, e.Error()
	if err := o.save(ctx); err != nil {
		o.d.State, o.d.Failure = environment.Running, ""
		return err
	}
	o.judged(ctx)
	o.line(protocol.Error, KindFailure, "", "%s", o.kind.failed)
	return e
}

// sayState tells what the instances are left with. Before they are brought back to what the others run they have something else.
func (o *operation) sayState(mixed bool) {
	switch mixed = mixed || o.kind.back; {
	case mixed && o.kind.mixed != "":
		o.line(protocol.Error, KindFailure, "", "%s", o.kind.mixed)
	case !mixed && o.kind.reverted != "":
		o.line(protocol.Error, KindFailure, "", "%s", o.kind.reverted)
	}
}

// leave tells what an operation that did not end leaves behind and what to do about it.
func (o *operation) leave() {
	sent, done, final := false, true, false
	for i, s := range o.d.Stages {
		sent = sent || !s.SentAt.IsZero()
		done = done && !s.DoneAt.IsZero()
		final = final || (i == len(o.d.Stages)-1 && !s.SentAt.IsZero())
	}
	text := "Stopped after the build was sent out: instances may still be at it, and nothing that serves was changed."
	switch {
	case !sent:
		text = "Stopped before anything was sent: no instance was told."
	case done:
		text = "Stopped after all instances had answered: only the desired state is left to move."
	case !o.kind.versions && !final:
		text = "Stopped after the first stage was sent: instances may still be at it, and nothing that serves was changed."
	case final:
		text = "Stopped after the last stage was sent: the instances finish it on their own, and the desired state was not moved."
	}
	if o.kind.versions {
		text += fmt.Sprintf(" Finish deployment %d with `hmctl deploy --resume`, or take it back with `hmctl abort`.", o.d.ID)
	}
	o.line(protocol.Warn, KindNotice, "", "%s", text)
}

func (o *operation) sayNotWaiting() {
	text := "Sent, and not waited for."
	if o.kind.versions {
		text += " The desired state moves when `hmctl deploy --resume` has collected the answers."
	}
	o.line(protocol.Info, KindNotice, "", "%s", text)
}

// tidy removes the result queue of an ended operation, and old ones of operations that nobody resumed.
func (o *operation) tidy(ctx context.Context) {
	ctx, cancel := afterwards(ctx)
	defer cancel()
	o.removeResultQueue(ctx, o.d.ResultQueue)
	o.sweep(ctx)
}

func (o *operation) line(severity protocol.Severity, kind Kind, instance, format string, args ...any) {
	o.Printer.Line(Line{
		Severity: shown(severity), Kind: kind, Text: fmt.Sprintf(format, args...), At: now(),
		OperationID: o.d.RequestID, DeploymentID: o.d.ID, InstanceID: instance,
	})
}

func (o *operation) sayStarting() {
	for _, text := range o.kind.starting {
		if strings.Contains(text, "%s") {
			text = fmt.Sprintf(text, o.Record.EnvironmentID())
		}
		o.line(protocol.Info, KindProgress, "", "%s", text)
	}
}
