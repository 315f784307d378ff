package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
	"hostmanager/internal/unixsock"
)

// Defaults of Options.
const (
	DefaultListen          = ":80"
	DefaultConnectTimeout  = 5 * time.Second
	DefaultResponseTimeout = 60 * time.Second // nginx's proxy_read_timeout; load balancers give up after 60 s as well
	DefaultIOTimeout       = 60 * time.Second
	DefaultIdleTimeout     = 75 * time.Second // longer than a load balancer keeps its connections idle (60 s)
	DefaultShutdownTimeout = 30 * time.Second
	DefaultMaxHeld         = 4096
)

const (
	maxRequestHead = 64 << 10
	headTimeout    = 60 * time.Second // for a request's head to arrive
	pruneEvery     = 10 * time.Second
)

// Options say where the proxy lives and how long it waits. New fills in defaults; Run validates.
type Options struct {
	Root      layout.Root
	Listen    string         // address for clients
	Listeners []net.Listener // used instead of Listen when not empty (socket activation); Run closes them

	ConnectTimeout  time.Duration // to the target
	ResponseTimeout time.Duration // from the end of the request to the response's header
	IOTimeout       time.Duration // for one piece of a body to move; a silent response body may take any time
	IdleTimeout     time.Duration // of a client's idle connection
	ShutdownTimeout time.Duration // for requests in flight when Run's context ends
	MaxHeld         int           // requests a pause may hold

	NoAccessLog bool
	Log         *slog.Logger
}

// Proxy is the flip valve. Run may be called once.
type Proxy struct {
	opts    Options
	log     *slog.Logger
	valve   *valve
	access  *accessLog
	started time.Time
	ready   chan struct{}
	listen  []string
	notice  string

	control sync.Mutex // one change of the target at a time, from reading the generation to the answer
	checks  sync.WaitGroup
	current *checker           // guarded by checkMu
	stop    context.CancelFunc // of current
	checkMu sync.Mutex
	closed  bool // no further checker; guarded by checkMu

	abortOnce sync.Once
	abort     chan struct{}
}

// New makes a proxy from opts, with defaults where a field is zero.
func New(opts Options) *Proxy {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&opts.ConnectTimeout, DefaultConnectTimeout)
	def(&opts.ResponseTimeout, DefaultResponseTimeout)
	def(&opts.IOTimeout, DefaultIOTimeout)
	def(&opts.IdleTimeout, DefaultIdleTimeout)
	def(&opts.ShutdownTimeout, DefaultShutdownTimeout)
	if opts.MaxHeld == 0 {
		opts.MaxHeld = DefaultMaxHeld
	}
	if opts.Listen == "" {
		opts.Listen = DefaultListen
	}
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{opts: opts, log: opts.Log, valve: &valve{maxHeld: opts.MaxHeld}, ready: make(chan struct{}), abort: make(chan struct{})}
	if !opts.NoAccessLog {
		p.access = newAccessLog(opts.Root.ProxyAccessLog(), opts.Log)
	}
	return p
}

// Ready is closed when the proxy serves clients and its control socket answers.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

// Addrs are the addresses clients connect to. Valid once Ready is closed.
func (p *Proxy) Addrs() []string { return p.listen }

// Abort makes a shutdown under way, or the next one, cut the requests in flight at once.
func (p *Proxy) Abort() { p.abortOnce.Do(func() { close(p.abort) }) }

func (o Options) validate() error {
	for _, d := range []time.Duration{o.ConnectTimeout, o.ResponseTimeout, o.IOTimeout, o.IdleTimeout, o.ShutdownTimeout} {
		if d < 0 {
			return fmt.Errorf("timeout %v: must not be negative", d)
		}
	}
	if o.MaxHeld < 0 {
		return fmt.Errorf("held requests %d: must not be negative", o.MaxHeld)
	}
	return nil
}

// Run serves until ctx is done: first the target of the last run, then what the control socket says. It then takes no new requests, lets those in
// flight end for ShutdownTimeout, and cuts the rest.
func (p *Proxy) Run(ctx context.Context) error {
	if err := p.opts.validate(); err != nil {
		return err
	}
	p.started = time.Now()
	if err := p.restore(); err != nil {
		return fmt.Errorf("restore state: %w", err)
	}
	defer p.stopChecks()
	listeners, err := p.open()
	if err != nil {
		return err
	}
	control, err := unixsock.Listen(p.opts.Root.ProxySocket())
	if err != nil {
		return errors.Join(fmt.Errorf("open control socket: %w", err), closeAll(listeners))
	}
	return p.serveAll(ctx, listeners, control)
}

func (p *Proxy) open() ([]net.Listener, error) {
	listeners := p.opts.Listeners
	if len(listeners) == 0 {
		l, err := net.Listen("tcp", p.opts.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen for clients: %w", err)
		}
		listeners = []net.Listener{l}
	}
	for _, l := range listeners {
		p.listen = append(p.listen, l.Addr().String())
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) error {
	var err error
	for _, l := range listeners {
		err = errors.Join(err, l.Close())
	}
	return err
}

func (p *Proxy) serveAll(ctx context.Context, listeners []net.Listener, control net.Listener) error {
	srv, ctl := p.server(), p.controlServer()
	var background sync.WaitGroup
	bg, stop := context.WithCancel(context.WithoutCancel(ctx))
	background.Go(func() { p.access.run(bg) })
	background.Go(func() { p.pruneLoop(bg) })

	failed := make(chan error, len(listeners)+1)
	var serving sync.WaitGroup
	for _, l := range listeners {
		serving.Go(func() { failed <- srv.Serve(l) })
	}
	serving.Go(func() { failed <- ctl.Serve(control) })
	close(p.ready)
	p.log.Info("proxy serves", "listen", p.listen, "control", p.opts.Root.ProxySocket())

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("serve: %w", err)
	}
	p.shutdown(srv)
	_ = ctl.Close()
	serving.Wait()
	stop()
	background.Wait()
	return err
}

