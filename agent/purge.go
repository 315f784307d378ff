package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"hostmanager/agent/config"
	"hostmanager/internal/layout"
	"hostmanager/internal/unixsock"
	"hostmanager/platform/docker"
	"hostmanager/platform/proxy"
)

// ErrStillRunning is returned by Purge while the agent or the proxy of the root answers.
var ErrStillRunning = errors.New("still running")

// Purge removes what the instance made in the Docker Engine: containers, images, networks. Files below the root stay. It refuses while the
// instance's agent or proxy answers: what it removes would be serving.
func Purge(ctx context.Context, root layout.Root, c config.Config) error {
	for name, socket := range map[string]string{"agent": root.AgentSocket(), "proxy": root.ProxySocket()} {
		if conn, err := unixsock.Dial(ctx, socket); err == nil {
			_ = conn.Close()
			return fmt.Errorf("the %s is %w; stop it first", name, ErrStillRunning)
		}
	}
	p, err := docker.New(docker.Options{Root: root, Namespace: c.DockerNamespace, Valve: valve{proxy.NewClient(root)}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("reach the Docker Engine: %w", err)
	}
	return errors.Join(p.Purge(ctx), p.Close())
}
