package proxy_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hostmanager/platform/proxy"
)

// Each piece must reach the client while the application still holds back the next one.
func TestForward_FlushesPromptly(t *testing.T) {
	for _, kind := range []string{"text/event-stream", "chunked", "length"} {
		t.Run(kind, func(t *testing.T) {
			next := make(chan struct{})
			r := startProxy(t, proxy.Options{})
			r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				switch kind {
				case "length":
					w.Header().Set("Content-Length", "18")
				case "text/event-stream":
					w.Header().Set("Content-Type", kind)
				}
				for i := range 3 {
					fmt.Fprintf(w, "piece%d", i)
					_ = http.NewResponseController(w).Flush()
					<-next
				}
			})))
			resp, err := newClient(t).Get(r.url())
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			buf := make([]byte, 6)
			for i := range 3 {
				if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != fmt.Sprint("piece", i) {
					t.Fatalf("piece %d: %q, %v", i, buf, err)
				}
				next <- struct{}{}
			}
		})
	}
}

func TestForward_StreamsLargeBodiesInBoundedMemory(t *testing.T) {
	const size = 64 << 20
	sums := make(chan [sha256.Size]byte, 1)
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			h := sha256.New()
			n, _ := io.Copy(h, req.Body)
			sums <- [sha256.Size]byte(h.Sum(nil))
			fmt.Fprint(w, n)
			return
		}
		if req.URL.Path == "/length" {
			w.Header().Set("Content-Length", strconv.Itoa(size))
		}
		_, _ = io.Copy(w, io.LimitReader(&noise{}, size))
	})))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	want := sha256.New()
	_, _ = io.Copy(want, io.LimitReader(&noise{}, size))
	for _, length := range []int64{size, -1} {
		req, _ := http.NewRequestWithContext(testContext(t), http.MethodPost, r.url(), io.LimitReader(&noise{}, size))
		req.ContentLength = length
		resp, err := newClient(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(b) != strconv.Itoa(size) || wait(t, "sum", sums) != [sha256.Size]byte(want.Sum(nil)) {
			t.Errorf("upload with length %d arrived as %s bytes, or changed", length, b)
		}
	}
	for _, path := range []string{"/length", "/chunked"} {
		resp, err := newClient(t).Get(r.url() + path)
		if err != nil {
			t.Fatal(err)
		}
		got := sha256.New()
		n, err := io.Copy(got, resp.Body)
		_ = resp.Body.Close()
		if n != size || err != nil || !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
			t.Errorf("%s: %d bytes, %v, or changed", path, n, err)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > 32<<20 {
		t.Errorf("heap grew by %d MiB", grown>>20)
	}
}

// noise is an endless, cheap stream in which a lost piece shows.
type noise struct{ at int }

func (n *noise) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(n.at ^ n.at>>8 ^ n.at>>16)
		n.at++
	}
	return len(p), nil
}

func TestForward_Trailers(t *testing.T) {
	got := make(chan http.Header, 1)
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		got <- req.Trailer
		w.Header().Set("Trailer", "X-Sum")
		_, _ = io.WriteString(w, "body")
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Late", "43")
	})))
	req, _ := http.NewRequestWithContext(testContext(t), http.MethodPost, r.url(), struct{ io.Reader }{strings.NewReader("up")})
	req.Trailer = http.Header{"X-Up": {"7"}}
	resp, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.ReadAll(resp.Body)
	if d := cmp.Diff(http.Header{"X-Sum": {"42"}, "X-Late": {"43"}}, resp.Trailer); d != "" {
		t.Errorf("response trailers: %s", d)
	}
	if d := cmp.Diff(http.Header{"X-Up": {"7"}}, wait(t, "trailers", got)); d != "" {
		t.Errorf("request trailers: %s", d)
	}
}

func TestForward_EarlyHints(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</a.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		_, _ = io.WriteString(w, "ok")
	})))
	var hints []string
	ctx := httptrace.WithClientTrace(testContext(t), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}})
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.url(), nil)
	resp, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if d := cmp.Diff([]string{"103</a.css>; rel=preload"}, hints); d != "" || resp.Header.Get("Link") != "" {
		t.Errorf("hints: %s, final Link %q", d, resp.Header.Get("Link"))
	}
}

