package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"hostmanager/agent"
	"hostmanager/internal/cli"
)

func TestStatus_HeadlineTellsOfAnApplicationThatIsNotWell(t *testing.T) {
	for want, s := range map[string]agent.Status{
		"is ready": {State: "ready"},
		"is degraded, application not running: the container is gone": {State: "degraded", Trouble: "application not running: the container is gone"},
	} {
		s.Reached, s.InstanceID = true, "i-1"
		var out bytes.Buffer
		cmd := &cobra.Command{}
		cmd.SetOut(&out)
		printStatus(cli.PrinterFor(cmd), s)
		if headline, _, _ := strings.Cut(out.String(), "\n"); !strings.HasSuffix(headline, want) {
			t.Errorf("headline %q, want %q", headline, want)
		}
	}
}

func TestStatus_TellsOfDisks(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	printStatus(cli.PrinterFor(cmd), agent.Status{Reached: true, Room: &agent.Disks{
		LogsLost: 1234, Disks: []agent.DiskStatus{
			{Mount: "/", Bytes: 40_000_000, TotalBytes: 8_000_000_000, Inodes: 120, TotalInodes: 500_000, Short: true},
			{Mount: "/data", Bytes: 5_000_000_000, TotalBytes: 8_000_000_000, Inodes: -1},
		},
	}})
	for _, want := range []string{
		"Disk:        / has 40 MB of 8,000 MB free, 120 of 500,000 inodes: SHORT OF ROOM\n", "Disk:        /data has 5,000 MB of 8,000 MB free\n",
		"Disk:        no reserve is kept back\n", "Disk:        1,234 lines of log could not be written\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
