package dev_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"hostmanager/dev"
	"hostmanager/environment"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/layout"
	"hostmanager/platform/proxy"
)

// TestTended_BetweenDeployments has an instance lose what serves, in every way an operator's hand can do it, and no deployment come to its help.
func TestTended_BetweenDeployments(t *testing.T) {
	engine := dockertest.Require(t)
	o, out := options(t, "")
	o.Hostmanager, o.Dir, o.Instances = buildHostmanager(t), dockertest.BuildHello(t, "v1"), 1
	ctx, cancel := context.WithCancel(t.Context())
	o.Ready = func(r dev.Room) error {
		defer cancel()
		return loseWhatServes(ctx, r, engine)
	}
	if err := dev.Run(ctx, o); err != nil {
		t.Fatalf("%v\n%s", err, out.text.String())
	}
}

func loseWhatServes(ctx context.Context, r dev.Room, engine *client.Client) error {
	root := layout.Root(r.Instances[0].Root)
	if err := awaitAnswer(ctx, r); err != nil {
		return err
	}
	// One that ends by itself is the Engine's to start again.
	res, err := http.Get(r.Instances[0].URL + "/exit?code=3")
	if err != nil {
		return err
	}
	_ = res.Body.Close()
	id, err := restarted(ctx, engine, r)
	if err != nil {
		return err
	}
	if err := awaitAnswer(ctx, r); err != nil {
		return err
	}
	events, err := os.ReadFile(root.AgentEvents())
	if err != nil && !errors.Is(err, fs.ErrNotExist) || strings.Contains(string(events), "Outside any deployment") {
		return fmt.Errorf("the agent put its hand in: %v\n%s", err, events)
	}
	// One that was killed by hand, and a proxy that forgot everything, are the agent's.
	if err := engine.ContainerKill(ctx, id, "KILL"); err != nil {
		return err
	}
	valve := proxy.NewClient(root)
	s, err := valve.State(ctx)
	if err != nil {
		return err
	}
	if _, err := valve.SetTarget(ctx, proxy.Target{}, s.Generation); err != nil {
		return err
	}
	if err := awaitAnswer(ctx, r); err != nil {
		return err
	}
	// One that is gone is told.
	if err := engine.ContainerRemove(ctx, id, container.RemoveOptions{Force: true}); err != nil {
		return err
	}
	return awaitTrouble(ctx, r)
}

func awaitAnswer(ctx context.Context, r dev.Room) error {
	return within(ctx, func() error { return answers(r, "v1") })
}

func awaitTrouble(ctx context.Context, r dev.Room) error {
	f, err := operator(ctx, r, nil)
	if err != nil {
		return err
	}
	return within(ctx, func() error {
		all, _, err := f.Record.Instances(ctx)
		if err != nil {
			return err
		}
		if len(all) != 1 || all[0].State != "degraded" || all[0].Application != (environment.Application{Reason: "the container is gone"}) {
			return fmt.Errorf("registered: %+v", all)
		}
		return nil
	})
}

// restarted waits until the Engine has started the application's container again, and returns its id.
func restarted(ctx context.Context, engine *client.Client, r dev.Room) (id string, err error) {
	only := filters.NewArgs(filters.Arg("label", "hostmanager="+r.Instances[0].Namespace))
	return id, within(ctx, func() error {
		list, err := engine.ContainerList(ctx, container.ListOptions{Filters: only})
		if err != nil || len(list) != 1 {
			return fmt.Errorf("%d containers run: %v", len(list), err)
		}
		found, err := engine.ContainerInspect(ctx, list[0].ID)
		if err != nil {
			return err
		}
		if id = found.ID; found.RestartCount == 0 || !found.State.Running || found.State.Restarting {
			return fmt.Errorf("container %s: %d restarts, %s", found.Name, found.RestartCount, found.State.Status)
		}
		return nil
	})
}

// within asks another process again and again until it answers as it should, for somewhat more than the agent takes to notice and to act.
func within(ctx context.Context, ask func() error) error {
	deadline := time.After(45 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("waited in vain: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
