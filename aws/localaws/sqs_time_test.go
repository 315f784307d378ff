package localaws_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"hostmanager/aws/localaws"
)

func TestVisibility_EndsAfterItsTime(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", in{"VisibilityTimeout": "43200"})
	c.send(url, "a")
	first := c.one(url)
	clock.Advance(12*time.Hour - time.Second)
	c.none(url)
	if n := c.attr(url, "ApproximateNumberOfMessagesNotVisible"); n != "1" {
		t.Errorf("%s in flight, want 1", n)
	}
	clock.Advance(time.Second)
	second := c.one(url)
	if second.Attributes["ApproximateReceiveCount"] != "2" || second.ReceiptHandle == first.ReceiptHandle {
		t.Errorf("second delivery: %+v", second)
	}
	if got := second.Attributes["ApproximateFirstReceiveTimestamp"]; got != fmt.Sprint(noon.UnixMilli()) {
		t.Errorf("first receive at %s", got)
	}
}

func TestVisibility_OfTheReceiveWins(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", nil)
	c.send(url, "a")
	c.one(url, in{"VisibilityTimeout": 2})
	clock.Advance(2 * time.Second)
	c.one(url, in{"VisibilityTimeout": 0})
	c.one(url) // was visible again at once
}

func TestChangeMessageVisibility_CountsFromNow(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", nil)
	c.send(url, "a")
	m := c.one(url)
	clock.Advance(29 * time.Second)
	c.hold(url, m, 30).ok()
	clock.Advance(29 * time.Second)
	c.none(url)
	c.hold(url, m, 0).ok()
	c.hold(url, m, 5).refused("MessageNotInflight", simpleQ+"MessageNotInflight")
	again := c.one(url)
	c.hold(url, m, 5).refused("MessageNotInflight", simpleQ+"MessageNotInflight")
	clock.Advance(10 * time.Second)
	c.hold(url, again, 43191).refused(badValue, badValueQ) // twelve hours in all
	c.hold(url, again, 43190).ok()
	c.remove(url, again)
	c.hold(url, again, 5).refused(badValue, badValueQ)
}

func TestDeleteMessage_WantsTheLastReceipt(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", nil)
	c.send(url, "a")
	old := c.one(url)
	clock.Advance(31 * time.Second)
	last := c.one(url)
	c.remove(url, old) // no error, no effect
	if n := c.attr(url, "ApproximateNumberOfMessagesNotVisible"); n != "1" {
		t.Fatalf("%s in flight, want 1", n)
	}
	clock.Advance(31 * time.Second)
	c.remove(url, last) // its visibility is over, but nobody else has it
	c.remove(url, last)
	c.none(url)
}

func TestDelay_OfMessageAndQueue(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", in{"DelaySeconds": "900"})
	c.send(url, "queue's")
	c.do("SendMessage", in{"QueueUrl": url, "MessageBody": "own", "DelaySeconds": 5}).ok()
	c.do("SendMessage", in{"QueueUrl": url, "MessageBody": "now", "DelaySeconds": 0}).ok()
	if got := c.one(url).Body; got != "now" {
		t.Errorf("received %s", got)
	}
	if n := c.attr(url, "ApproximateNumberOfMessagesDelayed"); n != "2" {
		t.Errorf("%s delayed, want 2", n)
	}
	clock.Advance(5 * time.Second)
	if got := c.one(url).Body; got != "own" {
		t.Errorf("received %s", got)
	}
	clock.Advance(895 * time.Second)
	if n := c.attr(url, "ApproximateNumberOfMessages"); n != "3" {
		t.Errorf("%s visible, want 3", n)
	}
}

func TestRetention_DropsWhatIsTooOld(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", in{"MessageRetentionPeriod": "3600"})
	c.send(url, "old")
	clock.Advance(30 * time.Minute)
	c.send(url, "young")
	held := c.one(url, in{"VisibilityTimeout": 43200, "MaxNumberOfMessages": 1})
	if held.Body != "old" {
		t.Fatalf("received %s", held.Body)
	}
	clock.Advance(30 * time.Minute)
	if n := c.attr(url, "ApproximateNumberOfMessagesNotVisible"); n != "0" {
		t.Errorf("the old message is still in flight")
	}
	c.remove(url, held)
	c.do("SetQueueAttributes", in{"QueueUrl": url, "Attributes": in{"MessageRetentionPeriod": "60"}}).ok()
	c.none(url)
}

