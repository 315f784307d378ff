package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hostmanager/platform/proxy"
)

// capture is a backend that records the bytes of one request head and answers 200.
func capture(t *testing.T) (addr string, heads <-chan string) {
	t.Helper()
	c := make(chan string, 16)
	return rawBackend(t, func(nc net.Conn) {
		br := bufio.NewReader(nc)
		for {
			var b strings.Builder
			for {
				line, err := br.ReadString('\n')
				if err != nil {
					return
				}
				b.WriteString(line)
				if line == "\r\n" {
					break
				}
			}
			c <- b.String()
			if _, err := io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
				return
			}
		}
	}), c
}

func fields(head string) map[string][]string {
	lines := strings.Split(strings.TrimRight(head, "\r\n"), "\r\n")
	out := map[string][]string{"": {lines[0]}}
	for _, l := range lines[1:] {
		k, v, _ := strings.Cut(l, ": ")
		out[k] = append(out[k], v)
	}
	return out
}

func TestForward_RequestHead(t *testing.T) {
	backend, heads := capture(t)
	r := startProxy(t, proxy.Options{})
	r.to(t, backend)
	_, port, _ := net.SplitHostPort(r.addr)
	base := func(more ...string) map[string][]string {
		m := map[string][]string{
			"": {"GET /a HTTP/1.1"}, "Host": {"app.example"}, "X-Forwarded-For": {"127.0.0.1"}, "X-Real-Ip": {"127.0.0.1"},
			"X-Forwarded-Proto": {"http"}, "X-Forwarded-Port": {port}, "X-Forwarded-Host": {"app.example"},
		}
		for i := 0; i < len(more); i += 2 {
			if more[i+1] == "" {
				delete(m, more[i])
			} else {
				m[more[i]] = strings.Split(more[i+1], "|")
			}
		}
		return m
	}
	const h = "GET /a HTTP/1.1\r\nHost: app.example\r\n"
	for _, c := range []struct {
		name, send string
		want       map[string][]string
	}{
		{"plain", h, base()},
		{"no user agent is added, others pass", h + "Accept: a\r\nAccept: b\r\nX-Odd_Name: 1\r\n", base("Accept", "a|b", "X-Odd_name", "1")},
		{"forwarded for is appended", h + "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n", base("X-Forwarded-For", "1.2.3.4, 5.6.7.8, 127.0.0.1")},
		{"load balancer's proto, port, host pass", h + "X-Forwarded-Proto: https\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Host: www\r\n", base("X-Forwarded-Proto", "https", "X-Forwarded-Port", "443", "X-Forwarded-Host", "www")},
		{"real ip is ours", h + "X-Real-IP: 9.9.9.9\r\n", base()},
		{"hop by hop goes", h + "Connection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: x\r\nTE: gzip\r\n", base()},
		{"trailers are wanted", h + "TE: trailers, deflate;q=0.5\r\nConnection: TE\r\n", base("Te", "trailers")},
		{"connection cannot remove what we add", h + "Connection: X-Forwarded-For, X-Real-IP, X-Forwarded-Proto\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n", base()},
		{"path bytes are kept", strings.Replace(h, "/a", "//a/../%2e%2F?x=%zz&y=+", 1), base("", "GET //a/../%2e%2F?x=%zz&y=+ HTTP/1.1")},
		{"absolute form", "GET http://other.example/p?q=1 HTTP/1.1\r\nHost: app.example\r\n", base("", "GET /p?q=1 HTTP/1.1", "Host", "other.example", "X-Forwarded-Host", "other.example")},
		{"absolute form without path", "GET http://other.example?q HTTP/1.1\r\nHost: x\r\n", base("", "GET /?q HTTP/1.1", "Host", "other.example", "X-Forwarded-Host", "other.example")},
		{"options star", "OPTIONS * HTTP/1.1\r\nHost: app.example\r\n", base("", "OPTIONS * HTTP/1.1")},
		{"a missing body is said", "POST /a HTTP/1.1\r\nHost: app.example\r\n", base("", "POST /a HTTP/1.1", "Content-Length", "0")},
		{"an empty body of a GET is kept", h + "Content-Length: 0\r\n", base("Content-Length", "0")},
		{"connection cannot remove framing", "POST /a HTTP/1.1\r\nHost: app.example\r\nConnection: Content-Length\r\nContent-Length: 0\r\n", base("", "POST /a HTTP/1.1", "Content-Length", "0")},
		{"h2c is not passed on", h + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n", base()},
		{"upgrade needs the connection header", h + "Upgrade: websocket\r\n", base()},
		{"expect without a body", h + "Expect: 100-continue\r\n", base()},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := dialRaw(t, r.addr)
			conn.send(t, c.send+"\r\n")
			got := fields(wait(t, "request at the backend", heads))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("head (-want +got):\n%s", d)
			}
			if h := conn.head(t); !strings.HasPrefix(h, "HTTP/1.1 200 ") {
				t.Errorf("answer %q", h)
			}
		})
	}
}

