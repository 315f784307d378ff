package agent

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
	"time"

	"hostmanager/aws/queue"
	"hostmanager/commandproc"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// take judges one message: decode, signature, duplicate, target, expiry, in this order. When it returns nil the message may be deleted: the journal
// owns its command, or it can never become one.
func (a *Agent) take(m queue.Message) error {
	c, err := protocol.DecodeCommand([]byte(m.Body))
	if err == nil {
		if err := a.checkSigned(c); err != nil {
			a.refuseUnsigned(m, c, err)
			return nil
		}
		err = a.checkSender(c)
	}
	if err != nil {
		a.malformed(m, err)
		return nil
	}
	a.logMessage("Processing message", c)
	identity := c.Identity()
	if known, ok := a.Journal.Command(identity); ok {
		a.duplicate(identity, known)
		return nil
	}
	a.logMessage("Command message", c)
	a.Logs.Listener.Infof("Received command %s (invocation id: %s)", c.CommandName, c.InvocationID)
	request, refusal := a.judge(c, a.Now())
	payload, err := a.accept(identity, c)
	if errors.Is(err, journal.ErrKnown) {
		return nil
	}
	if errors.Is(err, journal.ErrTooLarge) {
		a.malformed(m, err)
		return nil
	}
	if err != nil {
		return err
	}
	if refusal != nil {
		return a.conclude(identity, c, *refusal)
	}
	a.enqueue(commandproc.Job{Identity: identity, Command: payload, Request: request})
	return nil
}

// malformed drops a message that can never become a command. Nobody can be told but the log and the events.
func (a *Agent) malformed(m queue.Message, err error) {
	if !a.tellsRefusal() {
		return
	}
	a.Logs.Listener.Errorf("Received invalid message: %s", err)
	a.Logs.Listener.Infof("Invalid message, deleting: %s", m.Receipt)
	a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("An invalid message was removed from the command queue: %v.", err)})
}

// duplicate answers a command that was accepted before: its result, where it is known, goes out again as it was.
func (a *Agent) duplicate(identity string, known journal.Command) {
	if !known.Finished() {
		a.Logs.Listener.Infof("Command %s is accepted and not finished, deleting the duplicate", identity)
		return
	}
	a.Logs.Listener.Infof("Already ran %s, deleting", identity)
	a.outbox.again(identity)
}

// logMessage writes a message as it stands on the wire, whatever envelope it came in.
func (a *Agent) logMessage(what string, c protocol.Command) {
	if body, err := c.Encode(); err == nil {
		a.Logs.Listener.Debugf("%s: %s", what, body)
	}
}

// answer is the verdict on a command: an outer message when it was not processed, else a response.
type answer struct {
	message  string
	response *protocol.Response
	ran      bool // the command was begun: what the listener's log says of its action
}

// judge decides whether a decoded command that came at that time is run, and what to answer when it is not.
func (a *Agent) judge(c protocol.Command, came time.Time) (protocol.Request, *answer) {
	request, err := protocol.DecodeRequest(c.Data)
	if err != nil {
		a.warnRefused(c, err.Error())
		return request, &answer{message: err.Error()}
	}
	inner := func(code int, msg string) *answer {
		return &answer{response: protocol.NewResponse(protocol.ResponseEntry{
			Status: protocol.Failure, ReturnCode: code, Msg: msg, StageNum: request.StageNum,
		})}
	}
	if why := a.notMeant(request); why != "" {
		a.warnRefused(c, why)
		return request, inner(1, why)
	}
	if !request.AppliesTo(a.InstanceID) {
		a.Logs.Processor.Infof("Ignoring not applicable command.")
		a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("An order for other instances came to this one and was not carried out (invocation %.80s).", c.InvocationID)})
		return request, inner(0, "Ignoring not applicable command.")
	}
	if c.Expired(came) {
		text := fmt.Sprintf("Invocation %s of command %s for stack %s expired at %s; skipping",
			c.InvocationID, c.CommandName, c.DispatcherID, c.Expiration.UTC().Format("2006-01-02T15:04:05Z"))
		a.Logs.Listener.Infof("%s", text)
		a.event(protocol.Event{Severity: protocol.Warn, Msg: text + "."})
		return request, &answer{message: text}
	}
	if why := a.tooLong(c, came); why != "" {
		a.warnRefused(c, why)
		return request, &answer{message: why}
	}
	if _, known := commandproc.Lookup(request.CommandName); !known {
		return request, inner(1, fmt.Sprintf("Unknown command %s", request.CommandName))
	}
	return request, nil
}

// accept makes the journal own the command.
func (a *Agent) accept(identity string, c protocol.Command) (protocol.Command, error) {
	body, err := c.Encode()
	if err != nil {
		return c, fmt.Errorf("encode command: %w", err)
	}
	return c, a.appendRecord(journal.Record{Type: journal.Accepted, Command: identity, Payload: body})
}

// enqueue puts an accepted command into its lane.
func (a *Agent) enqueue(j commandproc.Job) {
	a.laneOf(j.Request.CommandName).push(a.jobOf(j), false)
}

func (a *Agent) laneOf(command string) *lane {
	if d, _ := commandproc.Lookup(command); d.Lane == commandproc.Shared {
		return a.shared
	}
	return a.exclusive
}

// checkSender refuses what passes for one of the agent's own commands, and results that would go to a stranger.
func (a *Agent) checkSender(c protocol.Command) error {
	if fromBoot(c) {
		return fmt.Errorf("%w: DispatcherId %q is kept for the agent's own commands", protocol.ErrMalformed, c.DispatcherID)
	}
	return a.checkResultQueue(c.ResultQueue)
}

// checkResultQueue holds where results may go: a message must not make the agent send what it knows to a stranger.
func (a *Agent) checkResultQueue(resultQueue string) error {
	patterns := a.Config.ResultQueues
	if len(patterns) == 0 {
		patterns = []string{defaultResultQueues(a.knownQueue())}
	}
	for _, p := range patterns {
		if ok, err := path.Match(p, resultQueue); err == nil && ok {
			return nil
		}
	}
	return fmt.Errorf("%w: ResultQueue %q is none that results may be sent to (result_queues)", protocol.ErrMalformed, resultQueue)
}

// defaultResultQueues is the pattern of queues named hostmanager-* beside the command queue: same endpoint, same account.
func defaultResultQueues(commandQueue string) string {
	u, err := url.Parse(commandQueue)
	if err != nil || u.Host == "" {
		return "https://*/*/hostmanager-*"
	}
	beside := u.Scheme + "://" + u.Host + path.Dir(u.Path)
	escape := strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`)
	return strings.TrimSuffix(escape.Replace(beside), "/") + "/hostmanager-*"
}
