package queue_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"hostmanager/aws/localaws"
	"hostmanager/aws/queue"
)

// environment gives the test credentials and a region, and nothing of the
// machine's own configuration.
func environment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_PROFILE", "AWS_DEFAULT_REGION"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
}

func serve(t *testing.T, faults ...localaws.Fault) *localaws.Server {
	t.Helper()
	s, err := localaws.New(localaws.Options{Faults: faults})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func open(t *testing.T, endpoint string) *queue.Client {
	t.Helper()
	c, err := queue.New(t.Context(), queue.Options{Endpoint: endpoint})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNew_FindsTheEndpoint(t *testing.T) {
	for name, set := range map[string]func(t *testing.T, url string) queue.Options{
		"option": func(_ *testing.T, url string) queue.Options { return queue.Options{Endpoint: url} },
		"AWS_ENDPOINT_URL": func(t *testing.T, url string) queue.Options {
			t.Setenv("AWS_ENDPOINT_URL", url)
			return queue.Options{}
		},
		"AWS_ENDPOINT_URL_SQS first": func(t *testing.T, url string) queue.Options {
			t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
			t.Setenv("AWS_ENDPOINT_URL_SQS", url)
			return queue.Options{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t)
			s := serve(t)
			c, err := queue.New(t.Context(), set(t, s.URL()))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Create(t.Context(), "q", nil); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNew_SaysThatARegionIsMissing(t *testing.T) {
	environment(t)
	t.Setenv("AWS_REGION", "")
	if _, err := queue.New(t.Context(), queue.Options{}); !errors.Is(err, queue.ErrNoRegion) || !queue.Permanent(err) {
		t.Errorf("New: %v", err)
	}
	if _, err := queue.New(t.Context(), queue.Options{Region: "eu-west-1"}); err != nil {
		t.Errorf("New with a region: %v", err)
	}
}

func TestErrors_AreJudged(t *testing.T) {
	for name, tc := range map[string]struct {
		fault     localaws.Fault
		want      error
		permanent bool
	}{
		"throttled":          {localaws.Fault{Throttle: true}, queue.ErrThrottled, false},
		"over limit":         {localaws.Fault{Status: 403, Code: "OverLimit"}, queue.ErrThrottled, false},
		"500":                {localaws.Fault{Status: 500}, queue.ErrUnavailable, false},
		"503":                {localaws.Fault{Status: 503, Code: "ServiceUnavailable"}, queue.ErrUnavailable, false},
		"cut request":        {localaws.Fault{HangUp: localaws.HangUpRequest}, queue.ErrUnavailable, false},
		"cut response":       {localaws.Fault{HangUp: localaws.HangUpResponse}, queue.ErrUnavailable, false},
		"expired token":      {localaws.Fault{Status: 403, Code: "ExpiredToken"}, queue.ErrUnavailable, false},
		"denied":             {localaws.Fault{Status: 403, Code: "AccessDenied"}, queue.ErrAccessDenied, true},
		"denied, long form":  {localaws.Fault{Status: 400, Code: "AccessDeniedException"}, queue.ErrAccessDenied, true},
		"unknown key":        {localaws.Fault{Status: 403, Code: "InvalidClientTokenId"}, queue.ErrAccessDenied, true},
		"missing queue":      {localaws.Fault{Status: 400, Code: "QueueDoesNotExist"}, queue.ErrQueueMissing, true},
		"missing, old form":  {localaws.Fault{Status: 400, Code: "AWS.SimpleQueueService.NonExistentQueue"}, queue.ErrQueueMissing, true},
		"deleted recently":   {localaws.Fault{Status: 400, Code: "QueueDeletedRecently"}, queue.ErrDeletedRecently, false},
		"anything else, 4xx": {localaws.Fault{Status: 400, Code: "Strange"}, queue.ErrInvalid, true},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t)
			tc.fault.Op = "SQS.SendMessage"
			s := serve(t, tc.fault)
			c := open(t, s.URL())
			url, err := c.Create(t.Context(), "q", nil)
			if err != nil {
				t.Fatal(err)
			}
			err = c.Send(t.Context(), url, "x")
			if !errors.Is(err, tc.want) || queue.Permanent(err) != tc.permanent {
				t.Errorf("%v, permanent %t; want %v, %t", err, queue.Permanent(err), tc.want, tc.permanent)
			}
			var e *queue.Error
			if !errors.As(err, &e) || e.Op != "send to" || e.On != url || !strings.Contains(err.Error(), url) {
				t.Errorf("error %#v", err)
			}
		})
	}
}

func TestErrors_NobodyListens(t *testing.T) {
	environment(t)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	err := open(t, closed.URL).Send(t.Context(), closed.URL+"/000000000000/q", "x")
	if !errors.Is(err, queue.ErrUnavailable) || queue.Permanent(err) {
		t.Errorf("send: %v", err)
	}
}

func TestErrors_AnAnswerThatIsNotSQS(t *testing.T) {
	environment(t)
	for _, status := range []int{502, 404} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, "<html>a proxy's page</html>")
		}))
		err := open(t, s.URL).Send(t.Context(), s.URL+"/000000000000/q", "x")
		s.Close()
		if !errors.Is(err, queue.ErrUnavailable) || queue.Permanent(err) {
			t.Errorf("status %d: %v", status, err)
		}
	}
}

