package localaws_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"hostmanager/aws/localaws"
)

// call sends one request over the network, on a connection of its own.
func call(t testing.TB, method, url string, body []byte, header http.Header) (int, []byte, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header.Clone()
	r.Close = true
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp.StatusCode, got, err
}

func callSQS(t testing.TB, s *localaws.Server, op, body string) (int, []byte, error) {
	t.Helper()
	return call(t, http.MethodPost, s.URL(), []byte(body), head("X-Amz-Target", "AmazonSQS."+op))
}

func TestFaults_AreRefusedWhenTheyCannotStrike(t *testing.T) {
	for name, f := range map[string]localaws.Fault{
		"no operation":          {Throttle: true},
		"no effect":             {Op: "*"},
		"status is no error":    {Op: "*", Status: 200},
		"probability":           {Op: "*", Throttle: true, Probability: 1.5},
		"duplicate of a send":   {Op: "SQS.SendMessage", Duplicate: true},
		"negative times":        {Op: "*", Throttle: true, Times: -1},
		"negative to pass over": {Op: "*", Throttle: true, Skip: -1},
	} {
		if _, err := localaws.New(localaws.Options{Faults: []localaws.Fault{f}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestFault_StrikesAsOftenAsTold(t *testing.T) {
	c, _ := frozen(t)
	s := c.h.(*localaws.Server)
	remove, err := s.Inject(localaws.Fault{Op: "SQS.GetQueueUrl", Throttle: true, Skip: 1, Times: 2})
	if err != nil {
		t.Fatal(err)
	}
	c.queue("q", nil)
	look := in{"QueueName": "q"}
	c.do("GetQueueUrl", look).ok()
	for range 2 {
		c.do("GetQueueUrl", look).refused("RequestThrottled", "")
	}
	c.do("GetQueueUrl", look).ok()
	if n := remove(); n != 2 {
		t.Errorf("struck %d times, want 2", n)
	}
}

func TestFault_ChoosesByOperationServiceAndPredicate(t *testing.T) {
	c, _ := frozen(t)
	s := c.h.(*localaws.Server)
	url := c.queue("q", nil)
	remove, err := s.Inject(localaws.Fault{Op: "S3.*", Status: 503, Code: "SlowDown", When: func(c localaws.Call) bool {
		return c.Request.Method == http.MethodPut
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.send(url, "not S3")
	if r, _ := s3(t, s, "GET", "/", nil, nil); r.StatusCode != 200 {
		t.Errorf("GET: status %d", r.StatusCode)
	}
	if r, body := s3(t, s, "PUT", "/bucket", nil, nil); r.StatusCode != 503 || !contains(body, "<Code>SlowDown</Code>") {
		t.Errorf("PUT: status %d, %s", r.StatusCode, body)
	}
	remove()
	if r, _ := s3(t, s, "PUT", "/bucket", nil, nil); r.StatusCode != 200 {
		t.Errorf("PUT after the fault: status %d", r.StatusCode)
	}
}

func TestFault_StrikesSometimes(t *testing.T) {
	c, _ := frozen(t)
	c.queue("q", nil)
	remove, err := c.h.(*localaws.Server).Inject(localaws.Fault{Op: "SQS.GetQueueUrl", Status: 500, Probability: 0.5})
	if err != nil {
		t.Fatal(err)
	}
	for range 400 {
		c.do("GetQueueUrl", in{"QueueName": "q"})
	}
	if n := remove(); n < 120 || n > 280 {
		t.Errorf("struck %d times of 400", n)
	}
}

func TestFault_LatencyIsByTheClock(t *testing.T) {
	c, clock := frozen(t)
	c.queue("q", nil)
	if _, err := c.h.(*localaws.Server).Inject(localaws.Fault{Op: "*", Latency: time.Hour, Times: 1}); err != nil {
		t.Fatal(err)
	}
	got := make(chan reply, 1)
	go func() { got <- c.doContext(t.Context(), "GetQueueUrl", in{"QueueName": "q"}) }()
	await(t, clock, 1)
	select {
	case <-got:
		t.Fatal("answered at once")
	default:
	}
	clock.Advance(time.Hour)
	(<-got).ok()
}

func TestFault_DuplicateDeliversOnceMore(t *testing.T) {
	c, _ := frozen(t)
	url := c.queue("q", nil)
	id := c.send(url, "a")
	if _, err := c.h.(*localaws.Server).Inject(localaws.Fault{Op: "SQS.ReceiveMessage", Duplicate: true, Times: 1}); err != nil {
		t.Fatal(err)
	}
	first := c.one(url)
	second := c.one(url)
	if first.MessageId != id || second.MessageId != id || first.ReceiptHandle == second.ReceiptHandle {
		t.Errorf("deliveries %+v and %+v", first, second)
	}
	c.none(url)
	c.remove(url, first)
	c.hold(url, second, 0).ok()
	c.remove(url, c.one(url))
	if n := c.attr(url, "ApproximateNumberOfMessages"); n != "0" {
		t.Errorf("%s messages are left", n)
	}
}

func TestFault_HangUpInTheRequestHasNoEffect(t *testing.T) {
	s := start(t, localaws.Options{})
	c := client{t, s}
	url := c.queue("q", nil)
	if _, err := s.Inject(localaws.Fault{Op: "SQS.SendMessage", HangUp: localaws.HangUpRequest, Times: 1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := callSQS(t, s, "SendMessage", `{"QueueUrl":"`+url+`","MessageBody":"x"}`); err == nil {
		t.Error("was answered")
	}
	c.none(url)
}

func TestFault_HangUpInTheResponseHasTheEffect(t *testing.T) {
	s := start(t, localaws.Options{})
	c := client{t, s}
	url := c.queue("q", nil)
	for _, op := range []string{"SQS.SendMessage", "S3.CreateBucket", "S3.PutObject", "S3.GetObject"} {
		if _, err := s.Inject(localaws.Fault{Op: op, HangUp: localaws.HangUpResponse, Times: 1}); err != nil {
			t.Fatal(err)
		}
	}
	status, got, err := callSQS(t, s, "SendMessage", `{"QueueUrl":"`+url+`","MessageBody":"x"}`)
	if status != 200 || !errors.Is(err, io.ErrUnexpectedEOF) || len(got) == 0 {
		t.Errorf("send: status %d, %q, %v", status, got, err)
	}
	c.one(url)
	object := []byte(strings.Repeat("0123456789", 100_000))
	for _, put := range []struct {
		path string
		body []byte
	}{{"/bucket", nil}, {"/bucket/key", object}} {
		if _, _, err := call(t, http.MethodPut, s.URL()+put.path, put.body, nil); err == nil {
			t.Errorf("PUT %s was answered", put.path)
		}
	}
	status, got, err = call(t, http.MethodGet, s.URL()+"/bucket/key", nil, nil)
	if status != 200 || err == nil || len(got) != len(object)/2 || !bytes.HasPrefix(object, got) {
		t.Errorf("GET: status %d, %d bytes, %v", status, len(got), err)
	}
	status, got, err = call(t, http.MethodGet, s.URL()+"/bucket/key", nil, nil)
	if status != 200 || err != nil || !bytes.Equal(got, object) {
		t.Errorf("second GET: status %d, %d bytes, %v", status, len(got), err)
	}
}

func TestFault_ChancesFollowTheSeed(t *testing.T) {
	struck := func(seed uint64) string {
		s, err := localaws.New(localaws.Options{Seed: seed, Faults: []localaws.Fault{{Op: "SQS.ListQueues", Throttle: true, Probability: 0.5}}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := s.Start(); err != nil {
			t.Fatal(err)
		}
		var b strings.Builder
		for range 64 {
			status, _, err := callSQS(t, s, "ListQueues", "{}")
			if err != nil {
				t.Fatal(err)
			}
			b.WriteString(map[bool]string{true: ".", false: "x"}[status == http.StatusOK])
		}
		return b.String()
	}
	if a, b := struck(7), struck(7); a != b {
		t.Errorf("one seed, two runs:\n%s\n%s", a, b)
	}
	if a, b := struck(7), struck(8); a == b {
		t.Errorf("two seeds, one run: %s", a)
	}
}
