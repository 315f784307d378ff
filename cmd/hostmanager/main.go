//go:debug zipinsecurepath=0
//go:debug tarinsecurepath=0

// Command hostmanager is the host manager of one instance: the agent, the proxy, and what an operator asks them.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"hostmanager/internal/cli"
)

func main() {
	os.Exit(cli.Run(context.Background(), newRoot(), os.Args[1:], cli.OSStreams()))
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "hostmanager",
		Short: "Deploys and runs an application on this instance, as Elastic Beanstalk's host manager does",
		Long: `hostmanager lives on every instance: its agent takes commands from the instance's SQS queue, builds and
flips the application's container behind its proxy, and sends the results.`,
	}
	root.AddCommand(newAgentCommand(), newProxyCommand(), newStatusCommand(), newEventCommand(), newAbortCommand(), newPurgeCommand(), cli.VersionCommand("hostmanager"))
	return root
}

// addRoot adds the flag that every verb has.
func addRoot(cmd *cobra.Command, root *string) {
	cmd.Flags().StringVar(root, "root", "/", "folder that all paths are below")
}
