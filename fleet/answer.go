package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"hostmanager/aws/objects"
	"hostmanager/environment"
	"hostmanager/protocol"
)

// errForeign marks a message that is no answer to this operation.
var errForeign = errors.New("not an answer to this operation")

const (
	// maxSpilled bounds a response fetched from S3, in bytes. An agent's has at most 1,000 events of 4 KiB, and JSON may write
	// six bytes for one.
	maxSpilled = 32 << 20
	// maxShownMsg bounds what of an instance's message is shown, in bytes.
	maxShownMsg = 64 << 10
	// maxRecordedWord bounds a label or a cause in the deployment record, in bytes, and an id by which answers are told apart. A record that
	// instances could make as large as they like would be one that nobody can read.
	maxRecordedWord = 128
	// maxRecordedMsg bounds what of an instance's message stands in the deployment record, in bytes.
	maxRecordedMsg = 512
)

// answer is what one instance said of one stage.
type answer struct {
	outcome environment.Outcome
	full    string // the whole message, of which the record holds the end
	events  []protocol.Event
	notice  string // something the operator should know about the answer itself
}

func (a answer) msg() string {
	text := a.full
	if text == "" {
		text = a.outcome.Msg
	}
	return strings.TrimRight(text, " \n")
}

// judge reads a message of the result queue. Nil without an error is an answer known already. errForeign is no answer at all; any other error
// means that it could not be read now.
func (o *operation) judge(ctx context.Context, i int, body string) (*answer, error) {
	r, inner, err := protocol.DecodeResult([]byte(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errForeign, err)
	}
	if r.InvocationID != o.d.RequestID {
		return nil, fmt.Errorf("%w: it is of invocation %.80q", errForeign, r.InvocationID)
	}
	if len(r.ResultID) > maxRecordedWord {
		r.ResultID = protocol.Digest([]byte(r.ResultID))
	}
	s := &o.d.Stages[i]
	if o.known(r) || !inStage(inner, s.Num) {
		return nil, nil
	}
	if !o.isTarget(r.ListenerID) {
		return nil, fmt.Errorf("%w: instance %.80q is none of its targets", errForeign, r.ListenerID)
	}
	if _, again := s.Outcomes[r.ListenerID]; again {
		return nil, nil
	}
	a := &answer{outcome: environment.Outcome{InstanceID: r.ListenerID, ResultID: r.ResultID, Status: protocol.Failure, ReturnCode: 1, At: now()}}
	if inner == nil {
		// The processor itself did not answer: no verdict, only a message.
		a.full = cmp.Or(r.Message, "The instance gave no reason")
	} else if err := o.read(ctx, a, inner, i); err != nil {
		return nil, err
	}
	a.full = tail(a.full, maxShownMsg)
	a.outcome.Msg = tail(a.full, maxRecordedMsg)
	o.seen[r.ResultID] = true
	return a, nil
}

// inStage tells whether a response belongs to the stage. One that does not say so belongs to the stage under way.
func inStage(inner *protocol.Response, stage int) bool {
	n := inner.Entry().StageNum
	return n == nil || *n == stage || stage == allStages
}

// known tells whether the result was taken before, in any stage and by any hmctl.
func (o *operation) known(r protocol.Result) bool {
	if o.seen == nil {
		o.seen = map[string]bool{}
		for _, s := range o.d.Stages {
			for _, out := range s.Outcomes {
				o.seen[out.ResultID] = true
			}
		}
	}
	return r.ResultID != "" && o.seen[r.ResultID]
}

// isTarget tells whether the instance is one of the targets. A target of which only the queue is known becomes the first stranger that answers.
func (o *operation) isTarget(id string) bool {
	free := -1
	for n, t := range o.d.Targets {
		if t.InstanceID == id {
			return true
		}
		if t.InstanceID == "" && free < 0 {
			free = n
		}
	}
	if free < 0 || !protocol.ValidID(id) {
		return false
	}
	o.d.Targets[free].InstanceID = id
	return true
}

