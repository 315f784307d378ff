package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"hostmanager/agent/config"
	"hostmanager/internal/layout"
	"hostmanager/internal/unixsock"
	"hostmanager/journal"
	"hostmanager/platform/docker"
	"hostmanager/platform/proxy"
)

// ErrStillRunning is returned by Purge while the agent or the proxy of the root answers.
var ErrStillRunning = errors.New("still running")

// Purge removes what the instance made in the Docker Engine: containers, images, networks. Processes of a hook that a killed agent was running are
// ended; what hooks left running on purpose and files below the root stay. It refuses while the instance's agent or proxy answers: what it removes
// would be serving.
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
	return errors.Join(endInterrupted(ctx, root), p.Purge(ctx), p.Close())
}

// endInterrupted ends what the hooks of a killed agent left running.
func endInterrupted(ctx context.Context, root layout.Root) error {
	s, err := journal.Read(root.Journal())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find hooks that were interrupted: %w", err)
	}
	var errs []error
	for _, c := range s.Commands {
		if j, err := jobOf(c); err == nil && !c.Finished() {
			errs = append(errs, endLeftovers(ctx, root, slog.New(slog.DiscardHandler), j, c.Steps))
		}
	}
	return errors.Join(errs...)
}
