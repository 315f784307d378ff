package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"hostmanager/internal/steadystream"
	"hostmanager/platform/proxy"
)

const upgradeRequest = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-Websocket-Key: x\r\n\r\n"

// echoUpgrade switches and echoes until its client has sent everything, then says so and ends.
func echoUpgrade(c net.Conn) {
	br := bufio.NewReader(c)
	req, err := http.ReadRequest(br)
	if err != nil || req.Header.Get("Upgrade") != "websocket" || req.Header.Get("Connection") != "Upgrade" {
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
		return
	}
	_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nSec-Websocket-Accept: y\r\n\r\nhello ")
	_, _ = io.Copy(c, br)
	_, _ = io.WriteString(c, "bye")
}

func TestTunnel_CarriesBothWaysWithHalfClose(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, rawBackend(t, echoUpgrade))
	c := dialRaw(t, r.addr)
	c.send(t, upgradeRequest+"early ") // bytes that ride with the head must not be lost
	h := c.head(t)
	for _, want := range []string{"HTTP/1.1 101 ", "Connection: Upgrade\r\n", "Upgrade: WebSocket\r\n", "Sec-Websocket-Accept: y\r\n"} {
		if !strings.Contains(h, want) {
			t.Errorf("head %q lacks %q", h, want)
		}
	}
	if st := r.state(t); st.InFlight != 1 {
		t.Errorf("in flight %d", st.InFlight)
	}
	c.send(t, "late ")
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	if rest, err := c.rest(t); rest != "hello early late bye" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
	eventually(t, "tunnel has ended", func() bool { return r.state(t).InFlight == 0 })
}

func TestTunnel_OutlivesTheSwapAndIsCutAtTheDeadline(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	oldAddr := rawBackend(t, echoUpgrade)
	r.to(t, oldAddr)
	c := dialRaw(t, r.addr)
	c.send(t, upgradeRequest)
	c.head(t)
	if s := r.to(t, startBackend(t, steadystream.Backend("new"))); s.InFlight != 1 {
		t.Errorf("in flight at the swap: %d", s.InFlight)
	}
	c.send(t, "still")
	buf := make([]byte, len("hello still"))
	if _, err := io.ReadFull(c.br, buf); err != nil || string(buf) != "hello still" {
		t.Fatalf("after the swap: %q, %v", buf, err)
	}
	d, err := r.Drain(testContext(t), oldAddr, 30*time.Millisecond)
	if err != nil || d.InFlight != 1 || d.Cancelled != 1 || d.Remaining != 0 {
		t.Errorf("drained %+v, %v", d, err)
	}
	if rest, _ := c.rest(t); strings.Contains(rest, "bye") {
		t.Errorf("not cut: %q", rest)
	}
}

func TestTunnel_RefusedUpgradeIsAPlainAnswer(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, steadystream.Backend("a")))
	c := dialRaw(t, r.addr)
	c.send(t, upgradeRequest)
	if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 200 ") {
		t.Errorf("got %q", h)
	}
}

func TestTunnel_OtherProtocolThanAskedIsRefused(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, rawBackend(t, answerOnce("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")))
	c := dialRaw(t, r.addr)
	c.send(t, upgradeRequest)
	if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 502 ") {
		t.Errorf("got %q", h)
	}
}

func TestTunnel_EndOfTheTargetEndsTheClient(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, rawBackend(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nlast words")
		}
	}))
	c := dialRaw(t, r.addr)
	c.send(t, upgradeRequest)
	c.head(t)
	if rest, err := c.rest(t); rest != "last words" || err != nil {
		t.Errorf("got %q, %v", rest, err)
	}
}
