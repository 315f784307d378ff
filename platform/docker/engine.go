package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/client"
)

// Bounds on the Engine's answers. An Engine that hangs takes requests and never answers them, and nothing here may wait for that.
const (
	lookLimit   = 20 * time.Second // of a question
	changeLimit = 2 * time.Minute  // of a change: removing a large container on a busy disk takes its time
	// A build, a pull or a pruning may be silent for long. While one goes on the Engine is asked whether it is there.
	aliveEvery = 10 * time.Second
	aliveLimit = 60 * time.Second // without an answer to that
	// engineWait is how long a step of a command waits for an Engine that nobody can be reached at: a restart of it takes seconds.
	engineWait  = 30 * time.Second
	enginePause = 200 * time.Millisecond // between two tries to reach it
	dialTimeout = 5 * time.Second
)

// errSilent is the cause of a request's end that the Engine did not answer in time.
var errSilent = errors.New("the Docker Engine took the request and does not answer")

// EngineAway tells whether an error means that the Engine could not be reached or did not answer, rather than what it answered.
func EngineAway(err error) bool { return client.IsErrConnectionFailed(err) }

// waitsKey marks the context of a step that waits for an Engine that is being restarted.
type waitsKey struct{}

func waiting(ctx context.Context) context.Context { return context.WithValue(ctx, waitsKey{}, true) }

// newClient makes the client of the Engine at host ("" for what the environment says), with every call bounded in time.
func newClient(host string) (*client.Client, error) {
	options := []client.Opt{client.FromEnv, client.WithAPIVersionNegotiation()}
	if host != "" {
		options = append(options, client.WithHost(host))
	}
	var ours *http.Client
	var transport *http.Transport
	options = append(options, func(c *client.Client) error {
		ours = c.HTTPClient()
		var ok bool
		if transport, ok = ours.Transport.(*http.Transport); !ok {
			return fmt.Errorf("bound Engine client: its transport is a %T", ours.Transport)
		}
		dial := transport.DialContext
		if dial == nil {
			dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
		}
		return errors.Join(client.WithHTTPClient(ours)(c), client.WithDialContext(patientDial(dial))(c))
	})
	cli, err := client.NewClientWithOpts(options...)
	if err != nil {
		return nil, err
	}
	ours.Transport = again{bounded{transport}}
	return cli, nil
}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// patientDial tries again for those who wait, for a while. A request whose connection could not be made was not sent: trying again is safe for all.
func patientDial(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		began := time.Now()
		for {
			conn, err := dial(ctx, network, addr)
			if err == nil || ctx.Value(waitsKey{}) == nil || time.Since(began) > engineWait {
				return conn, err
			}
			pause := time.NewTimer(enginePause)
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				return nil, err
			}
		}
	}
}

// again puts a question once more for those who wait, for a while, where the Engine took the connection and hung up: a socket that systemd holds
// does that while the Engine is being restarted. Only what changes nothing is asked again.
type again struct{ inner http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (a again) RoundTrip(r *http.Request) (*http.Response, error) {
	question := (r.Method == http.MethodGet || r.Method == http.MethodHead) && (r.Body == nil || r.Body == http.NoBody)
	began := time.Now()
	for {
		answer, err := a.inner.RoundTrip(r)
		if err == nil || !question || r.Context().Value(waitsKey{}) == nil || errors.Is(err, errSilent) || time.Since(began) > engineWait {
			return answer, err
		}
		pause := time.NewTimer(enginePause)
		select {
		case <-pause.C:
		case <-r.Context().Done():
			pause.Stop()
			return nil, err
		}
	}
}

// bounded ends requests that the Engine does not answer in time.
type bounded struct{ inner http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	limit := limitOf(r)
	var end func()
	switch {
	case limit.watched:
		stop := make(chan struct{})
		end = sync.OnceFunc(func() { close(stop) })
		go b.watch(ctx, r, stop, cancel)
	default:
		timer := time.AfterFunc(limit.answer, func() { cancel(fmt.Errorf("%w within %v", errSilent, limit.answer)) })
		end = func() { timer.Stop() }
	}
	answer, err := b.inner.RoundTrip(r.WithContext(ctx))
	if err != nil {
		end()
		silent := context.Cause(ctx)
		cancel(nil)
		if r.Context().Err() == nil && errors.Is(silent, errSilent) {
			return nil, silent
		}
		return nil, err
	}
	if limit.stream && !limit.watched {
		end() // it lasts as long as it lasts
	}
	answer.Body = &boundedBody{ReadCloser: answer.Body, ctx: ctx, done: func() { end(); cancel(nil) }}
	return answer, nil
}

// boundedBody ends its request's bound with it. An answer that is upgraded to a connection keeps what it is written to with.
type boundedBody struct {
	io.ReadCloser
	ctx  context.Context
	done func()
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if silent := context.Cause(b.ctx); err != nil && err != io.EOF && errors.Is(silent, errSilent) {
		err = silent
	}
	return n, err
}

func (b *boundedBody) Close() error {
	defer b.done()
	return b.ReadCloser.Close()
}

// limit is how long an answer may take.
type limit struct {
	answer  time.Duration // to the whole answer; of a stream to its beginning
	stream  bool
	watched bool // no limit, but the Engine must be there
}

func limitOf(r *http.Request) limit {
	path := r.URL.Path
	query := r.URL.Query()
	has := func(end string) bool { return strings.HasSuffix(path, end) }
	switch {
	case has("/build") || has("/images/create") || has("/prune"):
		return limit{watched: true}
	case has("/events"), has("/logs") && query.Get("follow") == "1", has("/wait"):
		return limit{answer: lookLimit, stream: true}
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return limit{answer: lookLimit}
	}
	l := limit{answer: changeLimit}
	if grace, err := strconv.Atoi(query.Get("t")); err == nil && grace > 0 { // of a stop
		l.answer += time.Duration(grace) * time.Second
	}
	return l
}

// watch asks the Engine from time to time whether it is there, and ends the request when it does not say so for too long.
func (b bounded) watch(ctx context.Context, r *http.Request, stop <-chan struct{}, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(aliveEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-stop:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if b.alive(ctx, r) {
			last = time.Now()
		} else if time.Since(last) > aliveLimit {
			cancel(fmt.Errorf("%w for %v", errSilent, aliveLimit))
			return
		}
	}
}

func (b bounded) alive(ctx context.Context, r *http.Request) bool {
	ctx, cancel := context.WithTimeout(ctx, aliveEvery)
	defer cancel()
	u := *r.URL
	u.Path, u.RawQuery = "/_ping", ""
	ping, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return false
	}
	ping.Host = r.Host
	answer, err := b.inner.RoundTrip(ping)
	if err != nil {
		return false
	}
	drainAndClose(answer.Body)
	return true
}

// bound gives up on work that heeds no context of its own, such as the making of a session. What comes of it after that is closed.
func bound(ctx context.Context, work func() (net.Conn, error)) (net.Conn, error) {
	type outcome struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lookLimit, fmt.Errorf("%w within %v", errSilent, lookLimit))
	defer cancel()
	came := make(chan outcome)
	go func() {
		conn, err := work()
		select {
		case came <- outcome{conn, err}:
		case <-ctx.Done():
			if conn != nil {
				_ = conn.Close()
			}
		}
	}()
	select {
	case o := <-came:
		return o.conn, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
