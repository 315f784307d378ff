package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"hostmanager/aws/queue"
	"hostmanager/internal/atomicfile"
	"hostmanager/internal/disk"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// localQueue stands in place of a result queue in commands the agent gives itself at boot: their results go nowhere.
const localQueue = "local:none"

// keepAfterExpiry is how long after its command's expiration a result is still tried to be sent.
const keepAfterExpiry = 24 * time.Hour

// sendAtOnce bounds how many results are being sent at a time.
const sendAtOnce = 4

// sendTimeout bounds one try, so that a queue that hangs gives its slot back.
const sendTimeout = 45 * time.Second

// outcome is the payload of a result record: what is sent, where to, until when.
type outcome struct {
	Queue   string          `json:"queue"`
	Until   time.Time       `json:"until"`
	Verdict protocol.Status `json:"verdict"` // of the command: the inner status where it was processed
	Result  protocol.Result `json:"result"`
	// Spill is the whole response, where it was too large for a message: a file in the outbox folder until S3 has it.
	Spill *spill `json:"spill,omitempty"`
}

type spill struct {
	File     string            `json:"file"`
	Location protocol.Location `json:"location"`
}

// resultID is the same for every delivery of a command's result, and for no other.
func resultID(identity, listener string) string {
	sum := sha256.Sum256([]byte(identity + "|" + listener))
	return hex.EncodeToString(sum[:16])
}

// conclude makes a command's verdict durable and hands it to the outbox.
func (a *Agent) conclude(identity string, c protocol.Command, verdict answer) error {
	o, err := a.outcomeOf(identity, c, verdict)
	if err != nil {
		return err
	}
	payload, err := encode(o)
	if err != nil {
		return err
	}
	if err := a.appendRecord(journal.Record{Type: journal.Result, Command: identity, Payload: payload}); err != nil {
		return fmt.Errorf("journal result: %w", err)
	}
	a.outbox.put(identity)
	return nil
}

func (a *Agent) outcomeOf(identity string, c protocol.Command, verdict answer) (outcome, error) {
	o := outcome{
		Queue: c.ResultQueue, Until: a.triedUntil(c), Verdict: protocol.Failure,
		Result: protocol.Result{
			DispatcherID: c.DispatcherID, InvocationID: c.InvocationID, CommandName: c.CommandName,
			ListenerID: a.InstanceID, Status: protocol.Failure, ResultID: resultID(identity, a.InstanceID),
		},
	}
	if verdict.response == nil {
		o.Result.Message = a.Redact.String(verdict.message)
		return o, nil
	}
	response := a.hide(*verdict.response)
	data, err := response.Encode()
	if err != nil {
		return o, fmt.Errorf("encode response: %w", err)
	}
	if verdict.ran { // it succeeded, as in the original: the processor answered, whatever it says of the command
		a.Logs.Listener.Debugf("Action for %s output: %s", handler, data)
		a.Logs.Listener.Infof("Action for %s succeeded, returning SUCCESS", handler)
	}
	o.Verdict, o.Result.Status, o.Result.Data = response.Status, protocol.Success, data
	return o, a.fit(&o, response)
}

// triedUntil is when a result is given up. An expiration that is farther ahead than an order's may be counts as one that is as far.
func (a *Agent) triedUntil(c protocol.Command) time.Time {
	last := a.Now().Add(maxValidity)
	if c.Expiration.Before(last) {
		last = c.Expiration
	}
	return last.Add(keepAfterExpiry)
}

// hide masks secrets in what people wrote; names and numbers of the protocol stay.
func (a *Agent) hide(r protocol.Response) *protocol.Response {
	entries := make([]protocol.ResponseEntry, len(r.Results))
	for i, e := range r.Results {
		e.Msg = a.Redact.String(e.Msg)
		events := make([]protocol.Event, len(e.Events))
		for n, event := range e.Events {
			event.Msg = a.Redact.String(event.Msg)
			events[n] = event
		}
		e.Events = events
		entries[i] = e
	}
	r.Results = entries
	return &r
}

// shortMsg is how much of a message stays beside the location of the whole.
const shortMsg = 2 << 10

