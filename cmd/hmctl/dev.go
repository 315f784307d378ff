package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"hostmanager/dev"
	"hostmanager/internal/cli"
)

func newDevCommand() *cobra.Command {
	var o dev.Options
	var set settingFlags
	cmd := &cobra.Command{
		Use:   "dev DIR",
		Short: "Try a source bundle on this machine, with no AWS account",
		Long: `Run a local SQS and S3 and, for every instance, a real agent and proxy; deploy DIR to them through real commands and print
where they answer. It needs a Docker Engine and the hostmanager binary. Until Ctrl-C, other hmctl verbs work against it.
At the end processes, containers and images are removed; so is the folder, unless it was given with --root. What an hmctl dev
that was killed left behind is removed by the next one: with --root in the same folder, else in any.`,
		Example: `  hmctl dev . --instances 2
  hmctl dev app.zip --once --env GREETING=hello`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			o.Dir = args[0]
			if o.Changes, err = set.changes(cmd.InOrStdin()); err != nil {
				return err
			}
			return runDev(cmd, o)
		},
	}
	cmd.Flags().IntVar(&o.Instances, "instances", 1, "how many instances")
	cmd.Flags().StringVar(&o.Root, "root", "", "empty or new folder for everything, which is kept (default: a temporary one)")
	cmd.Flags().StringVar(&o.Hostmanager, "hostmanager", "", "the hostmanager binary (default: beside hmctl, else from PATH)")
	cmd.Flags().BoolVar(&o.Once, "once", false, "end when the deployment has ended, with its status")
	set.flags(cmd)
	return cmd
}

func runDev(cmd *cobra.Command, o dev.Options) error {
	if err := localCredentials(); err != nil {
		return err
	}
	p := cli.PrinterFor(cmd)
	o.Printer = newConsole(cmd)
	o.Checks = append(o.Checks, checkBundle)
	o.Ready = func(r dev.Room) error {
		for _, i := range r.Instances {
			p.Text("%s  %s  %s", i.ID, i.URL, i.Root)
		}
		if !o.Once {
			p.Text("Until Ctrl-C this environment answers hmctl with:\n  export AWS_ENDPOINT_URL=%s AWS_REGION=%s AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local HMCTL_ENVIRONMENT=%s HMCTL_BUCKET=%s HMCTL_SIGNING_KEY=%s",
				r.Endpoint, r.Region, r.Environment, r.Bucket, r.SigningKey)
		}
		return p.JSON("ready", r)
	}
	err := dev.Run(cmd.Context(), o)
	if errors.Is(err, dev.ErrOptions) {
		return cli.Usage(err)
	}
	return exit(err)
}

// localCredentials makes this process use credentials that mean nothing: what is real must not reach a local endpoint, and the SDK wants some.
func localCredentials() error {
	var errs []error
	for _, name := range []string{"AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_SQS"} {
		errs = append(errs, os.Unsetenv(name))
	}
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		errs = append(errs, os.Setenv(name, "local"))
	}
	return errors.Join(errs...)
}
