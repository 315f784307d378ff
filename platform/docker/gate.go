package docker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"hostmanager/platform/settings"
)

// probeInterval is how often the gate asks. Most containers listen a few milliseconds after their start, so the first probes come sooner: the
// pause begins at firstPause and doubles until it is probeInterval.
const (
	firstPause    = 2 * time.Millisecond
	probeInterval = 100 * time.Millisecond
)

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
	pause := time.NewTimer(0)
	defer pause.Stop()
	end, _ := bounded.Deadline()
	var last error
	for wait := firstPause; ; wait = min(2*wait, probeInterval) {
		err := g.probe(bounded)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case last == nil || time.Now().Before(end): // the probe that the end cuts off says less than the one before it
			last = err
		}
		pause.Reset(wait)
		select {
		case <-bounded.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return &closedError{asked: g.asks(), timeout: g.timeout, last: last}
		case <-pause.C:
		}
	}
}

func (g gate) asks() string {
	if g.check.Path == "" {
		return "a connection to " + g.addr
	}
	return "GET http://" + g.addr + g.check.Path
}

// maxAnswer bounds what is read of an answer: its status is all that counts.
const maxAnswer = 64 << 10

// probe asks once. It dials by itself: a http.Transport would go on connecting, to a container that may be gone, after the probe was given up.
func (g gate) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, g.check.Timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", g.addr)
	if err != nil {
		return plainNetError(ctx, err)
	}
	defer conn.Close()
	if g.check.Path == "" {
		return nil
	}
	giveUp := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer giveUp()
	code, err := g.ask(ctx, conn)
	switch {
	case err != nil:
		return plainNetError(ctx, err)
	case !g.check.Codes.Match(code):
		return fmt.Errorf("answered %d, want %s", code, g.check.Codes)
	}
	return nil
}

// ask sends the request and returns the final status. A redirect is an answer like any other.
func (g gate) ask(ctx context.Context, conn net.Conn) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.addr+g.check.Path, nil)
	if err != nil {
		return 0, err
	}
	r.Close = true
	r.Header.Set("User-Agent", "hostmanager-health-check")
	if err := r.Write(conn); err != nil {
		return 0, err
	}
	in := bufio.NewReader(io.LimitReader(conn, maxAnswer))
	for {
		answer, err := http.ReadResponse(in, r)
		if err != nil {
			return 0, err
		}
		_ = answer.Body.Close()
		if answer.StatusCode >= http.StatusOK || answer.StatusCode == http.StatusSwitchingProtocols {
			return answer.StatusCode, nil
		}
	}
}

// plainNetError says in a few words what a probe met.
func plainNetError(ctx context.Context, err error) error {
	var op *net.OpError
	switch {
	case ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded):
		return errors.New("gave no answer in time")
	case errors.As(err, &op):
		return fmt.Errorf("failed: %w", op.Err)
	}
	return fmt.Errorf("failed: %w", err)
}
