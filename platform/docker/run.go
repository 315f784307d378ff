package docker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"

	"hostmanager/hooks"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// maxAddressTries bounds how often a start is tried again because someone outside our care took the address.
const maxAddressTries = 5

// errNothingDeployed is the answer to a change of configuration before the first deployment.
var errNothingDeployed = errors.New("no application is deployed on this instance: deploy a version first")

// plannedContainer is all that is needed to create a container.
type plannedContainer struct {
	name   string
	config container.Config
	host   container.HostConfig
	port   string
	gate   gate
	set    settings.Settings
}

// runStaged is appdeploy/enact/00run: the container of the image built from the staged tree.
func (p *Platform) runStaged(ctx context.Context, c *hooks.Call) error {
	return p.run(ctx, c, p.root.Staging())
}

// runCurrent is 00run of a change of configuration: the image that serves, with the environment as it is now. The image becomes the staging
// image, so that the flip is the same one.
func (p *Platform) runCurrent(ctx context.Context, c *hooks.Call) error {
	image, err := p.imageThatServes(ctx)
	if err != nil {
		return err
	}
	if err := p.mendCurrent(ctx, c); err != nil {
		return err
	}
	if err := p.cli.ImageTag(ctx, image, p.names.staging()); err != nil {
		return fmt.Errorf("tag image of current container: %w", err)
	}
	if err := writeState(p.root.StagingImageID(), image); err != nil {
		return err
	}
	return p.run(ctx, c, p.root.Current())
}

// imageThatServes returns the id of the image of the container that serves, or, where somebody removed that container, of the image it was made
// from: the instance can be put right with what it has.
func (p *Platform) imageThatServes(ctx context.Context) (string, error) {
	id, err := readState(p.root.CurrentContainerID())
	if err != nil {
		return "", err
	}
	current, ok, err := p.find(ctx, id)
	switch {
	case err != nil:
		return "", err
	case ok:
		return current.image, nil
	case id == "":
		return "", errNothingDeployed
	}
	img, err := p.cli.ImageInspect(ctx, p.names.current())
	if cerrdefs.IsNotFound(err) {
		return "", errNothingDeployed
	}
	if err != nil {
		return "", fmt.Errorf("inspect current image: %w", err)
	}
	return img.ID, nil
}

// run creates and starts the container and waits at the gate.
func (p *Platform) run(ctx context.Context, c *hooks.Call, treeLink string) error {
	// A change of configuration may come right after a deployment.
	if err := p.Wait(ctx); err != nil {
		return err
	}
	// Without the proxy nothing can be flipped, nor undone: what it does not disown may be what serves.
	if _, _, _, err := p.valveState(ctx); err != nil {
		return err
	}
	plan, err := p.planContainer(ctx, c, treeLink)
	if err != nil {
		return err
	}
	if err := p.removeStale(ctx, plan.name); err != nil {
		return err
	}
	if err := p.fault("run.planned"); err != nil {
		return err
	}
	id, err := p.start(ctx, &plan)
	if err != nil {
		return p.startFailure(ctx, c, id, err)
	}
	if err := p.fault("run.started"); err != nil {
		return err
	}
	if err := writeState(p.root.StagingContainerID(), shortID(id)); err != nil {
		return err
	}
	return p.waitAtGate(ctx, c, id, plan)
}

func (p *Platform) planContainer(ctx context.Context, c *hooks.Call, treeLink string) (plannedContainer, error) {
	conf, set, err := settings.ReadContainerConfiguration(p.root)
	if err != nil {
		return plannedContainer{}, err
	}
	tree, err := filepath.EvalSymlinks(treeLink)
	if err != nil {
		return plannedContainer{}, fmt.Errorf("find application tree: %w", err)
	}
	src, err := readSource(tree)
	if err != nil {
		return plannedContainer{}, err
	}
	img, err := p.cli.ImageInspect(ctx, p.names.staging())
	if err != nil {
		return plannedContainer{}, fmt.Errorf("inspect staging image: %w", err)
	}
	exposed := src.file.exposed()
	if img.Config != nil && img.Config.Labels[labelPort] != "" {
		exposed = img.Config.Labels[labelPort]
	}
	port, err := choosePort(exposed, set.Environment)
	if err != nil {
		return plannedContainer{}, err
	}
	return plannedContainer{
		name: p.names.container(c.Deployment),
		config: container.Config{
			Image:      img.ID,
			Env:        set.EnvironmentList(),
			Cmd:        src.run.command,
			Entrypoint: src.run.entrypoint,
			Labels:     p.names.containerLabels(deployment(c, conf), filepath.Base(tree), port),
		},
		host: p.hostConfig(src.run),
		port: port,
		set:  set,
		gate: gate{check: set.Check, timeout: set.HealthGateTimeout},
	}, nil
}