func (p *Proxy) server() *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:                      p,
		ReadHeaderTimeout:            headTimeout,
		IdleTimeout:                  p.opts.IdleTimeout,
		MaxHeaderBytes:               maxRequestHead,
		DisableGeneralOptionsHandler: true,
		Protocols:                    protocols,
		ErrorLog:                     slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
}

// ServeHTTP passes one request to the target. It needs net/http's own HTTP/1 server below it.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rw, ok := w.(responseWriter)
	if !ok {
		http.Error(w, "not an HTTP/1 connection", http.StatusHTTPVersionNotSupported)
		return
	}
	if r.Method == http.MethodConnect {
		w.Header().Set("Connection", "close")
		http.Error(w, "CONNECT is not served here", http.StatusMethodNotAllowed)
		return
	}
	p.serve(rw, r)
}

// shutdown lets the requests in flight end, upgraded connections too, and cuts what is left at the deadline or on Abort.
func (p *Proxy) shutdown(srv *http.Server) {
	p.valve.close()
	ctx, cancel := context.WithTimeout(context.Background(), p.opts.ShutdownTimeout)
	defer cancel()
	aborted := make(chan struct{})
	go func() {
		defer close(aborted)
		select {
		case <-p.abort:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := srv.Shutdown(ctx)
	if err == nil {
		err = p.valve.waitEmpty(ctx, p.valve.all(), nil)
	}
	if err != nil {
		n := p.valve.cancelAll(p.valve.all(), errAborted)
		p.log.Warn("requests cut at shutdown", "count", n)
		unwind := time.NewTimer(unwindTime)
		defer unwind.Stop()
		_ = p.valve.waitEmpty(context.Background(), p.valve.all(), unwind.C)
		_ = srv.Close()
	}
	p.valve.closeBackends()
	cancel()
	<-aborted
}

func (p *Proxy) pruneLoop(ctx context.Context) {
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, t := range p.valve.all() {
				t.backend.prune()
			}
		}
	}
}

func (p *Proxy) restore() error {
	if err := atomicfile.Sweep(filepath.Dir(p.opts.Root.ProxyState())); err != nil {
		return fmt.Errorf("remove temporary files: %w", err)
	}
	s, notice, err := loadState(p.opts.Root.ProxyState(), p.started)
	if err != nil {
		return err
	}
	if notice != "" {
		p.notice = notice
		p.log.Error("state set aside", "notice", notice)
	}
	p.put(s.Target, s.Generation, s.Saved)
	return nil
}

// put makes t the target and starts its checks in place of the old one's.
func (p *Proxy) put(t *Target, generation uint64, at time.Time) Swap {
	var next *target
	if t != nil {
		next = &target{Target: *t, backend: newBackend(t.Addr, p.opts.ConnectTimeout)}
	}
	s := p.valve.swap(next, generation, at)
	p.startChecks(t)
	return s
}

func (p *Proxy) startChecks(t *Target) {
	p.checkMu.Lock()
	defer p.checkMu.Unlock()
	if p.stop != nil {
		p.stop()
	}
	p.current, p.stop = nil, nil
	if t == nil || p.closed {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := newChecker(*t, p.log)
	p.current, p.stop = c, cancel
	p.checks.Go(func() { c.run(ctx) })
}

func (p *Proxy) stopChecks() {
	p.checkMu.Lock()
	p.closed = true
	if p.stop != nil {
		p.stop()
	}
	p.checkMu.Unlock()
	p.checks.Wait()
}

// State tells what the proxy does now.
func (p *Proxy) State() State {
	s := State{Listen: p.listen, PID: os.Getpid(), Started: p.started, Notice: p.notice}
	p.valve.fill(&s)
	p.checkMu.Lock()
	c := p.current
	p.checkMu.Unlock()
	s.Checks.Status = CheckUnknown
	if c != nil {
		s.Checks = c.snapshot()
	}
	return s
}

// set swaps to t (nil: none) when expect still is the generation. The new state is on disk before the swap: a crash between the two leaves the state of
// a swap that the gate allowed, and a disk that refuses leaves everything as it was.
func (p *Proxy) set(t *Target, expect uint64) (Swap, error) {
	p.control.Lock()
	defer p.control.Unlock()
	now := time.Now()
	generation := p.valve.currentGeneration()
	if generation != expect {
		return Swap{}, &StaleError{Expected: expect, Generation: generation}
	}
	next := savedState{Format: stateFormat, Generation: generation + 1, Target: t, Saved: now}
	if err := next.save(p.opts.Root.ProxyState()); err != nil {
		return Swap{}, fmt.Errorf("save state: %w", err)
	}
	s := p.put(t, next.Generation, now)
	p.log.Info("target set", "generation", s.Generation, "target", addrOf(t), "was", addrOf(s.Previous), "in_flight", s.InFlight)
	return s, nil
}

func addrOf(t *Target) string {
	if t == nil {
		return ""
	}
	return t.Addr
}
