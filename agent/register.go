package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hostmanager/environment"
)

// registrar keeps this instance's entry in the environment's record true: at start, when something changes, and every interval.
type registrar struct {
	agent *Agent
	due   chan struct{}
	mu    sync.Mutex // one write at a time, so that an older state never overtakes a newer one
	said  *patience
}

// The words of an instance's state in its registration.
const (
	stateReady     = "ready"     // waits for commands
	stateDeploying = "deploying" // an exclusive command runs
	stateStopping  = "stopping"  // the agent ends
)

const registerTimeout = 20 * time.Second

func newRegistrar(a *Agent) *registrar {
	return &registrar{agent: a, due: make(chan struct{}, 1), said: newPatience(time.Minute, time.Minute)}
}

// poke asks for a registration soon.
func (r *registrar) poke() {
	select {
	case r.due <- struct{}{}:
	default:
	}
}

func (r *registrar) run(ctx context.Context) {
	r.agent.awaitRecovery(ctx) // what is told of the application is true from the first time on
	tick := time.NewTicker(r.agent.Config.RegisterInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.due:
		case <-tick.C:
		}
		r.write(ctx, r.state())
	}
}

func (r *registrar) state() string {
	r.agent.mu.Lock()
	defer r.agent.mu.Unlock()
	if r.agent.current != nil {
		return stateDeploying
	}
	return stateReady
}

// farewell tells that nobody listens here any more.
func (r *registrar) farewell(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	r.write(ctx, stateStopping)
}

func (r *registrar) write(ctx context.Context, state string) {
	a := r.agent
	queue := a.knownQueue()
	if queue == "" { // nobody could reach us yet
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	entry := environment.Instance{InstanceID: a.InstanceID, Queue: queue, State: state, Agent: a.Version}
	if app, err := a.Platform.Status(ctx); err == nil {
		entry.VersionLabel, entry.DeploymentID, entry.Serial = app.VersionLabel, app.DeploymentID, app.Serial
	}
	err := a.Record.Register(ctx, entry)
	switch {
	case err == nil:
		r.said.reset()
	case ctx.Err() == nil || context.Cause(ctx) == context.DeadlineExceeded:
		if r.said.speaks() {
			a.log.Warn("instance not registered", slog.Any("error", err))
		}
		r.said.next()
	}
}
