package main

import (
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"hostmanager/fleet"
	"hostmanager/internal/cli"
	"hostmanager/protocol"
)

// hidden stands for the value of an application's property, which may be a secret; printenv shows it.
const hidden = "(hidden, see hmctl printenv)"

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show or set the option settings of the environment",
	}
	cmd.AddCommand(newConfigShowCommand(), newConfigSetCommand())
	return cmd
}

func newConfigShowCommand() *cobra.Command {
	return showCurrent(&cobra.Command{
		Use:     "show",
		Short:   "Show the option settings of the version deployed now",
		Long:    "Show the option settings of the version deployed now. The values of the application's properties are left to hmctl printenv.",
		Example: "  hmctl config show --environment e-1 --bucket my-environments",
	}, printOptions)
}

func printOptions(p *cli.Printer, m protocol.Manifest) error {
	shown := protocol.OptionSettings{}
	for _, ns := range slices.Sorted(maps.Keys(m.OptionSettings)) {
		shown[ns] = maps.Clone(m.OptionSettings[ns])
		for _, option := range slices.Sorted(maps.Keys(shown[ns])) {
			if ns == fleet.NSEnvironment {
				shown[ns][option] = hidden
			}
			p.Text("%s:%s=%s", ns, option, shown[ns][option])
		}
	}
	return p.JSON("option_settings", struct {
		VersionLabel   string                  `json:"version_label,omitempty"`
		Serial         int64                   `json:"serial,omitempty"`
		OptionSettings protocol.OptionSettings `json:"option_settings"`
	}{m.VersionLabel, m.Serial, shown})
}

func newConfigSetCommand() *cobra.Command {
	return deployChanges(&cobra.Command{
		Use:     "set NAMESPACE:NAME=VALUE...",
		Short:   "Set option settings and deploy them",
		Long:    "Set option settings and deploy them to every instance. An empty VALUE removes a setting.",
		Example: "  hmctl config set aws:elasticbeanstalk:command:Timeout=900 --environment e-1 --bucket my-environments",
		Args:    cobra.MinimumNArgs(1),
	}, func(cmd *cobra.Command, args []string) ([]fleet.Change, error) {
		return (&settingFlags{options: args}).changes(cmd.InOrStdin())
	})
}
