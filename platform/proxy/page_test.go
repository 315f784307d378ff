package proxy_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"hostmanager/platform/proxy"
)

// deadAddr is an address that refuses connections.
func deadAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *rawConn) answer(t *testing.T) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatalf("read answer: %v", err)
	}
	_ = resp.Body.Close()
	return resp
}

// post is a request of which only the first sent bytes of the body leave at once.
func post(length, sent int) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", length, strings.Repeat("x", sent))
}

// A load balancer sends the next request on the same connection, unless it is told that this one ends.
func TestPage_LeavesTheConnectionUsableOrSaysClose(t *testing.T) {
	reads := func(n int64) func(t *testing.T) string {
		return func(t *testing.T) string {
			t.Helper()
			return rawBackend(t, func(c net.Conn) { _, _ = io.CopyN(io.Discard, c, n) })
		}
	}
	const chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
	tests := []struct {
		name    string
		target  func(t *testing.T) string // nil: none is set
		request string
		late    string // sent a moment after, while the page is due already
		status  int
		closes  bool
	}{
		{"small body, dead target", deadAddr, post(5, 5), "", 502, false},
		{"small body on its way, dead target", deadAddr, post(5000, 10), strings.Repeat("x", 4990), 502, false},
		{"most of what is small", deadAddr, post(256<<10, 256<<10), "", 502, false},
		{"large body, dead target", deadAddr, post(10<<20, 1000), "", 502, true},
		{"small body that never comes", deadAddr, post(5000, 10), "", 502, true},
		{"body of unknown length", deadAddr, chunked, "", 502, true},
		{"waits for a word to send it", deadAddr, strings.Replace(post(5, 0), "Content", "Expect: 100-continue\r\nContent", 1), "", 502, true},
		{"small body, no target", nil, post(5, 5), "", 503, false},
		{"large body, no target", nil, post(10<<20, 1000), "", 503, true},
		{"target gone within a small body", reads(20), post(5000, 10), strings.Repeat("x", 4990), 502, false},
		{"target gone within a large body", reads(20), post(10<<20, 1000), "", 502, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := startProxy(t, proxy.Options{})
			if tt.target != nil {
				r.to(t, tt.target(t))
			}
			c := dialRaw(t, r.addr)
			c.send(t, tt.request)
			c.send(t, tt.late)
			resp := c.answer(t)
			if resp.StatusCode != tt.status || resp.Close != tt.closes {
				t.Fatalf("status %d, Connection: close %v", resp.StatusCode, resp.Close)
			}
			if tt.closes {
				return
			}
			c.send(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if resp := c.answer(t); resp.StatusCode != tt.status || resp.Close {
				t.Errorf("next: status %d, close %v", resp.StatusCode, resp.Close)
			}
			r.to(t, startBackend(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
			c.send(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
			if resp := c.answer(t); resp.StatusCode != 200 {
				t.Errorf("after the target came: status %d", resp.StatusCode)
			}
		})
	}
}
