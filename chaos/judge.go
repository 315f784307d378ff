package main

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"hostmanager/journal"
	"hostmanager/protocol"
)

// judge waits for the command's end and checks what nobody may break.
func (p *played) judge(ctx context.Context) error {
	bad := func(counter *int, format string, args ...any) {
		p.tally.violate(counter, "%s %s (%s): %s", p.name, p.trial.name, strings.Join(p.told, ", "), fmt.Sprintf(format, args...))
	}
	if p.trial.kind == startup {
		p.judgeStartup(ctx, bad)
		return p.done(ctx, p.order)
	}
	if !await(ctx, resultWithin, func() bool { return p.ended() || p.dead() || p.lost(ctx) }) || !p.ended() {
		p.missing(ctx, bad)
		return ctx.Err()
	}
	if p.trial.twice {
		if err := p.again(ctx); err != nil {
			return err
		}
	}
	bodies := p.answers.of(p.order.invocation)
	p.tally.count(func(t *tally) { t.results++ })
	_, inner, err := protocol.DecodeResult([]byte(bodies[0]))
	if err != nil || inner == nil {
		bad(&p.tally.wrong, "the result is %s (%v)", bodies[0], err)
		return nil
	}
	p.verdict, p.reason = inner.Status, inner.Entry().Msg
	if p.verdict == protocol.Success {
		if err := p.done(ctx, p.order); err != nil {
			return err
		}
	}
	if len(p.told) > 0 {
		p.tally.count(func(t *tally) {
			if p.verdict == protocol.Success {
				t.resumed++
			} else {
				t.unwound++
			}
		})
	}
	if p.verdict == protocol.Failure && !p.open && p.trial.proxy == 0 {
		bad(&p.tally.wrong, "the command was not carried on, although no hook that may run once was under way: %s", p.reason)
	}
	p.judgeOnce(bad)
	p.judgeSteps(bad)
	p.takeTimes()
	for _, wrong := range p.calm(ctx, p.serves) {
		bad(&p.tally.wrong, "%s; the result was %s %q", wrong, p.verdict, inner.Entry().Msg)
	}
	return nil
}

// lost tells that the command is nowhere any more: no queue and no journal has it. It is looked at seldom, and twice.
func (p *played) lost(ctx context.Context) bool {
	if time.Since(p.looked) < 500*time.Millisecond {
		return false
	}
	p.looked = time.Now()
	n, err := p.waiting(ctx)
	if err != nil || n > 0 || len(p.mine()) > 0 || len(p.answers.of(p.order.invocation)) > 0 {
		p.nowhere = 0
		return false
	}
	p.nowhere++
	return p.nowhere > 3
}

// again delivers the command's message once more and waits until its result came once more, as it must.
func (p *played) again(ctx context.Context) error {
	have := len(p.answers.of(p.order.invocation))
	if err := p.send(ctx, p.order); err != nil {
		return err
	}
	if !await(ctx, resultWithin, func() bool { return len(p.answers.of(p.order.invocation)) > have }) {
		p.tally.violate(&p.tally.wrong, "%s %s: a duplicate was not answered", p.name, p.trial.name)
	}
	return ctx.Err()
}

// missing says of a command without a result what became of it.
func (p *played) missing(ctx context.Context, bad func(*int, string, ...any)) {
	if ctx.Err() != nil {
		return
	}
	if p.dead() {
		bad(&p.tally.wrong, "the agent ended by itself: %s", p.agent.cmd.ProcessState)
		return
	}
	mine := p.mine()
	if len(mine) == 0 {
		bad(&p.tally.lost, "the command is lost: no result came, and the journal does not know it")
		return
	}
	bad(&p.tally.stuck, "no result came within %s; the journal ends with %s", resultWithin, mine[len(mine)-1])
}

// judgeStartup checks a start-up: whatever was killed, the version that the environment wants serves in the end.
func (p *played) judgeStartup(ctx context.Context, bad func(*int, string, ...any)) {
	var wrong []string
	if !awaitEvery(ctx, 100*time.Millisecond, startWithin, func() bool { wrong = p.look(ctx, p.order.answer); return len(wrong) == 0 }) {
		for _, w := range wrong {
			bad(&p.tally.stuck, "%s", w)
		}
	}
	var seen []string
	for _, r := range p.mine() {
		if _, id, _ := strings.Cut(r.Command, "|boot|"); !slices.Contains(seen, id) {
			seen = append(seen, id)
		}
	}
	p.judgeBoots(bad)
	for _, invocation := range seen {
		for dir, n := range p.onceRuns(invocation) {
			if n > 1 {
				bad(&p.tally.doubles, "the once hook of %s ran %d times for %s", dir, n, invocation)
			}
		}
	}
}

// judgeBoots holds that what the agent gave itself was carried on after a kill like any other command, and not given up for a new one.
func (p *played) judgeBoots(bad func(*int, string, ...any)) {
	for _, r := range p.boots() {
		if r.Type != journal.Result {
			continue
		}
		var o struct {
			Verdict protocol.Status
			Result  json.RawMessage
		}
		if err := json.Unmarshal(r.Payload, &o); err != nil || o.Verdict == "" {
			bad(&p.tally.wrong, "the result record of %s tells no verdict: %s (%v)", r.Command, r.Payload, err)
			continue
		}
		if o.Verdict == protocol.Success || p.cut[r.Command] || p.trial.proxy > 0 {
			continue
		}
		reason := string(o.Result)
		if _, inner, err := protocol.DecodeResult(o.Result); err == nil && inner != nil {
			reason = inner.Entry().Msg
		}
		bad(&p.tally.wrong, "%s was not carried on, although no hook that may run once was under way: %s", r.Command, reason)
	}
}

