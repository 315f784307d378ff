package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"hostmanager/agent/config"
	"hostmanager/aws/queue"
	"hostmanager/commandproc"
	"hostmanager/environment"
	"hostmanager/internal/layout"
	"hostmanager/internal/logfile"
	"hostmanager/internal/redact"
	"hostmanager/internal/signature"
	"hostmanager/journal"
	"hostmanager/platform/docker"
	"hostmanager/protocol"
)

// Queue is SQS as the agent uses it. *queue.Client is one.
type Queue interface {
	Receive(ctx context.Context, queueURL string, limit int, wait time.Duration) ([]queue.Message, error)
	Delete(ctx context.Context, queueURL, receipt string) error
	Send(ctx context.Context, queueURL, body string) error
	URL(ctx context.Context, name string) (string, error)
	Create(ctx context.Context, name string, attrs map[string]string) (string, error)
}

// Record is the environment's record as the agent uses it. *environment.Record is one.
type Record interface {
	GetManifest(ctx context.Context, name, sha256 string) (protocol.Manifest, []byte, error)
	Current(ctx context.Context) (protocol.Current, error)
	Deployment(ctx context.Context, id int64) (environment.Deployment, string, error)
	Register(ctx context.Context, i environment.Instance) error
}

// Spills takes responses that are too large for a message.
type Spills interface {
	PutSpill(ctx context.Context, bucket, key string, body []byte) error
}

// Application is the state of what is deployed, as the platform sees it.
type Application struct {
	ContainerID  string `json:"container_id,omitempty"`
	Image        string `json:"image,omitempty"`
	Address      string `json:"address,omitempty"`
	Serial       int64  `json:"serial,omitempty"`
	DeploymentID int64  `json:"deployment_id,omitempty"`
	VersionLabel string `json:"version_label,omitempty"`
	Running      bool   `json:"running"`
	Healthy      bool   `json:"healthy"`
	Reason       string `json:"reason,omitempty"` // why not running or not healthy
}

// Platform is what commands act upon, beside its hooks.
type Platform interface {
	// Status says what runs. It must be quick, it may be called at any time.
	Status(ctx context.Context) (Application, error)
	// Follow writes the application's output into its log file until ctx ends.
	Follow(ctx context.Context) error
	// Recover removes what an interrupted command left and the journal does not tell, and has what was deployed serve. It runs beside no command.
	Recover(ctx context.Context) error
	// Astray says what Recover would put right of what serves, "" for nothing. It must be quick, it may be called at any time.
	Astray(ctx context.Context) (string, error)
}

// Parts are what an agent is made of; wire.go fills them. All are required but Notify and LookEvery.
type Parts struct {
	Root       layout.Root
	Config     config.Config
	InstanceID string
	Version    string // of the agent
	BootID     string // of the kernel
	Queue      Queue
	Record     Record
	Spills     Spills
	Platform   Platform
	Journal    *journal.Journal
	Processor  *commandproc.Processor
	Logs       *logfile.Set
	Events     io.Writer // events.jsonl
	Redact     *redact.Redactor
	Trusted    signature.Keys // orders must be signed with one of them; empty: insecure_unsigned
	Marks      *marks
	Now        func() time.Time
	Skew       func() time.Duration // how far the machine's clock is ahead of AWS's; may be nil
	Notify     func(state string)   // of systemd
	LookEvery  time.Duration        // how often the agent looks at what it has deployed; 0: every ten seconds
}

// Agent is the daemon. Make it with New, run it once.
type Agent struct {
	Parts
	log       *slog.Logger
	base      context.Context // only for logging: carries nothing and never ends
	exclusive *lane
	shared    *lane
	outbox    *outbox
	registrar *registrar

	drain     chan struct{} // closed by Drain
	leave     chan struct{} // closed by Drain where the running command is to be left to the next start
	worked    chan struct{} // a command began or ended
	recovered chan struct{} // closed when what an earlier agent left is put right
	drainOnce sync.Once
	begun     time.Time    // with a monotonic reading
	pulse     atomic.Int64 // when the intake loop passed last, after begun: setting the machine's clock changes nothing
	started   time.Time
	outages   *outages
	disk      *diskKeeper
	clockOff  bool        // only the intake loop's
	dropped   refusals    // only the intake loop's
	owed      atomic.Bool // the platform did not answer when the agent started, so what an earlier one left is not put right yet

	mu        sync.Mutex // guards the rest
	queueURL  string
	current   *current // exclusive command under way
	lastPoll  time.Time
	pollErr   error
	bootTimer *time.Timer // of the next try to bring the environment's version
	stop      context.CancelCauseFunc
}

// current is the command under way, for status.
type current struct {
	Identity string    `json:"identity"`
	Name     string    `json:"command_name"`
	Request  string    `json:"request_id"`
	Since    time.Time `json:"since"`

	cancel context.CancelCauseFunc // ends it; see cancelRunning
}

