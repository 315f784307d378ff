package dev_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"hostmanager/dev"
	"hostmanager/fleet"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/layout"
)

// TestAborted_WithRealInstances aborts a deployment that one instance has committed and that hangs on the other one behind its flip: both serve the
// version before, the processes of the hook it hung in are gone, one container serves on each, and the next deployment works.
func TestAborted_WithRealInstances(t *testing.T) {
	engine := dockertest.Require(t)
	o, out := options(t, "")
	o.Hostmanager, o.Dir = buildHostmanager(t), dockertest.BuildHello(t, "v1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Ready = func(r dev.Room) error {
		defer cancel()
		return (&aborted{t: t, room: r, engine: engine, hostmanager: o.Hostmanager}).play()
	}
	if err := dev.Run(ctx, o); err != nil {
		t.Fatalf("%v\n%s", err, out.text.String())
	}
	for n := 1; n <= 2; n++ {
		checkRemoved(t, engine, namespace(t, filepath.Join(o.Root, fmt.Sprintf("i-dev%07d", n))))
	}
}

type aborted struct {
	t           *testing.T
	room        dev.Room
	engine      *client.Client
	hostmanager string
}

func (a *aborted) play() error {
	second := layout.Root(a.room.Instances[1].Root)
	hook, pids := second.HookDir("appdeploy/enact/02wait"), filepath.Join(a.t.TempDir(), "pids")
	script := fmt.Sprintf("#!/bin/sh\necho $$ >> %s\nsleep 1000 & echo $! >> %s\nwait\n", pids, pids)
	if err := errors.Join(os.MkdirAll(filepath.Dir(hook), 0o755), os.WriteFile(hook, []byte(script), 0o755)); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- a.deploy("v2") }()
	if err := a.until("v2 runs on one and hangs on the other", func() bool {
		text, _ := os.ReadFile(pids)
		return strings.Count(string(text), "\n") == 2 && answers(a.room, "v2") == nil && a.committed("v2")
	}); err != nil {
		return err
	}
	said := &lines{}
	f, err := operator(a.t.Context(), a.room, said)
	if err != nil {
		return err
	}
	report, err := f.Abort(a.t.Context(), fleet.AbortRequest{Reason: "wrong version"})
	if err != nil || !report.Uniform || report.Rollback == nil {
		return fmt.Errorf("%+v, %w\n%s", report, err, said.text.String())
	}
	if err := <-ended; !errors.Is(err, fleet.ErrAborted) {
		return fmt.Errorf("whoever deployed is told %w", err)
	}
	if err := errors.Join(answers(a.room, "v1"), a.gone(pids), a.oneServes(), a.nothingToAbort(), os.Remove(hook)); err != nil {
		return err
	}
	return errors.Join(a.deploy("v3"), answers(a.room, "v3"))
}

func (a *aborted) deploy(version string) error {
	bundle, err := fleet.OpenBundle(a.t.Context(), dockertest.BuildHello(a.t, version))
	if err != nil {
		return err
	}
	f, err := operator(a.t.Context(), a.room, &lines{})
	if err == nil {
		_, err = f.Deploy(a.t.Context(), fleet.DeployRequest{Bundle: bundle, Label: version})
	}
	return errors.Join(err, bundle.Close())
}

// committed tells whether the first instance's answer to the last stage is in the record.
func (a *aborted) committed(label string) bool {
	f, err := operator(a.t.Context(), a.room, &lines{})
	if err != nil {
		return false
	}
	d, _, err := f.Record.LastDeployment(a.t.Context())
	return err == nil && d.VersionLabel == label && len(d.Stages) == 2 && len(d.Stages[1].Outcomes) == 1
}

func (a *aborted) until(what string, ok func() bool) error {
	deadline := time.After(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			return errors.New("waited in vain: " + what)
		case <-tick.C:
		}
	}
	return nil
}

// gone waits until the hook's processes have ended.
func (a *aborted) gone(pids string) error {
	text, err := os.ReadFile(pids)
	if err != nil {
		return err
	}
	return a.until("the hook's processes are gone", func() bool {
		for line := range strings.Lines(string(text)) {
			pid, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil || syscall.Kill(pid, 0) == nil {
				return false
			}
		}
		return true
	})
}

// oneServes holds that one container runs on each instance, once what was replaced has been put away.
func (a *aborted) oneServes() error {
	for _, i := range a.room.Instances {
		only := filters.NewArgs(filters.Arg("label", "hostmanager="+i.Namespace))
		err := a.until("one container runs on "+i.ID, func() bool {
			running, err := a.engine.ContainerList(a.t.Context(), container.ListOptions{Filters: only})
			return err == nil && len(running) == 1
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// nothingToAbort asks an instance by its own command line.
func (a *aborted) nothingToAbort() error {
	text, err := exec.CommandContext(a.t.Context(), a.hostmanager, "abort", "--root", a.room.Instances[0].Root).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(text), "nothing to abort") {
		return fmt.Errorf("hostmanager abort with nothing running: %w: %s", err, text)
	}
	return nil
}
