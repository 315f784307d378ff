package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/internal/cli"
	"hostmanager/internal/procid"
)

func TestStatus_TellsOfApplicationsThatAreNotWell(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		name        string
		line        instanceLine
		application environment.Application
		state, want string
	}{
		{"well", instanceLine{}, environment.Application{Running: true, Healthy: true}, "ready", "i-1 ready v1, seen 3s ago"},
		{"told by an old agent", instanceLine{}, environment.Application{}, "ready", "i-1 ready v1, seen 3s ago"},
		{
			"dead",
			instanceLine{},
			environment.Application{Reason: "the container is gone"},
			"degraded",
			"i-1 degraded v1, seen 3s ago, application not running: the container is gone",
		},
		{
			"sick and behind",
			instanceLine{Behind: true},
			environment.Application{Running: true, Reason: "GET / answered\x1b[2J 500"},
			"degraded",
			"i-1 degraded v1, seen 3s ago, not the desired version, application not healthy: GET / answered[2J 500",
		},
		{
			"unknown",
			instanceLine{},
			environment.Application{Unknown: true, Reason: "the Engine does not answer"},
			"degraded",
			"i-1 degraded v1, seen 3s ago, application state unknown: the Engine does not answer",
		},
		{"silent", instanceLine{Silent: true}, environment.Application{Reason: "the container is gone"}, "degraded", "i-1 degraded v1, seen 3s ago, SILENT"},
	} {
		c.line.Instance = environment.Instance{InstanceID: "i-1", State: c.state, VersionLabel: "v1", Application: c.application, Seen: now.Add(-3 * time.Second)}
		var out bytes.Buffer
		cmd := &cobra.Command{}
		cmd.SetOut(&out)
		printStatus(cli.PrinterFor(cmd), statusLine{Environment: "e-1", Instances: []instanceLine{c.line}}, now)
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		got := strings.Join(strings.Fields(strings.Replace(lines[len(lines)-1], " (deployment 0, serial 0)", "", 1)), " ")
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestStatus_SaysWhatIsUnfinished also where a lock stands that nobody renews.
func TestStatus_SaysWhatIsUnfinished(t *testing.T) {
	now := time.Now()
	beat := func(ago time.Duration) *environment.LockInfo {
		return &environment.LockInfo{ID: "x", Holder: "anna", Heartbeat: now.Add(-ago), Expires: now.Add(-ago + 2*time.Minute), Process: procid.Self()}
	}
	dead := beat(time.Second)
	dead.Process.Start++
	for _, c := range []struct {
		name  string
		lock  *environment.LockInfo
		state environment.State
		want  bool
	}{
		{"no lock", nil, environment.Running, true},
		{"expired", beat(time.Hour), environment.Running, true},
		{"holder dead", dead, environment.Running, true},
		{"at work", beat(time.Second), environment.Running, false},
		{"ended", nil, environment.Failed, false},
	} {
		var out bytes.Buffer
		cmd := &cobra.Command{}
		cmd.SetOut(&out)
		printStatus(cli.PrinterFor(cmd), statusLine{Lock: c.lock, Deployment: &environment.Deployment{State: c.state}}, now)
		if got := strings.Contains(out.String(), "unfinished: `hmctl deploy --resume`"); got != c.want {
			t.Errorf("%s: says unfinished %t, want %t:\n%s", c.name, got, c.want, out.String())
		}
	}
}

// TestStatus_OfAnAbort: one that is under way is carried on, not resumed.
func TestStatus_OfAnAbort(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	running := &environment.Deployment{State: environment.Running, Abort: &environment.Abort{By: "anna", Reason: "wrong"}}
	printStatus(cli.PrinterFor(cmd), statusLine{Deployment: running}, time.Now())
	if !strings.Contains(out.String(), "being aborted by anna: wrong; `hmctl abort` carries that on") || strings.Contains(out.String(), "unfinished") {
		t.Errorf("says:\n%s", out.String())
	}
}

// TestStatus_SaysWhatToDoAboutADamagedRecord: whoever spoils one object must not take the whole picture away.
func TestStatus_SaysWhatToDoAboutADamagedRecord(t *testing.T) {
	r, err := environment.Open(nil, "e-1", environment.Options{})
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet.Fleet{Record: r, Bucket: "b"}
	for _, err := range []error{environment.ErrDigest, environment.ErrCorrupt, environment.ErrNotFound} {
		got := damaged(f, fmt.Errorf("read manifest: %w", err))
		if !strings.Contains(got, err.Error()) || !strings.Contains(got, "s3://b/resources/environments/e-1/_runtime/versions/current") {
			t.Errorf("%v: %q", err, got)
		}
	}
	if got := damaged(f, errors.New("no such host")); got != "" {
		t.Errorf("AWS is away: %q", got)
	}
}
