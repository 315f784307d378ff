package docker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/docker/docker/api/types/container"

	"hostmanager/internal/atomicfile"
	"hostmanager/platform/settings"
)

// Recover makes the Engine and the proxy agree with the files after an interrupted command was unwound, or at start: what was deployed last runs,
// the proxy leads to it, leavings are gone. What was staged for a second stage that may still come stays. It can be called at any time when no
// exclusive command runs, and again.
func (p *Platform) Recover(ctx context.Context) error {
	if err := p.connect(ctx); err != nil {
		return err
	}
	if err := p.Wait(ctx); err != nil {
		return err
	}
	// Where the container that should serve does not, another may: the one that is named as staged, or as the one before, or by no file at all.
	// Nothing of that is stopped or removed until this is put right.
	if err := p.recoverCurrent(ctx); err != nil {
		return errors.Join(err, p.sweep())
	}
	err := p.recoverLastGood(ctx)
	staged, errStaged := releaseName(p.root.Staging())
	if errStaged != nil {
		return errors.Join(err, errStaged)
	}
	// A staging container without a command is a leaving; the staging image and tree are not.
	if errFile := writeState(p.root.StagingContainerID(), ""); errFile != nil {
		return errors.Join(err, errFile)
	}
	return errors.Join(err, p.clean(ctx, []string{staged}), p.sweep())
}

func (p *Platform) recoverCurrent(ctx context.Context) error {
	id, err := readState(p.root.CurrentContainerID())
	if err != nil {
		return err
	}
	if id == "" {
		in, ok, err := p.unnamed(ctx)
		if ok {
			return fmt.Errorf("container %s gets the requests, but %s does not name it: deploy a version again", shortID(in.id), p.root.CurrentContainerID())
		}
		return err
	}
	in, ok, err := p.find(ctx, id)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("container %s, which should serve, is gone: deploy a version again", id)
	}
	if !in.running {
		p.log.Warn("container that should serve was stopped, starting it", "container", shortID(in.id), "exit_code", in.exitCode)
		if err := p.cli.ContainerStart(ctx, in.id, container.StartOptions{}); err != nil {
			return fmt.Errorf("start container %s: %w", shortID(in.id), err)
		}
	}
	if !in.lasting { // a flip was cut short, and what served before is gone
		if err := p.setRestart(ctx, in.id); err != nil {
			return err
		}
	}
	return p.recoverTarget(ctx, in)
}

// recoverLastGood stops the container that served before, where a crash came before it was stopped.
func (p *Platform) recoverLastGood(ctx context.Context) error {
	id, err := readState(lastGoodFile(p.root))
	if err != nil {
		return err
	}
	if current, err := readState(p.root.CurrentContainerID()); err != nil || id == current || current == "" {
		return err
	}
	return p.stop(ctx, id)
}

// recoverTarget leads the proxy to the container, unless it does already.
func (p *Platform) recoverTarget(ctx context.Context, in instance) error {
	generation, addr, _, err := p.valve.State(ctx)
	if err != nil {
		return fmt.Errorf("ask the proxy for its state: %w", err)
	}
	if addr == in.addr || in.addr == "" {
		return nil
	}
	_, set, err := settings.ReadContainerConfiguration(p.root)
	if err != nil {
		return err
	}
	// The container may just have been started: until it listens, what the proxy has is no worse.
	g := gate{addr: in.addr, check: settings.Check{Timeout: set.Check.Timeout}, timeout: undoGate}
	if err := g.pass(ctx); err != nil {
		return fmt.Errorf("container %s: %w", shortID(in.id), err)
	}
	p.log.Warn("proxy led elsewhere", "was", addr, "now", in.addr)
	target := in.target()
	target.Check = set.Check
	return p.swap(ctx, target, generation)
}

// sweep removes temporary files that a crash left beside the state files.
func (p *Platform) sweep() error {
	var errs []error
	for _, dir := range []string{p.root.EtcBeanstalk(), p.root.Evidence(), filepath.Dir(p.root.Current())} {
		errs = append(errs, atomicfile.Sweep(dir))
	}
	return errors.Join(errs...)
}
