package commandproc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hostmanager/hooks"
	"hostmanager/protocol"
)

// bundleCleanup is where the steps of a bundle's own cleanup hooks stand in the journal.
var bundleCleanup = []string{".platform/hooks/cleanup/", ".platform/confighooks/cleanup/"}

// cleans tells whether a step belongs to the cleanup place: it changes no verdict.
func (r *run) cleans(step string) bool {
	if dir := r.def.Cleanup.Dir; dir != "" && strings.HasPrefix(step, dir+"/") {
		return true
	}
	return slices.ContainsFunc(bundleCleanup, func(place string) bool { return strings.HasPrefix(step, place) })
}

// cleanup runs the hooks of the command's cleanup place, whatever became of it. What goes wrong there is a WARN event. The one error is
// hooks.ErrPaused.
func (r *run) cleanup(ctx context.Context, entry protocol.ResponseEntry) error {
	if r.def.Cleanup.Dir == "" || len(r.Steps.Command(r.job.Identity).Steps) == 0 {
		return nil // nothing was begun
	}
	limit := r.CleanupTimeout
	if limit <= 0 {
		limit = DefaultCleanupTimeout
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), limit, fmt.Errorf("it took longer than %v", limit.Round(time.Second)))
	defer cancel()
	a := r.root().child(r.def.Cleanup.Name)
	call := r.call(r.def.Cleanup.Dir, a)
	call.Env = append(slices.Clip(r.env), "EB_COMMAND_STATUS="+statusWord(entry))
	_, err := calmly(func() (string, error) {
		return "", r.Dirs.Cleanup(ctx, call, r.rec, r.watch(a, func(error) {}))
	})
	if errors.Is(err, hooks.ErrPaused) {
		return err
	}
	if err != nil {
		r.events.add(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("The cleanup of %s is incomplete: %v.", r.def.Name, err)})
	}
	return nil
}

// statusWord is what cleanup hooks are told of the command: EB_COMMAND_STATUS.
func statusWord(e protocol.ResponseEntry) string {
	switch {
	case e.Status == protocol.Success:
		return "Success"
	case e.Cause == protocol.CauseAborted:
		return "Aborted"
	}
	return "Failure"
}
