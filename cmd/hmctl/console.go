package main

import (
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hostmanager/fleet"
	"hostmanager/internal/cli"
	"hostmanager/protocol"
)

// console shows operations: to people as eb does, to machines as one object a line.
type console struct {
	out     *cli.Printer
	tty     io.Writer // nil where nothing may be animated
	mu      sync.Mutex
	bar     *progressbar.ProgressBar
	started bool // an upload is under way
}

var _ fleet.Printer = (*console)(nil)

func newConsole(cmd *cobra.Command) *console {
	c := &console{out: cli.PrinterFor(cmd)}
	if f, ok := cmd.OutOrStdout().(*os.File); ok && !c.out.IsJSON() && term.IsTerminal(int(f.Fd())) {
		c.tty = f
	}
	return c
}

// eventLine is a fleet.Line for machines.
type eventLine struct {
	Time         time.Time         `json:"time"`
	Severity     protocol.Severity `json:"severity"`
	Kind         fleet.Kind        `json:"kind"`
	Message      string            `json:"message"`
	OperationID  string            `json:"operation_id,omitempty"`
	DeploymentID int64             `json:"deployment_id,omitempty"`
	InstanceID   string            `json:"instance_id,omitempty"`
}

// Line prints a sentence. A console that is gone is noticed by the shell, not here.
func (c *console) Line(l fleet.Line) {
	c.out.Text("%s: %s", l.Severity, strings.ReplaceAll(l.Text, "\n", "\n  ")) // no line of an instance passes for one of ours
	_ = c.out.JSON("event", eventLine{l.At, l.Severity, l.Kind, l.Text, l.OperationID, l.DeploymentID, l.InstanceID})
}

// Packing says that the archive of a version is being made.
func (c *console) Packing(label string) {
	c.out.Text("Creating application version archive %q.", label)
	_ = c.out.JSON("packing", struct {
		VersionLabel string `json:"version_label"`
	}{label})
}

// Upload shows how far an upload is: a bar on a terminal, its beginning and end elsewhere.
func (c *console) Upload(u fleet.Upload) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.started || u.Done {
		_ = c.out.JSON("upload", struct {
			Application  string `json:"application"`
			VersionLabel string `json:"version_label"`
			Sent         int64  `json:"sent"`
			Size         int64  `json:"size"`
			Done         bool   `json:"done"`
			Skipped      bool   `json:"skipped,omitempty"`
		}{u.Application, u.VersionLabel, u.Sent, u.Size, u.Done, u.Skipped})
	}
	switch {
	case u.Skipped:
		c.out.Text("%s/%s was uploaded before.", u.Application, u.Archive)
	case !c.started:
		c.started = true
		c.out.Text("Uploading %s/%s to S3. This may take a while.", u.Application, u.Archive)
		if c.tty != nil {
			c.bar = progressbar.NewOptions64(u.Size, progressbar.OptionSetWriter(c.tty), progressbar.OptionShowBytes(true),
				progressbar.OptionSetWidth(40), progressbar.OptionClearOnFinish(), progressbar.OptionThrottle(100*time.Millisecond))
		}
	}
	if c.bar != nil {
		_ = c.bar.Set64(u.Sent)
	}
	if u.Done && !u.Skipped {
		c.started, c.bar = false, nil
		c.out.Text("Upload Complete.")
	}
}
