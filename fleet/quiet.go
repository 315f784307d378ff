package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"hostmanager/environment"
	"hostmanager/protocol"
)

// DefaultQuietAfter is when an operation says whom it still waits for without a sign.
const DefaultQuietAfter = 10 * time.Second

// againQuietAfter is how much longer it takes until it looks again.
const againQuietAfter = 3

// quiet watches for instances that give no sign of life while they are waited for: neither an answer nor a renewed registration, which an agent
// writes when it begins a command.
type quiet struct {
	after time.Duration
	next  time.Time
	told  string
}

func (f *Fleet) watchQuiet(since time.Time) *quiet {
	q := &quiet{after: f.QuietAfter}
	if q.after <= 0 {
		q.after = DefaultQuietAfter
	}
	q.next = since.Add(q.after)
	return q
}

// left is how long until the next look.
func (q *quiet) left() time.Duration { return max(time.Until(q.next), time.Millisecond) }

// look says who has given no sign since the stage was sent. A record that cannot be read now is looked at the next time.
func (o *operation) look(ctx context.Context, q *quiet, since time.Time, waiting []environment.Target) {
	if time.Now().Before(q.next) {
		return
	}
	q.next = time.Now().Add(againQuietAfter * q.after)
	instances, _, err := o.Record.Instances(ctx)
	if err != nil {
		return
	}
	var silent, ids []string
	for _, t := range waiting {
		id := targetID(t)
		n := slices.IndexFunc(instances, func(i environment.Instance) bool { return i.InstanceID == id || i.Queue == t.Queue })
		switch {
		case n < 0:
			silent = append(silent, id+", which is not registered")
		case instances[n].Seen.Before(since):
			silent = append(silent, fmt.Sprintf("%s, last seen %s ago (%s)", id, now().Sub(instances[n].Seen).Round(time.Second), instances[n].Seen.Format(time.RFC3339)))
		default:
			continue
		}
		ids = append(ids, id)
	}
	if names := listed(ids); names != "" && names != q.told {
		q.told = names
		o.line(protocol.Warn, KindNotice, "", "Still waiting, and no sign since the command was sent from %s. Is the agent there running, and does it %s? `hostmanager status` there tells both.",
			strings.Join(silent, "; "), o.whomToObey())
	}
}

// whomToObey is what an agent must be set to for it to take the operation's orders. One that is not answers nothing.
func (o *operation) whomToObey() string {
	if o.Record.Signs() {
		return "trust the key " + o.Record.KeyID() + " that signs here"
	}
	return "take unsigned orders"
}
