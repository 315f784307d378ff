package main

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"hostmanager/fleet"
	"hostmanager/internal/cli"
)

func newSetenvCommand() *cobra.Command {
	var at connection
	var to selection
	cmd := &cobra.Command{
		Use:   "setenv NAME=VALUE...",
		Short: "Set properties of the application and restart it with them",
		Long:  "Set properties of the application and restart it with them, on every instance, with no request lost. An empty VALUE removes a property.",
		Example: `  hmctl setenv GREETING=hello COLOUR=blue --environment e-1 --bucket my-environments
  hmctl setenv COLOUR=`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := changes(args, nil)
			if err != nil {
				return err
			}
			return runConfigDeploy(cmd, at, to, set)
		},
	}
	at.flags(cmd)
	to.flags(cmd)
	return cmd
}

// runConfigDeploy deploys changed settings.
func runConfigDeploy(cmd *cobra.Command, at connection, to selection, set []fleet.Change) error {
	f, err := at.open(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	report, err := f.ConfigDeploy(cmd.Context(), fleet.ConfigRequest{Changes: set, Targets: to.targets(), Timeout: to.timeout, NoWait: to.noWait})
	return finish(cmd, report, err)
}

func newPrintenvCommand() *cobra.Command {
	var at connection
	cmd := &cobra.Command{
		Use:     "printenv",
		Short:   "Show the properties of the application, with their values",
		Example: "  hmctl printenv --environment e-1 --bucket my-environments",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := at.open(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			m, _, err := currentSettings(cmd.Context(), f)
			if err != nil {
				return err
			}
			properties := m.OptionSettings[fleet.NSEnvironment]
			if properties == nil {
				properties = map[string]string{}
			}
			p := cli.PrinterFor(cmd)
			p.Text(" Environment Variables:")
			for _, name := range slices.Sorted(maps.Keys(properties)) {
				p.Text("     %s = %s", name, properties[name])
			}
			return p.JSON("properties", struct {
				Properties map[string]string `json:"properties"`
			}{properties})
		},
	}
	at.flags(cmd)
	return cmd
}
