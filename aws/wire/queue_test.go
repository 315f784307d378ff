package wire_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/aws/queue"
)

// receive takes one message, waiting for it, and insists on its body.
func receive(t *testing.T, c *queue.Client, url, body string) queue.Message {
	t.Helper()
	got, err := c.Receive(t.Context(), url, 1, 10*time.Second)
	must(t, err)
	if len(got) != 1 || got[0].Body != body {
		t.Fatalf("received %+v, want %q", got, body)
	}
	return got[0]
}

func empty(t *testing.T, c *queue.Client, url string) {
	t.Helper()
	got, err := c.Receive(t.Context(), url, queue.MaxBatch, 0)
	must(t, err)
	if len(got) != 0 {
		t.Fatalf("received %+v, want nothing", got)
	}
}

func TestQueue_CarriesAMessage(t *testing.T) {
	c := queues(t)
	url := newQueue(t, c, nil)
	before := time.Now()
	body := "{\"text\":\"héllo \U0001F680\\n\"}\t\n" + strings.Repeat("x", 200<<10)
	must(t, c.Send(t.Context(), url, body))
	m := receive(t, c, url, body)
	if m.ID == "" || m.Receipt == "" || m.ReceiveCount != 1 || m.Sent.Sub(before).Abs() > time.Minute {
		t.Errorf("message %q, receipt %q, count %d, sent %s", m.ID, m.Receipt, m.ReceiveCount, m.Sent)
	}
	empty(t, c, url)
	must(t, c.Delete(t.Context(), url, m.Receipt))
	must(t, c.Delete(t.Context(), url, m.Receipt))
}

func TestQueue_GivesAMessageBackAfterItsVisibility(t *testing.T) {
	c := queues(t)
	url := newQueue(t, c, map[string]string{"VisibilityTimeout": "3"})
	must(t, c.Send(t.Context(), url, "a"))
	first := receive(t, c, url, "a")
	second := receive(t, c, url, "a") // the long poll wakes when it is due
	if second.ReceiveCount != 2 || second.ID != first.ID || second.Receipt == first.Receipt {
		t.Errorf("first %+v, second %+v", first, second)
	}
	must(t, c.Hold(t.Context(), url, second.Receipt, 0))
	third := receive(t, c, url, "a")
	must(t, c.Hold(t.Context(), url, third.Receipt, time.Minute))
	empty(t, c, url)
	must(t, c.Delete(t.Context(), url, third.Receipt))
}

func TestQueue_LongPollWakesForAMessage(t *testing.T) {
	c := queues(t)
	url := newQueue(t, c, nil)
	type outcome struct {
		got []queue.Message
		err error
	}
	polled := make(chan outcome, 1)
	began := time.Now()
	go func() {
		got, err := c.Receive(t.Context(), url, 1, queue.MaxWait)
		polled <- outcome{got, err}
	}()
	must(t, c.Send(t.Context(), url, "a"))
	o := <-polled
	if o.err != nil || len(o.got) != 1 || time.Since(began) > 10*time.Second {
		t.Errorf("received %+v, %v after %s", o.got, o.err, time.Since(began))
	}
}

func TestQueue_CancelledPollLosesNothing(t *testing.T) {
	c := queues(t)
	url := newQueue(t, c, nil)
	for i := range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := c.Receive(ctx, url, 1, queue.MaxWait)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || queue.Permanent(err) {
			t.Fatalf("poll %d: %v", i, err)
		}
	}
	// A service may notice late that a poller has gone; its visibility is the
	// longest that can cost.
	attrs := map[string]string{"VisibilityTimeout": "2"}
	short := newQueue(t, c, attrs)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	_, _ = c.Receive(ctx, short, 1, queue.MaxWait)
	cancel()
	must(t, c.Send(t.Context(), short, "a"))
	receive(t, c, short, "a")
}

func TestQueue_GivesEachMessageToOneReceiver(t *testing.T) {
	c := queues(t)
	url := newQueue(t, c, nil)
	const messages = 60
	for i := range messages {
		must(t, c.Send(t.Context(), url, fmt.Sprint(i)))
	}
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				got, err := c.Receive(t.Context(), url, queue.MaxBatch, time.Second)
				if err != nil || len(got) == 0 {
					return
				}
				for _, m := range got {
					mu.Lock()
					seen[m.Body]++
					mu.Unlock()
					if err := c.Delete(t.Context(), url, m.Receipt); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if len(seen) != messages {
		t.Errorf("received %d messages, want %d", len(seen), messages)
	}
	for body, n := range seen {
		if n != 1 {
			t.Errorf("message %s was received %d times", body, n)
		}
	}
}

func TestQueue_IsFoundAndListedByName(t *testing.T) {
	c := queues(t)
	name := unique(t)
	attrs := map[string]string{"VisibilityTimeout": "7", "MessageRetentionPeriod": "3600"}
	url, err := c.Create(t.Context(), name, attrs)
	must(t, err)
	again, err := c.Create(t.Context(), name, attrs)
	if err != nil || again != url {
		t.Errorf("made again: %s, %v; first %s", again, err, url)
	}
	if _, err := c.Create(t.Context(), name, map[string]string{"VisibilityTimeout": "8"}); !errors.Is(err, queue.ErrQueueExists) || !queue.Permanent(err) {
		t.Errorf("made with other attributes: %v", err)
	}
	found, err := c.URL(t.Context(), name)
	if err != nil || found != url {
		t.Errorf("found %s, %v", found, err)
	}
	list, err := c.List(t.Context(), name)
	if err != nil || !slices.Equal(list, []string{url}) {
		t.Errorf("listed %v, %v", list, err)
	}
	got, err := c.Attributes(t.Context(), url)
	if err != nil || got["VisibilityTimeout"] != "7" || !strings.HasSuffix(got["QueueArn"], ":"+name) {
		t.Errorf("attributes %v, %v", got, err)
	}
	must(t, c.DeleteQueue(t.Context(), url))
	if _, err := c.URL(t.Context(), name); !errors.Is(err, queue.ErrQueueMissing) || !queue.Permanent(err) {
		t.Errorf("found after it was deleted: %v", err)
	}
}

func TestQueue_ErrorsAreJudged(t *testing.T) {
	c := queues(t)
	url := newQueue(t, c, nil)
	ctx := t.Context()
	_, receiveMissing := c.Receive(ctx, url+"-missing", 1, 0)
	for name, tc := range map[string]struct{ err, want error }{
		"receive from a missing queue": {receiveMissing, queue.ErrQueueMissing},
		"send to a missing queue":      {c.Send(ctx, url+"-missing", "x"), queue.ErrQueueMissing},
		"bogus receipt":                {c.Delete(ctx, url, "bogus"), queue.ErrReceiptInvalid},
		"control character":            {c.Send(ctx, url, "a\x01"), queue.ErrInvalid},
		"too long":                     {c.Send(ctx, url, strings.Repeat("x", queue.MaxBody+1)), queue.ErrInvalid},
	} {
		if !errors.Is(tc.err, tc.want) || !queue.Permanent(tc.err) {
			t.Errorf("%s: %v, want %v", name, tc.err, tc.want)
		}
	}
}
