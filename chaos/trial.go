package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"hostmanager/internal/atomicfile"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// trial is one case: a command and what is killed while it is under way.
type trial struct {
	name  string
	kind  string
	kills []kill        // of the agent, in order: each life of it ends with one, but the last
	proxy time.Duration // when the proxy is killed; 0: never
	twice bool          // the message comes once more when the command has ended
}

// kill ends one life of the agent: where a strike says, or some time after the command was sent or the agent was started again. Of what comes first
// only a kill that fell before the command's end counts.
type kill struct {
	strike *strike
	after  time.Duration
}

const (
	resultWithin = 90 * time.Second
	// startWithin is how long a start-up may take: an agent that was killed in it tries again after pauses.
	startWithin = 3 * time.Minute
)

// play plays a trial and judges what came of it. An error is that of the surroundings; what the agent did wrong goes into the tally.
func (in *instance) play(ctx context.Context, t trial) error {
	o, err := in.prepare(ctx, t.kind)
	if err != nil {
		return err
	}
	p := &played{instance: in, trial: t, order: o, since: time.Now()}
	if in.serves != "" && t.proxy == 0 {
		end, err := in.watch(ctx, t.name, in.serves, o.answer)
		if err != nil {
			return err
		}
		defer end()
	}
	if err := p.begin(ctx); err != nil {
		return err
	}
	if err := p.killAll(ctx); err != nil {
		return err
	}
	in.tally.count(func(t *tally) { t.commands++ })
	if err := p.judge(ctx); err != nil {
		return err
	}
	if in.verbose {
		fmt.Fprintf(in.out, "%s  %s: %s; %s %s\n", in.name, t.name, strings.Join(p.told, ", "), p.verdict, p.reason)
	}
	return ctx.Err()
}

// played is a trial under way.
type played struct {
	*instance
	trial   trial
	order   order
	since   time.Time
	told    []string        // of each kill, where it fell
	open    bool            // a `once` hook was under way at a kill: the command may not be carried on
	cut     map[string]bool // start-up commands that may not be carried on: such a hook was under way at a kill, or they had not begun
	alive   bool            // the command was accepted and without a result when the agent's last life began
	verdict protocol.Status
	reason  string    // of a failure
	looked  time.Time // when it was looked last whether the command is lost
	nowhere int       // how often in a row it was nowhere
}

// begin sends the command; for a start-up it ends the agent and moves the environment on.
func (p *played) begin(ctx context.Context) error {
	if p.trial.kind != startup {
		if err := p.plan(0); err != nil {
			return err
		}
		return p.send(ctx, p.order)
	}
	p.agent.kill()
	if err := p.plan(0); err != nil {
		return err
	}
	if err := p.record.MoveCurrent(ctx, p.order.current); err != nil {
		return err
	}
	return p.startAgent()
}

// plan lays down the strike of the agent's nth life, or takes the last one away.
func (p *played) plan(n int) error {
	if n >= len(p.trial.kills) || p.trial.kills[n].strike == nil {
		if err := os.Remove(p.strikeFile()); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}
	s := *p.trial.kills[n].strike
	s.Command = p.identityPart()
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(p.strikeFile(), data, 0o600)
}

// identityPart is what the identity of the trial's command contains and no other's.
func (p *played) identityPart() string {
	if p.trial.kind == startup {
		return "-" + protocol.CmdSelfStartup
	}
	return p.order.invocation
}

// killAll ends the agent's lives one after the other and starts it again after each.
func (p *played) killAll(ctx context.Context) error {
	began := time.Now()
	for n, k := range p.trial.kills {
		if p.trial.proxy > 0 && n == 0 {
			defer p.killProxy(ctx, began)()
		}
		fell, err := p.killOnce(ctx, k)
		if err != nil {
			return err
		}
		if !fell {
			p.tally.count(func(t *tally) { t.missed = append(t.missed, p.name+" "+p.trial.name) })
			return p.plan(len(p.trial.kills))
		}
		if err := p.plan(n + 1); err != nil {
			return err
		}
		if err := p.startAgent(); err != nil {
			return err
		}
	}
	return nil
}

// killProxy kills the proxy some time after the trial began and starts it again. The returned function waits until that is done.
func (p *played) killProxy(ctx context.Context, began time.Time) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		rest(ctx, time.Until(began.Add(p.trial.proxy)))
		p.proxy.kill()
		if err := p.startProxy(ctx); err != nil && ctx.Err() == nil {
			p.tally.violate(&p.tally.wrong, "%s %s: %v", p.name, p.trial.name, err)
		}
		p.tally.count(func(t *tally) { t.others++ })
	}()
	return func() { <-done }
}

