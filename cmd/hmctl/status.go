package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/internal/cli"
	"hostmanager/internal/signature"
	"hostmanager/protocol"
)

// statusLine is an environment for machines. It holds no option settings: their values may be secrets.
type statusLine struct {
	Environment string                  `json:"environment"`
	Bucket      string                  `json:"bucket"`
	Current     *currentLine            `json:"current,omitempty"`
	Damaged     string                  `json:"damaged,omitempty"` // why the desired version cannot be read, and what to do
	Lock        *environment.LockInfo   `json:"lock,omitempty"`
	Deployment  *environment.Deployment `json:"deployment,omitempty"`
	Instances   []instanceLine          `json:"instances"`
	Unreadable  []string                `json:"unreadable,omitempty"`
}

type currentLine struct {
	protocol.Current
	VersionLabel string `json:"version_label"`
	DeploymentID int64  `json:"deployment_id"`
}

type instanceLine struct {
	environment.Instance
	Silent bool `json:"silent,omitempty"`
	Behind bool `json:"behind,omitempty"` // does not run the desired state
}

func newStatusCommand() *cobra.Command {
	var at connection
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Show the environment: desired version, instances, lock, last deployment",
		Example: "  hmctl status --environment e-1 --bucket my-environments\n  hmctl status --json",
		Args:    cobra.NoArgs,
		RunE: within(&at, func(cmd *cobra.Command, f *fleet.Fleet, _ []string) error {
			s, err := readStatus(cmd.Context(), f)
			if err != nil {
				return err
			}
			p := cli.PrinterFor(cmd)
			printStatus(p, s, time.Now())
			if err := p.JSON("status", s); err != nil || s.Damaged == "" {
				return err
			}
			return errDamaged
		}),
	}
	at.flags(cmd)
	return cmd
}

// errDamaged is the end of a status that could tell everything but what is wanted.
var errDamaged = errors.New("the desired version cannot be read; nothing can be deployed until that is mended")

// damaged says what to do about a desired state that somebody spoiled, "" for any other error.
func damaged(f *fleet.Fleet, err error) string {
	switch {
	case signature.Refused(err):
		return err.Error()
	case errors.Is(err, environment.ErrDigest), errors.Is(err, environment.ErrCorrupt), errors.Is(err, environment.ErrNotFound):
		key := protocol.CurrentKey(f.Record.EnvironmentID())
		return fmt.Sprintf("%s. Put it back, or s3://%s/%s, from an older version of the object; or remove the latter and deploy anew, with all --env and --option",
			strings.TrimRight(err.Error(), ". "), f.Bucket, key)
	}
	return ""
}

func readStatus(ctx context.Context, f *fleet.Fleet) (statusLine, error) {
	s := statusLine{Environment: f.Record.EnvironmentID(), Bucket: f.Bucket, Instances: []instanceLine{}}
	current, m, err := f.Record.CurrentManifest(ctx)
	switch {
	case err == nil:
		s.Current = &currentLine{current, m.VersionLabel, m.DeploymentID}
	case errors.Is(err, environment.ErrNoCurrent):
	default:
		if s.Damaged = damaged(f, err); s.Damaged == "" {
			return s, err
		}
	}
	lock, err := f.Record.LockState(ctx)
	if err = s.spoiled(err, "where no hmctl is at work, remove it from s3://"+f.Bucket); err != nil {
		return s, err
	}
	if lock.Held() {
		s.Lock = &lock
	}
	d, _, err := f.Record.LastDeployment(ctx)
	switch {
	case err == nil:
		s.Deployment = &d
	case !errors.Is(err, environment.ErrNotFound):
		if err := s.spoiled(err, "put it back from an older version of the object"); err != nil {
			return s, err
		}
	}
	same, err := sameContent(ctx, f, s.Current)
	if err != nil {
		return s, err
	}
	instances, unreadable, err := f.Record.Instances(ctx)
	for _, i := range instances {
		behind := s.Current != nil && !slices.Contains(same, i.Serial)
		s.Instances = append(s.Instances, instanceLine{i, i.Silent(time.Now()), behind})
	}
	for _, u := range unreadable {
		s.Unreadable = append(s.Unreadable, fmt.Sprintf("%s: %v", u.Key, u.Err))
	}
	return s, err
}

