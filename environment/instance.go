package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"hostmanager/protocol"
)

// Times of registration.
const (
	// RegisterInterval is how often an agent renews its registration.
	RegisterInterval = time.Minute
	// SilentAfter is when an instance that stopped doing so counts as gone.
	SilentAfter = 5 * RegisterInterval
)

// maxInstances bounds how many registrations one environment is read with.
const maxInstances = 10_000

// registrationReaders is how many registrations are read at once.
const registrationReaders = 16

// ErrTooManyInstances: the registry holds more objects than are read.
var ErrTooManyInstances = fmt.Errorf("more than %d objects in the instance registry", maxInstances)

// Instance is the registration of one instance, written by its agent.
type Instance struct {
	InstanceID   string      `json:"instance_id"`
	Queue        string      `json:"queue"` // URL of its command queue
	VersionLabel string      `json:"version_label,omitempty"`
	DeploymentID int64       `json:"deployment_id,omitempty"`
	Serial       int64       `json:"serial,omitempty"`
	State        string      `json:"state,omitempty"` // the agent's own word: "ready", "degraded", "deploying", ...
	Application  Application `json:"application,omitzero"`
	Agent        string      `json:"agent,omitempty"` // version of the agent
	Seen         time.Time   `json:"seen"`            // the agent's wall clock; set by Register
}

// Application is how the deployed application did when the instance was registered. The zero value means that nothing is deployed there, or that
// the agent is too old to tell.
type Application struct {
	Running bool   `json:"running"`
	Healthy bool   `json:"healthy"`
	Unknown bool   `json:"unknown,omitempty"` // it could not be found out
	Reason  string `json:"reason,omitempty"`  // why it is not healthy; never empty then
}

// Trouble says what is wrong with the application, "" where nothing is or nothing is deployed.
func (a Application) Trouble() string {
	switch {
	case a.Healthy || a == Application{}:
		return ""
	case a.Unknown:
		return "application state unknown: " + a.Reason
	case a.Running:
		return "application not healthy: " + a.Reason
	default:
		return "application not running: " + a.Reason
	}
}

// The words of an instance's state in its registration.
const (
	StateReady     = "ready"     // waits for commands
	StateDegraded  = "degraded"  // waits for commands, but what is deployed is not well
	StateDeploying = "deploying" // an exclusive command runs
	StateStopping  = "stopping"  // the agent ends
)

// Silent tells whether the instance has not renewed its registration for too long.
func (i Instance) Silent(now time.Time) bool { return now.Sub(i.Seen) > SilentAfter }

// AtRest tells whether no command was under way when the instance was registered, so that nothing takes back what it ran then. What an agent says that
// stops does not tell.
func (i Instance) AtRest() bool { return i.State == StateReady || i.State == StateDegraded }

// Unreadable is an object among the registrations that is none.
type Unreadable struct {
	Key string
	Err error
}

// Register writes the instance's registration, Seen being now.
func (r *Record) Register(ctx context.Context, i Instance) error {
	if !protocol.ValidID(i.InstanceID) {
		return fmt.Errorf("register: instance id %.80q cannot stand in a key", i.InstanceID)
	}
	i.Seen = r.wall()
	data, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	if _, err := r.store.Put(ctx, protocol.InstanceKey(r.id, i.InstanceID), data, Condition{}); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	return nil
}

// ErrAlive: the instance renewed its registration a short time ago.
var ErrAlive = errors.New("instance was seen a short time ago")

// Forget removes the registration of an instance that is gone, and returns what it was. One that is not silent is ErrAlive, one that cannot be read
// ErrCorrupt, unless force is set; one that is not there is ErrNotFound. An instance that lives registers itself again.
func (r *Record) Forget(ctx context.Context, instanceID string, force bool) (Instance, error) {
	if !protocol.ValidID(instanceID) {
		return Instance{}, fmt.Errorf("forget instance %.80q: %w", instanceID, ErrNotFound)
	}
	key := protocol.InstanceKey(r.id, instanceID)
	i, err := r.instance(ctx, protocol.InstancesPrefix(r.id), key)
	switch {
	case err == nil && !force && !i.Silent(r.wall()):
		err = fmt.Errorf("%w, at %s", ErrAlive, i.Seen.Format(time.RFC3339))
	case errors.Is(err, ErrCorrupt) && force:
		i, err = Instance{InstanceID: instanceID}, nil
	}
	if err == nil {
		err = r.store.Delete(ctx, key)
	}
	if err != nil {
		return Instance{}, fmt.Errorf("forget instance %s: %w", instanceID, err)
	}
	return i, nil
}

// Instances returns all registrations in the order of their ids, and what lies among them and is none: a torn object, a foreign one. An error
// means that the registry as a whole could not be read.
func (r *Record) Instances(ctx context.Context) ([]Instance, []Unreadable, error) {
	var keys []string
	prefix := protocol.InstancesPrefix(r.id)
	err := r.store.List(ctx, prefix, func(key string) error {
		if len(keys) == maxInstances {
			return ErrTooManyInstances
		}
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list the instances: %w", err)
	}
	found := make([]Instance, len(keys))
	errs := make([]error, len(keys))
	var wg sync.WaitGroup
	slots := make(chan struct{}, registrationReaders)
	for n, key := range keys {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			found[n], errs[n] = r.instance(ctx, prefix, key)
		})
	}
	wg.Wait()
	return sortOut(keys, found, errs)
}

func sortOut(keys []string, found []Instance, errs []error) ([]Instance, []Unreadable, error) {
	var good []Instance
	var bad []Unreadable
	for n, err := range errs {
		switch {
		case err == nil:
			good = append(good, found[n])
		case errors.Is(err, ErrNotFound): // deregistered between listing and reading
		case errors.Is(err, ErrCorrupt):
			bad = append(bad, Unreadable{keys[n], err})
		default:
			return nil, nil, fmt.Errorf("read the instances: %w", err)
		}
	}
	slices.SortFunc(good, func(a, b Instance) int { return strings.Compare(a.InstanceID, b.InstanceID) })
	return good, bad, nil
}

// instance reads one registration. What is none is ErrCorrupt, also one that speaks for another instance than its key.
func (r *Record) instance(ctx context.Context, prefix, key string) (Instance, error) {
	id, isJSON := strings.CutSuffix(strings.TrimPrefix(key, prefix), ".json")
	if !isJSON || !protocol.ValidID(id) {
		return Instance{}, fmt.Errorf("%w: no name of a registration", ErrCorrupt)
	}
	data, _, err := r.store.Get(ctx, key, maxSmall)
	if err != nil {
		if errors.Is(err, ErrTooLarge) {
			return Instance{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return Instance{}, err
	}
	var i Instance
	if err := json.Unmarshal(data, &i); err != nil {
		return Instance{}, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if i.InstanceID != id || i.Queue == "" {
		return Instance{}, fmt.Errorf("%w: it names instance %.80q and queue %.200q", ErrCorrupt, i.InstanceID, i.Queue)
	}
	return i, nil
}