func TestForward_ExpectContinue(t *testing.T) {
	const head = "POST /%s HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		b, _ := io.ReadAll(req.Body)
		_, _ = w.Write(b)
	})))
	t.Run("wanted", func(t *testing.T) {
		c := dialRaw(t, r.addr)
		c.send(t, fmt.Sprintf(head, "take"))
		if h := c.head(t); h != "HTTP/1.1 100 Continue\r\n\r\n" {
			t.Fatalf("got %q", h)
		}
		c.send(t, "body")
		if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 200 ") {
			t.Errorf("got %q", h)
		}
	})
	t.Run("refused before the body", func(t *testing.T) {
		c := dialRaw(t, r.addr)
		c.send(t, fmt.Sprintf(head, "refuse"))
		if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 413 ") {
			t.Errorf("got %q", h)
		}
	})
	t.Run("a target that does not know it gets the body", func(t *testing.T) {
		got := make(chan string, 1)
		r := startProxy(t, proxy.Options{})
		r.to(t, rawBackend(t, func(nc net.Conn) {
			req, err := http.ReadRequest(bufio.NewReader(nc))
			if err != nil {
				return
			}
			b, _ := io.ReadAll(req.Body)
			got <- string(b)
			_, _ = io.WriteString(nc, "HTTP/1.1 204 No Content\r\n\r\n")
		}))
		c := dialRaw(t, r.addr)
		c.send(t, fmt.Sprintf(head, "x"))
		if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 100 ") {
			t.Fatalf("got %q", h)
		}
		c.send(t, "body")
		if b := wait(t, "body", got); b != "body" {
			t.Errorf("body %q", b)
		}
		if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 204 ") {
			t.Errorf("got %q", h)
		}
	})
}

// The application answers while the request body is still coming, piece by piece.
func TestForward_FullDuplex(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.WriteHeader(http.StatusOK)
		_ = rc.Flush()
		buf := make([]byte, 5)
		for {
			if _, err := io.ReadFull(req.Body, buf); err != nil {
				return
			}
			_, _ = w.Write(bytes.ToUpper(buf))
			_ = rc.Flush()
		}
	})))
	c := dialRaw(t, r.addr)
	c.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\n")
	resp, err := http.ReadResponse(c.br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	buf := make([]byte, 5)
	for _, s := range []string{"alpha", "bravo", "delta"} {
		c.send(t, s)
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != strings.ToUpper(s) {
			t.Fatalf("got %q, %v", buf, err)
		}
	}
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("rest %q, %v", rest, err)
	}
}

// A final answer that does not wait for the body reaches the client; the connection then ends, as nobody knows where the next request begins.
func TestForward_AnswerBeforeTheBody(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusUnauthorized)
	})))
	c := dialRaw(t, r.addr)
	c.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome")
	if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 401 ") {
		t.Fatalf("got %q", h)
	}
	if rest, _ := c.rest(t); rest != "" {
		t.Errorf("behind the answer: %q", rest)
	}
	eventually(t, "request has ended", func() bool { return r.state(t).InFlight == 0 })
}

// A client that goes away in the middle of its body must not reach the application as a whole request.
func TestForward_BrokenUploadIsNotWhole(t *testing.T) {
	for name, head := range map[string]string{
		"length": "Content-Length: 100\r\n\r\nabc", "chunked": "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "bad chunk": "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			errs := make(chan error, 1)
			r := startProxy(t, proxy.Options{})
			r.to(t, startBackend(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				_, err := io.Copy(io.Discard, req.Body)
				errs <- err
			})))
			c := dialRaw(t, r.addr)
			c.send(t, "POST / HTTP/1.1\r\nHost: a\r\n"+head)
			_ = c.Conn.(*net.TCPConn).CloseWrite()
			if err := wait(t, "upload at the backend", errs); err == nil {
				t.Error("the application took a part for the whole")
			}
			eventually(t, "request has ended", func() bool { return r.state(t).InFlight == 0 })
		})
	}
}

func TestForward_ClientGoneEndsTheRequestAtTheTarget(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		close(begun)
		<-req.Context().Done()
		close(ended)
	})))
	c := dialRaw(t, r.addr)
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	wait(t, "request", begun)
	_ = c.Close()
	wait(t, "end at the target", ended)
}

func TestForward_SlowClientBodyIs408(t *testing.T) {
	r := startProxy(t, proxy.Options{IOTimeout: 100 * time.Millisecond})
	r.to(t, startBackend(t, http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { _, _ = io.Copy(io.Discard, req.Body) })))
	c := dialRaw(t, r.addr)
	c.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab")
	if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 408 ") {
		t.Errorf("got %q", h)
	}
}

// Short timeouts concern one step each: a request that keeps moving, or a response that pauses, outlives them.
func TestForward_TimeoutsAreForOneStep(t *testing.T) {
	const step = 2 * time.Second // long enough for a busy machine to be late within it
	r := startProxy(t, proxy.Options{IOTimeout: step, ResponseTimeout: step})
	r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		_, _ = w.Write(b)
		_ = http.NewResponseController(w).Flush()
		pause := time.NewTimer(3 * step / 2)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-req.Context().Done():
			return
		}
		_, _ = io.WriteString(w, "end")
	})))
	pr, pw := io.Pipe()
	go func() {
		tick := time.NewTicker(step / 4)
		defer tick.Stop()
		for range 6 {
			<-tick.C
			_, _ = io.WriteString(pw, "x")
		}
		_ = pw.Close()
	}()
	resp, err := newClient(t).Post(r.url(), "text/plain", pr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); string(b) != "xxxxxxend" || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}