// New makes an agent of its parts. Nothing runs before Run.
func New(p Parts) *Agent {
	if p.LookEvery <= 0 {
		p.LookEvery = defaultLook
	}
	a := &Agent{
		Parts: p, log: p.Logs.Structured, base: context.Background(),
		exclusive: newLane(1), shared: newLane(p.Config.SharedCommands), drain: make(chan struct{}), leave: make(chan struct{}), worked: make(chan struct{}, 1), recovered: make(chan struct{}),
		queueURL: p.Config.CommandQueueURL, started: p.Now(), begun: time.Now(),
	}
	a.outages = newOutages(a.event, p.Logs.Structured)
	a.outbox = newOutbox(a)
	a.registrar = newRegistrar(a)
	return a
}

// ErrStopped is the cause of an end by Drain.
var ErrStopped = errors.New("agent was asked to stop")

// Drain begins an orderly end: no further message is taken, the running command ends, or stops where the next start can take it up (on_stop), its
// result is sent if that is quick; then Run returns.
func (a *Agent) Drain() {
	a.drainOnce.Do(func() {
		close(a.drain)
		if a.Config.OnStop == config.StopResume {
			close(a.leave)
		}
	})
}

// Run works until Drain and the end of the running command, or until ctx ends, which aborts the running command: it is undone first. An error
// means that the agent cannot go on.
func (a *Agent) Run(ctx context.Context) error {
	ctx, a.stop = context.WithCancelCause(ctx)
	defer a.stop(nil)
	intakeCtx, stopIntake := context.WithCancelCause(ctx)
	defer stopIntake(nil)
	control, err := a.listen()
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	a.recoverAll()
	var intake, lanes, rest sync.WaitGroup
	restCtx, stopRest := context.WithCancelCause(context.WithoutCancel(ctx))
	intake.Go(func() { a.intake(intakeCtx) })
	lanes.Go(func() { a.exclusive.run(ctx) })
	lanes.Go(func() { a.shared.run(ctx) })
	for _, loop := range []func(context.Context){a.outbox.run, a.registrar.run, a.follow, a.alive, a.watchdog, a.rest, a.tend, a.careForDisk, control.serve} {
		rest.Go(func() { loop(restCtx) })
	}
	select {
	case <-a.drain:
	case <-ctx.Done():
	}
	a.notify("STOPPING=1")
	stopIntake(ErrStopped)
	a.exclusive.close()
	a.shared.close()
	intake.Wait()
	lanes.Wait()
	a.stopBoot()
	a.outbox.settle(farewell)
	a.registrar.farewell(farewell)
	stopRest(ErrStopped)
	rest.Wait()
	if cause := context.Cause(ctx); errors.Is(cause, journal.ErrBroken) {
		return cause
	}
	return nil
}

// farewell is how long a stopping agent tries to get its last results and its registration out.
const farewell = 5 * time.Second

// fail ends the agent because it cannot keep its promises any more.
func (a *Agent) fail(err error) {
	a.log.Error("agent cannot go on", slog.Any("error", err))
	a.stop(err)
}

// appendRecord journals, and ends the agent when the journal can take no more. A result waits for room where there is none.
func (a *Agent) appendRecord(r journal.Record) error {
	err := a.Journal.Append(r)
	for errors.Is(err, journal.ErrFull) && r.Type == journal.Result && a.disk.awaitRoom(err) {
		err = a.Journal.Append(r)
	}
	if errors.Is(err, journal.ErrBroken) {
		a.fail(err)
	}
	return err
}

// alive writes the listener's sign of life.
func (a *Agent) alive(ctx context.Context) {
	tick := time.NewTicker(5 * time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.Logs.Listener.Infof("command processing is alive.")
		}
	}
}

// awaitRecovery waits until what an earlier agent left is put right.
func (a *Agent) awaitRecovery(ctx context.Context) {
	select {
	case <-a.recovered:
	case <-ctx.Done():
	}
}

// follow keeps the application's output flowing into its log file, once it is settled what is the application.
func (a *Agent) follow(ctx context.Context) {
	a.awaitRecovery(ctx)
	again := newPatience(time.Second, time.Minute)
	for ctx.Err() == nil {
		began := a.Now()
		err := a.Platform.Follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if a.Now().Sub(began) > time.Minute {
			again.reset()
		}
		if docker.EngineAway(err) { // which the tender finds to be over
			a.outages.failed(onPlatform, err, 1)
		} else if again.speaks() {
			a.log.Warn("application output is not followed", slog.Any("error", err))
		}
		again.wait(ctx, nil)
	}
}

// encode makes a payload of the journal.
func encode(v any) (json.RawMessage, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode journal payload: %w", err)
	}
	return b, nil
}
