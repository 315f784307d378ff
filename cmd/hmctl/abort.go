package main

import (
	"errors"

	"github.com/spf13/cobra"

	"hostmanager/fleet"
	"hostmanager/internal/cli"
)

func newAbortCommand() *cobra.Command {
	var at sender
	var q fleet.AbortRequest
	cmd := &cobra.Command{
		Use:   "abort",
		Short: "Stop the operation under way on all instances and undo it",
		Long: `Stop the operation under way, whoever began it and whether their hmctl still runs. No further stage is sent; every instance
ends its command at the next safe point and undoes it; instances that already had the new version are put back to the desired
one, so that all run the same. What could not be made so is named, with what to type.

The status is 0 when all instances run the same, 1 when they do not or when all of them had the new version already, 2 when
nothing is under way.`,
		Example: "  hmctl abort --environment e-1 --bucket my-environments\n  hmctl abort --reason 'wrong version'",
		Args:    cobra.NoArgs,
		RunE: within(&at, func(cmd *cobra.Command, f *fleet.Fleet, _ []string) error {
			report, err := f.Abort(cmd.Context(), q)
			if report.OperationID == "" {
				return exit(err)
			}
			return errors.Join(exit(err), cli.PrinterFor(cmd).JSON("abort", report))
		}),
	}
	at.flags(cmd)
	cmd.Flags().StringVar(&q.Reason, "reason", "", "why, for those whose operation it is")
	cmd.Flags().DurationVar(&q.Timeout, "timeout", fleet.DefaultAbortTimeout, "how long an instance may take to undo what it did")
	return cmd
}
