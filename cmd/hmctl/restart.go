package main

import (
	"github.com/spf13/cobra"

	"hostmanager/fleet"
)

func newRestartCommand() *cobra.Command {
	var at sender
	var to selection
	cmd := &cobra.Command{
		Use:     "restart",
		Short:   "Restart the application on the instances",
		Example: "  hmctl restart --environment e-1 --bucket my-environments --instances i-0123,i-4567",
		Args:    cobra.NoArgs,
		RunE: within(&at, func(cmd *cobra.Command, f *fleet.Fleet, _ []string) error {
			report, err := f.Restart(cmd.Context(), fleet.RestartRequest{Targets: to.targets(), Timeout: to.timeout, NoWait: to.noWait})
			return finish(cmd, report, err)
		}),
	}
	at.flags(cmd)
	to.flags(cmd)
	return cmd
}
