package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"syscall"
	"time"

	"hostmanager/internal/layout"
	"hostmanager/internal/unixsock"
)

var (
	// ErrStale: the generation expected is not the current one; somebody else swapped. A *StaleError tells the current one.
	ErrStale = errors.New("the proxy's target changed meanwhile")
	// ErrNotRunning: nobody answers on the control socket.
	ErrNotRunning = errors.New("the proxy is not running")
	// ErrRefused: the proxy does not accept the request as it stands.
	ErrRefused = errors.New("the proxy refused the request")
)

// StaleError is an ErrStale with the generations.
type StaleError struct {
	Expected   uint64
	Generation uint64 // current
}

func (e *StaleError) Error() string {
	return fmt.Sprintf("%v: expected generation %d, it is %d; read the state and decide anew", ErrStale, e.Expected, e.Generation)
}

// Is makes errors.Is(err, ErrStale) true.
func (e *StaleError) Is(target error) bool { return target == ErrStale }

// Client talks to the proxy of a root over its control socket. Its methods may be called concurrently; each opens a connection of its own and
// waits as long as its context allows.
type Client struct {
	http *http.Client
}

// NewClient makes a client. It connects with each call, so the proxy may start later or restart.
func NewClient(root layout.Root) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return unixsock.Dial(ctx, root.ProxySocket())
	}
	return &Client{http: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// State asks what the proxy does now.
func (c *Client) State(ctx context.Context) (State, error) {
	var s State
	return s, c.call(ctx, http.MethodGet, "/v1/state", nil, &s)
}

// SetTarget sends every request that begins from now on to t, when the generation still is expect (ErrStale otherwise). It returns when that is durable. A
// call whose answer was lost must not be repeated blindly: State tells whether it took effect. The zero Target means none: clients get 503.
func (c *Client) SetTarget(ctx context.Context, t Target, expect uint64) (Swap, error) {
	var s Swap
	req := targetRequest{Target: t, Clear: t == Target{}, ExpectGeneration: &expect}
	err := c.call(ctx, http.MethodPut, "/v1/target", req, &s)
	var stale *StaleError
	if errors.As(err, &stale) {
		stale.Expected = expect
	}
	return s, err
}

// Drain waits until nothing that began on addr before is in flight, at most for timeout; then the rest is cut, which the result tells. An address the
// proxy does not know has nothing in flight. The current target cannot be drained unless paused (ErrServing). May be repeated.
func (c *Client) Drain(ctx context.Context, addr string, timeout time.Duration) (Drained, error) {
	var d Drained
	return d, c.call(ctx, http.MethodPost, "/v1/drain", drainRequest{Addr: addr, Timeout: Duration(timeout)}, &d)
}

// Pause makes new requests wait until Resume, at most for timeout: then the proxy resumes by itself, so that a caller that died does not keep the
// application away. May be repeated to prolong.
func (c *Client) Pause(ctx context.Context, timeout time.Duration) (PauseState, error) {
	var s PauseState
	return s, c.call(ctx, http.MethodPost, "/v1/pause", pauseRequest{Timeout: Duration(timeout)}, &s)
}

// Resume lets the waiting requests go on, to the target of that moment, and reports how many waited. Without a pause it does nothing.
func (c *Client) Resume(ctx context.Context) (released int, err error) {
	var out struct {
		Released int `json:"released"`
	}
	err = c.call(ctx, http.MethodPost, "/v1/resume", nil, &out)
	return out.Released, err
}

func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode proxy request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://proxy"+path, body)
	if err != nil {
		return fmt.Errorf("build proxy request: %w", err)
	}
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w (start the hostmanager-proxy unit): %w", ErrNotRunning, err)
	case err != nil:
		return fmt.Errorf("ask proxy: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read proxy's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return replyToError(resp.StatusCode, data)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decode proxy's answer: %w", err)
	}
	return nil
}

func replyToError(status int, data []byte) error {
	var e errorReply
	if err := json.Unmarshal(data, &e); err != nil {
		return fmt.Errorf("proxy answered status %d: %w", status, err)
	}
	switch e.Code {
	case codeStale:
		return &StaleError{Generation: e.Generation}
	case codeServing:
		return ErrServing
	case codeBadRequest:
		return fmt.Errorf("%w: %s", ErrRefused, e.Error)
	}
	return fmt.Errorf("proxy answered status %d: %s", status, e.Error)
}
