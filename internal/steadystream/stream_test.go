package steadystream_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"hostmanager/internal/steadystream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run drives a server until it has answered enough, one request at a time.
func run(t *testing.T, o steadystream.Options) steadystream.Report {
	t.Helper()
	if o.Concurrency == 0 {
		o.Concurrency = 1
	}
	s, err := steadystream.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.Requests() < 8 {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("no requests")
		}
	}
	return s.Stop()
}

// raw answers each connection's first request with these bytes and closes.
func raw(t *testing.T, answer string) string {
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
			if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(c, answer)
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

func TestStream_EveryFailureIsSeen(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	stuck := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then the end of the client is noticed
		<-r.Context().Done()
	}))
	defer stuck.Close()
	wrong := errors.New("not what was asked for")
	for _, c := range []struct {
		kind steadystream.Kind
		url  string
		o    steadystream.Options
	}{
		{steadystream.KindConnect, "http://" + dead.Addr().String(), steadystream.Options{}},
		{steadystream.KindReset, raw(t, ""), steadystream.Options{}},
		{steadystream.KindShort, raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"), steadystream.Options{}},
		{steadystream.KindShort, raw(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), steadystream.Options{}},
		{steadystream.KindMalformed, raw(t, "nonsense\r\n\r\n"), steadystream.Options{}},
		{steadystream.Kind5xx, raw(t, "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), steadystream.Options{}},
		{steadystream.KindStatus, raw(t, "HTTP/1.1 404 None\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), steadystream.Options{}},
		{steadystream.KindWrong, raw(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), steadystream.Options{Check: func(steadystream.Answer) error { return wrong }}},
		{steadystream.KindTimeout, stuck.URL, steadystream.Options{Timeout: 5 * time.Millisecond}},
	} {
		c.o.URL = c.url
		r := run(t, c.o)
		if r.Failed < r.Requests/2 || r.Failures[c.kind] < r.Requests/2 || len(r.Errors) == 0 {
			t.Errorf("%s: %v", c.kind, r)
		}
	}
}

// Exactly as many requests reach the server as the stream counts: none is sent twice.
func TestStream_NeverRepeats(t *testing.T) {
	served := make(chan struct{}, 100_000)
	backend := steadystream.Backend("a")
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served <- struct{}{}
		backend.ServeHTTP(w, r)
	}))
	defer srv.Close()
	r := run(t, steadystream.Options{URL: srv.URL, Concurrency: 4, Check: steadystream.CheckBackend})
	if r.Failed != 0 || r.Requests != len(served) || r.By["a"] != r.Requests || r.Latency.P50 == 0 || r.Latency.Max < r.Latency.P99 {
		t.Errorf("served %d, report %v, %+v", len(served), r, r.Latency)
	}
}

func TestStart_RefusesWhatItCannotDrive(t *testing.T) {
	for _, o := range []steadystream.Options{{}, {URL: "https://a"}, {URL: "http://a", PostURL: "http://b"}, {URL: ":"}} {
		if _, err := steadystream.Start(t.Context(), o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
}

func TestPattern_PartsDiffer(t *testing.T) {
	p := string(steadystream.Pattern(5000))
	if len(p) != 5000 || strings.Count(p, p[1000:1040]) != 1 {
		t.Error("a shifted part is the same")
	}
}
