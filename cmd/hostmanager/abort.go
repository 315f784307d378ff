package main

import (
	"cmp"
	"errors"
	"os"

	"github.com/spf13/cobra"

	"hostmanager/agent"
	"hostmanager/internal/cli"
	"hostmanager/internal/layout"
)

func newAbortCommand() *cobra.Command {
	var root, reason string
	cmd := &cobra.Command{
		Use:   "abort",
		Short: "Stop the running command on this instance and undo it",
		Long: `Stop the command that changes this instance at its next safe point and undo what it did: the version deployed before serves.
A command between two stages is not carried on. What already took effect as a whole is not taken back. It concerns this instance
alone; hmctl abort ends an operation on all of them. It waits until the command is undone.`,
		Example: "  hostmanager abort --reason 'wrong version'\n  hostmanager abort --json --root /srv/i-1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := agent.AskAbort(cmd.Context(), layout.Root(root), whoAsks(), reason)
			if err != nil {
				return err
			}
			p := cli.PrinterFor(cmd)
			p.Text("%s", done.Msg)
			err = p.JSON("abort", done)
			switch {
			case done.Aborted:
				return err
			case done.RequestID == "":
				return errors.Join(err, cli.Usage(errors.New(done.Msg)))
			}
			return errors.Join(err, cli.InstanceFailure(errors.New(done.Msg)))
		},
	}
	addRoot(cmd, &root)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the result and the log")
	return cmd
}

// whoAsks names the person at this machine, also behind sudo.
func whoAsks() string {
	who := cmp.Or(os.Getenv("SUDO_USER"), os.Getenv("USER"), "root")
	if host, err := os.Hostname(); err == nil {
		who += "@" + host
	}
	return who
}
