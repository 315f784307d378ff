// Package docker is the Docker platform: the built-in hooks that turn an unpacked source bundle into an image, the image into a running
// container, and let that container take over from the one before; and what keeps watch over it afterwards (status, output, repair at start).
//
// It may not know commands, queues, AWS or how the proxy works: it is handed hook calls and a Valve. Docker's types stay inside it.
//
// Its invariants:
//   - State passes between hooks only through Docker's own tags and labels and through the files the original platform used, never through
//     memory, so that a script may stand between any two of them and a crash at any point can be unwound.
//   - Everything it creates carries the label hostmanager=<namespace or "default">, and nothing without that label is ever changed or removed; the
//     one exception, for an Engine that nobody else uses, is BuildKit's cache and images that have lost their name.
//   - Until the valve is switched nothing that serves is touched; after it, everything needed to go back is kept until the command is done.
//   - What a command has no need to wait for (stopping the container that served before, cleaning) goes on in the background after its hooks
//     returned. Nothing depends on it: the next command waits for it, an undo too, and after a crash Recover does it again.
//   - At most one exclusive command runs its hooks at a time; Status, Follow and Probe may run beside it.
package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/docker/docker/client"
	"golang.org/x/sync/semaphore"

	"hostmanager/hooks"
	"hostmanager/internal/layout"
	"hostmanager/internal/redact"
	"hostmanager/platform/settings"
)

// Target is what the valve sends requests to. The zero Target means that no application is there.
type Target struct {
	Addr         string // host:port
	ID           string // container id, first twelve characters
	DeploymentID int64
	Serial       int64
	VersionLabel string
	Check        settings.Check
}

// Valve is the front proxy as the flip needs it.
type Valve interface {
	// State returns the generation, and address and id of the present target ("" where there is none).
	State(ctx context.Context) (generation uint64, addr, id string, err error)
	// SetTarget switches to a target if the generation is still the expected one, and returns after the change is durable.
	SetTarget(ctx context.Context, target Target, expectGeneration uint64) (generation uint64, err error)
	// Drain returns when no request to addr is under way any more, or cuts off those that are after the timeout.
	Drain(ctx context.Context, addr string, timeout time.Duration) error
}

// Options of a Platform.
type Options struct {
	Root      layout.Root
	Namespace string // lets several agents share an Engine: it stands in labels, container names and image tags; "" is the default one
	Host      string // of the Engine; "" means DOCKER_HOST, else the local socket
	Valve     Valve
	Log       *slog.Logger
	// Redact hides secrets in what builds, pulls and containers put out, wherever that is kept, cut or passed on. Nil hides nothing.
	Redact *redact.Redactor
	// Keep is how many versions that ran well stay on the instance, the one that serves among them; less than DefaultKeep counts as that.
	Keep int
	// WholeEngine says that nobody else uses the Engine: BuildKit's cache is then held within BuildCache bytes. It is only followed without a
	// namespace, and while no other host manager's things are there.
	WholeEngine bool
	BuildCache  int64 // 0 means DefaultBuildCache
	// AddressPool is where the namespace's network takes its /26 from; it should not be routed by the host. "" means DefaultAddressPool.
	AddressPool string
}

// DefaultKeep is the version that serves and the one to go back to, which nothing ever removes.
const DefaultKeep = 2

// DefaultBuildCache bounds BuildKit's cache, bytes.
const DefaultBuildCache = 2 << 30

// DefaultAddressPool holds 1,024 namespaces. It is apart from the default VPC (172.31.0.0/16) and from Docker's own first bridges.
const DefaultAddressPool = "172.29.0.0/16"

// Platform is the Docker platform of one namespace. It is safe for use as the package comment says.
type Platform struct {
	root  layout.Root
	names names
	cli   *client.Client
	valve Valve
	log   *slog.Logger
	hide  *redact.Redactor
	pool  netip.Prefix

	life  context.Context // of the background work
	end   context.CancelFunc
	mu    sync.Mutex
	tasks []<-chan struct{} // of the background work, closed when done
	hurry chan struct{}     // closed when somebody waits for the background work, which then begins at once

	keep        int
	wholeEngine bool
	buildCache  int64

	// meeting is held over questions to the Engine, which may hang, so who waits for it heeds its context.
	meeting *semaphore.Weighted
	met     bool // the API version is agreed
	engine  engineDisk

	// fault, where a test sets it, is asked at every named point between two effects; an error from it stands for a crash there.
	fault func(point string) error
}

// ErrOptions marks options that cannot be used.
var ErrOptions = errors.New("invalid platform options")

