package agent

import (
	"cmp"
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"hostmanager/environment"
)

// registrar keeps this instance's entry in the environment's record true: at start, when something changes, and every interval. Between commands it
// looks at the application itself, which may change unasked.
type registrar struct {
	agent *Agent
	due   chan struct{}
	mu    sync.Mutex           // one write at a time, so that an older state never overtakes a newer one
	told  environment.Instance // last; guarded by mu
}

const registerTimeout = 20 * time.Second

// statusTimeout bounds the look at the application before it: an Engine that hangs must not keep the instance from being seen.
const statusTimeout = 5 * time.Second

// registerRetry is how long after a registration that failed the next one is tried, at most.
const registerRetry = 20 * time.Second

// retry asks for another registration some time later.
func (r *registrar) retry() { time.AfterFunc(rand.N(registerRetry), r.poke) }

// defaultLook is how often the agent looks at what it has deployed.
const defaultLook = 10 * time.Second

// maxReason bounds what a registration says of the application's trouble, in bytes.
const maxReason = 300

func newRegistrar(a *Agent) *registrar {
	return &registrar{agent: a, due: make(chan struct{}, 1)}
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
	look := time.NewTicker(r.agent.LookEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			if !r.changed(ctx) {
				continue
			}
		case <-r.due:
		case <-tick.C:
		}
		r.write(ctx, r.state())
	}
}

// state is environment.StateDeploying or environment.StateReady; what of the application makes environment.StateDegraded of the latter is not asked here.
func (r *registrar) state() string {
	r.agent.mu.Lock()
	defer r.agent.mu.Unlock()
	if r.agent.current != nil {
		return environment.StateDeploying
	}
	return environment.StateReady
}

// changed tells whether the application does otherwise than was told last. While a command runs it is not asked: the command's end tells. What
// counts is whether it is well, not the words of the reason, which may differ with every look.
func (r *registrar) changed(ctx context.Context) bool {
	if r.state() == environment.StateDeploying {
		return false
	}
	app, err := r.agent.applicationNow(ctx)
	health := r.agent.health(app, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.told.Application
	was.Reason, health.Reason = "", ""
	return ctx.Err() == nil && r.told.InstanceID != "" && (was != health || err == nil && app.Serial != r.told.Serial)
}

// applicationNow asks the platform, not for long.
func (a *Agent) applicationNow(ctx context.Context) (Application, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	return a.Platform.Status(ctx)
}

// health is what a look at the platform means for those who ask for the instance.
func (a *Agent) health(app Application, err error) environment.Application {
	switch {
	case err != nil:
		return environment.Application{Unknown: true, Reason: a.reason(err.Error())}
	case app.ContainerID == "":
		return environment.Application{}
	case app.Running && app.Healthy:
		return environment.Application{Running: true, Healthy: true}
	default:
		return environment.Application{Running: app.Running, Reason: a.reason(app.Reason)}
	}
}

// reason is a bounded line without hidden values.
func (a *Agent) reason(text string) string {
	text = a.Redact.String(cmp.Or(strings.Join(strings.Fields(text), " "), "no reason is known"))
	return strings.ToValidUTF8(text[:min(len(text), maxReason)], "")
}

// withHealth is the word for an agent's state together with its application's.
func withHealth(state string, health environment.Application) string {
	if state == environment.StateReady && health.Trouble() != "" {
		return environment.StateDegraded
	}
	return state
}

// farewell tells that nobody listens here any more.
func (r *registrar) farewell(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	r.write(ctx, environment.StateStopping)
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
	entry := environment.Instance{InstanceID: a.InstanceID, Queue: queue, Agent: a.Version}
	app, err := a.applicationNow(ctx)
	if err == nil {
		entry.VersionLabel, entry.DeploymentID, entry.Serial = app.VersionLabel, app.DeploymentID, app.Serial
	}
	entry.Application = a.health(app, err)
	entry.State = withHealth(state, entry.Application)
	r.told = entry // also where it does not arrive: the next interval tells it again
	err = a.Record.Register(ctx, entry)
	switch {
	case err == nil:
		a.outages.answered(onRecord)
	case ctx.Err() == nil || context.Cause(ctx) == context.DeadlineExceeded:
		a.outages.failed(onRecord, err, 1)
		r.retry()
	}
}
