package proxy

import (
	"context"
	"errors"
	"fmt"
	"html"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

var (
	errClientGone  = errors.New("the client went away")
	errClientSlow  = errors.New("the client sent its request body too slowly")
	errClientBody  = errors.New("the request body ended early or is malformed")
	errNotSent     = errors.New("nothing of the request was sent")
	errStale       = errors.New("the idle connection was closed by the target")
	errSendTimeout = errors.New("the target did not take the request body in time")
	errHeadTimeout = errors.New("the target did not answer in time")
	errBadResponse = errors.New("the target's response is malformed")
	errDial        = errors.New("connect to target")
)

// past is a deadline that makes blocked reads and writes return at once.
var past = time.Unix(1, 0)

// statusClientGone stands in the access log, never on the wire (nginx's number).
const statusClientGone = 499

// failure is what a client is told when the target cannot answer: the status, the error type of the Proxy-Status header (RFC 9209) and one sentence.
type failure struct {
	status   int
	kind     string
	sentence string
}

func failureOf(err error) failure {
	switch {
	case errors.Is(err, errNoTarget):
		return failure{http.StatusServiceUnavailable, "destination_unavailable", "No application version is deployed on this instance yet."}
	case errors.Is(err, errHoldFull):
		return failure{http.StatusServiceUnavailable, "connection_limit_reached", "The application is paused and too many requests wait already."}
	case errors.Is(err, errClosing), errors.Is(err, errAborted):
		return failure{http.StatusServiceUnavailable, "destination_unavailable", "The proxy of this instance is stopping."}
	case errors.Is(err, errDrainDeadline):
		return failure{http.StatusGatewayTimeout, "http_response_timeout", "The version that served this request was replaced before it answered."}
	case errors.Is(err, errClientGone), errors.Is(err, context.Canceled):
		return failure{statusClientGone, "", ""}
	case errors.Is(err, errClientSlow):
		return failure{http.StatusRequestTimeout, "http_request_error", "The request body did not arrive in time."}
	case errors.Is(err, errClientBody):
		return failure{http.StatusBadRequest, "http_request_error", "The request body is not valid."}
	case errors.Is(err, errHeadTimeout), errors.Is(err, errSendTimeout):
		return failure{http.StatusGatewayTimeout, "http_response_timeout", "The application did not answer in time."}
	case errors.Is(err, errDial) && isTimeout(err):
		return failure{http.StatusGatewayTimeout, "connection_timeout", "The application did not accept a connection in time."}
	case errors.Is(err, errDial):
		return failure{http.StatusBadGateway, "connection_refused", "The application does not accept connections."}
	case errors.Is(err, errBadResponse), errors.Is(err, errHeadTooLarge):
		return failure{http.StatusBadGateway, "http_protocol_error", "The application's answer is not valid HTTP."}
	}
	return failure{http.StatusBadGateway, "connection_terminated", "The application closed the connection without an answer."}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.Is(err, os.ErrDeadlineExceeded) || (errors.As(err, &ne) && ne.Timeout())
}

// writePage answers with a small page. It says what is wrong, not where the target is. last closes the
// connection behind it.
func writePage(w http.ResponseWriter, r *http.Request, f failure, last bool) int64 {
	title := fmt.Sprintf("%d %s", f.status, http.StatusText(f.status))
	body := fmt.Sprintf("<!doctype html><title>%s</title><h1>%s</h1><p>%s</p>\n", title, title, html.EscapeString(f.sentence))
	h := w.Header()
	clear(h)
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Cache-Control", "no-store")
	if f.kind != "" {
		h.Set("Proxy-Status", "hostmanager; error="+f.kind)
	}
	if f.status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "5")
	}
	if last {
		h.Set("Connection", "close")
	}
	w.WriteHeader(f.status)
	if r.Method == http.MethodHead {
		return 0
	}
	n, _ := w.Write([]byte(body))
	return int64(n)
}