// hostConfig has no restart policy: until it has passed the gate, a container that ends is to stay ended, with its exit code.
func (p *Platform) hostConfig(d dockerrun) container.HostConfig {
	binds := d.binds
	if d.logging != "" {
		binds = append(binds[:len(binds):len(binds)], p.root.ContainerLogs()+":"+d.logging)
	}
	return container.HostConfig{
		NetworkMode: container.NetworkMode(p.names.network()),
		Binds:       binds,
		// Follow copies the output into files of ours; this is what it can catch up on after being away.
		LogConfig: container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "20m", "max-file": "3"}},
	}
}

// removeStale removes what an attempt of the same command before a crash left.
func (p *Platform) removeStale(ctx context.Context, name string) error {
	stale, ok, err := p.find(ctx, name)
	if !ok || err != nil {
		return err
	}
	current, err := readState(p.root.CurrentContainerID())
	if err != nil {
		return err
	}
	if current != "" && strings.HasPrefix(stale.id, current) {
		return fmt.Errorf("container %s of this very command serves already", shortID(stale.id))
	}
	return p.remove(ctx, stale.id)
}

// start creates the container at a free address and starts it. The id is returned also with an error, once there is one.
func (p *Platform) start(ctx context.Context, plan *plannedContainer) (id string, err error) {
	b, err := p.ensureNetwork(ctx)
	if err != nil {
		return "", err
	}
	var refused []netip.Addr
	for {
		addr, err := p.freeAddress(ctx, b, refused)
		if err != nil {
			return "", err
		}
		if id, err = p.createDespite(ctx, plan, b, addr); err != nil {
			return "", err
		}
		if err := p.fault("run.created"); err != nil {
			return id, err
		}
		err = p.cli.ContainerStart(ctx, id, container.StartOptions{})
		if err == nil {
			plan.gate.addr = net.JoinHostPort(addr.String(), plan.port)
			return id, nil
		}
		if !strings.Contains(err.Error(), "Address already in use") || len(refused) == maxAddressTries {
			return id, fmt.Errorf("start container: %w", err)
		}
		refused = append(refused, addr)
		if err := p.remove(ctx, id); err != nil {
			return id, err
		}
	}
}

// strayWait is how long the Engine is given to end what an agent asked it for and did not live to see.
const strayWait = 10 * time.Second

