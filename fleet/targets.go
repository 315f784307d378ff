package fleet

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"hostmanager/environment"
	"hostmanager/protocol"
)

// Selection chooses instances. The zero value is every registered instance that is not silent.
type Selection struct {
	Instances []string // ids; registered ones, silent or not
	Queues    []string // "URL" or "INSTANCE=URL" of command queues, for instances that are not registered or not to be looked up
}

// targets are the instances an operation goes to.
type targets struct {
	chosen  []environment.Target
	partial bool                 // some registered instance is not among them
	others  []environment.Target // of the chosen, those that are silent or not registered
}

// targets looks up what the selection means, and warns of what is not in order among the registrations.
func (f *Fleet) targets(ctx context.Context, sel Selection) (targets, error) {
	if len(sel.Instances) > 0 && len(sel.Queues) > 0 {
		return targets{}, fmt.Errorf("%w: give instances or queues, not both", ErrRefused)
	}
	instances, unreadable, err := f.Record.Instances(ctx)
	if err != nil {
		return targets{}, err
	}
	for _, u := range unreadable {
		f.say(protocol.Warn, "%s is no registration of an instance and was passed over: %v.", u.Key, u.Err)
	}
	switch {
	case len(sel.Queues) > 0:
		t := byQueue(sel.Queues, instances, f.Record.EnvironmentID())
		t.others = others(t.chosen, instances)
		return t, f.checkNamed(t)
	case len(sel.Instances) > 0:
		t, err := byID(sel.Instances, instances)
		t.others = others(t.chosen, instances)
		return t, err
	}
	return f.everyone(instances)
}

// others returns those that nobody finds who goes by the registrations.
func others(chosen []environment.Target, instances []environment.Instance) []environment.Target {
	at := now()
	return slices.DeleteFunc(slices.Clone(chosen), func(t environment.Target) bool {
		return slices.ContainsFunc(instances, func(i environment.Instance) bool {
			return i.InstanceID == t.InstanceID && i.Queue == t.Queue && !i.Silent(at)
		})
	})
}

// checkNamed refuses targets of which only the queue is known where orders are signed: one that names nobody could be given to another instance.
func (f *Fleet) checkNamed(t targets) error {
	for _, c := range t.chosen {
		if c.InstanceID == "" && f.Record.Signs() {
			return fmt.Errorf("%w: no instance is registered with the queue %s, and a signed order must name who it is for; say it with INSTANCE=%s", ErrRefused, c.Queue, c.Queue)
		}
	}
	return nil
}

func (f *Fleet) everyone(instances []environment.Instance) (targets, error) {
	var t targets
	var silent []string
	at := now()
	for _, i := range instances {
		if i.Silent(at) {
			silent = append(silent, i.InstanceID)
			continue
		}
		t.chosen = append(t.chosen, environment.Target{InstanceID: i.InstanceID, Queue: i.Queue})
	}
	if len(silent) > 0 {
		f.say(protocol.Warn, "Not sent to instances that have been silent for more than %s (they take the desired state over when they start; name them with --instances to send all the same): [%s].",
			environment.SilentAfter, listed(silent))
	}
	switch {
	case len(t.chosen) > 0:
		return t, nil
	case len(silent) > 0:
		return targets{}, fmt.Errorf("%w: all registered instances have been silent for more than %s; check them and this machine's clock", ErrNoTargets, environment.SilentAfter)
	}
	return targets{}, fmt.Errorf("%w: none is registered in environment %s; start `hostmanager agent` on one, or check --environment and --bucket",
		ErrNoTargets, f.Record.EnvironmentID())
}

func byID(ids []string, instances []environment.Instance) (targets, error) {
	var t targets
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	for _, id := range ids {
		n := slices.IndexFunc(instances, func(i environment.Instance) bool { return i.InstanceID == id })
		if n < 0 {
			return targets{}, fmt.Errorf("%w: instance %s is not registered", ErrRefused, id)
		}
		t.chosen = append(t.chosen, environment.Target{InstanceID: id, Queue: instances[n].Queue})
	}
	t.partial = len(t.chosen) < len(instances)
	return t, nil
}

// queueName is the name in a queue's URL.
func queueName(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }

// byQueue finds the instance behind each queue by what is said, else by its registration, else by the queue's name; where neither tells, it stays open until the
// instance answers.
func byQueue(urls []string, instances []environment.Instance, environmentID string) targets {
	var t targets
	prefix := protocol.CommandQueue(environmentID, "")
	for _, url := range slices.Compact(slices.Sorted(slices.Values(urls))) {
		target := environment.Target{Queue: url}
		if id, rest, ok := strings.Cut(url, "="); ok && protocol.ValidID(id) {
			t.chosen = append(t.chosen, environment.Target{InstanceID: id, Queue: rest})
			continue
		}
		name := queueName(url)
		if id, ours := strings.CutPrefix(name, prefix); ours && protocol.ValidID(id) {
			target.InstanceID = id
		}
		for _, i := range instances {
			if i.Queue == url {
				target.InstanceID = i.InstanceID
			}
		}
		t.chosen = append(t.chosen, target)
	}
	t.partial = slices.ContainsFunc(instances, func(i environment.Instance) bool {
		return !slices.ContainsFunc(t.chosen, func(c environment.Target) bool { return c.InstanceID == i.InstanceID || c.Queue == i.Queue })
	})
	return t
}
