package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"time"

	"hostmanager/environment"
)

// playOperator kills hmctl in the middle of deployments, sometimes the agent with it; another hmctl takes over with --resume.
func playOperator(ctx context.Context, at *site) (err error) {
	in, err := open(ctx, at, at.built.hostmanager, weather())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll(ctx, []*instance{in})) }()
	if !in.registered(ctx) {
		return errors.New("the instance did not register")
	}
	r := rand.New(rand.NewPCG(at.seed, 3))
	clean := &operation{instance: in, label: "o-0"}
	if err := clean.deploy(ctx, time.Hour, 0); err != nil {
		return err
	}
	takes := clean.took
	fmt.Fprintf(at.out, "a clean hmctl deploy takes %s\n", takes.Round(time.Millisecond))
	for n := range max(3, at.kills/20) {
		o := &operation{instance: in, label: fmt.Sprintf("o-%d", n+1)}
		agent := time.Duration(0)
		if r.Float64() < 0.3 {
			agent = time.Duration(r.Float64() * float64(takes))
		}
		if err := o.deploy(ctx, time.Duration(r.Float64()*float64(takes)), agent); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// operation is one deployment by hmctl.
type operation struct {
	*instance
	label string
	took  time.Duration // until the first hmctl had ended
}

// deploy begins the deployment, kills hmctl after some time, and the agent too where a time is given, has another hmctl finish it, and looks.
func (o *operation) deploy(ctx context.Context, after, agent time.Duration) error {
	b := o.bundles[(o.version+1)%len(o.bundles)]
	began := time.Now()
	p, err := o.operate("deploy", b.folder, "--label", o.label, "--env", "GREETING=greeting-"+o.label)
	if err != nil {
		return err
	}
	cut := time.NewTimer(after)
	defer cut.Stop()
	if agent > 0 {
		defer o.killAgent(ctx, agent)()
	}
	select {
	case <-p.gone:
	case <-cut.C:
		p.kill()
		o.tally.count(func(t *tally) { t.others++ })
	case <-ctx.Done():
		p.kill()
		return ctx.Err()
	}
	o.took = time.Since(began)
	o.tally.count(func(t *tally) { t.commands++ })
	status := p.cmd.ProcessState.ExitCode()
	if !p.struck() && status != 0 && agent == 0 {
		o.tally.violate(&o.tally.wrong, "%s %s: nobody was killed, and hmctl deploy ended with status %d", o.name, o.label, status)
	}
	if p.struck() {
		if status, err = o.takeOver(); err != nil {
			return err
		}
	}
	return o.judge(ctx, status)
}

// killAgent kills the agent after some time and starts it again; the returned function waits until that is done.
func (o *operation) killAgent(ctx context.Context, after time.Duration) (wait func()) {
	done := make(chan error, 1)
	go func() {
		rest(ctx, after)
		o.agent.kill()
		o.tally.count(func(t *tally) { t.kills++ })
		done <- o.startAgent()
	}()
	return func() {
		if err := <-done; err != nil {
			o.tally.violate(&o.tally.wrong, "%s %s: %v", o.name, o.label, err)
		}
	}
}

// takeOver does what an operator does who finds a deployment that nobody carries on.
func (o *operation) takeOver() (status int, err error) {
	for _, args := range [][]string{{"unlock", "--force"}, {"deploy", "--resume"}} {
		p, err := o.operate(args...)
		if err != nil {
			return 0, err
		}
		<-p.gone
		status = p.cmd.ProcessState.ExitCode()
	}
	return status, nil
}

// judge holds that the deployment came to an end, that the record says so, and that what serves is what the record wants.
func (o *operation) judge(ctx context.Context, status int) error {
	bad := func(format string, args ...any) {
		o.tally.violate(&o.tally.wrong, "%s %s: %s", o.name, o.label, fmt.Sprintf(format, args...))
	}
	d, _, err := o.record.LastDeployment(ctx)
	if err != nil && !errors.Is(err, environment.ErrNotFound) {
		return err
	}
	if err == nil && !d.State.Terminal() {
		bad("the deployment was taken over (status %d) and its record says %s", status, d.State)
		return nil
	}
	current, manifest, err := o.record.CurrentManifest(ctx)
	if err != nil {
		return err
	}
	if d.State == environment.Succeeded && d.Serial != current.Serial {
		bad("deployment %d succeeded with serial %d, the current one is %d", d.ID, d.Serial, current.Serial)
	}
	o.tally.count(func(t *tally) { t.results++ })
	greeting := manifest.OptionSettings["aws:elasticbeanstalk:application:environment"]["GREETING"]
	version := ""
	for n, b := range o.bundles {
		for _, versions := range manifest.RuntimeSources {
			if src := versions[manifest.VersionLabel]; src.SHA256 == b.source.SHA256 {
				version, o.version = b.label, n
			}
		}
	}
	o.serves = greeting + " from " + version
	if o.verbose {
		fmt.Fprintf(o.out, "%s  %s: status %d, the last deployment %d is %s, %s must serve\n", o.name, o.label, status, d.ID, d.State, o.serves)
	}
	for _, wrong := range o.calm(ctx, o.serves) {
		bad("%s", wrong)
	}
	return nil
}

// operate runs hmctl as an operator whom no faults meet.
func (o *operation) operate(args ...string) (*process, error) {
	args = append(args, "--environment", o.name, "--bucket", bucket)
	cmd := exec.Command(o.built.hmctl, args...)
	cmd.Env = append(o.environ(), "AWS_ACCESS_KEY_ID=operator", "HMCTL_SIGNING_KEY="+o.keyFile())
	cmd.Dir = o.dir
	out, err := os.OpenFile(o.dir+"/hmctl.out", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	fmt.Fprintln(out, "$ hmctl", args)
	cmd.Stdout, cmd.Stderr = out, out
	return begin(cmd)
}
