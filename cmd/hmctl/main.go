//go:debug zipinsecurepath=0
//go:debug tarinsecurepath=0

// Command hmctl is the operator's side: it deploys versions to the instances of an environment and shows what became of it. It holds no state of
// its own; everything is in the environment's record in S3.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hostmanager/internal/cli"
)

// sameSignal is how soon after the first a second signal is still the same request to stop: timeout(1) signals the process and then its whole group.
const sameSignal = time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal stops the operation, which says what it leaves; a second one ends the process.
	context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, stop) })
	os.Exit(cli.Run(ctx, newRoot(), os.Args[1:], cli.OSStreams()))
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "hmctl",
		Short: "Deploys applications to the instances of an environment",
		Long: `hmctl deploys applications to instances that run hostmanager, through their SQS queues, and prints what comes back.
Environment and bucket can also be given as HMCTL_ENVIRONMENT and HMCTL_BUCKET; credentials, region and endpoint come from
the usual AWS variables and files.`,
	}
	root.AddCommand(
		newDeployCommand(), newAbortCommand(), newSetenvCommand(), newPrintenvCommand(), newConfigCommand(), newRestartCommand(), newSendCommand(),
		newStatusCommand(), newLockCommand(), newUnlockCommand(), newForgetCommand(), newKeygenCommand(), newDevCommand(), newLocalawsCommand(), cli.VersionCommand("hmctl"),
	)
	return root
}
