package aws

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// slowConn tells that what was written went out only after the answer to it
// has begun.
type slowConn struct {
	net.Conn
	begun chan struct{}
}

func (c slowConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if strings.Contains(string(p), "the end") {
		<-c.begun
	}
	return n, err
}

// The SDK closes a request's body when the answer begins, which may be before
// the writer of the request has seen the body's end: the answer must not be
// cut off by that.
func TestLine_AnAnswerIsNotCutOffByItsRequest(t *testing.T) {
	begun := make(chan struct{})
	begin := sync.OnceFunc(func() { close(begun) })
	defer begin()
	const size = 1 << 20
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got, err := io.ReadAll(r.Body); err != nil || string(got) != "to the end" {
			t.Errorf("%q, %v", got, err)
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-begun
		_, _ = io.WriteString(w, strings.Repeat("x", size))
	}))
	defer server.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		return slowConn{c, begun}, err
	}}
	defer transport.CloseIdleConnections()

	r := smithyhttp.NewStackRequest().(*smithyhttp.Request)
	r.Method, r.ContentLength = http.MethodPost, int64(len("to the end"))
	var err error
	if r.URL, err = r.URL.Parse(server.URL); err != nil {
		t.Fatal(err)
	}
	if r, err = r.SetStream(strings.NewReader("to the end")); err != nil {
		t.Fatal(err)
	}
	built := r.Build(t.Context())
	if _, ok := built.Body.(io.WriterTo); !ok {
		t.Error("the SDK's bodies have changed: is onlyReads still of use?")
	}
	answer, err := newLine(&http.Client{Transport: transport}, new(Clock)).Do(built)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if err := built.Body.Close(); err != nil {
		t.Fatal(err)
	}
	begin()
	if got, err := io.ReadAll(answer.Body); err != nil || len(got) != size {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
