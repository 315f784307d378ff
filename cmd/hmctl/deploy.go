package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"hostmanager/fleet"
	"hostmanager/internal/cli"
)

// deployFlags are what deploy takes besides where and to whom.
type deployFlags struct {
	sender
	selection
	application string
	label       string
	settings    settingFlags
	policy      string
	resume      bool
}

func newDeployCommand() *cobra.Command {
	var f deployFlags
	cmd := &cobra.Command{
		Use:   "deploy DIR|ZIP",
		Short: "Deploy a source bundle to the instances of an environment",
		Long: `Deploy a folder (packed by .ebignore, else .gitignore) or an archive: upload it, have every instance fetch and build it,
and only when all of them could, have every instance flip to it. The desired state of the environment moves when all
answered SUCCESS. The settings are those of the version deployed now, with the changes given here.

Interrupted or run with --no-wait, a deployment is finished with --resume, or taken back with hmctl abort.

` + envFileHelp,
		Example: `  hmctl deploy . --environment e-1 --bucket my-environments
  hmctl deploy app.zip --label v42 --env GREETING=hello --option aws:elasticbeanstalk:command:Timeout=900
  hmctl deploy . --env-file secrets.env
  hmctl deploy --resume`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.resume != (len(args) == 0) {
				return cli.Usagef("give either a folder or archive to deploy, or --resume")
			}
			if f.resume {
				return runResume(cmd, f)
			}
			return runDeploy(cmd, f, args[0])
		},
	}
	f.sender.flags(cmd)
	f.selection.flags(cmd)
	cmd.Flags().StringVar(&f.application, "application", fleet.DefaultApplication, "name of the application")
	cmd.Flags().StringVarP(&f.label, "label", "l", "", "version label (default app-<commit>-<yymmdd_HHMMSS>)")
	f.settings.flags(cmd)
	cmd.Flags().StringVar(&f.policy, "policy", "", "deployment policy, over that of bundle and settings (only AllAtOnce is built yet)")
	cmd.Flags().BoolVar(&f.resume, "resume", false, "finish the latest deployment from its record")
	return cmd
}

func runDeploy(cmd *cobra.Command, f deployFlags, path string) (err error) {
	ctx := cmd.Context()
	if _, err := os.Stat(path); err != nil {
		return cli.Usage(fmt.Errorf("look at what to deploy: %w", err))
	}
	set, err := f.settings.changes(cmd.InOrStdin())
	if err != nil {
		return err
	}
	to, err := f.open(ctx, cmd)
	if err != nil {
		return err
	}
	if err := to.CheckFree(ctx); err != nil {
		return err
	}
	if f.label == "" {
		f.label = fleet.DefaultLabel(ctx, folderOf(path), time.Now())
	}
	to.Printer.Packing(f.label)
	bundle, err := fleet.OpenBundle(ctx, path, checkBundle)
	if err != nil {
		return exit(err)
	}
	defer func() { err = errors.Join(err, bundle.Close()) }()
	report, err := to.Deploy(ctx, fleet.DeployRequest{
		Bundle: bundle, Application: f.application, Label: f.label, Changes: set, Policy: f.policy,
		Targets: f.targets(), Timeout: f.timeout, NoWait: f.noWait,
	})
	return finish(cmd, report, err)
}

// folderOf returns the folder whose commit names what lies at path.
func folderOf(path string) string {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return path
	}
	return filepath.Dir(path)
}

func runResume(cmd *cobra.Command, f deployFlags) error {
	to, err := f.open(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	report, err := to.Resume(cmd.Context())
	return finish(cmd, report, err)
}
