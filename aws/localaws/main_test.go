package localaws_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"hostmanager/aws/localaws"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// noon is where the tests' clocks begin.
var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// start runs a server until the test ends.
func start(t testing.TB, o localaws.Options) *localaws.Server {
	t.Helper()
	s, err := localaws.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return s
}

// direct builds a server that is called without a network.
func direct(t testing.TB, o localaws.Options) *localaws.Server {
	t.Helper()
	s, err := localaws.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// frozen builds a direct server with a clock that stands still.
func frozen(t testing.TB) (client, *localaws.FakeClock) {
	clock := localaws.NewFakeClock(noon)
	return client{t, direct(t, localaws.Options{Clock: clock})}, clock
}

// in is a request's or a response's JSON.
type in map[string]any

// client speaks AWS JSON 1.0 to a handler.
type client struct {
	t testing.TB
	h http.Handler
}

// reply is an answer of SQS.
type reply struct {
	t      testing.TB
	op     string
	status int
	header http.Header
	body   in
}

func request(ctx context.Context, op string, body []byte) *http.Request {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:4566/", bytes.NewReader(body))
	r.Header.Set("X-Amz-Target", "AmazonSQS."+op)
	r.Header.Set("Content-Type", "application/x-amz-json-1.0")
	return r
}

func (c client) do(op string, body in) reply {
	c.t.Helper()
	return c.doContext(c.t.Context(), op, body)
}

func (c client) doContext(ctx context.Context, op string, body in) reply {
	c.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		c.t.Fatal(err)
	}
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, request(ctx, op, raw))
	out := reply{t: c.t, op: op, status: w.Code, header: w.Header(), body: in{}}
	if err := json.Unmarshal(w.Body.Bytes(), &out.body); err != nil {
		c.t.Fatalf("%s: body %q: %v", op, w.Body, err)
	}
	return out
}

// ok insists on success.
func (r reply) ok() in {
	r.t.Helper()
	if r.status != http.StatusOK {
		r.t.Fatalf("%s: status %d, %v", r.op, r.status, r.body)
	}
	return r.body
}

// refused insists on an error by its name in the JSON protocol and its older
// name, which is empty when it is the same.
func (r reply) refused(code, query string) {
	r.t.Helper()
	if query == "" {
		query = code
	}
	_, got, _ := strings.Cut(r.str("__type"), "#")
	if r.status < 400 || got != code || r.header.Get("x-amzn-query-error") != query+";Sender" {
		r.t.Errorf("%s: status %d, type %q, header %q, message %q; want %s and %s",
			r.op, r.status, r.str("__type"), r.header.Get("x-amzn-query-error"), r.str("message"), code, query)
	}
	if r.str("message") == "" {
		r.t.Errorf("%s: %s without a message", r.op, code)
	}
}

func (r reply) str(name string) string {
	s, _ := r.body[name].(string)
	return s
}

// queue makes a queue and returns its URL.
func (c client) queue(name string, attrs in) string {
	c.t.Helper()
	out := c.do("CreateQueue", in{"QueueName": name, "Attributes": attrs})
	out.ok()
	return out.str("QueueUrl")
}

func (c client) send(url, body string) string {
	c.t.Helper()
	out := c.do("SendMessage", in{"QueueUrl": url, "MessageBody": body})
	out.ok()
	return out.str("MessageId")
}

func (c client) sendGroup(url, group, dedup, body string) in {
	c.t.Helper()
	return c.do("SendMessage", in{
		"QueueUrl": url, "MessageBody": body, "MessageGroupId": group, "MessageDeduplicationId": dedup,
	}).ok()
}

// msg is a received message.
type msg struct {
	MessageId, ReceiptHandle, Body string
	MD5OfBody                      string
	MD5OfMessageAttributes         string
	Attributes                     map[string]string
	MessageAttributes              map[string]map[string]any
}

// receive takes up to n messages without waiting; more may say more.
func (c client) receive(url string, n int, more ...in) []msg {
	c.t.Helper()
	return c.receiveContext(c.t.Context(), url, n, more...)
}

func (c client) receiveContext(ctx context.Context, url string, n int, more ...in) []msg {
	c.t.Helper()
	body := in{
		"QueueUrl": url, "MaxNumberOfMessages": n, "MessageSystemAttributeNames": []string{"All"},
		"MessageAttributeNames": []string{"All"},
	}
	for _, m := range more {
		for k, v := range m {
			body[k] = v
		}
	}
	return messages(c.doContext(ctx, "ReceiveMessage", body))
}

func messages(r reply) []msg {
	r.t.Helper()
	raw, _ := json.Marshal(r.ok())
	var out struct{ Messages []msg }
	if err := json.Unmarshal(raw, &out); err != nil {
		r.t.Fatal(err)
	}
	return out.Messages
}

func bodies(list []msg) string {
	var out []string
	for _, m := range list {
		out = append(out, m.Body)
	}
	return strings.Join(out, " ")
}

// one insists on a single message.
func (c client) one(url string, more ...in) msg {
	c.t.Helper()
	got := c.receive(url, 10, more...)
	if len(got) != 1 {
		c.t.Fatalf("received %d messages (%s), want 1", len(got), bodies(got))
	}
	return got[0]
}

// none insists that nothing is to be had.
func (c client) none(url string) {
	c.t.Helper()
	if got := c.receive(url, 10); len(got) != 0 {
		c.t.Fatalf("received %s, want nothing", bodies(got))
	}
}

func (c client) remove(url string, m msg) {
	c.t.Helper()
	c.do("DeleteMessage", in{"QueueUrl": url, "ReceiptHandle": m.ReceiptHandle}).ok()
}

func (c client) hold(url string, m msg, seconds int) reply {
	c.t.Helper()
	return c.do("ChangeMessageVisibility", in{"QueueUrl": url, "ReceiptHandle": m.ReceiptHandle, "VisibilityTimeout": seconds})
}

func (c client) attr(url, name string) string {
	c.t.Helper()
	out, _ := c.do("GetQueueAttributes", in{"QueueUrl": url, "AttributeNames": []string{"All"}}).ok()["Attributes"].(map[string]any)
	s, _ := out[name].(string)
	return s
}

func (c client) arn(url string) string { return c.attr(url, "QueueArn") }

// s3 sends one request about S3 and returns the answer with its body read.
func s3(t testing.TB, h http.Handler, method, path string, body io.Reader, header http.Header) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "http://127.0.0.1:4566"+path, body)
	for name, values := range header {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result(), w.Body.String()
}

func head(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// deadline bounds what waits for another goroutine.
func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}