// createDespite creates the container. The Engine goes on with what it was asked for by an agent that was killed: the container that a resumed
// command found nothing of a moment ago may come into being now, and its name is taken before anybody can see it. It is removed like any other of an
// attempt before a crash.
func (p *Platform) createDespite(ctx context.Context, plan *plannedContainer, b bridge, addr netip.Addr) (string, error) {
	for limit := time.Now().Add(strayWait); ; {
		id, err := p.create(ctx, plan, b, addr)
		if !cerrdefs.IsConflict(err) || time.Now().After(limit) {
			return id, err
		}
		if err := p.removeStale(ctx, plan.name); err != nil {
			return "", err
		}
		select {
		case <-time.After(strayPause):
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

const strayPause = 20 * time.Millisecond

func (p *Platform) create(ctx context.Context, plan *plannedContainer, b bridge, addr netip.Addr) (string, error) {
	config, host := plan.config, plan.host
	config.Labels = maps.Clone(config.Labels)
	created, err := p.cli.ContainerCreate(ctx, &config, &host, &network.NetworkingConfig{
		EndpointsConfig: map[string]*network.EndpointSettings{
			b.name: {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: addr.String()}},
		},
	}, nil, plan.name)
	if err != nil {
		return "", fmt.Errorf("create container: %w", err)
	}
	return created.ID, nil
}

func (p *Platform) startFailure(ctx context.Context, c *hooks.Call, id string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("run container: %w", context.Cause(ctx))
	}
	last := &tail{limit: maxTail}
	if id != "" {
		last = p.lastOutput(ctx, id)
	}
	fmt.Fprintln(last, err)
	return fail(c, &Failure{
		Sentence: fmt.Sprintf("Failed to run Docker container: %s. Check snapshot logs for details.", last.last(200)),
		Last:     last.last(maxTail),
		Cause:    err,
	})
}

// waitAtGate returns when the container is healthy. One that ends fails at once; one that stays unhealthy fails, or only warns where the
// settings say that health is not to be looked at.
func (p *Platform) waitAtGate(ctx context.Context, c *hooks.Call, id string, plan plannedContainer) error {
	watched, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	exits, errs := p.cli.ContainerWait(watched, id, container.WaitConditionNotRunning)
	go func() {
		select {
		case <-exits:
			stop(errExited)
		case err := <-errs:
			if watched.Err() == nil {
				stop(fmt.Errorf("watch container: %w", err))
			}
		case <-watched.Done():
		}
	}()
	began := time.Now()
	err := plan.gate.pass(watched)
	if errors.Is(err, errExited) {
		return p.quitFailure(ctx, c, id, time.Since(began))
	}
	var closed *closedError
	if !errors.As(err, &closed) {
		return err
	}
	if plan.set.IgnoreHealthCheck {
		report(c, protocol.Warn, "Docker container %s %v. It takes over all the same: IgnoreHealthCheck is set.", shortID(id), closed)
		return nil
	}
	return fail(c, &Failure{
		Sentence: fmt.Sprintf("Docker container %s %v.", shortID(id), closed),
		Last:     p.lastOutput(ctx, id).last(maxTail),
		Kind:     protocol.CauseHealthGate,
	})
}

// quitFailure tells of a container that ended before it was healthy.
func (p *Platform) quitFailure(ctx context.Context, c *hooks.Call, id string, after time.Duration) error {
	last := p.lastOutput(ctx, id)
	f := &Failure{
		Sentence: fmt.Sprintf("Docker container quit unexpectedly after launch: %s. Check snapshot logs for details.", last.last(200)),
		Last:     last.last(maxTail),
	}
	if in, ok, err := p.find(ctx, id); ok && err == nil {
		f.Code = in.exitCode
		f.Cause = fmt.Errorf("container %s ended with exit code %d after %s", shortID(id), in.exitCode, after.Round(10*time.Millisecond))
		if in.oom {
			f.Cause = fmt.Errorf("%w: it was out of memory", f.Cause)
		}
		p.noteQuit(in, last)
	}
	return fail(c, f)
}

// undoRun takes 00run back: the container is stopped and kept as evidence. It never touches the container that serves, which is also the one that
// gets the requests, whatever the files say: a flip that was cut short and could not be taken back leaves the two apart.
func (p *Platform) undoRun(ctx context.Context, c *hooks.Call) error {
	if err := p.Wait(ctx); err != nil {
		return err
	}
	in, ok, err := p.find(ctx, p.names.container(c.Deployment))
	if err != nil {
		return err
	}
	current, err := readState(p.root.CurrentContainerID())
	if err != nil {
		return err
	}
	if ok && current != "" && strings.HasPrefix(in.id, current) {
		return fmt.Errorf("container %s serves: its flip was not undone", shortID(in.id))
	}
	var proxy reach
	if ok {
		_, proxy.addr, proxy.id, proxy.err = p.valveState(ctx)
	}
	if ok && proxy.has(in.id, in.addr, in.running) {
		// Named as staged no more, it goes with the next cleaning that finds the proxy leading elsewhere.
		return errors.Join(
			proxy.leaves(in.id),
			writeState(p.root.StagingContainerID(), ""),
		)
	}
	switch {
	case ok && c.Again: // nobody has anything to learn from it, and the next one wants its name
		err = p.remove(ctx, in.id)
	case ok:
		err = p.keepAsEvidence(ctx, in)
	}
	if err != nil {
		return err
	}
	return writeState(p.root.StagingContainerID(), "")
}

// keepAsEvidence stops a failed container and keeps it until the next deployment, in the place of an older one.
func (p *Platform) keepAsEvidence(ctx context.Context, in instance) error {
	if in.created {
		return p.remove(ctx, in.id) // it never ran: there is nothing to see
	}
	if err := p.stop(ctx, in.id); err != nil {
		return err
	}
	older, err := readState(evidenceFile(p.root))
	if err != nil {
		return err
	}
	if err := writeState(evidenceFile(p.root), shortID(in.id)); err != nil {
		return err
	}
	if older == "" || older == shortID(in.id) {
		return nil
	}
	if _, ok, err := p.find(ctx, older); !ok || err != nil {
		return err
	}
	return p.remove(ctx, older)
}

// remove removes a container with its anonymous volumes. The caller has made sure that it is ours.
func (p *Platform) remove(ctx context.Context, id string) error {
	err := p.cli.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove container %s: %w", shortID(id), err)
	}
	return nil
}
