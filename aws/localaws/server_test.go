package localaws_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"hostmanager/aws/localaws"
)

func TestNew_RefusesToBeReachable(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:0": true, "[::1]:0": true, "localhost:0": true, "127.8.8.8:0": true,
		"0.0.0.0:0": false, ":0": false, "10.0.0.1:0": false, "example.org:0": false,
	} {
		_, err := localaws.New(localaws.Options{Addr: addr})
		if ok != (err == nil) || (err != nil && !errors.Is(err, localaws.ErrNotLoopback)) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestRun_ServesUntilItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := localaws.Run(ctx, localaws.Options{}, func(url string) {
		defer cancel()
		for path, want := range map[string]int{"/": http.StatusOK, "/bucket/key": http.StatusNotFound} {
			r, err := http.Get(url + path)
			if err != nil {
				t.Error(err)
				return
			}
			_ = r.Body.Close()
			if r.StatusCode != want {
				t.Errorf("%s: status %d, want %d", path, r.StatusCode, want)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestStart_OnlyOnce(t *testing.T) {
	s := start(t, localaws.Options{})
	if err := s.Start(); err == nil {
		t.Error("started twice")
	}
	if !strings.HasPrefix(s.URL(), "http://127.0.0.1:") {
		t.Errorf("URL %s", s.URL())
	}
}

func TestClose_AnswersALongPollOverHTTP(t *testing.T) {
	clock := localaws.NewFakeClock(noon)
	s := start(t, localaws.Options{Clock: clock})
	c := client{t, s}
	url := c.queue("q", nil)
	status := make(chan int, 1)
	go func() {
		r, err := http.NewRequest(http.MethodPost, s.URL(), strings.NewReader(`{"QueueUrl":"`+url+`","WaitTimeSeconds":20}`))
		if err != nil {
			t.Error(err)
			return
		}
		r.Header.Set("X-Amz-Target", "AmazonSQS.ReceiveMessage")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			status <- 0
			return
		}
		_ = resp.Body.Close()
		status <- resp.StatusCode
	}()
	await(t, clock, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-status; got != http.StatusOK {
		t.Errorf("status %d", got)
	}
}
