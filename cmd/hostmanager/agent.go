package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hostmanager/agent"
	"hostmanager/agent/config"
	"hostmanager/internal/cli"
	"hostmanager/internal/layout"
)

// agentGC keeps an agent that mostly waits small: garbage is collected when the heap has grown by half. Its work is done by others.
const agentGC = 50

func newAgentCommand() *cobra.Command {
	var root, file string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run the agent: take commands from the instance's queue until stopped",
		Long: `Run the agent of this instance. The first SIGTERM or SIGINT lets the running command end, the second aborts it and
takes back what it did, the third ends at once. SIGHUP reopens the log files. Every option can also stand in the
configuration file or in HOSTMANAGER_<OPTION>.`,
		Example: "  hostmanager agent --config /etc/hostmanager/hostmanager.yaml\n  hostmanager agent --root /srv/i-1 --environment-id e-1 --instance-id i-1 --bucket my-environments",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, r, err := agentConfig(cmd, root, file)
			if err != nil {
				return cli.Usage(err)
			}
			return runAgent(cmd.Context(), c, r, cmd)
		},
	}
	addRoot(cmd, &root)
	cmd.Flags().StringVar(&file, "config", "", "configuration file (default <root>/etc/hostmanager/hostmanager.yaml)")
	for _, o := range config.Options() {
		cmd.Flags().String(o.Flag(), o.Get(config.New()), o.Doc)
	}
	return cmd
}

// agentConfig reads the configuration as the flags say.
func agentConfig(cmd *cobra.Command, root, file string) (config.Config, layout.Root, error) {
	dir, err := filepath.Abs(root)
	if err != nil {
		return config.Config{}, "", err
	}
	r := layout.Root(dir)
	asked := file != ""
	if !asked {
		file = r.ConfigFile()
	}
	flags := map[string]string{}
	cmd.Flags().Visit(func(f *pflag.Flag) { flags[f.Name] = f.Value.String() })
	c, err := config.Load(file, asked, os.LookupEnv, flags)
	if err != nil {
		return c, r, err
	}
	return c, r, c.Validate()
}

func runAgent(ctx context.Context, c config.Config, root layout.Root, cmd *cobra.Command) error {
	if err := withoutCoreDump(); err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(agentGC)
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	built, err := agent.Build(ctx, agent.Setup{Root: root, Config: c, Version: cli.Version(), Stderr: cmd.ErrOrStderr()})
	if errors.Is(err, config.ErrInvalid) {
		return cli.Usage(err)
	}
	if err != nil {
		return err
	}
	err = agent.Supervise(ctx, built.Agent, signals)
	if errors.Is(err, agent.ErrThirdSignal) {
		return err // nothing is closed: what still runs is cut off by the end of the process, as after a crash
	}
	return errors.Join(err, built.Close())
}
