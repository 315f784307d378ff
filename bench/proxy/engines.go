package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"hostmanager/internal/layout"
	"hostmanager/platform/proxy"
)

// The engines that were weighed against each other. All choose their target under a lock and count the request in flight, as a flip valve must.

// gate is the least a flip valve does: choose and count under one lock.
type gate struct {
	mu       sync.Mutex
	target   *url.URL
	inFlight int
}

func (g *gate) begin() *url.URL {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight++
	return g.target
}

func (g *gate) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inFlight--
}

type bufferPool struct{ p sync.Pool }

func (b *bufferPool) Get() []byte {
	if v, ok := b.p.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, 32<<10)
}

func (b *bufferPool) Put(v []byte) { b.p.Put(&v) }

func tunedTransport() *http.Transport {
	return &http.Transport{
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext, MaxIdleConns: 256, MaxIdleConnsPerHost: 256,
		IdleConnTimeout: time.Minute, DisableCompression: true, ResponseHeaderTimeout: time.Minute,
	}
}

// reverseProxy is the standard library's, with a tuned transport and pooled buffers.
func reverseProxy(target *url.URL) http.Handler {
	g := &gate{target: target}
	rp := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(r.In.Context().Value(gateKey{}).(*url.URL))
			r.Out.Host = r.In.Host
			r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
			r.SetXForwarded()
		},
		Transport: tunedTransport(), BufferPool: &bufferPool{}, FlushInterval: -1, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := g.begin()
		defer g.end()
		rp.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), gateKey{}, t)))
	})
}

type gateKey struct{}

// leanHandler is the shortest handler on the standard transport: one RoundTrip, no clones beyond the header. It is not complete (no
// upgrades, no trailers): it shows what could be won at most without leaving the transport.
func leanHandler(target *url.URL) http.Handler {
	g := &gate{target: target}
	tr, pool := tunedTransport(), &bufferPool{}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t := g.begin()
		defer g.end()
		u := *r.URL
		u.Scheme, u.Host = t.Scheme, t.Host
		out := (&http.Request{Method: r.Method, URL: &u, Host: r.Host, Header: r.Header, ContentLength: r.ContentLength}).WithContext(r.Context())
		if r.ContentLength != 0 {
			out.Body = r.Body
		}
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		out.Header["X-Forwarded-For"] = append(out.Header["X-Forwarded-For"], host)
		resp, err := tr.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		h := w.Header()
		for k, v := range resp.Header {
			h[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		b := pool.Get()
		defer pool.Put(b)
		_, _ = io.CopyBuffer(struct{ io.Writer }{w}, resp.Body, b)
	})
}

// serveRole is what a child process does: print its address, serve until its standard input ends.
func serveRole(role, target, dir string) error {
	u := &url.URL{Scheme: "http", Host: target}
	switch role {
	case "upstream":
		return serve(upstream())
	case "reverseproxy":
		return serve(reverseProxy(u))
	case "transport":
		return serve(leanHandler(u))
	case "valve":
		return serveValve(target, dir)
	}
	return fmt.Errorf("no role %q", role)
}

func serve(h http.Handler) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(l.Addr())
	srv := &http.Server{Handler: h}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = srv.Close()
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func serveValve(target, dir string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	p := proxy.New(proxy.Options{Root: layout.Root(dir), Listen: "127.0.0.1:0"})
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	select {
	case err := <-done:
		return err
	case <-p.Ready():
	}
	if _, err := proxy.NewClient(layout.Root(dir)).SetTarget(ctx, proxy.Target{Addr: target}, 0); err != nil {
		return err
	}

	fmt.Println(p.Addrs()[0])
	_, _ = io.Copy(io.Discard, os.Stdin)
	cancel()
	return <-done
}

// upstream answers GET / with a small page, GET /large with 1 MiB, and POST by reading the body and saying its length.
func upstream() http.Handler {
	runtime.GOMAXPROCS(runtime.NumCPU())
	large := []byte(strings.Repeat("0123456789abcdef", 1<<16))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "Hello from the application\n") })
	mux.HandleFunc("GET /large", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(large)))
		_, _ = w.Write(large)
	})
	mux.HandleFunc("POST /{$}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n)
	})
	return mux
}