// fit moves a response that no message can carry into a file and leaves verdict, short message and location; without the latter where no file can
// be written.
func (a *Agent) fit(o *outcome, whole *protocol.Response) error {
	body, err := json.Marshal(o.Result)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	if len(body) <= protocol.MaxMessage {
		return nil
	}
	data := []byte(o.Result.Data)
	id := o.Result.ResultID
	entry := whole.Entry()
	entry.Events = []protocol.Event{}
	if len(entry.Msg) > shortMsg {
		entry.Msg = strings.ToValidUTF8(entry.Msg[:shortMsg], "") + "..."
	}
	file := filepath.Join(a.Root.Outbox(), id+".json")
	if err := a.keepLarge(file, data); err != nil { // the verdict goes out all the same
		a.log.Warn("the whole of a large response is lost", slog.String("result_id", id), slog.Int("bytes", len(data)), slog.Any("error", err))
	} else {
		o.Spill = &spill{File: filepath.Base(file), Location: protocol.Location{
			Bucket: a.Config.Bucket, Key: protocol.SpillKey(a.Config.EnvironmentID, id), SHA256: protocol.Digest(data), Size: int64(len(data)),
		}}
		entry.Location = &o.Spill.Location
	}
	small := protocol.NewResponse(entry)
	small.Truncated = "true"
	o.Result.Data, err = small.Encode()
	return err
}

// keepLarge writes a large response down; where the disk has no room for it the reserve is given up.
func (a *Agent) keepLarge(file string, data []byte) error {
	err := atomicfile.WriteFile(file, data, 0o600)
	if disk.Full(err) && a.disk.release("a large response") {
		err = atomicfile.WriteFile(file, data, 0o600)
	}
	return err
}

// outbox sends journalled results until their queue took them. Each result is tried on its own, so that one dead queue holds up nothing.
type outbox struct {
	agent *Agent
	slots chan struct{}

	mu      sync.Mutex
	ctx     context.Context // of the deliveries, from run
	pending map[string]*delivery
	early   []string // put before run
	changed chan struct{}
	hurried chan struct{} // closed and replaced when what did not answer does again
	wg      sync.WaitGroup
}

// delivery is a result being sent.
type delivery struct {
	hurry chan struct{} // asks for a try now
	tried bool          // it failed at least once
}

func newOutbox(a *Agent) *outbox {
	return &outbox{agent: a, slots: make(chan struct{}, sendAtOnce), pending: map[string]*delivery{}, changed: make(chan struct{}), hurried: make(chan struct{})}
}

// run lets deliveries happen until ctx ends, then waits for those under way.
func (o *outbox) run(ctx context.Context) {
	o.mu.Lock()
	o.ctx = ctx
	early := o.early
	o.early = nil
	o.mu.Unlock()
	for _, identity := range early {
		o.put(identity)
	}
	<-ctx.Done()
	o.mu.Lock()
	o.ctx = nil
	o.mu.Unlock()
	o.wg.Wait()
}

// put begins to deliver the journalled result of a command; when that is under way already it only hurries it.
func (o *outbox) put(identity string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ctx == nil {
		o.early = append(o.early, identity)
		return
	}
	if d, under := o.pending[identity]; under {
		select {
		case d.hurry <- struct{}{}:
		default:
		}
		return
	}
	d, ctx := &delivery{hurry: make(chan struct{}, 1)}, o.ctx
	o.pending[identity] = d
	o.wg.Go(func() {
		for done := false; !done; done = o.forget(ctx, identity, d) {
			o.deliver(ctx, identity, d)
		}
	})
}

// again sends a result once more.
func (o *outbox) again(identity string) { o.put(identity) }

// forget ends a delivery, unless the result was asked for once more while the sending was under way.
func (o *outbox) forget(ctx context.Context, identity string, d *delivery) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case <-d.hurry:
		if ctx.Err() == nil {
			return false
		}
	default:
	}
	delete(o.pending, identity)
	o.notify()
	return true
}

// notify wakes settle. The caller holds the lock.
func (o *outbox) notify() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *outbox) markTried(d *delivery) {
	o.mu.Lock()
	defer o.mu.Unlock()
	d.tried = true
	o.notify()
}

func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pending) + len(o.early)
}

// settle waits until every result was sent or was tried at least once, at most for d: what could not be sent will not be in a moment either.
func (o *outbox) settle(d time.Duration) {
	limit := time.NewTimer(d)
	defer limit.Stop()
	for {
		o.mu.Lock()
		untried, changed := 0, o.changed
		for _, p := range o.pending {
			if !p.tried {
				untried++
			}
		}
		o.mu.Unlock()
		if untried == 0 {
			return
		}
		select {
		case <-changed:
		case <-limit.C:
			return
		}
	}
}

