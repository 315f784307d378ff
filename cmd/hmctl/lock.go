package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/internal/cli"
)

func newLockCommand() *cobra.Command {
	var at connection
	var reason string
	cmd := &cobra.Command{
		Use:     "lock --reason TEXT",
		Short:   "Keep everyone from starting an operation in the environment",
		Example: "  hmctl lock --reason 'database migration until noon' --environment e-1 --bucket my-environments",
		Args:    cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if reason == "" {
				return cli.Usagef("say why with --reason: others will read it")
			}
			return nil
		},
		RunE: within(&at, func(cmd *cobra.Command, f *fleet.Fleet, _ []string) error {
			info, err := f.Record.SetLock(cmd.Context(), f.Holder, reason)
			if err != nil {
				return err
			}
			p := cli.PrinterFor(cmd)
			p.Text("Environment %s is locked by %s: %s", at.environment, info.Holder, info.Reason)
			return p.JSON("lock", info)
		}),
	}
	at.flags(cmd)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who find it locked (required)")
	return cmd
}

func newUnlockCommand() *cobra.Command {
	var at connection
	var force bool
	cmd := &cobra.Command{
		Use:   "unlock",
		Short: "Release the environment's lock",
		Long: `Release the environment's lock: your own, or one whose holder has died (its process on this host has ended, or it has been
silent for too long). With --force also someone else's, or that of an operation that still runs, which then stops at its next
heartbeat.`,
		Example: "  hmctl unlock --environment e-1 --bucket my-environments\n  hmctl unlock --force",
		Args:    cobra.NoArgs,
		RunE:    within(&at, func(cmd *cobra.Command, f *fleet.Fleet, _ []string) error { return runUnlock(cmd, f, force) }),
	}
	at.flags(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "whoever holds it")
	return cmd
}

func runUnlock(cmd *cobra.Command, f *fleet.Fleet, force bool) error {
	p := cli.PrinterFor(cmd)
	info, err := f.Record.LockState(cmd.Context())
	switch mine := info.Manual() && info.Holder == f.Holder; {
	case force:
		info, err = f.Record.BreakLock(cmd.Context())
	case err != nil:
		return fmt.Errorf("%w; `hmctl unlock --force` replaces it", err)
	case info.Held() && !mine && !info.Expired(time.Now()) && !info.HolderDead():
		return cli.Usage(&environment.LockedError{EnvironmentID: f.Record.EnvironmentID(), Lock: info})
	case info.Held():
		err = f.Record.ReleaseLock(cmd.Context(), info.ID)
	}
	if err != nil {
		return err
	}
	if info.Held() {
		p.Text("Released the lock of %s (%s).", info.Holder, info.Reason)
	} else {
		p.Text("Environment %s was not locked.", f.Record.EnvironmentID())
	}
	return errors.Join(p.JSON("unlock", struct {
		Released bool                 `json:"released"`
		Lock     environment.LockInfo `json:"lock,omitzero"`
	}{info.Held(), info}))
}
