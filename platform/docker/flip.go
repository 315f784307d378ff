package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"golang.org/x/sync/errgroup"

	"hostmanager/hooks"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// flipState is what the way back from a flip needs; it is journalled before the first effect.
type flipState struct {
	New          string         `json:"new"` // container id
	NewAddr      string         `json:"new_addr"`
	NewImage     string         `json:"new_image"`
	NewLink      string         `json:"new_link,omitempty"` // what current leads to afterwards, empty where it stays
	Old          string         `json:"old,omitempty"`      // container id, empty at the first deployment
	OldImage     string         `json:"old_image,omitempty"`
	OldPort      string         `json:"old_port,omitempty"`
	OldLink      string         `json:"old_link,omitempty"`
	OldLastGood  string         `json:"old_last_good,omitempty"`
	OldTarget    Target         `json:"old_target"`         // zero where the valve had none
	Retiring     bool           `json:"retiring,omitempty"` // the old container may have been told to stop
	DrainTimeout time.Duration  `json:"drain_timeout_ns"`
	Check        settings.Check `json:"check"`
}

// undoGate bounds how long the old container may take to answer again when a flip is taken back: it has answered before.
const undoGate = 20 * time.Second

// flipStaged is appdeploy/enact/01flip.
func (p *Platform) flipStaged(ctx context.Context, c *hooks.Call) error { return p.flip(ctx, c, true) }

// flipCurrent is 01flip of a change of configuration: the tree stays.
func (p *Platform) flipCurrent(ctx context.Context, c *hooks.Call) error {
	return p.flip(ctx, c, false)
}

// flip has the staging container take over.
func (p *Platform) flip(ctx context.Context, c *hooks.Call, newTree bool) error {
	next, err := p.stagingContainer(ctx)
	if err != nil {
		return err
	}
	st, generation, err := p.beforeFlip(ctx, next, newTree)
	if err != nil {
		return err
	}
	if err := c.Save(st); err != nil {
		return fmt.Errorf("journal flip: %w", err)
	}
	if err := p.fault("flip.saved"); err != nil {
		return err
	}
	// Two thirds of a flip are the Engine's: it is told what it must know while the valve is switched and the files are written.
	engine, engineCtx := errgroup.WithContext(ctx)
	engine.Go(func() error { return p.setRestart(engineCtx, st.New) })
	err = p.takeOver(ctx, st, next, generation, engine)
	// Before the old container loses anything: from here on the Engine brings the new one back after a crash of its own or of the machine.
	if err := errors.Join(err, engine.Wait()); err != nil {
		return err
	}
	if err := p.fault("flip.persisted"); err != nil {
		return err
	}
	if err := p.retire(ctx, c, st); err != nil {
		return err
	}
	report(c, protocol.Trace, "Docker container %s is running %s.", shortID(st.New), currentImage)
	return nil
}

func (p *Platform) stagingContainer(ctx context.Context) (instance, error) {
	id, err := readState(p.root.StagingContainerID())
	if err != nil {
		return instance{}, err
	}
	in, ok, err := p.find(ctx, id)
	switch {
	case err != nil:
		return instance{}, err
	case !ok:
		return instance{}, fmt.Errorf("no staging container is there (%s names %q)", p.root.StagingContainerID(), id)
	case !in.running:
		return instance{}, &Failure{
			Sentence: fmt.Sprintf("Docker container %s ended with exit code %d before it could take over.", shortID(in.id), in.exitCode),
			Last:     p.lastOutput(ctx, in.id).last(maxTail), Code: in.exitCode,
		}
	case in.addr == "":
		return instance{}, fmt.Errorf("container %s has no address in network %s", shortID(in.id), p.names.network())
	}
	return in, nil
}

// beforeFlip collects what is now, which is what an undo restores.
func (p *Platform) beforeFlip(ctx context.Context, next instance, newTree bool) (flipState, uint64, error) {
	_, set, err := settings.ReadContainerConfiguration(p.root)
	if err != nil {
		return flipState{}, 0, err
	}
	st := flipState{New: next.id, NewAddr: next.addr, NewImage: next.image, DrainTimeout: set.DrainTimeout, Check: set.Check}
	var errs [6]error
	st.Old, errs[0] = readState(p.root.CurrentContainerID())
	st.OldPort, errs[1] = readState(p.root.ContainerPort())
	st.OldLastGood, errs[2] = readState(lastGoodFile(p.root))
	st.OldLink, errs[3] = readLink(p.root.Current())
	if newTree {
		st.NewLink, errs[4] = readLink(p.root.Staging())
	}
	st.OldImage, errs[5] = readState(p.root.CurrentImageID())
	if err := errors.Join(errs[:]...); err != nil {
		return flipState{}, 0, err
	}
	generation, addr, id, err := p.valve.State(ctx)
	if err != nil {
		return flipState{}, 0, fmt.Errorf("ask the proxy for its state: %w", err)
	}
	if addr == "" {
		return st, generation, nil // an undo leads the proxy nowhere again: the zero Target
	}
	st.OldTarget = Target{Addr: addr, ID: id, Check: set.Check}
	old, ok, err := p.find(ctx, st.Old)
	if err == nil && (!ok || !old.running) { // an undo must not lead to it: what gets the requests is what serves
		if reached, is, err := p.unnamed(ctx); err == nil && is && reached.running && reached.id != next.id {
			old, ok = reached, true
			st.Old, st.OldImage, st.OldPort = shortID(old.id), old.image, old.labels[labelPort]
		}
	}
	if err == nil && ok && old.addr == addr {
		st.OldTarget = old.target()
		st.OldTarget.Check = set.Check
	}
	return st, generation, nil
}

