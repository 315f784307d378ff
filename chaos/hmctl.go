package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"hostmanager/environment"
)

// playOperator kills hmctl in the middle of deployments, sometimes the agent with it; another hmctl takes over with --resume, every other time
// without freeing the lock: that its holder is dead is proven on this host.
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
	bare := true
	for n := range max(3, at.kills/20) {
		o := &operation{instance: in, label: fmt.Sprintf("o-%d", n+1), bare: bare}
		agent := time.Duration(0)
		if r.Float64() < 0.3 {
			agent = time.Duration(r.Float64() * float64(takes))
		}
		if err := o.deploy(ctx, time.Duration(r.Float64()*float64(takes)), agent); err != nil {
			return err
		}
		if o.killed {
			bare = !bare
		}
	}
	return ctx.Err()
}

// operation is one deployment by hmctl.
type operation struct {
	*instance
	label  string
	bare   bool // who takes over leaves the lock to --resume
	began  time.Time
	took   time.Duration // until the first hmctl had ended
	killed bool          // the first hmctl was
	open   bool          // a `once` hook was under way when the agent was killed: the deployment may fail
}

// deploy begins the deployment, kills hmctl after some time, and the agent too where a time is given, has another hmctl finish it, and looks.
func (o *operation) deploy(ctx context.Context, after, agent time.Duration) error {
	b := o.bundles[(o.version+1)%len(o.bundles)]
	o.began = time.Now()
	p, err := o.operate("deploy", b.folder, "--label", o.label, "--env", "GREETING=greeting-"+o.label)
	if err != nil {
		return err
	}
	cut := time.NewTimer(after)
	defer cut.Stop()
	again := func() {} // waits until the agent was killed and started again
	if agent > 0 {
		again = o.killAgent(ctx, agent)
		defer again()
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
	o.took, o.killed = time.Since(o.began), p.struck()
	o.tally.count(func(t *tally) { t.commands++ })
	status := p.cmd.ProcessState.ExitCode()
	if o.killed {
		if status, err = o.takeOver(ctx); err != nil {
			return err
		}
	}
	again()
	return o.judge(ctx, status)
}

// killAgent kills the agent after some time and starts it again; the returned function waits until that is done.
func (o *operation) killAgent(ctx context.Context, after time.Duration) (wait func()) {
	done := make(chan error, 1)
	go func() {
		rest(ctx, after)
		o.agent.kill()
		o.tally.count(func(t *tally) { t.kills++ })
		all, _ := readRecords(o.root.Journal())
		o.open = len(onceOpen(slices.DeleteFunc(all, func(r recorded) bool { return r.Time.Before(o.began) }))) > 0
		done <- o.startAgent()
	}()
	return sync.OnceFunc(func() {
		if err := <-done; err != nil {
			o.tally.violate(&o.tally.wrong, "%s %s: %v", o.name, o.label, err)
		}
	})
}

// takeOver does what an operator does who finds a deployment that nobody carries on.
func (o *operation) takeOver(ctx context.Context) (status int, err error) {
	steps := [][]string{{"unlock", "--force"}, {"deploy", "--resume"}}
	if o.bare {
		lock, err := o.record.LockState(ctx)
		if err != nil {
			return 0, err
		}
		if !lock.Held() || lock.HolderDead() {
			steps = steps[1:]
		} else { // or --resume would wait until the lock expires
			o.tally.violate(&o.tally.wrong, "%s %s: hmctl was killed, and the lock does not prove that its holder is dead: %+v", o.name, o.label, lock)
		}
	}
	for _, args := range steps {
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
	switch recorded := err == nil && d.VersionLabel == o.label; {
	case !o.killed && !recorded:
		bad("hmctl deploy ended by itself with status %d and left no record", status)
	case !o.killed && status != 0 && !o.open:
		bad("hmctl deploy ended by itself with status %d, although no hook that may run once was under way", status)
	case recorded && d.State != environment.Succeeded && !o.open:
		bad("the deployment is %s (%s), although no hook that may run once was under way", d.State, d.Failure)
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
		fmt.Fprintf(o.out, "%s  %s: killed %t, taken over without unlocking %t, status %d, the last deployment %d (%s) is %s, %s must serve\n",
			o.name, o.label, o.killed, o.killed && o.bare, status, d.ID, d.VersionLabel, d.State, o.serves)
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
