package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"hostmanager/internal/steadystream"
	"hostmanager/platform/proxy"
)

// unannounced answers n requests a connection and then closes it without having said so: the classic way to lose a POST on a connection kept alive.
func unannounced(n int, conns *atomic.Int64) func(net.Conn) {
	return func(c net.Conn) {
		conns.Add(1)
		br := bufio.NewReader(c)
		for range n {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
		}
	}
}

func TestReuse_TargetThatClosesIdleConnectionsLosesNoPOST(t *testing.T) {
	for _, n := range []int{1, 2, 7} {
		var conns atomic.Int64
		r := startProxy(t, proxy.Options{NoAccessLog: true})
		r.to(t, rawBackend(t, unannounced(n, &conns)))
		s, err := steadystream.Start(t.Context(), steadystream.Options{URL: r.url(), Concurrency: 8, PostEvery: 2, BodySize: 300})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "requests", func() bool { return s.Requests() >= 3000 })
		if rep := s.Stop(); rep.Failed != 0 {
			t.Errorf("%d a connection: %v", n, rep)
		}
	}
}

// A target that keeps its word gets its connections used again, for POSTs too once they were seen to survive.
func TestReuse_ConnectionsAreKept(t *testing.T) {
	var conns atomic.Int64
	backend := &http.Server{Handler: steadystream.Backend("a"), ConnState: func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			conns.Add(1)
		}
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = backend.Serve(l) })
	defer wg.Wait()
	defer backend.Close()
	r := startProxy(t, proxy.Options{})
	r.to(t, l.Addr().String())
	s, err := steadystream.Start(t.Context(), steadystream.Options{URL: r.url(), Concurrency: 4, PostEvery: 1, Check: steadystream.CheckBackend})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "requests", func() bool { return s.Requests() >= 5000 })
	rep := s.Stop()
	if rep.Failed != 0 || conns.Load() > 1000 {
		t.Errorf("%v over %d connections", rep, conns.Load())
	}
	t.Logf("%d POSTs over %d connections", rep.Requests, conns.Load())
}

// A repeatable request on a connection that turns out to be dead is sent again; one that is not is answered 502, never sent twice.
func TestReuse_DeadConnection(t *testing.T) {
	var posts atomic.Int64
	served := make(chan struct{}, 100)
	// Each connection answers once; the next request on it is read and then the connection is closed, as a crash would.
	addr := rawBackend(t, func(c net.Conn) {
		br := bufio.NewReader(c)
		for i := range 2 {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if req.Method == http.MethodPost {
				posts.Add(1)
			}
			if i == 1 {
				return
			}
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			served <- struct{}{}
		}
	})
	r := startProxy(t, proxy.Options{})
	r.to(t, addr)
	for range 5 {
		if code, _ := get(t, r.url()); code != 200 {
			t.Fatalf("GET: %d", code)
		}
	}
	resp, err := newClient(t).Post(r.url(), "text/plain", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if n := posts.Load(); n != 1 || resp.StatusCode != 200 {
		t.Errorf("the POST came %d times, status %d", n, resp.StatusCode)
	}
}

// After a swap and a drain nothing keeps the old target's connections open.
func TestReuse_OldTargetsConnectionsAreClosed(t *testing.T) {
	var open atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	backend := &http.Server{Handler: steadystream.Backend("a"), ConnState: func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}}
	var wg sync.WaitGroup
	wg.Go(func() { _ = backend.Serve(l) })
	defer wg.Wait()
	defer backend.Close()
	r := startProxy(t, proxy.Options{})
	r.to(t, l.Addr().String())
	s, err := steadystream.Start(t.Context(), steadystream.Options{URL: r.url(), Check: steadystream.CheckBackend})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "requests", func() bool { return s.Requests() > 200 })
	r.to(t, startBackend(t, steadystream.Backend("b")))
	if _, err := r.Drain(testContext(t), l.Addr().String(), testTimeout); err != nil {
		t.Fatal(err)
	}
	eventually(t, "connections closed", func() bool { return open.Load() == 0 })
	if rep := s.Stop(); rep.Failed != 0 {
		t.Error(rep)
	}
}

// A target restarted at its address: the connections to the process that is gone must not cost a request.
func TestReuse_RestartedTargetCostsNoRequest(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	r := startProxy(t, proxy.Options{})
	var wg sync.WaitGroup
	defer wg.Wait()
	serve := func(l net.Listener) *http.Server {
		s := &http.Server{Handler: steadystream.Backend("a")}
		wg.Go(func() { _ = s.Serve(l) })
		return s
	}
	first := serve(l)
	r.to(t, addr)
	for range 3 {
		get(t, r.url())
	}
	_ = first.Close()
	eventually(t, "the address is free", func() bool { l, err = net.Listen("tcp", addr); return err == nil })
	second := serve(l)
	defer second.Close()
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		req, _ := http.NewRequestWithContext(testContext(t), method, r.url(), nil)
		resp, err := newClient(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d", method, resp.StatusCode)
		}
	}
}