// deliver tries until the queue took the result, its time is over, or ctx ends; what is left then is found in the journal at the next start.
func (o *outbox) deliver(ctx context.Context, identity string, d *delivery) {
	again := newPatience(time.Second, time.Minute)
	for ctx.Err() == nil {
		out, ok := o.load(identity)
		if !ok {
			return
		}
		if out.Queue == localQueue {
			o.sent(identity, nil)
			return
		}
		hurried := o.nextHurry()
		err := o.try(ctx, out)
		if err == nil {
			o.sent(identity, nil)
			o.unspill(out)
			o.answered(out)
			return
		}
		if ctx.Err() != nil {
			return
		}
		o.markTried(d)
		if o.agent.Now().After(out.Until) {
			o.drop(identity, out, err)
			return
		}
		if again.speaks() { // the listener's log is the original's; what is wrong is said once for all results
			o.agent.Logs.Listener.Errorf("Error sending result; will try again: %s", err)
		}
		o.agent.outages.failed(dependencyOf(out, err), err, 1)
		again.waitFor(ctx, d.hurry, hurried)
	}
}

// dependencyOf names what kept a result from being sent: what concerns one queue alone is said of that one.
func dependencyOf(out outcome, err error) string {
	switch {
	case errors.Is(err, errSpill):
		return onSpills
	case queue.Permanent(err):
		return resultQueue(out)
	default:
		return onResults
	}
}

// onResultQueue begins the name of what a single result queue is.
const onResultQueue = "Result queue "

func resultQueue(out outcome) string { return onResultQueue + out.Queue }

// answered ends the outages that a delivery shows to be over; the other results need not wait any longer.
func (o *outbox) answered(out outcome) {
	if out.Spill != nil {
		o.agent.outages.answered(onSpills)
	}
	o.agent.outages.answered(resultQueue(out))
	if o.agent.outages.answered(onResults) {
		o.hurry()
	}
}

// hurry has every waiting result tried now.
func (o *outbox) hurry() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.hurried)
	o.hurried = make(chan struct{})
}

func (o *outbox) nextHurry() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.hurried
}

// errSpill marks that a large response could not be brought to S3.
var errSpill = errors.New("store large response")

// load reads the outcome back from the journal: a waiting result takes no memory.
func (o *outbox) load(identity string) (outcome, bool) {
	c, ok := o.agent.Journal.Command(identity)
	if !ok || c.Result == nil { // an old result, which the journal no longer holds, was sent
		return outcome{}, false
	}
	var out outcome
	if err := json.Unmarshal(c.Result, &out); err != nil {
		o.agent.log.Error("journalled result is unreadable", slog.String("identity", identity), slog.Any("error", err))
		return outcome{}, false
	}
	return out, true
}

// try sends once.
func (o *outbox) try(ctx context.Context, out outcome) error {
	select {
	case o.slots <- struct{}{}:
		defer func() { <-o.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if err := o.spill(ctx, out); err != nil {
		return err
	}
	body, err := json.Marshal(out.Result)
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	o.agent.Logs.Listener.Debugf("Sending %s to queue %s", body, out.Queue)
	if err := o.agent.Queue.Send(ctx, out.Queue, string(body)); err != nil {
		return fmt.Errorf("send result: %w", err)
	}
	return nil
}

// maxSpill bounds a large response, bytes: more than all hooks of a command together put out that is kept.
const maxSpill = 256 << 20

// spill brings the whole of a large response to S3 before the message that names its place. A file that is gone was brought there before.
func (o *outbox) spill(ctx context.Context, out outcome) error {
	if out.Spill == nil {
		return nil
	}
	data, err := atomicfile.ReadFileLimit(filepath.Join(o.agent.Root.Outbox(), filepath.Base(out.Spill.File)), maxSpill)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read large response: %w", err)
	}
	if err := o.agent.Spills.PutSpill(ctx, out.Spill.Location.Bucket, out.Spill.Location.Key, data); err != nil {
		return fmt.Errorf("%w: %w", errSpill, err)
	}
	return nil
}

func (o *outbox) unspill(out outcome) {
	if out.Spill == nil {
		return
	}
	if err := atomicfile.Remove(filepath.Join(o.agent.Root.Outbox(), filepath.Base(out.Spill.File))); err != nil {
		o.agent.log.Warn("large response not removed", slog.Any("error", err))
	}
}

// drop gives a result up. The record says so; it is no longer tried after a restart.
func (o *outbox) drop(identity string, out outcome, cause error) {
	o.agent.outages.forget(resultQueue(out))
	o.agent.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
		"The result of invocation %s (%s) was given up: it could not be sent until %s, last because %v.",
		out.Result.InvocationID, out.Verdict, out.Until.UTC().Format(time.RFC3339), cause)})
	o.sent(identity, json.RawMessage(`{"given_up":true}`))
	o.unspill(out)
}

func (o *outbox) sent(identity string, payload json.RawMessage) {
	if err := o.agent.appendRecord(journal.Record{Type: journal.Sent, Command: identity, Payload: payload}); err != nil {
		o.agent.log.Error("sent result not journalled", slog.String("identity", identity), slog.Any("error", err))
	}
}
