package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"hostmanager/internal/cli"
	"hostmanager/protocol"
)

func newEventCommand() *cobra.Command {
	var msg, severity string
	cmd := &cobra.Command{
		Use:   "event --msg TEXT [--severity SEVERITY]",
		Short: "Report an event from a hook",
		Long: `Report an event from a hook: it comes in the result of the command and in the log of events. It is written to the file
that EB_EVENT_FILE names, which the host manager sets for every hook.`,
		Example: "  hostmanager event --msg 'Migrated 3 tables' --severity INFO",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := protocol.ParseSeverity(severity)
			if err != nil {
				return cli.Usage(err)
			}
			file := os.Getenv("EB_EVENT_FILE")
			switch {
			case msg == "":
				return cli.Usagef("--msg is missing")
			case file == "":
				return cli.Usagef("EB_EVENT_FILE is not set: events are reported from hooks")
			}
			e := protocol.Event{Msg: msg, Severity: s, Time: time.Now()}
			if err := appendEvent(file, e); err != nil {
				return err
			}
			return cli.PrinterFor(cmd).JSON("event", e)
		},
	}
	cmd.Flags().StringVar(&msg, "msg", "", "what happened, one sentence")
	cmd.Flags().StringVar(&severity, "severity", string(protocol.Info), "TRACE, DEBUG, INFO, WARN, ERROR or FATAL")
	return cmd
}

// appendEvent writes one document of the event file in one write, so that hooks may report at the same time.
func appendEvent(file string, e protocol.Event) error {
	doc, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open EB_EVENT_FILE: %w", err)
	}
	if _, err := f.Write(append(doc, "\n---\n"...)); err != nil {
		_ = f.Close()
		return fmt.Errorf("write event: %w", err)
	}
	return f.Close()
}
