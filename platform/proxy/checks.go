package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// checker runs the checks of one target for as long as it is the current one. Its findings are shown; traffic does not depend on them.
type checker struct {
	target Target
	codes  []codeRange
	log    *slog.Logger
	client http.Client

	mu    sync.Mutex
	state CheckState
}

func newChecker(t Target, log *slog.Logger) *checker {
	t.Checks = t.Checks.withDefaults()
	codes, _ := parseCodes(t.Checks.Codes) // validated when the target was set
	c := &checker{target: t, codes: codes, log: log, state: CheckState{Status: CheckUnknown, Since: time.Now()}}
	if t.Checks.Disabled {
		c.state.Status = CheckDisabled
	}
	c.client = http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

// run checks at once and then at each interval until ctx is done.
func (c *checker) run(ctx context.Context) {
	if c.target.Checks.Disabled {
		return
	}
	tick := time.NewTicker(time.Duration(c.target.Checks.Interval))
	defer tick.Stop()
	for {
		err := c.check(ctx)
		if ctx.Err() != nil {
			return
		}
		c.note(err, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (c *checker) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Duration(c.target.Checks.Timeout), errors.New("no answer in time"))
	defer cancel()
	if c.target.Checks.Path == "" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.target.Addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.target.Addr+c.target.Checks.Path, nil)
	if err != nil {
		return fmt.Errorf("build check: %w", err)
	}
	req.Header.Set("User-Agent", "hostmanager-proxy-check")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, 4<<10)
	for _, r := range c.codes {
		if resp.StatusCode >= r.from && resp.StatusCode <= r.to {
			return nil
		}
	}
	return fmt.Errorf("status %d, want %s", resp.StatusCode, c.target.Checks.Codes)
}

// note counts an outcome. The status changes after enough equal ones in a row; the first check alone decides from unknown to passing, as the
// target came through the deployment's gate.
func (c *checker) note(err error, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.state
	ok := err == nil
	if s.RunsDone > 0 && s.LastOK == ok {
		s.InARow++
	} else {
		s.InARow = 1
	}
	s.RunsDone++
	s.LastRun, s.LastOK, s.LastErr = now, ok, ""
	if !ok {
		s.LastErr = err.Error()
	}
	next := s.Status
	switch {
	case ok && (s.InARow >= c.target.Checks.Healthy || (s.Status == CheckUnknown && s.RunsDone == 1)):
		next = CheckPassing
	case !ok && s.InARow >= c.target.Checks.Unhealthy:
		next = CheckFailing
	}
	if next == s.Status {
		return
	}
	c.log.Info("check status changed", "target", c.target.Addr, "was", s.Status, "status", next, "error", s.LastErr)
	s.Status, s.Since = next, now
}

func (c *checker) snapshot() CheckState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}
