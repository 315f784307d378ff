package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	hostaws "hostmanager/aws"
	"hostmanager/aws/queue"
	"hostmanager/protocol"
)

// What the agent depends on, as sentences about an outage name it.
const (
	onCommands = "The command queue"
	onResults  = "SQS, where results go,"
	onSpills   = "S3, where large results go,"
	onRecord   = "The environment's record in S3"
	onDesired  = "S3, where the environment's version is written,"
	onBundles  = "S3, where the version to deploy is,"
	onPlatform = "The platform"
)

// outages says once that something does not answer and once, with how long it took, that it does again, however often it is tried in between. Those
// who try have patience of their own.
type outages struct {
	event func(protocol.Event)
	log   *slog.Logger

	mu sync.Mutex
	of map[string]*outage
}

// outage is one that is under way or may be beginning.
type outage struct {
	since    time.Time
	failures int
	said     bool
}

func newOutages(event func(protocol.Event), log *slog.Logger) *outages {
	return &outages{event: event, log: log, of: map[string]*outage{}}
}

// failed takes note of a failure. What fails has to do so as many times in a row as tolerance says before it is worth a word.
func (o *outages) failed(what string, err error, tolerance int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	u := o.of[what]
	if u == nil {
		u = &outage{since: time.Now()}
		o.of[what] = u
	}
	u.failures++
	if u.said || u.failures < tolerance {
		o.log.Debug("still no answer", slog.String("of", what), slog.Any("error", err))
		return
	}
	u.said = true
	o.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("%s does not answer: %s. %s", what, strings.TrimRight(err.Error(), "."), advice(what, err))})
}

// answered takes note of success, and tells whether that ended an outage.
func (o *outages) answered(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	u := o.of[what]
	if u == nil {
		return false
	}
	delete(o.of, what)
	if u.said {
		o.event(protocol.Event{Severity: protocol.Info, Msg: fmt.Sprintf("%s answers again, after %s.", what, time.Since(u.since).Round(100*time.Millisecond))})
	}
	return u.said
}

// forget ends an outage that nobody waits for any more, without a word.
func (o *outages) forget(what string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.of, what)
}

// advice is what an operator has to do about it, or that there is nothing to do.
func advice(what string, err error) string {
	const goesOn = "It is tried until it does; what serves is left alone."
	switch {
	case errors.Is(err, queue.ErrQueueMissing) && strings.HasPrefix(what, onResultQueue):
		return "Such a queue goes when its operation is over or given up. The result is kept, and tried until the command's expiry and a day."
	case errors.Is(err, queue.ErrQueueMissing):
		return "Make the queue, or correct the setting that names it: it is waited for."
	case errors.Is(err, hostaws.ErrAccessDenied):
		return "Allow it to the instance's role (docs/running.md lists what the agent needs) or give the agent other credentials: it is tried again every minute or so."
	case errors.Is(err, hostaws.ErrThrottled):
		return "Fewer requests are made until it is well; what serves is left alone."
	default:
		return goesOn
	}
}

// passing tells whether an error of AWS may pass by itself: the very same call may succeed a moment later.
func passing(ctx context.Context, err error) bool {
	switch {
	case err == nil || ctx.Err() != nil:
		return false
	case errors.Is(err, hostaws.ErrUnavailable), errors.Is(err, hostaws.ErrThrottled):
		return true
	default: // a bound of the call's own
		return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	}
}
