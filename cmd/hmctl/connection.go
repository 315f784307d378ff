package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hostmanager/aws/objects"
	"hostmanager/aws/profile"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/fleet/record"
	"hostmanager/internal/cli"
	"hostmanager/internal/signature"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// connection is where an environment is: the flags that most verbs have.
type connection struct {
	environment string
	bucket      string
	region      string
	keys        []string // trusted, as given
}

func (c *connection) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&c.environment, "environment", "e", "", "id of the environment (default $HMCTL_ENVIRONMENT)")
	cmd.Flags().StringVar(&c.bucket, "bucket", "", "S3 bucket of the environment's record (default $HMCTL_BUCKET)")
	cmd.Flags().StringVar(&c.region, "region", "", "AWS region (default from the AWS configuration)")
	cmd.Flags().StringSliceVar(&c.keys, "trusted-keys", nil, "public keys, or files of them: what they did not sign of the record is refused (default $HMCTL_TRUSTED_KEYS)")
}

// complete fills what was not given from the environment's variables.
func (c *connection) complete() error {
	if c.environment == "" {
		c.environment = os.Getenv("HMCTL_ENVIRONMENT")
	}
	if c.bucket == "" {
		c.bucket = os.Getenv("HMCTL_BUCKET")
	}
	var errs []error
	if c.environment == "" {
		errs = append(errs, errors.New("no environment: give --environment or HMCTL_ENVIRONMENT"))
	}
	if c.bucket == "" {
		errs = append(errs, errors.New("no bucket: give --bucket or HMCTL_BUCKET"))
	}
	return cli.Usage(errors.Join(errs...))
}

// trusted reads the keys whose signatures are believed.
func (c *connection) trusted() (signature.Keys, error) {
	list := c.keys
	if len(list) == 0 {
		list = strings.FieldsFunc(os.Getenv("HMCTL_TRUSTED_KEYS"), func(r rune) bool { return r == ',' || r == ' ' })
	}
	keys, err := signature.Load(list)
	if err != nil {
		return keys, fmt.Errorf("read trusted keys: %w", err)
	}
	return keys, nil
}

// open connects to the environment. What is done to it is printed with cmd's printer.
func (c *connection) open(ctx context.Context, cmd *cobra.Command) (*fleet.Fleet, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	aws, err := profile.Load(ctx, c.region)
	if err != nil {
		return nil, err
	}
	store, err := objects.New(ctx, objects.Options{Config: aws})
	if err != nil {
		return nil, err
	}
	queues, err := queue.New(ctx, queue.Options{Config: aws})
	if err != nil {
		return nil, err
	}
	r, err := record.Open(store, c.bucket, c.environment)
	if err != nil {
		return nil, cli.Usage(err)
	}
	trusted, err := c.trusted()
	if err != nil {
		return nil, cli.Usage(err)
	}
	r = r.Secured(nil, trusted)
	return &fleet.Fleet{
		Record: r, Queues: queues, Objects: store, Bucket: c.bucket, Holder: holder(), Printer: newConsole(cmd), Check: checkSettings, Known: settings.Known,
	}, nil
}

// opener is a connection, or one that also gives orders.
type opener interface {
	open(ctx context.Context, cmd *cobra.Command) (*fleet.Fleet, error)
}

// within makes a verb's run of what it does in the environment that its flags name.
func within(at opener, do func(cmd *cobra.Command, f *fleet.Fleet, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		f, err := at.open(cmd.Context(), cmd)
		if err != nil {
			return err
		}
		return do(cmd, f, args)
	}
}

// holder names the person at this machine.
func holder() string {
	name, host := "someone", "somewhere"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return name + "@" + host
}

func checkSettings(options protocol.OptionSettings) error {
	_, err := settings.Parse(options)
	return err
}

// selection is which instances an operation goes to.
type selection struct {
	instances []string
	queues    []string
	timeout   time.Duration
	noWait    bool
}

func (s *selection) flags(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&s.instances, "instances", nil, "only to these registered instances (ids, comma-separated)")
	cmd.Flags().StringSliceVar(&s.queues, "queue", nil, "to the instances behind these command queues (URL, or INSTANCE=URL) instead of the registered ones")
	cmd.Flags().DurationVar(&s.timeout, "timeout", 0, "how long each command may run (default: the option setting Timeout, else 10m)")
	cmd.Flags().BoolVar(&s.noWait, "no-wait", false, "send and do not wait for the answers")
}

func (s *selection) targets() fleet.Selection {
	return fleet.Selection{Instances: s.instances, Queues: s.queues}
}

// exit gives an operation's error its exit status.
func exit(err error) error {
	var failed *fleet.FailedError
	switch {
	case errors.As(err, &failed) && failed.OnlyUnreached():
		return err // AWS's side, not the instances' verdict
	case errors.Is(err, fleet.ErrFailed), errors.Is(err, fleet.ErrAborted), errors.Is(err, fleet.ErrTooLate), errors.Is(err, fleet.ErrNotUniform):
		return cli.InstanceFailure(err)
	case errors.Is(err, fleet.ErrRefused), errors.Is(err, fleet.ErrNothingToResume), errors.Is(err, fleet.ErrNothingToAbort):
		return cli.Usage(err)
	case signature.Refused(err):
		return fmt.Errorf("%w; list the key that signed it with --trusted-keys. Where signing only begins, or that key is lost, --trust-record builds on it once", err)
	}
	return err
}

// finish prints the machine's last line of an operation. One that never began has none.
func finish(cmd *cobra.Command, r fleet.Report, err error) error {
	if r.OperationID == "" {
		return exit(err)
	}
	return errors.Join(exit(err), cli.PrinterFor(cmd).JSON("operation", r))
}

// showCurrent completes a verb that shows something of the desired state's manifest, which is empty before the first deployment.
func showCurrent(cmd *cobra.Command, show func(*cli.Printer, protocol.Manifest) error) *cobra.Command {
	var at connection
	cmd.Args = cobra.NoArgs
	cmd.RunE = within(&at, func(cmd *cobra.Command, f *fleet.Fleet, _ []string) error {
		_, m, err := f.Record.CurrentManifest(cmd.Context())
		if err != nil && !errors.Is(err, environment.ErrNoCurrent) {
			return err
		}
		return show(cli.PrinterFor(cmd), m)
	})
	at.flags(cmd)
	return cmd
}

// deployChanges completes a verb that deploys changed settings.
func deployChanges(cmd *cobra.Command, read func(cmd *cobra.Command, args []string) ([]fleet.Change, error)) *cobra.Command {
	var at sender
	var to selection
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		set, err := read(cmd, args)
		if err != nil {
			return err
		}
		f, err := at.open(cmd.Context(), cmd)
		if err != nil {
			return err
		}
		report, err := f.ConfigDeploy(cmd.Context(), fleet.ConfigRequest{Changes: set, Targets: to.targets(), Timeout: to.timeout, NoWait: to.noWait})
		return finish(cmd, report, err)
	}
	at.flags(cmd)
	to.flags(cmd)
	return cmd
}