func TestNames_StayTakenForAMinute(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", nil)
	c.do("DeleteQueue", in{"QueueUrl": url}).ok()
	c.do("SendMessage", in{"QueueUrl": url, "MessageBody": "x"}).refused("QueueDoesNotExist", simpleQ+"NonExistentQueue")
	clock.Advance(59 * time.Second)
	c.do("CreateQueue", in{"QueueName": "q"}).refused("QueueDeletedRecently", simpleQ+"QueueDeletedRecently")
	clock.Advance(time.Second)
	c.queue("q", nil)
}

func TestPurge_OnceAMinute(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", nil)
	c.send(url, "ready")
	c.do("SendMessage", in{"QueueUrl": url, "MessageBody": "later", "DelaySeconds": 1}).ok()
	c.do("PurgeQueue", in{"QueueUrl": url}).ok()
	c.do("PurgeQueue", in{"QueueUrl": url}).refused("PurgeQueueInProgress", simpleQ+"PurgeQueueInProgress")
	clock.Advance(time.Minute)
	c.none(url)
	c.do("PurgeQueue", in{"QueueUrl": url}).ok()
}

// poll begins a long poll; what it receives comes on the channel.
func (c client) poll(ctx context.Context, url string, seconds int) <-chan []msg {
	got := make(chan []msg, 1)
	go func() {
		defer close(got)
		defer func() { _ = recover() }() // a poller that is gone is cut off
		got <- c.receiveContext(ctx, url, 10, in{"WaitTimeSeconds": seconds})
	}()
	return got
}

func await(t testing.TB, clock *localaws.FakeClock, timers int) {
	t.Helper()
	if err := clock.AwaitTimers(deadline(t), timers); err != nil {
		t.Fatalf("no poll waits: %v", err)
	}
}

// result is what a poll received, with a bound on how long that takes.
func result(t testing.TB, got <-chan []msg) string {
	t.Helper()
	select {
	case list := <-got:
		return bodies(list)
	case <-deadline(t).Done():
		t.Fatal("the poll does not end")
		return ""
	}
}

func TestLongPoll_EndsEmptyAtItsDeadline(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", in{"ReceiveMessageWaitTimeSeconds": "3"})
	got := c.poll(t.Context(), url, 20)
	await(t, clock, 1)
	clock.Advance(20 * time.Second)
	if r := result(t, got); r != "" {
		t.Errorf("received %s", r)
	}
	queues := make(chan reply, 1) // the queue's own waiting time
	go func() { queues <- c.doContext(t.Context(), "ReceiveMessage", in{"QueueUrl": url}) }()
	await(t, clock, 1)
	clock.Advance(3 * time.Second)
	if r := <-queues; len(messages(r)) != 0 {
		t.Error("received something")
	}
}

func TestLongPoll_WakesForEverythingThatBecomesReady(t *testing.T) {
	for name, wake := range map[string]func(c client, clock *localaws.FakeClock, url string, held msg){
		"send":           func(c client, _ *localaws.FakeClock, url string, _ msg) { c.send(url, "held") },
		"visibility 0":   func(c client, _ *localaws.FakeClock, url string, held msg) { c.hold(url, held, 0).ok() },
		"visibility end": func(_ client, clock *localaws.FakeClock, _ string, _ msg) { clock.Advance(10 * time.Second) },
		"sooner end": func(c client, clock *localaws.FakeClock, url string, held msg) {
			c.hold(url, held, 3).ok()
			_ = clock.AwaitTimers(context.Background(), 1)
			clock.Advance(3 * time.Second)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, clock := frozen(t)
			url := c.queue("q", in{"VisibilityTimeout": "10"})
			c.send(url, "held")
			held := c.one(url)
			got := c.poll(t.Context(), url, 20)
			await(t, clock, 1)
			wake(c, clock, url, held)
			for {
				select {
				case list := <-got:
					if bodies(list) != "held" {
						t.Errorf("received %q", bodies(list))
					}
					return
				case <-deadline(t).Done():
					t.Fatal("the poll sleeps on")
				}
			}
		})
	}
}

