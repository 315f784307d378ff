package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hostmanager/journal"
)

// needRoot skips where no filesystem can be mounted, and fails there in CI.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("mounting a filesystem needs root")
	}
	t.Skip("mounting a filesystem needs root")
}

func TestShort_PowerLoss(t *testing.T) {
	needRoot(t)
	at := testSite(t)
	at.kills = 60
	if err := playPower(t.Context(), at); err != nil {
		t.Error(err)
	}
	at.holds(t)
}

// TestPlanted_SkippedSync holds that a journal which does not sync is found: the agent deletes the message of a command that the disk does not have.
func TestPlanted_SkippedSync(t *testing.T) {
	needRoot(t)
	at := testSite(t)
	binary := filepath.Join(at.dir, "planted", "hostmanager")
	if err := plant(t.Context(), at.built.module, binary, agentPackage, skippedSync()); err != nil {
		t.Fatal(err)
	}
	for _, planted := range []bool{false, true} {
		name := at.built.hostmanager
		if planted {
			name = binary
		}
		if err := loseWhenAccepted(t.Context(), at, name); err != nil {
			t.Fatal(err)
		}
		if !planted {
			at.holds(t)
		}
	}
	at.found(t, "the command is lost")
}

// loseWhenAccepted takes the power away as soon as a command's message is deleted.
func loseWhenAccepted(ctx context.Context, at *site, binary string) (err error) {
	p, err := openPlugged(ctx, at, binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	o, err := p.prepare(ctx, restart)
	if err != nil {
		return err
	}
	t := &played{instance: p.instance, trial: trial{name: "power loss when accepted", kind: restart}, order: o, since: time.Now()}
	if err := t.begin(ctx); err != nil {
		return err
	}
	if !await(ctx, resultWithin, func() bool {
		n, err := p.waiting(ctx)
		return err == nil && n == 0 && len(t.mine()) > 0 && t.mine()[0].Type == journal.Accepted
	}) {
		return errors.New("the command was not accepted")
	}
	if err := p.lose(ctx); err != nil {
		return err
	}
	t.fell(t.mine())
	return t.judge(ctx)
}