func TestForward_RefusesAmbiguousRequests(t *testing.T) {
	backend, heads := capture(t)
	r := startProxy(t, proxy.Options{})
	r.to(t, backend)
	const h = "POST / HTTP/1.1\r\nHost: a\r\n"
	for name, send := range map[string]string{
		"two lengths":                 h + "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
		"list of lengths":             h + "Content-Length: 3, 4\r\n\r\nabc",
		"signed length":               h + "Content-Length: +3\r\n\r\nabc",
		"unknown coding":              h + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"identity coding":             h + "Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc",
		"two codings":                 h + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"space before colon":          h + "Content-Length : 3\r\n\r\nabc",
		"bad header name":             h + "X\x01: 1\r\n\r\n",
		"NUL in value":                h + "X: a\x00b\r\n\r\n",
		"two hosts":                   "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
		"no host":                     "GET / HTTP/1.1\r\n\r\n",
		"space in target":             "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
		"connect":                     "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
		"head larger than is allowed": h + "X: " + strings.Repeat("a", 80<<10) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, r.addr)
			_, _ = io.WriteString(c, send)
			if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 4") && !strings.HasPrefix(h, "HTTP/1.1 5") {
				t.Errorf("answer %q", h)
			}
			select {
			case got := <-heads:
				t.Errorf("reached the backend: %q", got)
			default:
			}
		})
	}
}

// A request with both framings is framed by its chunks alone, on both sides; nothing of it is taken for a second request.
func TestForward_ChunksBeatLength(t *testing.T) {
	type seen struct {
		te   []string
		cl   int64
		body string
		uri  string
	}
	got := make(chan seen, 4)
	backend := startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{r.TransferEncoding, r.ContentLength, string(b), r.RequestURI}
	}))
	r := startProxy(t, proxy.Options{})
	r.to(t, backend)
	c := dialRaw(t, r.addr)
	c.send(t, "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	if d := cmp.Diff(seen{[]string{"chunked"}, -1, "hello", "/one"}, wait(t, "request", got), cmp.AllowUnexported(seen{})); d != "" {
		t.Error(d)
	}
	c.head(t)
	// HTTP/1.0 with a Transfer-Encoding net/http does not read: nothing behind it may be served as a request.
	c = dialRaw(t, r.addr)
	c.send(t, "POST /two HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\nGET /smuggled HTTP/1.0\r\nHost: a\r\n\r\n")
	if s := wait(t, "request", got); s.uri != "/two" {
		t.Errorf("served %q", s.uri)
	}
	if h := c.head(t); !strings.Contains(h, "Connection: close") {
		t.Errorf("HTTP/1.0 is kept alive: %q", h)
	}
	if rest, _ := c.rest(t); strings.Contains(rest, "HTTP/") {
		t.Errorf("a second answer: %q", rest)
	}
}

