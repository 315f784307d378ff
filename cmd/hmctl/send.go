package main

import (
	"github.com/spf13/cobra"

	"hostmanager/fleet"
)

func newSendCommand() *cobra.Command {
	var at sender
	var to selection
	var q fleet.SendRequest
	var stage int
	cmd := &cobra.Command{
		Use:   "send COMMAND",
		Short: "Send a raw command to the instances and show what they answer",
		Long: `Send a raw command to the instances and show what they answer. It is for trying things out: nothing is uploaded, no record
is kept and the desired state stays where it is.`,
		Example: `  hmctl send CMD-RestartAppServer --environment e-1 --bucket my-environments
  hmctl send CMD-AppDeploy --data manifest_1500246693428 --stage 0 --sns --instances i-0123`,
		Args: cobra.ExactArgs(1),
		RunE: within(&at, func(cmd *cobra.Command, f *fleet.Fleet, args []string) error {
			if cmd.Flags().Changed("stage") {
				q.Stage = &stage
			}
			q.Command, q.Targets, q.Timeout, q.NoWait = args[0], to.targets(), to.timeout, to.noWait
			report, err := f.Send(cmd.Context(), q)
			return finish(cmd, report, err)
		}),
	}
	at.flags(cmd)
	to.flags(cmd)
	cmd.Flags().StringVar(&q.Data, "data", "", "the request's data: a manifest's file name for deployments")
	cmd.Flags().StringVar(&q.DataSHA256, "manifest-sha256", "", "digest of the manifest (default: looked up)")
	cmd.Flags().StringVar(&q.ExecutionData, "execution-data", "", "the request's execution_data")
	cmd.Flags().IntVar(&stage, "stage", 0, "run only this stage (default: all)")
	cmd.Flags().BoolVar(&q.SNS, "sns", false, "wrap the message as SNS does")
	return cmd
}