var namespaceForm = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}$`)

// New returns the platform. It does not contact the Engine: an Engine that is down is found out by what needs it.
func New(o Options) (*Platform, error) {
	if o.Namespace != "" && !namespaceForm.MatchString(o.Namespace) {
		return nil, fmt.Errorf("%w: Docker namespace %.80q may hold letters, digits, '_', '.' and '-', at most 63", ErrOptions, o.Namespace)
	}
	if o.Root == "" || o.Valve == nil {
		return nil, fmt.Errorf("%w: Root and Valve must be set", ErrOptions)
	}
	if o.AddressPool == "" {
		o.AddressPool = DefaultAddressPool
	}
	pool, err := netip.ParsePrefix(o.AddressPool)
	if err != nil || !pool.Addr().Is4() || pool.Bits() > subnetBits {
		return nil, fmt.Errorf("%w: address pool %.40q is no IPv4 prefix of /%d or larger", ErrOptions, o.AddressPool, subnetBits)
	}
	cli, err := newClient(o.Host)
	if err != nil {
		return nil, fmt.Errorf("make Engine client: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Platform{
		keep: max(o.Keep, DefaultKeep), wholeEngine: o.WholeEngine, buildCache: o.BuildCache,
		root: o.Root, names: newNames(o.Namespace), cli: cli, valve: o.Valve, log: o.Log, hide: o.Redact, pool: pool.Masked(),
		fault: func(string) error { return nil }, hurry: make(chan struct{}), meeting: semaphore.NewWeighted(1),
	}
	if p.buildCache <= 0 {
		p.buildCache = DefaultBuildCache
	}
	p.life, p.end = context.WithCancel(context.Background())
	return p, nil
}

// connect agrees with the Engine on a version of the API, once. The client would do so by itself at its first request, but it reads the version
// without a lock while another request negotiates it.
func (p *Platform) connect(ctx context.Context) error {
	if err := p.meet(ctx); err != nil {
		return err
	}
	defer p.meeting.Release(1)
	if p.met {
		return nil
	}
	ping, err := p.cli.Ping(ctx)
	if err != nil {
		return fmt.Errorf("ask the Docker Engine at %s (install and start Docker Engine 20.10 or later): %w", p.cli.DaemonHost(), err)
	}
	p.cli.NegotiateAPIVersionPing(ping)
	p.met = true
	return nil
}

// meet waits until nobody else asks the Engine what is asked once.
func (p *Platform) meet(ctx context.Context) error {
	if err := p.meeting.Acquire(ctx, 1); err != nil {
		return fmt.Errorf("ask the Docker Engine, which does not answer: %w", context.Cause(ctx))
	}
	return nil
}

// connected makes a hook that needs the Engine, and waits a moment for one that is being restarted.
func (p *Platform) connected(do func(context.Context, *hooks.Call) error) func(context.Context, *hooks.Call) error {
	return func(ctx context.Context, c *hooks.Call) error {
		ctx = waiting(ctx)
		if err := p.connect(ctx); err != nil {
			return err
		}
		return do(ctx, c)
	}
}

// Wait returns when the background work of finished commands is done, at the latest after a container's time to stop, or with the cause of ctx.
func (p *Platform) Wait(ctx context.Context) error {
	p.mu.Lock()
	tasks := slices.Clone(p.tasks)
	close(p.hurry)
	p.hurry = make(chan struct{})
	p.mu.Unlock()
	for _, done := range tasks {
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// Close gives up the background work, which Recover will do again, and frees the connections to the Engine.
func (p *Platform) Close() error {
	p.end()
	return errors.Join(p.Wait(context.Background()), p.cli.Close())
}

// later does in the background what no command needs to wait for, a moment later so that it does not take processor and disk from the command's
// own last steps. Failures are for the log: Recover and the next command do it again.
func (p *Platform) later(what string, do func(context.Context) error) {
	done := make(chan struct{})
	p.mu.Lock()
	p.tasks = slices.DeleteFunc(p.tasks, isClosed)
	p.tasks = append(p.tasks, done)
	hurry := p.hurry
	p.mu.Unlock()
	go func() {
		defer close(done)
		moment := time.NewTimer(backgroundPause)
		defer moment.Stop()
		select {
		case <-moment.C:
		case <-hurry:
		case <-p.life.Done():
			return
		}
		ctx, cancel := context.WithTimeout(p.life, backgroundLimit)
		defer cancel()
		if err := do(ctx); err != nil && p.life.Err() == nil {
			p.log.Warn("background work incomplete", "what", what, "error", err)
		}
	}()
}

func isClosed(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// backgroundPause is more than a command takes from its flip to its result.
const backgroundPause = 300 * time.Millisecond

// backgroundLimit is more than any container may take to stop by default.
const backgroundLimit = 5 * time.Minute

// Failure is why a step ended, with what an operator needs to see: the sentence, what the failing program said last, and its exit code.
type Failure struct {
	Sentence string
	Last     string // the end of the output
	Code     int    // exit code of what failed; 0 where there is none
	Cause    error
	Kind     string // one of protocol's causes, where one fits
}

func (f *Failure) Error() string {
	if f.Cause == nil {
		return f.Sentence
	}
	return f.Sentence + " (" + f.Cause.Error() + ")"
}

func (f *Failure) Unwrap() error { return f.Cause }

// Output is the end of what the failing program wrote.
func (f *Failure) Output() string { return f.Last }

// FailureCause is which of protocol's causes it is, if any.
func (f *Failure) FailureCause() string { return f.Kind }

// ExitCode is that of the failing program, 1 where none is known.
func (f *Failure) ExitCode() int { return max(f.Code, 1) }

// drainAndClose lets a connection be used again.
func drainAndClose(r io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, r, 64<<10)
	_ = r.Close()
}
