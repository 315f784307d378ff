package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hostmanager/agent"
	"hostmanager/internal/cli"
	"hostmanager/internal/disk"
	"hostmanager/internal/layout"
)

// statusTimeout bounds how long the agent is waited for.
const statusTimeout = 8 * time.Second

func newStatusCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the agent does and what runs on this instance",
		Long: `Show what the agent does, which version runs, and the last commands with their results. When the agent does not answer,
the command says what the journal knows, and ends with status 3.`,
		Example: "  hostmanager status\n  hostmanager status --json --root /srv/i-1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), statusTimeout)
			defer cancel()
			s, err := agent.AskStatus(ctx, layout.Root(root))
			if err != nil && s.InstanceID == "" {
				return err
			}
			p := cli.PrinterFor(cmd)
			printStatus(p, s)
			return errors.Join(p.JSON("status", s), err)
		},
	}
	addRoot(cmd, &root)
	return cmd
}

func printStatus(p *cli.Printer, s agent.Status) {
	if s.Reached {
		p.Text("Instance %s of environment %s, agent %s (pid %d) is %s%s", s.InstanceID, s.EnvironmentID, s.Version, s.PID, s.State, because(s.Trouble))
		printPoll(p, s)
		p.Text("Orders:      %s", ordersText(s.Orders))
		printApplication(p, s)
		printDisks(p, s.Room)
	} else {
		p.Text("Instance %s: the agent does not answer; this is what its journal says", s.InstanceID)
	}
	if s.Running != nil {
		p.Text("Running:     %s of request %s since %s", s.Running.Name, s.Running.Request, clock(s.Running.Since))
	}
	p.Text("Waiting:     %d commands, %d results to send", s.Waiting, s.Unsent)
	for _, c := range s.Commands {
		p.Text("  %s  %s%s  %s%s", clock(c.AcceptedAt), c.Name, stageText(c.StageNum), verdict(c), tail(c.Msg))
	}
}

func printPoll(p *cli.Printer, s agent.Status) {
	switch {
	case s.PollError != "":
		p.Text("Queue:       %s does not answer: %s", s.Queue, s.PollError)
	case s.LastPoll.IsZero():
		p.Text("Queue:       %s", s.Queue)
	default:
		p.Text("Queue:       %s, last answer %s", s.Queue, clock(s.LastPoll))
	}
}

// ordersText says whose orders are carried out.
func ordersText(o *agent.Orders) string {
	if o == nil || !o.Signed {
		return "UNSIGNED: those of anyone who can send to the command queue (insecure_unsigned)"
	}
	keys := make([]string, 0, len(o.TrustedKeys))
	for _, k := range o.TrustedKeys {
		keys = append(keys, strings.TrimSpace(k.Name+" "+k.ID))
	}
	return "signed with one of: " + strings.Join(keys, ", ")
}

func printApplication(p *cli.Printer, s agent.Status) {
	switch app := s.Application; {
	case app == nil:
		p.Text("Application: unknown: %s", s.ApplicationErr)
	case app.ContainerID == "":
		p.Text("Application: nothing is deployed")
	default:
		p.Text("Application: %s (deployment %d, serial %d) in container %s at %s, running: %t, healthy: %t%s",
			app.VersionLabel, app.DeploymentID, app.Serial, app.ContainerID, app.Address, app.Running, app.Healthy, tail(app.Reason))
	}
}

func printDisks(p *cli.Printer, room *agent.Disks) {
	if room == nil {
		return
	}
	for _, d := range room.Disks {
		text := fmt.Sprintf("%s has %s of %s free", d.Mount, disk.Size(max(d.Bytes, 0)), disk.Size(d.TotalBytes))
		if d.Inodes >= 0 {
			text += fmt.Sprintf(", %s of %s inodes", disk.Count(d.Inodes), disk.Count(d.TotalInodes))
		}
		if d.Short {
			text += ": SHORT OF ROOM"
		}
		p.Text("Disk:        %s", text)
	}
	if room.Reserve == 0 {
		p.Text("Disk:        no reserve is kept back")
	}
	if room.LogsLost > 0 {
		p.Text("Disk:        %s lines of log could not be written", disk.Count(room.LogsLost))
	}
}

func because(trouble string) string {
	if trouble == "" {
		return ""
	}
	return ", " + trouble
}

func clock(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func stageText(n *int) string {
	if n == nil {
		return ""
	}
	return fmt.Sprintf(" stage %d", *n)
}

func verdict(c agent.CommandStatus) string {
	switch {
	case c.Verdict != "":
		return string(c.Verdict)
	case c.Step != "":
		return "in " + c.Step
	default:
		return "waits"
	}
}

func tail(text string) string {
	if text == "" {
		return ""
	}
	return "  " + text
}