func TestLongPoll_WakesWhenADelayEnds(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", nil)
	c.do("SendMessage", in{"QueueUrl": url, "MessageBody": "d", "DelaySeconds": 7}).ok()
	got := c.poll(t.Context(), url, 20)
	await(t, clock, 1)
	clock.Advance(7 * time.Second)
	if r := result(t, got); r != "d" {
		t.Errorf("received %q", r)
	}
}

func TestLongPoll_GivesNothingToAPollerThatIsGone(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", nil)
	ctx, cancel := context.WithCancel(t.Context())
	got := c.poll(ctx, url, 20)
	await(t, clock, 1)
	cancel()
	c.send(url, "a")
	<-got
	if m := c.one(url); m.Attributes["ApproximateReceiveCount"] != "1" {
		t.Errorf("delivered %s times", m.Attributes["ApproximateReceiveCount"])
	}
}

func TestLongPoll_LearnsThatItsQueueIsGone(t *testing.T) {
	c, clock := frozen(t)
	url := c.queue("q", nil)
	got := make(chan reply, 1)
	go func() { got <- c.doContext(t.Context(), "ReceiveMessage", in{"QueueUrl": url, "WaitTimeSeconds": 20}) }()
	await(t, clock, 1)
	c.do("DeleteQueue", in{"QueueUrl": url}).ok()
	(<-got).refused("QueueDoesNotExist", simpleQ+"NonExistentQueue")
}