func TestSend_IsTriedAgainByTheSDK(t *testing.T) {
	environment(t)
	t.Setenv("AWS_MAX_ATTEMPTS", "3")
	s := serve(t, localaws.Fault{Op: "SQS.SendMessage", Status: 500, Times: 1})
	c := open(t, s.URL())
	url, err := c.Create(t.Context(), "q", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), url, "x"); err != nil {
		t.Errorf("send: %v", err)
	}
}

func TestReceive_EndsWithItsContext(t *testing.T) {
	environment(t)
	clock := localaws.NewFakeClock(time.Now())
	s, err := localaws.New(localaws.Options{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := open(t, s.URL())
	url, err := c.Create(t.Context(), "q", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := c.Receive(ctx, url, 1, queue.MaxWait)
		ended <- err
	}()
	if err := clock.AwaitTimers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) || queue.Permanent(err) {
		t.Errorf("receive: %v", err)
	}
}

// deadLine takes every request and never answers.
type deadLine struct{}

func (deadLine) Do(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestReceive_GivesUpOnADeadConnection(t *testing.T) {
	environment(t)
	synctest.Test(t, func(t *testing.T) {
		cfg := &sdk.Config{
			Region: "us-east-1", HTTPClient: deadLine{}, Credentials: credentials.NewStaticCredentialsProvider("k", "s", ""),
		}
		c, err := queue.New(t.Context(), queue.Options{Config: cfg})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = c.Receive(t.Context(), "https://sqs.us-east-1.amazonaws.com/1/q", 1, queue.MaxWait)
		if took := time.Since(began); !errors.Is(err, queue.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) || took > time.Minute {
			t.Errorf("%v after %s", err, took)
		}
	})
}

func TestReceive_DeliversADuplicateAsAnyOther(t *testing.T) {
	environment(t)
	s := serve(t, localaws.Fault{Op: "SQS.ReceiveMessage", Duplicate: true, Times: 1})
	c := open(t, s.URL())
	url, err := c.Create(t.Context(), "q", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), url, "x"); err != nil {
		t.Fatal(err)
	}
	var got []queue.Message
	for range 2 {
		list, err := c.Receive(t.Context(), url, 1, 0)
		if err != nil || len(list) != 1 {
			t.Fatalf("received %v, %v", list, err)
		}
		got = append(got, list[0])
	}
	if got[0].ID != got[1].ID || got[0].Receipt == got[1].Receipt {
		t.Errorf("deliveries %+v", got)
	}
}