// swap switches the valve. An answer that got lost is asked for: what counts is where the requests go.
func (p *Platform) swap(ctx context.Context, t Target, generation uint64) error {
	_, err := p.valve.SetTarget(ctx, t, generation)
	if err == nil {
		return nil
	}
	_, addr, _, errState := p.valve.State(ctx)
	if errState == nil && addr == t.Addr {
		return nil
	}
	return fmt.Errorf("switch the proxy to %s: %w", t.Addr, err)
}

// setRestart gives a container the policy that brings it back after a reboot.
func (p *Platform) setRestart(ctx context.Context, id string) error {
	_, err := p.cli.ContainerUpdate(ctx, id, container.UpdateConfig{
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
	})
	if err != nil {
		return fmt.Errorf("set restart policy: %w", err)
	}
	return nil
}

// takeOver switches the valve and writes down that the new container serves; engine has its image's names follow. All of that an undo takes back
// from wherever it came to.
func (p *Platform) takeOver(ctx context.Context, st flipState, next instance, generation uint64, engine *errgroup.Group) error {
	target := next.target()
	target.Check = st.Check
	if err := p.swap(ctx, target, generation); err != nil {
		return err
	}
	if err := p.fault("flip.swapped"); err != nil {
		return err
	}
	engine.Go(func() error { return p.renameImage(ctx, st.NewImage) })
	return p.writeFlip(st, next)
}

// renameImage makes the staging image the current one. The current name comes first: the Engine does not take the only name from an image that a
// container uses.
func (p *Platform) renameImage(ctx context.Context, id string) error {
	if err := p.cli.ImageTag(ctx, id, p.names.current()); err != nil {
		return fmt.Errorf("tag current image: %w", err)
	}
	return p.untag(ctx, p.names.staging())
}

// writeFlip writes the files. The id file comes before those that describe it: it is what Recover goes by.
func (p *Platform) writeFlip(st flipState, next instance) error {
	writes := []struct{ path, line string }{
		{lastGoodFile(p.root), st.Old},
		{p.root.CurrentContainerID(), shortID(st.New)},
		{p.root.CurrentImageID(), st.NewImage},
		{p.root.ContainerPort(), next.labels[labelPort]},
	}
	for i, w := range writes {
		if err := writeState(w.path, w.line); err != nil {
			return err
		}
		if err := p.fault(fmt.Sprint("flip.written.", i)); err != nil {
			return err
		}
	}
	if st.NewLink != "" {
		if err := writeLink(st.NewLink, p.root.Current()); err != nil {
			return err
		}
	}
	return p.fault("flip.linked")
}

// retire drains the container that served, has it stopped, and forgets what was staged. Nothing goes to the old container any more, so nobody
// waits for it to stop.
func (p *Platform) retire(ctx context.Context, c *hooks.Call, st flipState) error {
	if st.Old != "" && st.OldTarget.Addr != "" {
		if err := p.valve.Drain(ctx, st.OldTarget.Addr, st.DrainTimeout); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("drain: %w", context.Cause(ctx))
			}
			c.Log.Warn("drain incomplete", "addr", st.OldTarget.Addr, "error", err)
		}
	}
	if err := p.fault("flip.drained"); err != nil {
		return err
	}
	st.Retiring = true
	if err := c.Save(st); err != nil {
		return fmt.Errorf("journal flip: %w", err)
	}
	p.later("stop old container", func(ctx context.Context) error { return p.stop(ctx, st.Old) })
	if err := p.fault("flip.stopping"); err != nil {
		return err
	}
	return errors.Join(writeState(p.root.StagingContainerID(), ""), writeState(p.root.StagingImageID(), ""))
}