func TestLongPoll_EndsWhenTheServerCloses(t *testing.T) {
	clock := localaws.NewFakeClock(noon)
	s := direct(t, localaws.Options{Clock: clock})
	c := client{t, s}
	got := c.poll(t.Context(), c.queue("q", nil), 20)
	await(t, clock, 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if r := result(t, got); r != "" {
		t.Errorf("received %s", r)
	}
}

func TestInFlightLimit_IsAnErrorForAShortPollOnly(t *testing.T) {
	clock := localaws.NewFakeClock(noon)
	c := client{t, direct(t, localaws.Options{Clock: clock, InFlightLimit: 3})}
	url := c.queue("q", nil)
	for i := range 5 {
		c.send(url, fmt.Sprint(i))
	}
	if got := c.receive(url, 10); len(got) != 3 {
		t.Fatalf("received %d, want 3", len(got))
	}
	c.do("ReceiveMessage", in{"QueueUrl": url}).refused("OverLimit", "")
	got := c.poll(t.Context(), url, 20)
	await(t, clock, 1)
	clock.Advance(20 * time.Second)
	if r := result(t, got); r != "" {
		t.Errorf("received %s", r)
	}
}

func TestDeadLetter_TakesWhatWasReceivedTooOften(t *testing.T) {
	c, clock := frozen(t)
	dlq := c.queue("dlq", in{"MessageRetentionPeriod": "1209600"})
	src := c.queue("src", in{"RedrivePolicy": `{"deadLetterTargetArn":"` + c.arn(dlq) + `","maxReceiveCount":"2"}`})
	id := c.send(src, "poison")
	for range 2 {
		c.one(src)
		clock.Advance(30 * time.Second)
	}
	c.none(dlq)
	c.none(src)
	m := c.one(dlq)
	if m.MessageId != id || m.Attributes["DeadLetterQueueSourceArn"] != c.arn(src) || m.Attributes["ApproximateReceiveCount"] != "3" {
		t.Errorf("dead letter %+v", m)
	}
	if m.Attributes["SentTimestamp"] != fmt.Sprint(noon.UnixMilli()) {
		t.Errorf("sent at %s", m.Attributes["SentTimestamp"])
	}
	out := c.do("ListDeadLetterSourceQueues", in{"QueueUrl": dlq}).ok()
	if got := fmt.Sprint(out["queueUrls"]); got != "["+src+"]" {
		t.Errorf("sources %s", got)
	}
	c.do("SetQueueAttributes", in{"QueueUrl": dlq, "Attributes": in{"RedriveAllowPolicy": `{"redrivePermission":"denyAll"}`}}).ok()
	c.do("SetQueueAttributes", in{"QueueUrl": src, "Attributes": in{"RedrivePolicy": `{"deadLetterTargetArn":"` + c.arn(dlq) + `","maxReceiveCount":3}`}}).
		refused(badValue, badValueQ)
}

func TestDeadLetter_WakesItsOwnPollers(t *testing.T) {
	c, clock := frozen(t)
	dlq := c.queue("dlq", nil)
	src := c.queue("src", in{"VisibilityTimeout": "0", "RedrivePolicy": `{"deadLetterTargetArn":"` + c.arn(dlq) + `","maxReceiveCount":1}`})
	got := c.poll(t.Context(), dlq, 20)
	await(t, clock, 1)
	c.send(src, "poison")
	c.one(src)
	c.none(src)
	if r := result(t, got); r != "poison" {
		t.Errorf("received %q", r)
	}
}

// deadLetters makes a dead-letter queue with n messages from src in it.
func deadLetters(c client, n int) (src, dlq string) {
	dlq = c.queue("dlq", nil)
	src = c.queue("src", in{"VisibilityTimeout": "0", "RedrivePolicy": `{"deadLetterTargetArn":"` + c.arn(dlq) + `","maxReceiveCount":1}`})
	for i := range n {
		c.send(src, fmt.Sprint(i))
	}
	c.receive(src, 10)
	c.none(src)
	return src, dlq
}

func TestMoveTask_TakesAllBack(t *testing.T) {
	c, _ := frozen(t)
	src, dlq := deadLetters(c, 4)
	c.do("StartMessageMoveTask", in{"SourceArn": c.arn(dlq)}).ok()
	c.none(dlq)
	got := c.receive(src, 10)
	if len(got) != 4 || got[0].Attributes["ApproximateReceiveCount"] != "1" {
		t.Errorf("came back: %+v", got)
	}
	out := fmt.Sprint(c.do("ListMessageMoveTasks", in{"SourceArn": c.arn(dlq)}).ok()["Results"])
	for _, part := range []string{"Status:COMPLETED", "ApproximateNumberOfMessagesMoved:4", "ApproximateNumberOfMessagesToMove:4"} {
		if !contains(out, part) {
			t.Errorf("task %s has no %s", out, part)
		}
	}
}

func TestMoveTask_KeepsToItsRateAndStopsWhenCancelled(t *testing.T) {
	c, clock := frozen(t)
	_, dlq := deadLetters(c, 5)
	to := c.queue("to", nil)
	start := in{"SourceArn": c.arn(dlq), "DestinationArn": c.arn(to), "MaxNumberOfMessagesPerSecond": 1}
	handle := c.do("StartMessageMoveTask", start).ok()["TaskHandle"]
	c.do("StartMessageMoveTask", start).refused("UnsupportedOperation", simpleQ+"UnsupportedOperation")
	for range 2 {
		await(t, clock, 1)
		clock.Advance(time.Second)
	}
	await(t, clock, 1)
	if got := bodies(c.receive(to, 10)); got != "0 1" {
		t.Errorf("moved %q, want 0 1", got)
	}
	out := c.do("CancelMessageMoveTask", in{"TaskHandle": handle}).ok()
	if out["ApproximateNumberOfMessagesMoved"] != 2.0 {
		t.Errorf("cancelled: %v", out)
	}
	c.do("CancelMessageMoveTask", in{"TaskHandle": handle}).refused("UnsupportedOperation", simpleQ+"UnsupportedOperation")
	clock.Advance(time.Minute)
	if n := c.attr(to, "ApproximateNumberOfMessages"); n != "2" {
		t.Errorf("%s messages were moved in the end, want 2", n)
	}
	c.do("StartMessageMoveTask", start).ok()
}

func TestMoveTask_FailsWithoutADestination(t *testing.T) {
	c, _ := frozen(t)
	src, dlq := deadLetters(c, 1)
	c.queue("other", in{"RedrivePolicy": `{"deadLetterTargetArn":"` + c.arn(dlq) + `","maxReceiveCount":1}`})
	c.do("DeleteQueue", in{"QueueUrl": src}).ok()
	c.do("StartMessageMoveTask", in{"SourceArn": c.arn(dlq)}).ok()
	out := fmt.Sprint(c.do("ListMessageMoveTasks", in{"SourceArn": c.arn(dlq)}).ok()["Results"])
	if !contains(out, "Status:FAILED") || !contains(out, "NonExistentQueue") {
		t.Errorf("task %s", out)
	}
	c.one(dlq)
}
