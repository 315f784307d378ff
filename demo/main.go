// Command demo shows the main job on one machine: a source bundle becomes a running, proxied container on two instances through real SQS
// commands, is flipped under load, gets a new property, and survives four kinds of broken deployment. It drives the built binaries as a user
// would, checks every claim it prints, exits 1 at the first that does not hold, and removes everything at the end.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	bin := flag.String("bin", "build", "folder with hostmanager and hmctl")
	keep := flag.Bool("keep", false, "leave the folder with the instances' roots and logs behind")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, options{Bin: *bin, Out: os.Stdout, Keep: *keep}); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}
