package docker

import (
	"context"
	"fmt"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
)

// Astray says what does not serve as it was deployed: the container is gone, or was stopped and nothing brings it back, or the proxy does not
// lead to it. Recover puts it right, but for a container that is gone, or that no file names. "" means that nothing is astray, that nothing is
// deployed, or that the Engine starts the container again by itself. It changes nothing and does not ask the application; it may run beside anything, but what it says during a flip means nothing. An error means that
// the Engine or the proxy did not answer.
func (p *Platform) Astray(ctx context.Context) (string, error) {
	id, err := readState(p.root.CurrentContainerID())
	if err != nil {
		return "", err
	}
	if id == "" {
		in, ok, err := p.unnamed(ctx)
		if !ok || err != nil {
			return "", err
		}
		return fmt.Sprintf("the proxy leads to container %s, which no file names as the one that serves", shortID(in.id)), nil
	}
	if err := p.connect(ctx); err != nil {
		return "", err
	}
	in, ok, err := p.find(ctx, id)
	if err != nil {
		return "", err
	}
	if !ok {
		return fmt.Sprintf("container %s, which should serve, is gone", id), nil
	}
	if !in.running {
		return p.stopped(ctx, in)
	}
	_, addr, _, err := p.valve.State(ctx)
	switch {
	case err != nil:
		return "", fmt.Errorf("ask the proxy for its state: %w", err)
	case in.addr == "" || addr == in.addr:
		return "", nil
	case addr == "":
		return fmt.Sprintf("the proxy had no target while container %s serves at %s", shortID(in.id), in.addr), nil
	default:
		return fmt.Sprintf("the proxy led to %s while container %s serves at %s", addr, shortID(in.id), in.addr), nil
	}
}

// stopped tells of a container that does not run and that the Engine will not start by itself: its policy starts one that ended, but not one
// that somebody stopped or killed.
func (p *Platform) stopped(ctx context.Context, in instance) (string, error) {
	found, err := p.cli.ContainerInspect(ctx, in.id)
	if cerrdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("inspect container %s: %w", shortID(in.id), err)
	}
	switch found.State.Status {
	case container.StateExited, container.StateCreated:
		return fmt.Sprintf("container %s, which should serve, was stopped (exit code %d)", shortID(in.id), found.State.ExitCode), nil
	default: // running again, restarting, being removed
		return "", nil
	}
}