// spoiled takes note of an object of the record that cannot be understood, with what to do about it; the rest can be shown all the same. It returns
// every other error.
func (s *statusLine) spoiled(err error, advice string) error {
	if !errors.Is(err, environment.ErrCorrupt) {
		return err
	}
	s.Unreadable = append(s.Unreadable, fmt.Sprintf("%v: %s", err, advice))
	return nil
}

// sameContent returns the serials that are the desired version: after an abort it was brought back to some instances under a new one, and the others
// never lost it.
func sameContent(ctx context.Context, f *fleet.Fleet, c *currentLine) ([]int64, error) {
	if c == nil {
		return nil, nil
	}
	d, _, err := f.Record.Deployment(ctx, c.DeploymentID)
	if errors.Is(err, environment.ErrNotFound) || errors.Is(err, environment.ErrCorrupt) || err == nil && d.Serial != c.Serial {
		return []int64{c.Serial}, nil
	}
	if err != nil {
		return nil, err
	}
	return f.Record.Restored(ctx, d)
}

func printStatus(p *cli.Printer, s statusLine, now time.Time) {
	p.Text("Environment:     %s (s3://%s)", s.Environment, s.Bucket)
	if s.Damaged != "" {
		p.Text("Desired version: UNREADABLE: %s", s.Damaged)
	} else if c := s.Current; c != nil {
		p.Text("Desired version: %s (deployment %d, serial %d)", c.VersionLabel, c.DeploymentID, c.Serial)
	} else {
		p.Text("Desired version: none, nothing was deployed yet")
	}
	printLock(p, s.Lock, now)
	if d := s.Deployment; d != nil {
		p.Text("Last deployment: %d (%s, %s) by %s %s ago: %s%s", d.ID, d.VersionLabel, d.Command, d.Holder, age(now, d.StartedAt), d.State, after(d.Failure))
		if d.Abort != nil && !d.State.Terminal() {
			p.Text("                 being aborted by %s; `hmctl abort` carries that on", d.Abort)
		} else if !d.State.Terminal() && !alive(s.Lock, now) {
			p.Text("                 unfinished: `hmctl deploy --resume` finishes it, `hmctl abort` takes it back")
		}
	}
	p.Text("Instances:       %d", len(s.Instances))
	for _, i := range s.Instances {
		p.Text("  %-20s %-10s %s (deployment %d, serial %d), seen %s ago%s", i.InstanceID, cmp.Or(oneLine(i.State), "?"), cmp.Or(oneLine(i.VersionLabel), "no version"),
			i.DeploymentID, i.Serial, age(now, i.Seen), i.remark())
	}
	for _, u := range s.Unreadable {
		p.Text("  unreadable: %s", u)
	}
}

// remark says what is not as it should be. What a silent instance told of its application is too old to say.
func (i instanceLine) remark() string {
	if i.Silent {
		return ", SILENT"
	}
	remark := ""
	if i.Behind {
		remark = ", not the desired version"
	}
	if trouble := i.Application.Trouble(); trouble != "" {
		remark += ", " + oneLine(trouble)
	}
	return remark
}

// maxCell bounds what of an instance's own words stands in its line, in bytes.
const maxCell = 400

// oneLine keeps what an instance wrote into its registration from looking like other lines.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > maxCell {
		text = strings.ToValidUTF8(text[:maxCell], "") + "..."
	}
	return text
}

// alive tells whether somebody holds the lock who may still be at work.
func alive(l *environment.LockInfo, now time.Time) bool {
	return l != nil && !l.Expired(now) && !l.HolderDead()
}

func printLock(p *cli.Printer, l *environment.LockInfo, now time.Time) {
	switch {
	case l == nil:
		p.Text("Lock:            free")
	case l.HolderDead():
		p.Text("Lock:            %s (%s), DEAD: its process %d on this host has ended", l.Holder, l.Reason, l.Process.PID)
	case l.Expired(now):
		p.Text("Lock:            %s (%s), DEAD since %s ago", l.Holder, l.Reason, age(now, l.Heartbeat))
	default:
		p.Text("Lock:            %s (%s), for %s", l.Holder, l.Reason, age(now, l.Acquired))
	}
}

func age(now, then time.Time) time.Duration { return now.Sub(then).Round(time.Second) }

func after(failure string) string {
	if failure == "" {
		return ""
	}
	return " (" + failure + ")"
}
