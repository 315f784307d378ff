package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hostmanager/platform/settings"
)

func checkOf(path string, timeout time.Duration) settings.Check {
	return settings.Check{Path: path, Codes: settings.Codes{{200, 299}}, Timeout: timeout}
}

func gateTo(url, path string) gate {
	return gate{addr: strings.TrimPrefix(url, "http://"), check: checkOf(path, 5*time.Second), timeout: 10 * time.Second}
}

func TestGate_OpensAtTheFirstGoodAnswer(t *testing.T) {
	var asked atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() != "/health?deep=1" || r.UserAgent() != "hostmanager-health-check" {
			t.Errorf("asked for %s as %s", r.URL, r.UserAgent())
		}
		w.WriteHeader(http.StatusEarlyHints) // not yet an answer
		if asked.Add(1) < 3 {
			w.WriteHeader(http.StatusFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	if err := gateTo(server.URL, "/health?deep=1").pass(t.Context()); err != nil || asked.Load() != 3 {
		t.Errorf("error %v after %d probes", err, asked.Load())
	}
}

func TestGate_ClosesWithTheLastAnswer(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hang" {
			<-r.Context().Done()
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(server.Close)
	endless := listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for {
			if _, err := io.WriteString(c, "X-More: "+strings.Repeat("x", 4000)+"\r\n"); err != nil {
				return
			}
		}
	})
	const long = 3 * time.Second // where the answer has to come in time
	tests := []struct {
		name    string
		gate    gate
		timeout time.Duration
		want    string
	}{
		{"wrong code", gateTo(server.URL, "/"), long, "GET " + server.URL + "/ answered 418, want 200-299"},
		{"no answer", gateTo(server.URL, "/hang"), 300 * time.Millisecond, "gave no answer in time"},
		{"nobody listens", gate{addr: "127.0.0.1:1", check: checkOf("", time.Second)}, long, "a connection to 127.0.0.1:1 failed: connect: connection refused"},
		{"no HTTP", gateTo(listen(t, func(c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0\r\n") }), "/"), long, "failed: malformed HTTP"},
		{"endless header", gateTo(endless, "/"), long, "failed: "},
		{"path that is none", gateTo(server.URL, "/\x7f"), long, "failed: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.gate.timeout = tt.timeout
			err := tt.gate.pass(t.Context())
			var closed *closedError
			if !errors.As(err, &closed) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "within "+tt.timeout.String()+":") {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// listen answers every connection with fn and returns its address.
func listen(t *testing.T, fn func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = c.Read(make([]byte, 1024))
				fn(c)
			}()
		}
	}()
	return l.Addr().String()
}

func TestGate_EndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cause := errors.New("container ended")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(cause) })
		g := gate{addr: "not an address", check: checkOf("", time.Second), timeout: time.Hour}
		began := time.Now()
		if err := g.pass(ctx); !errors.Is(err, cause) || time.Since(began) != time.Second {
			t.Errorf("error %v after %s", err, time.Since(began))
		}
	})
}

func TestGate_AsksEveryTenthOfASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate{addr: "not an address", check: checkOf("", time.Second), timeout: time.Minute}
		began := time.Now()
		if err := g.pass(t.Context()); err == nil || time.Since(began) != time.Minute {
			t.Errorf("error %v after %s", err, time.Since(began))
		}
	})
}