// killOnce ends one life of the agent. A strike that no record came for did not fall.
func (p *played) killOnce(ctx context.Context, k kill) (fell bool, err error) {
	if k.strike == nil {
		rest(ctx, k.after)
		select {
		case <-p.agent.gone: // by itself
		default:
			p.agent.kill()
		}
	} else {
		await(ctx, resultWithin, func() bool { return p.dead() || p.ended() })
		// A strike behind the last record comes at the very moment of the end.
		if !await(ctx, 2*time.Second, p.dead) {
			return false, ctx.Err()
		}
	}
	if !p.agent.struck() {
		p.tally.violate(&p.tally.wrong, "%s %s: the agent ended by itself: %s", p.name, p.trial.name, p.agent.cmd.ProcessState)
	}
	p.fell(p.mine())
	return true, nil
}

// mine are the journal's records of the trial's commands. A journal that cannot be read shows none, which no trial takes for good.
func (p *played) mine() []recorded {
	all, _ := readRecords(p.root.Journal())
	return slices.DeleteFunc(all, func(r recorded) bool { return r.Time.Before(p.since) || !strings.Contains(r.Command, p.identityPart()) })
}

// boots are the journal's records, since the trial began, of the commands that the agent gave itself.
func (p *played) boots() []recorded {
	all, _ := readRecords(p.root.Journal())
	return slices.DeleteFunc(all, func(r recorded) bool {
		return r.Time.Before(p.since) || !strings.HasPrefix(r.Command, bootDispatcher+"|")
	})
}

// bootDispatcher begins the identity of those commands.
const bootDispatcher = "hostmanager-boot"

func (p *played) dead() bool {
	select {
	case <-p.agent.gone:
		return true
	default:
		return false
	}
}

// ended tells that the trial's command came to its end: it is journalled as sent, and where it has somebody to answer, the answer came.
func (p *played) ended() bool {
	if p.trial.kind != startup && len(p.answers.of(p.order.invocation)) == 0 {
		return false
	}
	return slices.ContainsFunc(p.mine(), func(r recorded) bool { return r.Type == journal.Sent })
}

// fell takes note of where a kill fell, and checks what must hold in the very moment.
func (p *played) fell(mine []recorded) {
	where := "nothing of the command"
	accepted, finished := len(mine) > 0, false
	for _, r := range mine {
		where = r.String()
		finished = finished || r.Type == journal.Result
	}
	p.open = p.open || len(onceOpen(mine)) > 0
	if p.trial.kind == startup {
		if p.cut == nil {
			p.cut = map[string]bool{}
		}
		boots := p.boots()
		maps.Copy(p.cut, onceOpen(boots))
		maps.Copy(p.cut, unbegun(boots))
	}
	p.alive = accepted && !finished
	p.told = append(p.told, "behind "+where)
	p.tally.count(func(t *tally) { t.kills++; t.landed[p.trial.kind+": "+where]++ })
	if text := siblings(mine); text != "" {
		p.tally.violate(&p.tally.wrong, "%s %s: %s", p.name, p.trial.name, text)
	}
}

// onceOpen returns the commands, by identity, of which a `once` hook is under way where the records end.
func onceOpen(records []recorded) map[string]bool {
	under := map[[2]string]bool{} // by command and step
	for _, r := range records {
		switch step := [2]string{r.Command, r.Step}; {
		case r.Semantics == string(protocol.Once):
			under[step] = true
		case r.Type == journal.Done:
			delete(under, step)
		case r.Type == journal.Result:
			maps.DeleteFunc(under, func(step [2]string, _ bool) bool { return step[0] == r.Command })
		}
	}
	open := map[string]bool{}
	for step := range under {
		open[step[0]] = true
	}
	return open
}

// unbegun returns the commands, by identity, that are accepted and nothing more where the records end.
func unbegun(records []recorded) map[string]bool {
	all := map[string]bool{}
	for _, r := range records {
		if r.Type == journal.Accepted {
			all[r.Command] = true
		} else {
			delete(all, r.Command)
		}
	}
	return all
}

// siblings holds that a step begins only when the one before it in its directory is done: "" or what is not so.
func siblings(records []recorded) string {
	open := map[[2]string]string{} // by command and directory
	for _, r := range records {
		dir := [2]string{r.Command, path.Dir(r.Step)}
		if dir[1] == "." {
			continue
		}
		switch {
		case r.Type == journal.Started && open[dir] != "" && open[dir] != r.Step:
			return fmt.Sprintf("step %s began while %s was not done", r.Step, open[dir])
		case r.Type == journal.Started:
			open[dir] = r.Step
		case open[dir] == r.Step:
			delete(open, dir)
		}
	}
	return ""
}
