package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"hostmanager/agent/config"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/internal/signature"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// maxValidity is how far ahead a command may expire: as long as the journal remembers it, so that one that comes again is known as long as it is valid.
const maxValidity = journal.Window

// errNobodyTrusted keeps an agent from starting that could be given orders by nobody, or by anybody without having been told so.
var errNobodyTrusted = fmt.Errorf("%w: trusted_keys names no key; make one with `hmctl keygen`, or say insecure_unsigned: true", config.ErrInvalid)

// loadKeys reads the keys that orders must be signed with; none where unsigned orders are carried out.
func loadKeys(c config.Config) (signature.Keys, error) {
	if c.InsecureUnsigned {
		return signature.Keys{}, nil
	}
	keys, err := signature.Load(c.TrustedKeys)
	if err != nil {
		return keys, fmt.Errorf("%w: trusted_keys: %w", config.ErrInvalid, err)
	}
	if keys.Empty() {
		return keys, errNobodyTrusted
	}
	return keys, nil
}

// signed tells whether only signed orders are carried out.
func (a *Agent) signed() bool { return !a.Trusted.Empty() }

// sayUnsigned tells at every start what insecure_unsigned means.
func (a *Agent) sayUnsigned() {
	if !a.signed() {
		a.event(protocol.Event{Severity: protocol.Warn, Msg: "This agent runs with insecure_unsigned: it carries out the orders of anyone who can send to its command queue " +
			"or write to its bucket. Make a key with `hmctl keygen` and list its public half in trusted_keys."})
	}
}

// checkSigned verifies a command as it came. The error is one of package signature.
func (a *Agent) checkSigned(c protocol.Command) error {
	if !a.signed() {
		return nil
	}
	return a.Trusted.Verify(c.Signature.KeyID, c.SigningBytes(), c.Signature.Value)
}

// Whoever can send to the queue can have messages refused as fast as they can send. What is said of it must not wash everything else out of the files.
const (
	refusalsTold  = 30 // in refusalWindow; of the rest only the number is told
	refusalWindow = time.Minute
)

// refusals counts messages that were dropped. Only the intake loop uses it.
type refusals struct {
	since  time.Time
	count  int
	silent int // not told yet
}

// tell counts one and returns whether it is told, and how many before it were not.
func (r *refusals) tell(now time.Time) (told bool, before int) {
	if d := now.Sub(r.since); d < 0 || d >= refusalWindow {
		r.since, r.count = now, 0
	}
	r.count++
	if r.count > refusalsTold {
		r.silent++
		return false, 0
	}
	before, r.silent = r.silent, 0
	return true, before
}

// tellsRefusal tells whether one more dropped message is worth its lines, and of those before it that were not.
func (a *Agent) tellsRefusal() bool {
	told, before := a.dropped.tell(a.Now())
	if before > 0 {
		a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
			"%d more messages were refused and removed from the command queue. Somebody floods it: look who may send to it.", before)})
	}
	return told
}

// refuseUnsigned drops a command that nobody who is trusted gave. It gets no answer: the queue it names is as little to be trusted as the rest of it.
func (a *Agent) refuseUnsigned(m queue.Message, c protocol.Command, err error) {
	if !a.tellsRefusal() {
		return
	}
	a.Logs.Listener.Errorf("Received a command that is %s, deleting: %s", err, m.Receipt)
	a.log.Warn("order refused", slog.Any("error", err), slog.String("invocation", c.InvocationID))
	hint := ""
	if errors.Is(err, signature.ErrUnsigned) || errors.Is(err, signature.ErrUnknownKey) {
		hint = " This agent carries out only what one of its trusted_keys signed; if it was meant, give hmctl that key with --signing-key."
	}
	a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
		"An order was refused and removed from the command queue: %v (invocation %.80q).%s", err, c.InvocationID, hint)})
}

// notMeant says why an order is not for this instance, "" where it is. Without it an order could be taken from one instance's queue to another's.
func (a *Agent) notMeant(r protocol.Request) string {
	switch {
	case r.EnvironmentID != "" && r.EnvironmentID != a.Config.EnvironmentID:
		return fmt.Sprintf("This order is for environment %.80s; this instance belongs to %s", r.EnvironmentID, a.Config.EnvironmentID)
	case !a.signed():
		return ""
	case r.EnvironmentID == "":
		return "A signed order must name its environment (environment_id in its data)"
	case len(r.InstanceIDs) == 0:
		return "A signed order must name the instances it is for (instance_ids in its data)"
	}
	return ""
}

// tooLong says why a command's expiration is refused, "" where it is not.
func (a *Agent) tooLong(c protocol.Command, came time.Time) string {
	if !c.Expiration.After(came.Add(maxValidity)) {
		return ""
	}
	return fmt.Sprintf("Invocation %s of command %s expires at %s, more than %d days ahead, which is longer than commands are remembered here; send it with an earlier Expiration",
		c.InvocationID, c.CommandName, c.Expiration.UTC().Format(time.RFC3339), int(maxValidity/(24*time.Hour)))
}

// warnRefused tells of a signed order that is not carried out.
func (a *Agent) warnRefused(c protocol.Command, why string) {
	a.Logs.Listener.Errorf("Invocation %s of command %s is refused: %s", c.InvocationID, c.CommandName, why)
	a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("An order was refused (invocation %.80s): %s.", c.InvocationID, why)})
}

// desiredSigned judges the environment's signed version by what this instance knows already: an older one is an old object that somebody put back.
// What was deployed here since then stays, until the desired state is one that took account of it.
func (a *Agent) desiredSigned(s bootState, c protocol.Current) (protocol.Current, error) {
	known, err := a.Marks.read()
	if err != nil {
		return protocol.Current{}, err
	}
	newest := max(known.Current, s.Deployed.Serial)
	if c.AsOf() >= newest {
		return c, a.Marks.raise(mark{Current: c.AsOf()})
	}
	if c.Serial == 0 { // the object is gone; nothing is brought for that
		return c, nil
	}
	stays := s.Deployed.Manifest != "" && s.Deployed.Serial == newest
	if !stays {
		return protocol.Current{}, fmt.Errorf("the desired state: %w", &olderError{c.AsOf(), newest, a.Marks.file})
	}
	a.log.Warn("the desired state is older than what was deployed here", slog.Int64("current", c.AsOf()), slog.Int64("deployed", newest))
	return s.Deployed, nil
}

// warnOlder tells of a desired state that is older than what was deployed here, unless the operation that did so is still under way.
func (a *Agent) warnOlder(ctx context.Context, s bootState, c protocol.Current) {
	if c.Serial == 0 || c.AsOf() >= s.Deployed.Serial {
		return
	}
	d, _, err := a.Record.Deployment(ctx, s.DeploymentID)
	if err == nil && d.Serial == s.Deployed.Serial && d.State == environment.Running {
		return
	}
	a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
		"The environment's desired state (serial %d) is refused: it is older than what was deployed here (serial %d). Somebody put an old one back, or the last operation came to no end: look at `hmctl status`, and deploy again.",
		c.AsOf(), s.Deployed.Serial)})
}