// read fills the answer from the inner response.
func (o *operation) read(ctx context.Context, a *answer, inner *protocol.Response, i int) error {
	if loc := inner.Entry().Location; loc != nil {
		whole, err := o.spilled(ctx, *loc)
		switch {
		case err == nil:
			inner = whole
		case ctx.Err() != nil:
			return err
		default:
			// The verdict travels in the message itself.
			a.notice = fmt.Sprintf("The whole answer of %s could not be read: %v.", a.outcome.InstanceID, err)
		}
	}
	e := inner.Entry()
	a.full, a.events = e.Msg, e.Events
	slices.SortStableFunc(a.events, func(x, y protocol.Event) int { return x.Time.Compare(y.Time) })
	a.outcome.Status, a.outcome.ReturnCode, a.outcome.Cause = inner.Status, e.ReturnCode, tail(e.Cause, maxRecordedWord)
	a.outcome.DeploymentID, a.outcome.VersionLabel, a.outcome.Serial = e.DeploymentID, tail(e.VersionLabel, maxRecordedWord), e.Serial
	// The whole message, and not a part of it: what a hook prints must not make its failure one that does not count.
	a.outcome.Ignored = inner.Status == protocol.Failure && e.ReturnCode == 0 && strings.TrimSpace(e.Msg) == ignoredMsg
	last := i == len(o.d.Stages)-1
	if wrong := e.DeploymentID != o.d.ID && (last || e.DeploymentID != 0); o.kind.versions && wrong && inner.Status == protocol.Success {
		a.outcome.Status, a.outcome.ReturnCode = protocol.Failure, 1
		a.full = fmt.Sprintf("It answered for deployment %d and not for %d", e.DeploymentID, o.d.ID)
	}
	if inner.Status != protocol.Success && inner.Status != protocol.Failure {
		a.outcome.Status, a.full = protocol.Failure, fmt.Sprintf("It answered with the unknown status %.40q", inner.Status)
	}
	return nil
}

// spilled fetches a response that was too large for a message, and checks that it is the one the instance meant.
func (o *operation) spilled(ctx context.Context, loc protocol.Location) (*protocol.Response, error) {
	if prefix := protocol.SpillKey(o.Record.EnvironmentID(), ""); loc.Bucket != o.Bucket || !strings.HasPrefix(loc.Key, strings.TrimSuffix(prefix, ".json")) {
		return nil, fmt.Errorf("s3://%s/%s is no place for answers", loc.Bucket, loc.Key)
	}
	data, _, err := o.Objects.Get(ctx, loc.Bucket, loc.Key, maxSpilled)
	if errors.Is(err, objects.ErrUnavailable) && ctx.Err() == nil {
		data, _, err = o.Objects.Get(ctx, loc.Bucket, loc.Key, maxSpilled)
	}
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != loc.Size || protocol.Digest(data) != loc.SHA256 {
		return nil, fmt.Errorf("s3://%s/%s: %w", loc.Bucket, loc.Key, environment.ErrDigest)
	}
	var whole protocol.Response
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, fmt.Errorf("read s3://%s/%s: %w", loc.Bucket, loc.Key, err)
	}
	return &whole, nil
}

// tail keeps the end of a text that is longer than limit bytes, where the reason of a failure stands.
func tail(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	cut := len(text) - limit
	for cut < len(text) && !utf8.RuneStart(text[cut]) {
		cut++
	}
	return "(TRUNCATED)..." + text[cut:]
}

// verdicts sorts the instances of a stage by what they answered. Those the command was not for are in none.
type verdicts struct {
	succeeded, failed, timedOut []string
	unhealthy, late             []string // those of failed that did not pass their health check, or had no time left
	unreached                   []string // those of failed that have no queue to send to
}

func tally(s environment.Stage) verdicts {
	v := verdicts{succeeded: []string{}, failed: []string{}, timedOut: append([]string{}, s.TimedOut...)}
	for id, out := range s.Outcomes {
		switch {
		case out.Ignored:
		case out.Status == protocol.Success:
			v.succeeded = append(v.succeeded, id)
		default:
			v.failed = append(v.failed, id)
			switch out.Cause {
			case protocol.CauseHealthGate:
				v.unhealthy = append(v.unhealthy, id)
			case protocol.CauseTimeout:
				v.late = append(v.late, id)
			case causeNoQueue:
				v.unreached = append(v.unreached, id)
			}
		}
	}
	for _, ids := range [][]string{v.succeeded, v.failed, v.unhealthy, v.late, v.unreached} {
		slices.Sort(ids)
	}
	return v
}

// unsuccessful are those that failed or did not answer, in order, but for the ones whose health check is to blame.
func (v verdicts) unsuccessful() []string {
	all := slices.DeleteFunc(slices.Concat(v.failed, v.timedOut), func(id string) bool { return slices.Contains(v.unhealthy, id) })
	slices.Sort(all)
	return all
}

// onlyLate tells whether nothing but time was missing.
func (v verdicts) onlyLate() bool {
	return len(v.failed) == len(v.late) && len(v.late)+len(v.timedOut) > 0
}
