package dev_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"hostmanager/dev"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/layout"
	"hostmanager/internal/steadystream"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// TestKilled_AtPointsOfARealDeployment kills the agent with SIGKILL at points of a deployment told from its journal, while clients keep asking. The
// room starts it again. Whatever the moment: no request fails, the command is carried on to its success (no hook that may run once is under way), the
// operator gets one answer for each command, the new version serves, and no container is left but that, the last good one and the evidence.
func TestKilled_AtPointsOfARealDeployment(t *testing.T) {
	engine := dockertest.Require(t)
	o, out := options(t, "")
	o.Hostmanager, o.Dir, o.Instances = buildHostmanager(t), dockertest.BuildHello(t, "v1"), 1
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Ready = func(r dev.Room) error {
		defer cancel()
		v := &victim{t: t, room: r, engine: engine, root: layout.Root(r.Instances[0].Root), serving: "v1"}
		return v.play()
	}
	if err := dev.Run(ctx, o); err != nil {
		t.Fatalf("%v\n%s", err, out.text.String())
	}
	checkRemoved(t, engine, namespace(t, filepath.Join(o.Root, "i-dev0000001")))
}

// A moment is told from the commands of the deployment under way.
type moment struct {
	name string
	come func(journal.Command) bool
}

func begun(step string) moment {
	return moment{step + " begun", func(c journal.Command) bool { return stateOf(c, step) != "" }}
}

func done(step string) moment {
	return moment{step + " done", func(c journal.Command) bool { return stateOf(c, step) == journal.Done }}
}

func stateOf(c journal.Command, step string) journal.Type {
	i := slices.IndexFunc(c.Steps, func(s journal.Step) bool { return s.Name == step })
	if i < 0 {
		return ""
	}
	return c.Steps[i].State
}

func moments() []moment {
	return []moment{
		begun("appdeploy/pre/03build"),
		{"result known", func(c journal.Command) bool { return stateOf(c, "appdeploy/enact/01flip") != "" && c.Finished() }},
		begun("appdeploy/enact/00run"),
		begun("appdeploy/enact/01flip"),
		done("appdeploy/enact/01flip"),
	}
}

// victim is the instance whose agent is killed again and again.
type victim struct {
	t       *testing.T
	room    dev.Room
	engine  *client.Client
	root    layout.Root
	serving string // what must answer
	label   string // its version label
}

// play goes through the moments under a steady stream.
func (v *victim) play() error {
	f, err := operator(v.t.Context(), v.room, &lines{})
	if err != nil {
		return err
	}
	_, m, err := f.Record.CurrentManifest(v.t.Context())
	if err != nil {
		return err
	}
	v.label = m.VersionLabel
	url := v.room.Instances[0].URL
	stream, err := steadystream.Start(v.t.Context(), steadystream.Options{
		URL: url + "/", PostURL: url + "/echo", Concurrency: 4, Rate: 200, Check: helloAnswers,
	})
	if err != nil {
		return err
	}
	for n, m := range moments() {
		if err = v.round(fmt.Sprintf("v%d", n+2), m); err != nil {
			log, _ := os.ReadFile(v.root.Log("hostmanager.log"))
			err = fmt.Errorf("killed with %s: %w\n%s", m.name, err, log[max(0, len(log)-8000):])
			break
		}
	}
	report := stream.Stop()
	v.t.Log(report)
	if report.Failed > 0 || report.Requests == 0 {
		err = errors.Join(err, fmt.Errorf("the stream lost requests: %v", report))
	}
	return err
}

func helloAnswers(a steadystream.Answer) error {
	switch {
	case a.Status != http.StatusOK:
		return fmt.Errorf("status %d", a.Status)
	case a.Method == http.MethodPost && !bytes.Equal(a.Body, a.Sent):
		return errors.New("another body came back")
	case a.Method == http.MethodGet && !bytes.HasPrefix(a.Body, []byte("Hello from v")):
		return fmt.Errorf("answer %.80q", a.Body)
	}
	return nil
}

// round deploys a version, kills the agent at the moment, and looks at what came of it.
func (v *victim) round(version string, m moment) error {
	bundle, err := fleet.OpenBundle(v.t.Context(), dockertest.BuildHello(v.t, version))
	if err != nil {
		return err
	}
	f, err := operator(v.t.Context(), v.room, &lines{})
	if err != nil {
		return err
	}
	f.PickupWindow = 20 * time.Second
	old := v.commands("")
	ended := make(chan error, 1)
	var report fleet.Report
	go func() {
		var err error
		report, err = f.Deploy(v.t.Context(), fleet.DeployRequest{Bundle: bundle, Label: version, Timeout: time.Minute})
		ended <- err
	}()
	point, killed := v.killAt(m, old)
	err = <-ended
	if killed != nil {
		return errors.Join(killed, err, bundle.Close())
	}
	if err != nil {
		return errors.Join(err, bundle.Close())
	}
	v.serving, v.label = version, version
	v.t.Logf("killed with %s: %s; the operator was told %s, %s serves", m.name, point, report.State, v.serving)
	return errors.Join(bundle.Close(), v.settled(), v.oneResultEach(f, report), v.desired(f))
}

// commands returns the journal's commands of an operation, of all where none is given.
func (v *victim) commands(request string) []journal.Command {
	s, err := journal.Read(v.root.Journal())
	if err != nil {
		v.t.Error(err)
	}
	return slices.DeleteFunc(s.Commands, func(c journal.Command) bool { return !strings.Contains(c.Identity, request) })
}

