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
