package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"hostmanager/hooks"
	"hostmanager/internal/proc"
	"hostmanager/platform/settings"
)

// sweepTimeout bounds the end of what a dead agent's hooks left running.
const sweepTimeout = 5 * time.Second

// spawning prepares what contains hooks, and ends what hooks of a dead agent left running. Call it with the journal open: then no other agent of
// this root lives.
func (b *builder) spawning(ctx context.Context) (hooks.Spawning, error) {
	own, err := b.Config.HookLimits()
	if err != nil {
		return hooks.Spawning{}, err
	}
	root, err := filepath.Abs(string(b.Root))
	if err != nil {
		return hooks.Spawning{}, err
	}
	copies := filepath.Join(b.Root.AgentState(), "exec")
	if err := os.RemoveAll(copies); err != nil {
		b.logs.Structured.Warn("copies of programs that a dead agent ran are not removed", slog.Any("error", err))
	}
	s, err := proc.NewSpawner(ctx, proc.SpawnerOptions{
		Kind: b.Config.Containment, Owner: root + "\x00" + b.Config.DockerNamespace, Parent: b.Config.ContainmentGroup,
		Copies: copies, Log: b.logs.Structured,
	})
	if err != nil {
		return hooks.Spawning{}, fmt.Errorf("prepare containment of hooks: %w", err)
	}
	b.built.closers = append(b.built.closers, s.Close)
	sweep, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	if err := s.Sweep(sweep, filepath.Join(b.Root.AgentState(), "leaves.json")); err != nil {
		b.logs.Structured.Warn("what hooks of a dead agent left is not all ended", slog.Any("error", err))
	}
	return hooks.Spawning{Spawner: s, Limits: func() proc.Limits {
		_, s, err := settings.ReadContainerConfiguration(b.Root)
		if err != nil { // before the first deployment there are none
			return own
		}
		return s.HookLimits.Over(own)
	}}, nil
}
