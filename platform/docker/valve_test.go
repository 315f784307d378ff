package docker_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"sync"
	"testing"
	"time"

	"hostmanager/platform/docker"
)

var errStale = errors.New("stale generation")

// valve is a front proxy with the properties the flip relies upon: a target is chosen and its request counted under the lock of the swap.
type valve struct {
	server *httptest.Server

	mu         sync.Mutex
	changed    *sync.Cond
	generation uint64
	target     docker.Target
	inFlight   map[string]int
	swaps      []docker.Target
	loseAnswer bool // the next swap takes effect, and its answer is lost
}

var _ docker.Valve = (*valve)(nil)

func newValve(t *testing.T) *valve {
	v := &valve{inFlight: map[string]int{}, generation: 1}
	v.changed = sync.NewCond(&v.mu)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme = "http"
			r.Out.URL.Host = r.In.Context().Value(addrKey{}).(string)
		},
		FlushInterval: -1,
	}
	v.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		addr := v.enter()
		defer v.leave(addr)
		if addr == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), addrKey{}, addr)))
	}))
	t.Cleanup(v.server.Close)
	return v
}

type addrKey struct{}

func (v *valve) enter() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.inFlight[v.target.Addr]++
	return v.target.Addr
}

func (v *valve) leave(addr string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.inFlight[addr]--
	v.changed.Broadcast()
}

func (v *valve) State(context.Context) (uint64, string, string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.generation, v.target.Addr, v.target.ID, nil
}

func (v *valve) SetTarget(_ context.Context, t docker.Target, expect uint64) (uint64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if expect != v.generation {
		return v.generation, errStale
	}
	v.generation++
	v.target = t
	v.swaps = append(v.swaps, t)
	if v.loseAnswer {
		v.loseAnswer = false
		return 0, errors.New("connection reset by peer")
	}
	return v.generation, nil
}

func (v *valve) Drain(ctx context.Context, addr string, timeout time.Duration) error {
	deadline := time.AfterFunc(timeout, v.changed.Broadcast)
	defer deadline.Stop()
	end := time.Now().Add(timeout)
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.inFlight[addr] > 0 {
		if !time.Now().Before(end) {
			return errors.New("requests were still under way")
		}
		v.changed.Wait()
	}
	return ctx.Err()
}

func (v *valve) now() docker.Target {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.target
}