func TestForward_ResponseHead(t *testing.T) {
	for _, c := range []struct {
		name, method, answer string
		status               int
		want                 http.Header
		body                 string
	}{
		{"plain", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: 1\r\nX-A: 2\r\n\r\nok", 200, http.Header{"Content-Length": {"2"}, "X-A": {"1", "2"}}, "ok"},
		{"no type is guessed", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>", 200, http.Header{"Content-Length": {"6"}}, "<html>"},
		{"hop by hop goes", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2\r\nProxy-Authenticate: x\r\n\r\nok", 200, http.Header{"Content-Length": {"2"}}, "ok"},
		{"until the connection ends", "GET", "HTTP/1.1 200 OK\r\nX-End: eof\r\n\r\nsome text", 200, http.Header{"X-End": {"eof"}}, "some text"},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\r\n\r\nold", 200, http.Header{}, "old"},
		{"HEAD keeps the length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", 200, http.Header{"Content-Length": {"12345"}}, ""},
		{"HEAD without length", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, http.Header{}, ""},
		{"204", "GET", "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n", 204, http.Header{"X-A": {"1"}}, ""},
		{"304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nEtag: x\r\nContent-Length: 99\r\n\r\n", 304, http.Header{"Etag": {"x"}}, ""},
		{"unusual status", "GET", "HTTP/1.1 599 Odd\r\nContent-Length: 0\r\n\r\n", 599, http.Header{"Content-Length": {"0"}}, ""},
		{"interim first", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, http.Header{"Content-Length": {"2"}}, "ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			backend := rawBackend(t, answerOnce(c.answer))
			r := startProxy(t, proxy.Options{})
			r.to(t, backend)
			req, _ := http.NewRequestWithContext(testContext(t), c.method, r.url(), nil)
			resp, err := newClient(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			resp.Header.Del("Date")
			if resp.StatusCode != c.status || string(body) != c.body || err != nil {
				t.Errorf("got %d %q, %v", resp.StatusCode, body, err)
			}
			if d := cmp.Diff(c.want, resp.Header); d != "" {
				t.Errorf("header (-want +got):\n%s", d)
			}
		})
	}
}

// answerOnce reads one head and writes answer as it stands, then closes.
func answerOnce(answer string) func(net.Conn) {
	return func(c net.Conn) {
		br := textproto.NewReader(bufio.NewReader(c))
		for {
			line, err := br.ReadLine()
			if err != nil {
				return
			}
			if line == "" {
				break
			}
		}
		_, _ = io.WriteString(c, answer)
	}
}

func TestForward_BadAnswersBecomeErrors(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		status       int
		kind         string
	}{
		{"nothing", "", 502, "connection_terminated"},
		{"not HTTP", "SSH-2.0-OpenSSH\r\n\r\n", 502, "http_protocol_error"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 502, "http_protocol_error"},
		{"status too small", "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", 502, "http_protocol_error"},
		{"unknown coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 502, "http_protocol_error"},
		{"switch nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 502, "http_protocol_error"},
		{"head breaks off", "HTTP/1.1 200 OK\r\nContent-", 502, "http_protocol_error"},
		{"endless head", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 1200), 502, "http_protocol_error"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := startProxy(t, proxy.Options{})
			r.to(t, rawBackend(t, answerOnce(c.answer)))
			resp, err := newClient(t).Get(r.url())
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if got := resp.Header.Get("Proxy-Status"); resp.StatusCode != c.status || got != "hostmanager; error="+c.kind {
				t.Errorf("got %d, %q", resp.StatusCode, got)
			}
		})
	}
}

// An answer that breaks off must not look whole to the client, whatever its framing.
func TestForward_CutAnswerIsCut(t *testing.T) {
	for name, answer := range map[string]string{
		"length":  "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"large":   "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 200_000),
	} {
		t.Run(name, func(t *testing.T) {
			r := startProxy(t, proxy.Options{})
			r.to(t, rawBackend(t, answerOnce(answer)))
			resp, err := newClient(t).Get(r.url())
			if err != nil {
				return // cut before the head went out is cut as well
			}
			defer resp.Body.Close()
			if b, err := io.ReadAll(resp.Body); err == nil {
				t.Errorf("read %d bytes and no error", len(b))
			}
		})
	}
}

func TestForward_NoTargetRefusedTimeout(t *testing.T) {
	r := startProxy(t, proxy.Options{ResponseTimeout: 50 * time.Millisecond})
	check := func(name string, status int, sentence string) {
		t.Helper()
		code, body := get(t, r.url())
		if code != status || !strings.Contains(body, sentence) {
			t.Errorf("%s: %d %q", name, code, body)
		}
	}
	check("no target", 503, "No application version is deployed")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := l.Addr().String()
	_ = l.Close()
	r.to(t, dead)
	check("refused", 502, "does not accept connections")
	release := make(chan struct{})
	defer close(release)
	r.to(t, startBackend(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release })))
	check("silent", 504, "did not answer in time")
	if s := r.state(t); s.InFlight != 0 {
		t.Errorf("in flight %d after the failures", s.InFlight)
	}
}
