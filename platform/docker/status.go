package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"hostmanager/platform/settings"
)

// Status is what runs now.
type Status struct {
	ContainerID  string    `json:"container_id,omitempty"` // first twelve characters, empty where nothing was deployed
	Image        string    `json:"image,omitempty"`        // id
	Address      string    `json:"address,omitempty"`      // host:port
	DeploymentID int64     `json:"deployment_id,omitempty"`
	VersionLabel string    `json:"version_label,omitempty"`
	Serial       int64     `json:"serial,omitempty"`
	Running      bool      `json:"running"`
	Healthy      bool      `json:"healthy"`          // one probe, as the gate asks, was answered well
	Reason       string    `json:"reason,omitempty"` // why not running or not healthy
	StartedAt    time.Time `json:"started_at,omitzero"`
	ExitCode     int       `json:"exit_code,omitempty"` // where it is not running
	OOMKilled    bool      `json:"oom_killed,omitempty"`
	Restarts     int       `json:"restarts,omitempty"`
	LastGood     string    `json:"last_good,omitempty"` // container that served before, stopped
	Evidence     string    `json:"evidence,omitempty"`  // container of the last failed deployment, stopped
}

// maxQuitLog is the size at which unexpected-quit.log is begun anew; one older one is kept.
const maxQuitLog = 1 << 20

// statusProbe bounds how long Status waits for the application.
const statusProbe = 2 * time.Second

// Status looks at the container that serves and asks it once whether it is healthy. It takes at most two seconds more than the Engine's answers.
func (p *Platform) Status(ctx context.Context) (Status, error) {
	var s Status
	id, err := readState(p.root.CurrentContainerID())
	if err != nil {
		return Status{}, err
	}
	var errLast, errEvidence error
	s.LastGood, errLast = readState(lastGoodFile(p.root))
	s.Evidence, errEvidence = readState(evidenceFile(p.root))
	if err := errors.Join(errLast, errEvidence); err != nil {
		return Status{}, err
	}
	if id == "" {
		s.Reason = "nothing was deployed yet"
		return s, nil
	}
	s.ContainerID = shortID(id)
	if err := p.connect(ctx); err != nil {
		return s, err
	}
	in, ok, err := p.find(ctx, id)
	if err != nil {
		return s, err
	}
	if !ok {
		s.Reason = "the container is gone"
		return s, nil
	}
	s.fill(in)
	if s.Running {
		s.Reason = p.probeOnce(ctx, in.addr)
		s.Healthy = s.Reason == ""
	}
	return s, nil
}

func (s *Status) fill(in instance) {
	s.Image, s.Address, s.VersionLabel = in.image, in.addr, in.labels[labelVersion]
	s.DeploymentID, _ = strconv.ParseInt(in.labels[labelDeployment], 10, 64)
	s.Serial, _ = strconv.ParseInt(in.labels[labelSerial], 10, 64)
	s.Running, s.StartedAt, s.Restarts = in.running, in.started, in.restarts
	if in.running {
		return
	}
	s.ExitCode, s.OOMKilled = in.exitCode, in.oom
	s.Reason = fmt.Sprintf("the container ended with exit code %d", in.exitCode)
	if in.oom {
		s.Reason += ", out of memory"
	}
}

// probeOnce returns why the application is not healthy, "" where it is.
func (p *Platform) probeOnce(ctx context.Context, addr string) string {
	_, set, err := settings.ReadContainerConfiguration(p.root)
	if err != nil {
		return err.Error()
	}
	check := set.Check
	check.Timeout = min(check.Timeout, statusProbe)
	g := gate{addr: addr, check: check}
	if err := g.probe(ctx); err != nil {
		return g.asks() + " " + err.Error()
	}
	return ""
}

// noteQuit appends the end of a container that ended by itself to unexpected-quit.log.
func (p *Platform) noteQuit(in instance, last *tail) {
	if err := p.appendQuit(in, last); err != nil {
		p.log.Warn("unexpected quit not written down", "container", shortID(in.id), "error", err)
	}
}

func (p *Platform) appendQuit(in instance, last *tail) error {
	if err := p.makeLogFolder(); err != nil {
		return err
	}
	path := unexpectedQuitLog(p.root)
	if info, err := os.Lstat(path); err == nil && info.Size() > maxQuitLog { // an application that ends again and again fills no disk
		if err := os.Rename(path, path+".1"); err != nil {
			return fmt.Errorf("set old %s aside: %w", path, err)
		}
	}
	f, err := openLog(path, os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	text := fmt.Sprintf("%s container %s version %s ended with exit code %d, out of memory: %t\n%s\n",
		in.finished.UTC().Format(time.RFC3339), shortID(in.id), in.labels[labelVersion], in.exitCode, in.oom, last.last(maxTail))
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
