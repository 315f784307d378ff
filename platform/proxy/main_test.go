package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"hostmanager/internal/layout"
	"hostmanager/platform/proxy"
)

// roleRoot makes the test binary a proxy process for tests that kill one.
const roleRoot = "HOSTMANAGER_TEST_PROXY_ROOT"

func TestMain(m *testing.M) {
	if root := os.Getenv(roleRoot); root != "" {
		if err := proxyProcess(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// lumberjack keeps the goroutine that removes old files; it ends with the process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("gopkg.in/natefinch/lumberjack%2ev2.(*Logger).millRun"))
}

func proxyProcess(root string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	listeners, err := proxy.Activated()
	if err != nil {
		return err
	}
	return proxy.New(proxy.Options{Root: layout.Root(root), Listen: "127.0.0.1:0", Listeners: listeners}).Run(ctx)
}

// rig is a running proxy.
type rig struct {
	*proxy.Client
	addr string
	root layout.Root
	p    *proxy.Proxy
	stop func() // ends it and waits
}

func (r *rig) url() string { return "http://" + r.addr }

const testTimeout = 30 * time.Second

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return ctx
}

func startProxy(t *testing.T, opts proxy.Options) *rig {
	t.Helper()
	if opts.Root == "" {
		opts.Root = layout.Root(t.TempDir())
	}
	opts.Listen = "127.0.0.1:0"
	p := proxy.New(opts)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	select {
	case err := <-done:
		cancel()
		t.Fatalf("run proxy: %v", err)
	case <-p.Ready():
	}
	r := &rig{Client: proxy.NewClient(opts.Root), addr: p.Addrs()[0], root: opts.Root, p: p}
	stopped := false
	r.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("proxy ended: %v", err)
		}
	}
	t.Cleanup(func() {
		p.Abort()
		r.stop()
	})
	return r
}

// startBackend runs an application on a port of its own and returns its address.
func startBackend(t *testing.T, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// rawBackend hands each connection to serve, which owns it until it returns.
func rawBackend(t *testing.T, serve func(c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// to makes addr the target, whatever the generation is.
func (r *rig) to(t *testing.T, addr string) proxy.Swap {
	t.Helper()
	s, err := r.SetTarget(testContext(t), proxy.Target{Addr: addr, Checks: proxy.Checks{Disabled: true}}, r.state(t).Generation)
	if err != nil {
		t.Fatalf("set target: %v", err)
	}
	return s
}

func (r *rig) state(t *testing.T) proxy.State {
	t.Helper()
	s, err := r.State(testContext(t))
	if err != nil {
		t.Fatalf("state: %v", err)
	}
	return s
}

// client is an HTTP client of its own, so that no connection of another test is used again.
func newClient(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: testTimeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := newClient(t).Get(url)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return resp.StatusCode, string(b)
}

// rawConn is a client connection for bytes that net/http's client would not send.
type rawConn struct {
	net.Conn
	br *bufio.Reader
}

func dialRaw(t *testing.T, addr string) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(testTimeout))
	return &rawConn{c, bufio.NewReader(c)}
}

func (c *rawConn) send(t *testing.T, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("send: %v", err)
	}
}

// head reads up to the empty line.
func (c *rawConn) head(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for {
		line, err := c.br.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			t.Fatalf("read head after %q: %v", b.String(), err)
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

func (c *rawConn) rest(t *testing.T) (string, error) {
	t.Helper()
	b, err := io.ReadAll(c.br)
	return string(b), err
}

// eventually polls a real process or file; there is no event to wait for.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(testTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("not in time: %s", what)
		case <-tick.C:
		}
	}
}

func wait[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	var v T
	select {
	case v = <-c:
	case <-time.After(testTimeout):
		t.Fatalf("not in time: %s", what)
	}
	return v
}
