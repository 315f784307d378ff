package main

import (
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"hostmanager/fleet"
	"hostmanager/internal/cli"
	"hostmanager/protocol"
)

func newSetenvCommand() *cobra.Command {
	var set settingFlags
	cmd := &cobra.Command{
		Use:   "setenv [NAME=VALUE...]",
		Short: "Set properties of the application and restart it with them",
		Long: `Set properties of the application and restart it with them, on every instance, with no request lost. An empty VALUE removes a
property.

` + envFileHelp,
		Example: `  hmctl setenv GREETING=hello COLOUR=blue --environment e-1 --bucket my-environments
  hmctl setenv COLOUR=
  hmctl setenv --env-file secrets.env
  fetch-secrets | hmctl setenv --env-file -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && set.file == "" {
				return cli.Usagef("give NAME=VALUE, or --env-file")
			}
			return nil
		},
	}
	set.fileFlag(cmd)
	return deployChanges(cmd, func(cmd *cobra.Command, args []string) ([]fleet.Change, error) {
		set.properties = args
		return set.changes(cmd.InOrStdin())
	})
}

func newPrintenvCommand() *cobra.Command {
	return showCurrent(&cobra.Command{
		Use:     "printenv",
		Short:   "Show the properties of the application, with their values",
		Example: "  hmctl printenv --environment e-1 --bucket my-environments",
	}, printProperties)
}

func printProperties(p *cli.Printer, m protocol.Manifest) error {
	properties := m.OptionSettings[fleet.NSEnvironment]
	if properties == nil {
		properties = map[string]string{}
	}
	p.Text(" Environment Variables:")
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		value := properties[name]
		if cli.Printable(value) != value {
			value = strconv.Quote(value) // --json has it as it is
		}
		p.Text("     %s = %s", name, value)
	}
	return p.JSON("properties", struct {
		Properties map[string]string `json:"properties"`
	}{properties})
}
