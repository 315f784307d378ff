package main

import (
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hostmanager/agent"
	"hostmanager/agent/config"
	"hostmanager/internal/cli"
	"hostmanager/internal/layout"
)

func newPurgeCommand() *cobra.Command {
	var root, file, namespace string
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Remove the containers, images and networks of an instance that is taken apart",
		Long: `Remove from the Docker Engine everything that carries the label of this instance's namespace: containers, images,
networks. Processes of a hook that a killed agent was running are ended. Files below the root stay. The agent and the
proxy must be stopped first.`,
		Example: "  hostmanager purge\n  hostmanager purge --root /srv/i-1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := filepath.Abs(root)
			if err != nil {
				return cli.Usage(err)
			}
			r := layout.Root(dir)
			asked := file != ""
			if !asked {
				file = r.ConfigFile()
			}
			flags := map[string]string{}
			if cmd.Flags().Changed("docker-namespace") {
				flags["docker-namespace"] = namespace
			}
			c, err := config.Load(file, asked, os.LookupEnv, flags)
			if err != nil {
				return cli.Usage(err)
			}
			err = agent.Purge(cmd.Context(), r, c)
			if errors.Is(err, agent.ErrStillRunning) {
				return cli.Usage(err)
			}
			return err
		},
	}
	addRoot(cmd, &root)
	cmd.Flags().StringVar(&file, "config", "", "configuration file (default <root>/etc/hostmanager/hostmanager.yaml)")
	cmd.Flags().StringVar(&namespace, "docker-namespace", "", "namespace to purge (default: as configured)")
	return cmd
}