// stop stops a container of ours, if there is one of that id. One that is being stopped already is waited for.
func (p *Platform) stop(ctx context.Context, id string) error {
	in, ok, err := p.find(ctx, id)
	if errors.Is(err, errNotOurs) || err == nil && !ok {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.cli.ContainerStop(ctx, in.id, container.StopOptions{}); err != nil {
		return fmt.Errorf("stop container %s: %w", shortID(in.id), err)
	}
	return nil
}

// untag takes a name from an image. The image stays: the container made from it holds it.
func (p *Platform) untag(ctx context.Context, ref string) error {
	if err := p.removeImage(ctx, ref); err != nil {
		return fmt.Errorf("untag %s: %w", ref, err)
	}
	return nil
}

// undoFlip takes a flip back from wherever it came to: the old container runs, the valve leads to it, the files say so.
func (p *Platform) undoFlip(ctx context.Context, c *hooks.Call) error {
	if len(c.Saved) == 0 {
		return nil // nothing was done yet
	}
	if err := p.Wait(ctx); err != nil {
		return err
	}
	var st flipState
	if err := json.Unmarshal(c.Saved, &st); err != nil {
		return fmt.Errorf("read journalled flip: %w", err)
	}
	if err := p.reviveOld(ctx, st); err != nil {
		return err
	}
	if err := p.fault("undo.revived"); err != nil {
		return err
	}
	generation, addr, _, err := p.valveState(ctx)
	if err != nil {
		return err
	}
	if addr != st.OldTarget.Addr {
		if err := p.swap(ctx, st.OldTarget, generation); err != nil {
			return err
		}
	}
	if err := p.fault("undo.swapped"); err != nil {
		return err
	}
	if err := p.restoreFiles(ctx, st); err != nil {
		return err
	}
	if addr != st.OldTarget.Addr {
		if err := p.valve.Drain(ctx, addr, drainInUndo(ctx, st.DrainTimeout)); err != nil && ctx.Err() == nil {
			c.Log.Warn("drain incomplete", "addr", addr, "error", err)
		}
	}
	return nil
}

// drainInUndo leaves half of what time there is to what is still to be undone: an hour's drain would have all of it.
func drainInUndo(ctx context.Context, timeout time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, max(0, time.Until(deadline)/2))
	}
	return timeout
}

// reviveOld starts the container that served before, unless it still runs, and waits until it answers.
func (p *Platform) reviveOld(ctx context.Context, st flipState) error {
	old, ok, err := p.find(ctx, st.Old)
	if st.Old == "" || errors.Is(err, errNotOurs) {
		return nil
	}
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("container %s, which served before, is gone: the new one keeps serving", st.Old)
	}
	if old.running && !st.Retiring {
		return nil
	}
	_, addr, _, err := p.valve.State(ctx)
	if err != nil {
		return fmt.Errorf("ask the proxy for its state: %w", err)
	}
	if old.running && addr == old.addr {
		return nil // an earlier undo revived it, and came as far as this
	}
	// It may be about to stop, told so by a process that is no more: only a stopped container can be started for certain.
	if err := p.stop(ctx, old.id); err != nil {
		return err
	}
	if err := p.cli.ContainerStart(ctx, old.id, container.StartOptions{}); err != nil {
		return fmt.Errorf("start container %s, which served before: %w", shortID(old.id), err)
	}
	g := gate{addr: old.addr, check: st.Check, timeout: undoGate}
	g.check.Path = "" // that it was healthy is known; that it listens again is what matters
	if err := g.pass(ctx); err != nil {
		return fmt.Errorf("container %s, which served before: %w", shortID(old.id), err)
	}
	return nil
}

func (p *Platform) restoreFiles(ctx context.Context, st flipState) error {
	err := errors.Join(
		writeState(p.root.CurrentContainerID(), st.Old),
		writeState(p.root.CurrentImageID(), st.OldImage),
		writeState(p.root.ContainerPort(), st.OldPort),
		writeState(lastGoodFile(p.root), st.OldLastGood),
		writeLink(st.OldLink, p.root.Current()),
		writeState(p.root.StagingContainerID(), shortID(st.New)), // the flip may be done again
		writeState(p.root.StagingImageID(), st.NewImage),
	)
	if err != nil {
		return err
	}
	return p.restoreTags(ctx, st)
}

// restoreTags gives the new image its staging name back first: the Engine does not take the only name from an image that a container uses.
func (p *Platform) restoreTags(ctx context.Context, st flipState) error {
	if err := p.cli.ImageTag(ctx, st.NewImage, p.names.staging()); err != nil {
		return fmt.Errorf("tag staging image: %w", err)
	}
	if st.OldImage == "" {
		return p.untag(ctx, p.names.current())
	}
	if err := p.cli.ImageTag(ctx, st.OldImage, p.names.current()); err != nil {
		return fmt.Errorf("tag current image: %w", err)
	}
	return nil
}

// isGone tells whether what was to be removed is no more, or about to be.
func isGone(err error) bool {
	return cerrdefs.IsNotFound(err) || strings.Contains(err.Error(), "is already in progress")
}
