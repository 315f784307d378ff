package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"hostmanager/environment"
	"hostmanager/protocol"
)

// makeUniform puts the instances that had the aborted version back to the desired state, and says what is not as it should be then.
func (f *Fleet) makeUniform(ctx context.Context, aborted *operation, report *AbortReport) error {
	away := unanswered(report.Instances)
	odd, err := f.sayOdd(ctx, report)
	if err != nil {
		return err
	}
	back, err := f.putBack(ctx, aborted, report)
	if err == nil && len(away) == 0 && len(odd) > 0 {
		return fmt.Errorf("%w: %s did not have the desired version before", ErrNotUniform, listed(odd))
	}
	if err == nil && len(away) == 0 {
		report.Uniform = true
		f.sayUniform(ctx, back)
		return nil
	}
	f.sayAway(ctx, report)
	if err == nil {
		return fmt.Errorf("%w: no answer from %s", ErrNotUniform, listed(away))
	}
	return fmt.Errorf("%w: %w", ErrNotUniform, err)
}

// sayAway tells of each instance that did not answer what it may run, and what to do about it.
func (f *Fleet) sayAway(ctx context.Context, report *AbortReport) {
	desired := "a version"
	if _, m, err := f.Record.CurrentManifest(ctx); err == nil {
		desired = "version " + m.VersionLabel
	}
	for _, i := range report.Instances {
		switch {
		case i.Answered:
		case i.Msg != "":
			f.say(protocol.Warn, "It is not known what %s runs (%s); when it was last seen that was %s. Look at it, then deploy to it what it should run, with --instances %s.",
				i.InstanceID, strings.TrimRight(i.Msg, ". \n"), version(i), i.InstanceID)
		case i.New:
			f.say(protocol.Warn, "No answer from %s, which has %s already: the abort changes nothing there. Once its agent answers again, deploy %s to it with --instances %s.",
				i.InstanceID, version(i), desired, i.InstanceID)
		default:
			f.say(protocol.Warn, "No answer from %s, which was last seen with %s: the abort waits in its queue for %s, and takes effect when its agent is back; "+
				"`hmctl status` shows what it runs then.", i.InstanceID, version(i), abortValidity)
		}
	}
}

// sayOdd names the instances that run neither the aborted nor the desired version, or none at all: that was so before. One that was put back after
// an earlier abort, or was not when others were, has the desired version under another serial.
func (f *Fleet) sayOdd(ctx context.Context, report *AbortReport) ([]string, error) {
	current, m, err := f.Record.CurrentManifest(ctx)
	if errors.Is(err, environment.ErrNoCurrent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	same, err := f.sameContent(ctx, current, m)
	if err != nil {
		return nil, err
	}
	var odd []string
	for _, i := range report.Instances {
		if i.Answered && !i.New && !slices.Contains(same, i.Serial) {
			odd = append(odd, i.InstanceID)
			f.say(protocol.Warn, "%s runs %s and not the desired version %s (serial %d), which has nothing to do with the abort: deploy that to it with --instances %s.",
				i.InstanceID, version(i), m.VersionLabel, current.Serial, i.InstanceID)
		}
	}
	return odd, nil
}

// sameContent returns the serials that are the desired version.
func (f *Fleet) sameContent(ctx context.Context, c protocol.Current, m protocol.Manifest) ([]int64, error) {
	d, _, err := f.Record.Deployment(ctx, m.DeploymentID)
	if errors.Is(err, environment.ErrNotFound) || err == nil && d.Serial != c.Serial {
		return []int64{c.Serial}, nil
	}
	if err != nil {
		return nil, err
	}
	return f.Record.Restored(ctx, d)
}

// sayUniform ends a good abort.
func (f *Fleet) sayUniform(ctx context.Context, back []string) {
	switch c, m, err := f.Record.CurrentManifest(ctx); {
	case err != nil:
		f.say(protocol.Info, "No instance has it.")
	case len(back) > 0:
		f.say(protocol.Info, "All instances run version %s; [%s] went back to it, as serial %d.", m.VersionLabel, listed(back), c.Serial)
	default:
		f.say(protocol.Info, "No instance has it; the desired state stays version %s (serial %d).", m.VersionLabel, c.Serial)
	}
}

func version(i AfterAbort) string {
	if i.Serial == 0 {
		return "no version"
	}
	return fmt.Sprintf("version %s (serial %d)", cmp.Or(i.VersionLabel, "?"), i.Serial)
}

// putBack deploys the desired state, as a new manifest with a higher serial, to exactly those instances that answered that they have the aborted version.
// It returns their ids. The aborted deployment ends when there is none, or once the way back is in the record: from then on that is what is carried on.
func (f *Fleet) putBack(ctx context.Context, aborted *operation, report *AbortReport) ([]string, error) {
	var ids []string
	t := targets{partial: true}
	for _, i := range report.Instances {
		if !i.Answered || !i.New {
			continue
		}
		ids = append(ids, i.InstanceID)
		for _, target := range aborted.d.Targets {
			if targetID(target) == i.InstanceID {
				t.chosen = append(t.chosen, environment.Target{InstanceID: i.InstanceID, Queue: target.Queue})
			}
		}
	}
	if len(ids) == 0 {
		return nil, aborted.endReported(ctx, report)
	}
	current, m, err := f.Record.CurrentManifest(ctx)
	if errors.Is(err, environment.ErrNoCurrent) {
		if err := aborted.endReported(ctx, report); err != nil {
			return nil, err
		}
		f.say(protocol.Error, "[%s] run version %s, and there is no version before it to go back to. Deploy one with `hmctl deploy`.", listed(ids), aborted.d.VersionLabel)
		return nil, fmt.Errorf("%s run version %s: %w", listed(ids), aborted.d.VersionLabel, err)
	}
	if err != nil {
		return nil, err
	}
	f.say(protocol.Warn, "[%s] already run version %s and go back to %s.", listed(ids), aborted.d.VersionLabel, m.VersionLabel)
	o := f.newOperation(rollbackKind(aborted.kind, m.VersionLabel), t, aborted.timeout(), 0, 1)
	o.d.Restores, o.d.Undoes = current.Serial, aborted.d.ID
	if err := o.prepare(ctx, m); err != nil {
		return nil, err
	}
	if err := aborted.endReported(ctx, report); err != nil {
		return nil, err
	}
	done, err := o.execute(ctx)
	report.Rollback = &done
	if err != nil {
		resume := ""
		if !done.State.Terminal() {
			resume = "`hmctl deploy --resume`, or "
		}
		f.say(protocol.Error, "[%s] could not all be put back to version %s: `hmctl status` shows what they run. Once they are well again: %sdeploy version %s to them with --instances %s.",
			listed(ids), m.VersionLabel, resume, m.VersionLabel, strings.Join(ids, ","))
		return nil, fmt.Errorf("put %s back: %w", listed(ids), err)
	}
	return ids, nil
}

func (o *operation) endReported(ctx context.Context, report *AbortReport) error {
	err := o.endAborted(ctx)
	report.Aborted = err == nil
	return err
}
