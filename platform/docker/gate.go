package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"hostmanager/platform/settings"
)

// probeInterval is how often the gate asks.
const probeInterval = 100 * time.Millisecond

// errExited is what closes a gate at once: the container is not there to become healthy.
var errExited = errors.New("container ended")

// gate is what a new container must pass before it may serve.
type gate struct {
	addr    string
	check   settings.Check
	timeout time.Duration
}

// closedError says why a gate was not passed in time.
type closedError struct {
	asked   string
	timeout time.Duration
	last    error
}

func (e *closedError) Error() string {
	return fmt.Sprintf("did not become healthy within %s: %s %v", e.timeout, e.asked, e.last)
}

func (e *closedError) Unwrap() error { return e.last }

// pass probes until one probe succeeds. It returns a closedError after the timeout, or the cause of ctx.
func (g gate) pass(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, g.timeout)
	defer cancel()
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	last := errors.New("was not asked")
	for {
		err := g.probe(bounded)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case bounded.Err() == nil:
			last = err
		}
		select {
		case <-bounded.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &closedError{asked: g.asks(), timeout: g.timeout, last: last}
		case <-tick.C:
		}
	}
}

func (g gate) asks() string {
	if g.check.Path == "" {
		return "a connection to " + g.addr
	}
	return "GET http://" + g.addr + g.check.Path
}

// probe asks once.
func (g gate) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.check.Timeout)
	defer cancel()
	if g.check.Path == "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", g.addr)
		if err != nil {
			return plainNetError(ctx, err, g.check.Timeout)
		}
		return conn.Close()
	}
	return g.get(ctx)
}

func (g gate) get(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.addr+g.check.Path, nil)
	if err != nil {
		return fmt.Errorf("cannot be asked: %w", err)
	}
	r.Header.Set("User-Agent", "hostmanager-health-check")
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r) // a redirect is an answer like any other
	if err != nil {
		return plainNetError(ctx, err, g.check.Timeout)
	}
	_, _ = io.CopyN(io.Discard, answer.Body, 4<<10)
	_ = answer.Body.Close()
	if !g.check.Codes.Match(answer.StatusCode) {
		return fmt.Errorf("answered %d, want %s", answer.StatusCode, g.check.Codes)
	}
	return nil
}

// plainNetError says in a few words what a probe met.
func plainNetError(ctx context.Context, err error, timeout time.Duration) error {
	var op *net.OpError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("gave no answer within %s", timeout)
	case errors.As(err, &op):
		return fmt.Errorf("failed: %w", op.Err)
	}
	return fmt.Errorf("failed: %w", err)
}