// judgeOnce holds that `once` hooks ran at most once, and exactly once where the command succeeded.
func (p *played) judgeOnce(bad func(*int, string, ...any)) {
	runs := p.onceRuns(p.order.invocation)
	for dir, n := range runs {
		if n > 1 {
			bad(&p.tally.doubles, "the once hook of %s ran %d times", dir, n)
		}
	}
	if p.verdict != protocol.Success {
		return
	}
	prefix := map[string]string{deploy: "appdeploy", config: "configdeploy", restart: "restartappserver"}[p.order.kind]
	for _, dir := range hookFolders() {
		if strings.HasPrefix(dir, prefix) && runs[dir] != 1 {
			bad(&p.tally.wrong, "the command succeeded and the once hook of %s ran %d times", dir, runs[dir])
		}
	}
}

// judgeSteps holds that a command that succeeded did every step that it began, that it has one result record, and that one hook ran after another.
func (p *played) judgeSteps(bad func(*int, string, ...any)) {
	mine := p.mine()
	if text := siblings(mine); text != "" && p.verdict == protocol.Success {
		bad(&p.tally.wrong, "%s", text)
	}
	state, results := map[string]journal.Type{}, 0
	var durable time.Time
	for _, r := range mine {
		if r.Step != "" {
			state[r.Step] = r.Type
		}
		if r.Type == journal.Result {
			results++
			durable = r.Time
		}
	}
	if results != 1 {
		bad(&p.tally.doubles, "the journal holds %d results", results)
	}
	if at, ok := p.answers.firstAt(p.order.invocation); ok && durable.After(at) {
		bad(&p.tally.unlike, "a result came %s before the journal held it", durable.Sub(at))
	}
	for step, is := range state {
		if p.verdict == protocol.Success && is != journal.Done && step != "begin" {
			bad(&p.tally.wrong, "the command succeeded, but the journal says of its step %s: %s", step, is)
		}
	}
}

// takeTimes measures how long the agent's last life needed for the result of a command it found.
func (p *played) takeTimes() {
	if !p.alive || len(p.told) == 0 {
		return
	}
	began, others := p.lives, time.Duration(0)
	var started recorded
	longest, before, last, begun := time.Duration(0), "", began, false
	for _, r := range p.mine() {
		if r.Time.Before(began) {
			begun = begun || r.Type == journal.Done // the first step leaves the manifest on the disk
			continue
		}
		if pause := r.Time.Sub(last); pause > longest && started.Step == "" {
			longest, before = pause, strings.TrimSpace(string(r.Type)+" "+r.Step)
		}
		last = r.Time
		switch {
		case r.Type == journal.Started && othersWork(r.Step):
			started = r
		case r.Type == journal.Done && r.Step == started.Step && r.Step != "":
			others += r.Time.Sub(started.Time)
			started = recorded{}
		case r.Type == journal.Result:
			whole := r.Time.Sub(began)
			p.tally.timed(fmt.Sprintf("%s on %s; its longest pause of %s came before %s", p.trial.name, p.name, longest.Round(time.Millisecond), before), begun, whole, whole-others)
			return
		}
	}
}

// othersWork tells of a step that it is not the agent that works: the Engine builds, a file runs, the new container starts and passes its gate.
func othersWork(step string) bool {
	name := path.Base(step)
	return strings.Contains(step, "/") && (name == "03build" || name == "00run" || name == onceHook)
}

// emptyWithin is how long the queue of an agent that has nothing more to do may hold messages.
const emptyWithin = 30 * time.Second

// judgeAll checks, when a part is over, what can only be told then: that every message was deleted, and every result the same each time it came.
func (in *instance) judgeAll(ctx context.Context) {
	// What a kill left in flight comes again when its visibility ends.
	var left int
	var err error
	if !await(ctx, emptyWithin, func() bool { left, err = in.waiting(ctx); return err == nil && left == 0 }) && ctx.Err() == nil {
		in.tally.violate(&in.tally.wrong, "%s: messages stay in the queue: %d after %s (%v)", in.name, left, emptyWithin, err)
	}
	a := in.answers
	a.mu.Lock()
	defer a.mu.Unlock()
	for invocation, bodies := range a.bodies {
		in.tally.count(func(t *tally) { t.deliveries += len(bodies) })
		if i := slices.IndexFunc(bodies, func(b string) bool { return b != bodies[0] }); i >= 0 {
			in.tally.violate(&in.tally.unlike, "%s: two results of %s:\n  %s\n  %s", in.name, invocation, bodies[0], bodies[i])
		}
	}
	for _, b := range a.bad {
		in.tally.violate(&in.tally.wrong, "%s: on the result queue: %s", in.name, b)
	}
}

// waiting is how many messages the instance's queue holds, with those in somebody's hands.
func (in *instance) waiting(ctx context.Context) (n int, err error) {
	attributes, err := in.queues.Attributes(ctx, in.inbox)
	if err != nil {
		return 0, err
	}
	for _, name := range []string{"ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"} {
		k, err := strconv.Atoi(attributes[name])
		if err != nil {
			return 0, fmt.Errorf("%s is %q: %w", name, attributes[name], err)
		}
		n += k
	}
	return n, nil
}
