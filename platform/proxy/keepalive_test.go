package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"hostmanager/internal/steadystream"
	"hostmanager/platform/proxy"
)

// One client connection carries every sort of request one after the other, also across a swap.
func TestForward_ClientConnectionIsKept(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, steadystream.Backend("a")))
	c := dialRaw(t, r.addr)
	for i, req := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
		"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
	} {
		if i == 3 {
			r.to(t, startBackend(t, steadystream.Backend("b")))
		}
		c.send(t, req)
		if strings.Contains(req, "Expect") {
			if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 100 ") {
				t.Fatalf("request %d: %q", i, h)
			}
		}
		method, _, _ := strings.Cut(req, " ")
		resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		want := map[bool]string{true: "a", false: "b"}[i < 3]
		if err != nil || resp.Close || resp.StatusCode != 200 || resp.Header.Get("X-Backend") != want {
			t.Errorf("request %d: %d by %s, close %v, %v", i, resp.StatusCode, resp.Header.Get("X-Backend"), resp.Close, err)
		}
		if strings.HasSuffix(req, "hello") && string(body) != "hello" {
			t.Errorf("request %d: %q", i, body)
		}
	}
}

// Pipelined requests are answered in their order.
func TestForward_Pipelining(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { _, _ = io.WriteString(w, req.URL.Path) })))
	c := dialRaw(t, r.addr)
	var all strings.Builder
	for i := range 20 {
		fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
	}
	c.send(t, all.String())
	for i := range 20 {
		resp, err := http.ReadResponse(c.br, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != fmt.Sprint("/", i) || err != nil {
			t.Errorf("answer %d: %q, %v", i, body, err)
		}
	}
}
