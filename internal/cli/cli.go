// Package cli is what the command lines of hostmanager and hmctl share: the exit statuses and the one place that maps an error to them, the
// lines of --json, and the form of every verb's help. It knows no verb. A verb's RunE returns its error and prints nothing of it; Run prints
// it once.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"
)

// The exit statuses of every verb.
const (
	ExitDone     = 0 // done
	ExitInstance = 1 // failed on the instance: the command ran there and its verdict is FAILURE
	ExitUsage    = 2 // the command line is wrong; nothing was done
	ExitOurs     = 3 // our own failure: AWS, Docker or the agent could not be reached
)

// ExitStatusHelp is the table that stands under every verb's help.
const ExitStatusHelp = `Exit status:
  0  done
  1  failed on the instance
  2  usage error, nothing was done
  3  our own failure: AWS, Docker or the agent was not reached
`

type statusError struct {
	status int
	err    error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// InstanceFailure marks an error as the instance's verdict: exit status 1. A nil error stays nil.
func InstanceFailure(err error) error { return withStatus(ExitInstance, err) }

// Usage marks an error of flags or arguments: exit status 2. A nil error stays nil.
func Usage(err error) error { return withStatus(ExitUsage, err) }

// Usagef is Usage of a formatted text.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

func withStatus(status int, err error) error {
	if err == nil {
		return nil
	}
	return &statusError{status, err}
}

// Status returns the exit status an error stands for. Errors that say nothing of themselves are our own failure.
func Status(err error) int {
	var s *statusError
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &s):
		return s.status
	default:
		return ExitOurs
	}
}

// ranError marks what came from a verb's RunE; all other errors of cobra concern the command line.
type ranError struct{ error }

func (e ranError) Unwrap() error { return e.error }

// Streams are a program's standard streams; tests hand in their own.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// OSStreams returns the process's own streams.
func OSStreams() Streams { return Streams{os.Stdin, os.Stdout, os.Stderr} }

// Run executes the verb that args name and returns the exit status. An error is printed once: as a line on Err, or with --json as an object
// of type "error" on Out.
func Run(ctx context.Context, root *cobra.Command, args []string, s Streams) int {
	prepare(root, s)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitDone
	}
	var ran ranError
	if !errors.As(err, &ran) {
		err = Usage(err)
	} else {
		err = ran.error
	}
	status := Status(err)
	if wantsJSON(cmd, args) {
		_ = NewPrinter(s.Out, true).JSON("error", struct {
			Message    string `json:"message"`
			ExitStatus int    `json:"exit_status"`
		}{err.Error(), status})
		return status
	}
	fmt.Fprintf(s.Err, "%s: %s\n", root.Name(), Printable(err.Error()))
	if status == ExitUsage {
		fmt.Fprintf(s.Err, "Run '%s --help' for how to use it.\n", cmd.CommandPath())
	}
	return status
}

func prepare(root *cobra.Command, s Streams) {
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SilenceErrors, root.SilenceUsage = true, true
	if root.PersistentFlags().Lookup("json") == nil {
		root.PersistentFlags().Bool("json", false, "print one JSON object a line, each with a \"type\"")
	}
	// A template would link text/template, whose reflection keeps every method of every linked type: the binary would be half as large again.
	help := root.HelpFunc()
	root.SetHelpFunc(func(c *cobra.Command, args []string) {
		help(c, args)
		fmt.Fprint(c.OutOrStdout(), "\n", ExitStatusHelp)
	})
	addVersionFlag(root)
	root.InitDefaultCompletionCmd()
	refuseUnknown(root)
	markRan(root)
}

// addVersionFlag makes --version do what the verb version does. cobra's own flag would bring a template.
func addVersionFlag(root *cobra.Command) {
	i := slices.IndexFunc(root.Commands(), func(c *cobra.Command) bool { return c.Name() == "version" })
	if i < 0 || root.RunE != nil {
		return
	}
	verb := root.Commands()[i]
	asked := root.Flags().Bool("version", false, "show which build this is")
	root.RunE = func(cmd *cobra.Command, args []string) error {
		if *asked {
			return verb.RunE(cmd, args)
		}
		return cmd.Help()
	}
}

// refuseUnknown has verbs that only group others refuse a verb they do not know. cobra would show their help and call that done.
func refuseUnknown(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		if sub.HasSubCommands() && !sub.Runnable() {
			sub.Args = cobra.ArbitraryArgs
			sub.RunE = func(c *cobra.Command, args []string) error {
				if len(args) > 0 {
					return Usagef("unknown command %.80q for %q", args[0], c.CommandPath())
				}
				return c.Help()
			}
		}
		refuseUnknown(sub)
	}
}

func markRan(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if err := run(c, args); err != nil {
				return ranError{err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		markRan(sub)
	}
}

// wantsJSON also looks at the raw arguments: a wrong flag before --json stops the parser.
func wantsJSON(cmd *cobra.Command, args []string) bool {
	on, err := cmd.Flags().GetBool("json")
	return (err == nil && on) || slices.Contains(args, "--json")
}

// Verbs returns every runnable verb below root that is not cobra's own, for tests that hold each of them to the house form.
func Verbs(root *cobra.Command) []*cobra.Command {
	var verbs []*cobra.Command
	for _, c := range root.Commands() {
		if c.Name() == "completion" || c.Name() == "help" {
			continue
		}
		if c.Runnable() {
			verbs = append(verbs, c)
		}
		verbs = append(verbs, Verbs(c)...)
	}
	return verbs
}

// CheckVerb tells what a verb's help lacks: a short text, an example, an error-returning run.
func CheckVerb(c *cobra.Command) error {
	var errs []error
	for what, missing := range map[string]bool{"Short": c.Short == "", "Example": c.Example == "", "RunE": c.RunE == nil, "Args": c.Args == nil} {
		if missing {
			errs = append(errs, fmt.Errorf("%s has no %s", c.CommandPath(), what))
		}
	}
	return errors.Join(errs...)
}
