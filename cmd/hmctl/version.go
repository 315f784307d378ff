package main

import (
	"runtime"

	"github.com/spf13/cobra"

	"hostmanager/internal/cli"
)

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Show which build this is",
		Example: "  hmctl version --json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := cli.PrinterFor(cmd)
			p.Text("hmctl %s (%s, %s/%s)", cli.Version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return p.JSON("version", struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{cli.Version(), runtime.Version()})
		},
	}
}
