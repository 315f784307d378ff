package agent

import (
	"context"
	"time"

	"hostmanager/platform/docker"
	"hostmanager/platform/proxy"
	"hostmanager/platform/settings"
)

// dockerPlatform is platform/docker as the agent uses it.
type dockerPlatform struct{ *docker.Platform }

func newDockerPlatform(s PlatformSetup) (dockerPlatform, error) {
	p, err := docker.New(docker.Options{
		Root: s.Root, Namespace: s.Config.DockerNamespace, Valve: valve{proxy.NewClient(s.Root)}, Log: s.Logs.Structured, Redact: s.Redact,
		Keep: s.Config.KeepVersions, WholeEngine: s.Config.DockerGC == "engine", BuildCache: s.Config.BuildCache,
	})
	return dockerPlatform{p}, err
}

// ImageRoom implements imageRoom.
func (p dockerPlatform) ImageRoom(ctx context.Context) (dir string, last int64, err error) {
	room, err := p.Platform.ImageRoom(ctx)
	return room.Dir, room.Last, err
}

// Spare implements collector.
func (p dockerPlatform) Spare(ctx context.Context) (trees []string, imageBytes int64, err error) {
	spare, err := p.Platform.Spare(ctx)
	return spare.Trees, spare.ImageBytes, err
}

// Collect implements collector.
func (p dockerPlatform) Collect(ctx context.Context, failed, hard bool) error {
	return p.Platform.Collect(ctx, docker.CollectOptions{Failed: failed, Hard: hard})
}

// Status says what runs.
func (p dockerPlatform) Status(ctx context.Context) (Application, error) {
	s, err := p.Platform.Status(ctx)
	return Application{
		ContainerID: s.ContainerID, Image: s.Image, Address: s.Address, Serial: s.Serial, DeploymentID: s.DeploymentID,
		VersionLabel: s.VersionLabel, Running: s.Running, Healthy: s.Healthy, Reason: s.Reason,
	}, err
}

// valve is the front proxy as the flip uses it.
type valve struct{ proxy *proxy.Client }

// State implements docker.Valve.
func (v valve) State(ctx context.Context) (generation uint64, addr, id string, err error) {
	s, err := v.proxy.State(ctx)
	if err != nil || s.Target == nil {
		return s.Generation, "", "", err
	}
	return s.Generation, s.Target.Addr, s.Target.ID, nil
}

// SetTarget implements docker.Valve.
func (v valve) SetTarget(ctx context.Context, t docker.Target, expect uint64) (uint64, error) {
	swap, err := v.proxy.SetTarget(ctx, proxy.Target{
		Addr: t.Addr, ID: t.ID, Deployment: t.DeploymentID, Serial: t.Serial, VersionLabel: t.VersionLabel, Checks: checks(t.Check),
	}, expect)
	return swap.Generation, err
}

func checks(c settings.Check) proxy.Checks {
	return proxy.Checks{
		Path: c.Path, Interval: proxy.Duration(c.Interval), Timeout: proxy.Duration(c.Timeout),
		Healthy: c.Healthy, Unhealthy: c.Unhealthy, Codes: c.Codes.String(),
	}
}

// Drain implements docker.Valve.
func (v valve) Drain(ctx context.Context, addr string, timeout time.Duration) error {
	_, err := v.proxy.Drain(ctx, addr, timeout)
	return err
}

var (
	_ docker.Valve = valve{}
	_ imageRoom    = dockerPlatform{}
	_ collector    = dockerPlatform{}
)
