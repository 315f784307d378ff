package aws

import (
	"context"
	"io"
	"net"
	"net/http"
	"syscall"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"golang.org/x/sys/unix"
)

// Times of a connection. A network that swallows packets answers nothing and
// refuses nothing, so every step has an end of its own; short ones, because
// the kernel sends into such a network ever more seldom, and only a new
// connection finds out at once that it carries again.
const (
	dialTimeout = 5 * time.Second
	tlsTimeout  = 10 * time.Second
	// readTimeout is how long a connection may bring no byte: more than the
	// longest poll waits.
	readTimeout = 30 * time.Second
	// ackTimeout is how long what was sent may stay unacknowledged.
	ackTimeout = 15 * time.Second
)

// keepAlive finds out within half a minute that nobody is at the other end of
// a long poll any more.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}
}

// line is the HTTP client of a service's client.
type line struct {
	client sdk.HTTPClient
	clock  *Clock
}

// Do implements the SDK's HTTPClient.
func (l line) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		r.Body = onlyReads{r.Body}
	}
	answer, err := l.client.Do(r)
	if answer != nil {
		l.clock.hear(answer.Header)
	}
	return answer, err
}

// onlyReads keeps net/http from a body's WriteTo. That of the SDK's fails with
// io.EOF once the SDK has closed the body, which it does when the answer
// begins; net/http, if its writer is only then looking for the body's end,
// takes that for a broken connection and closes it in mid-answer.
type onlyReads struct{ io.ReadCloser }

// newLine bounds every step of the client's connections; one that is not the
// SDK's own stays as it is.
func newLine(client sdk.HTTPClient, clock *Clock) sdk.HTTPClient {
	own, ok := client.(*awshttp.BuildableClient)
	switch {
	case client == nil:
		own = awshttp.NewBuildableClient()
	case !ok:
		return line{client, clock}
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive(), ControlContext: boundSending}
	return line{own.WithTransportOptions(func(t *http.Transport) {
		t.DialContext, t.TLSHandshakeTimeout = dialer.DialContext, tlsTimeout
	}).WithReadTimeout(readTimeout), clock}
}

// boundSending has the kernel give up a connection on which what was sent is
// not acknowledged.
func boundSending(_ context.Context, _, _ string, c syscall.RawConn) error {
	var err error
	refused := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(ackTimeout/time.Millisecond))
	})
	if refused != nil {
		return refused
	}
	return err
}