// killAt kills the agent when a command that is none of the old ones is at the moment. It tells the last step that was reached.
func (v *victim) killAt(m moment, old []journal.Command) (string, error) {
	known := map[string]bool{}
	for _, c := range old {
		known[c.Identity] = true
	}
	come := func(c journal.Command) bool { return !known[c.Identity] && m.come(c) }
	pid, err := v.agent()
	if err != nil {
		return "", err
	}
	if err := await(v.t, func() bool { return slices.ContainsFunc(v.commands(""), come) }); err != nil {
		return "", fmt.Errorf("the moment did not come: %w", err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return "", fmt.Errorf("kill the agent: %w", err)
	}
	all := v.commands("")
	if i := slices.IndexFunc(all, come); i >= 0 && len(all[i].Steps) > 0 {
		last := all[i].Steps[len(all[i].Steps)-1]
		return fmt.Sprintf("its journal ends with %s %s", last.Name, last.State), nil
	}
	return "its journal was compacted", nil
}

// agent finds the process of the instance's agent.
func (v *victim) agent() (pid int, err error) {
	want := []byte("\x00agent\x00--root\x00" + string(v.root) + "\x00")
	err = await(v.t, func() bool {
		found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, path := range found {
			line, err := os.ReadFile(path)
			if err == nil && bytes.HasSuffix(line, want) {
				pid, err = strconv.Atoi(filepath.Base(filepath.Dir(path)))
				return err == nil
			}
		}
		return false
	})
	if err != nil {
		return 0, fmt.Errorf("find the agent: %w", err)
	}
	return pid, nil
}

// await polls what other processes do until it holds.
func await(t *testing.T, holds func() bool) error {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// settled waits until only those containers are left that have a reason, and the version that must serve does.
func (v *victim) settled() error {
	if err := answers(v.room, "Hello from "+v.serving+"\n"); err != nil {
		return err
	}
	var state string
	err := await(v.t, func() bool {
		var ok bool
		state, ok = v.containers()
		return ok
	})
	if err != nil {
		return fmt.Errorf("containers: %s", state)
	}
	return answers(v.room, "Hello from "+v.serving+"\n")
}

// containers tells what containers there are, and whether each has its reason and only the one that serves runs.
func (v *victim) containers() (string, bool) {
	all, err := v.engine.ContainerList(v.t.Context(), container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", "hostmanager="+namespace(v.t, string(v.root)))),
	})
	if err != nil {
		return err.Error(), false
	}
	reasons := map[string]string{}
	for reason, path := range map[string]string{
		"evidence":  filepath.Join(v.root.Evidence(), "container-id"),
		"last good": filepath.Join(v.root.EtcBeanstalk(), ".aws_beanstalk.last-good-container-id"),
		"current":   v.root.CurrentContainerID(),
	} {
		if id, err := os.ReadFile(path); err == nil && len(bytes.TrimSpace(id)) > 0 {
			reasons[string(bytes.TrimSpace(id))] = reason
		}
	}
	good, serves := true, false
	var text []string
	for _, c := range all {
		reason := reasons[c.ID[:12]]
		running := c.State == "running"
		good = good && reason != "" && running == (reason == "current")
		serves = serves || reason == "current" && c.Labels["hostmanager.version"] == v.label
		text = append(text, fmt.Sprintf("%s %s %q", c.Labels["hostmanager.version"], c.State, reason))
	}
	return strings.Join(text, ", "), good && serves
}

// oneResultEach checks that every command of the operation has one result, the one that the operator's record has.
func (v *victim) oneResultEach(f *fleet.Fleet, report fleet.Report) error {
	d, _, err := f.Record.Deployment(v.t.Context(), report.DeploymentID)
	if err != nil {
		return err
	}
	if d.State != report.State || !d.State.Terminal() {
		return fmt.Errorf("the record says %s, the operator was told %s", d.State, report.State)
	}
	var recorded []environment.Outcome
	for _, s := range d.Stages {
		for _, o := range s.Outcomes {
			recorded = append(recorded, o)
		}
	}
	// Not that they are journalled as sent: an agent killed right after it sent tries again, and finds the queue gone with the operation.
	commands := v.commands(report.OperationID)
	if len(commands) != len(recorded) || slices.ContainsFunc(commands, func(c journal.Command) bool { return !c.Finished() }) {
		return fmt.Errorf("the journal has %+v, the record %+v", commands, recorded)
	}
	raw, err := os.ReadFile(v.root.Journal())
	if err != nil {
		return err
	}
	for _, c := range commands {
		identity, _ := json.Marshal(c.Identity)
		if n := bytes.Count(raw, append([]byte(`{"type":"result","command":`), identity...)); n != 1 {
			return fmt.Errorf("%d results of %s in the journal", n, c.Identity)
		}
	}
	last := recorded[len(recorded)-1]
	if report.State != environment.Succeeded || last.Status != protocol.Success {
		return fmt.Errorf("the operation %s with %+v", report.State, last)
	}
	return nil
}

// desired checks that the desired state is what serves.
func (v *victim) desired(f *fleet.Fleet) error {
	_, m, err := f.Record.CurrentManifest(v.t.Context())
	if err == nil && m.VersionLabel != v.label {
		err = fmt.Errorf("the desired version is %s, %s serves", m.VersionLabel, v.label)
	}
	return err
}
