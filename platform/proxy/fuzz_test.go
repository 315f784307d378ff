package proxy_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/internal/layout"
	"hostmanager/platform/proxy"
)

// fuzzed is a proxy before a target that answers each connection with the same bytes.
type fuzzed struct {
	addr  string
	bytes atomic.Value
}

func startFuzzed(f *testing.F) *fuzzed {
	f.Helper()
	z := &fuzzed{}
	z.bytes.Store([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	go z.answer(l)
	root := layout.Root(f.TempDir())
	p := proxy.New(proxy.Options{
		Root: root, Listen: "127.0.0.1:0", NoAccessLog: true,
		ResponseTimeout: 2 * time.Second, IOTimeout: 2 * time.Second, IdleTimeout: 2 * time.Second, ShutdownTimeout: time.Second,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	f.Cleanup(func() {
		p.Abort()
		cancel()
		<-done
		_ = l.Close()
	})
	select {
	case err := <-done:
		f.Fatal(err)
	case <-p.Ready():
	}
	z.addr = p.Addrs()[0]
	client := proxy.NewClient(root)
	if _, err := client.SetTarget(f.Context(), proxy.Target{Addr: l.Addr().String(), Checks: proxy.Checks{Disabled: true}}, 0); err != nil {
		f.Fatal(err)
	}
	return z
}

// answer reads the head of a request and sends the bytes.
func (z *fuzzed) answer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Second))
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = c.Write(z.bytes.Load().([]byte))
			}
		}()
	}
}

// FuzzTargetBytes holds for whatever a target answers: the client gets a well-formed response or a cut connection, in bounded time, and the proxy
// goes on.
func FuzzTargetBytes(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.0 204 No Content\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n..",
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "HTTP/1.1 099 x\r\n\r\n", "\x16\x03\x01", "HTTP/1.1 200 OK\r\nA: b\n c\r\n\r\n", "",
	} {
		f.Add([]byte(text))
	}
	z := startFuzzed(f)
	f.Fuzz(func(t *testing.T, answer []byte) {
		z.bytes.Store(answer)
		z.ask(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false)
		z.bytes.Store([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
		if status := z.ask(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false); status != http.StatusOK {
			t.Fatalf("after %q the next request got %d", answer, status)
		}
	})
}

// FuzzClientBytes holds for whatever a client sends: an answer or a closed connection, in bounded time, and the proxy goes on.
func FuzzClientBytes(f *testing.F) {
	for _, text := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nxx", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		f.Add([]byte(text))
	}
	z := startFuzzed(f)
	f.Fuzz(func(t *testing.T, request []byte) {
		z.ask(t, string(request), true)
		if status := z.ask(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false); status != http.StatusOK {
			t.Fatalf("after %q the next request got %d", request, status)
		}
	})
}

// ask sends bytes to the proxy and reads what comes back to its end: the status of the first response, or 0 where none came.
// half closes the sending side, so that no request stays unfinished; of a finished one that means, as with other servers, that its client went away.
func (z *fuzzed) ask(t *testing.T, request string, half bool) int {
	t.Helper()
	c, err := net.Dial("tcp", z.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(testTimeout))
	_, _ = io.WriteString(c, request)
	if half {
		_ = c.(*net.TCPConn).CloseWrite()
	}
	in := bufio.NewReader(c)
	status := 0
	for {
		if _, err := in.Peek(1); err != nil {
			break
		}
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("the proxy sent what is no response: %v", err)
		}
		if status == 0 && resp.StatusCode >= 200 {
			status = resp.StatusCode
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			_, _ = io.Copy(io.Discard, in)
			return resp.StatusCode
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil { // cut: the client cannot take it for whole
			return status
		}
	}
	return status
}
