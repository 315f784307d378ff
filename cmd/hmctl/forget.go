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

func newForgetCommand() *cobra.Command {
	var at connection
	var force bool
	cmd := &cobra.Command{
		Use:   "forget INSTANCE",
		Short: "Take an instance that is gone out of the environment's record",
		Long: `Take an instance that is gone out of the environment's record, so that it is no longer listed as SILENT. Its command queue stays.
One that was seen a short time ago is only forgotten with --force; if it lives it registers itself again within a minute.`,
		Example: "  hmctl forget i-0123 --environment e-1 --bucket my-environments",
		Args:    cobra.ExactArgs(1),
		RunE: within(&at, func(cmd *cobra.Command, f *fleet.Fleet, args []string) error {
			return runForget(cmd, f, args[0], force)
		}),
	}
	at.flags(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "also one that was seen a short time ago, or whose registration cannot be read")
	return cmd
}

func runForget(cmd *cobra.Command, f *fleet.Fleet, instance string, force bool) error {
	i, err := f.Record.Forget(cmd.Context(), instance, force)
	switch {
	case errors.Is(err, environment.ErrAlive), errors.Is(err, environment.ErrCorrupt):
		return cli.Usage(fmt.Errorf("%w; --force forgets it all the same", err))
	case errors.Is(err, environment.ErrNotFound):
		return cli.Usagef("instance %.80q is not registered; `hmctl status` lists those that are", instance)
	case err != nil:
		return err
	}
	p := cli.PrinterFor(cmd)
	p.Text("Forgot instance %s%s.", i.InstanceID, lastSeen(i, time.Now()))
	if i.Queue != "" {
		p.Text("Its command queue stays: %s", i.Queue)
	}
	return p.JSON("forgotten", i)
}

func lastSeen(i environment.Instance, now time.Time) string {
	if i.Seen.IsZero() {
		return ""
	}
	return fmt.Sprintf(", last seen %s ago", age(now, i.Seen))
}
