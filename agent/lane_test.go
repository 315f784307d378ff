package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hostmanager/internal/logfile"
)

func TestLane_RunsInOrderAndNoMoreThanItsWidth(t *testing.T) {
	for _, width := range []int{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			l := newLane(width)
			var mu sync.Mutex
			var order []int
			now, most := 0, 0
			for n := range 12 {
				l.push(job{identity: fmt.Sprint(n), do: func(context.Context) {
					mu.Lock()
					order = append(order, n)
					now++
					most = max(most, now)
					mu.Unlock()
					<-time.After(time.Second) // virtual: what a job takes
					mu.Lock()
					now--
					mu.Unlock()
				}}, false)
			}
			l.push(job{identity: "first", do: func(context.Context) { mu.Lock(); order = append(order, -1); mu.Unlock() }}, true)
			ended := make(chan struct{})
			go func() { defer close(ended); l.run(t.Context()) }()
			<-time.After(time.Minute)
			l.close()
			<-ended
			if most != width || len(order) != 13 {
				t.Errorf("width %d: %d at once, %d ran", width, most, len(order))
			}
			if width == 1 && (order[0] != -1 || !slices.IsSorted(order)) {
				t.Errorf("order %v", order)
			}
		})
	}
}

func TestLane_CloseLetsTheRunningJobEndAndNoOtherBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(1)
		ran := 0
		for range 3 {
			l.push(job{identity: fmt.Sprint(ran), do: func(context.Context) { ran++; <-time.After(time.Hour) }}, false)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); l.run(t.Context()) }()
		synctest.Wait()
		l.close()
		<-ended
		if waiting, running := l.depth(); ran != 1 || waiting != 2 || running != 0 {
			t.Errorf("ran %d, %d wait, %d run", ran, waiting, running)
		}
	})
}

func TestLane_FullLaneHoldsIntake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(1)
		for range laneRoom {
			l.push(job{do: func(context.Context) { <-time.After(time.Second) }}, false)
		}
		let := false
		go func() { l.room(t.Context()); let = true }()
		synctest.Wait()
		if let {
			t.Fatal("a full lane takes more")
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); l.run(ctx) }()
		synctest.Wait()
		if !let {
			t.Error("a lane with room takes no more")
		}
		cancel()
		<-ended
	})
}

// Full lanes are no reason for the watchdog to end the agent.
func TestIntake_PulsesWhileBothLanesAreFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(Parts{Logs: &logfile.Set{Structured: slog.New(slog.DiscardHandler)}, Now: time.Now})
		for range laneRoom {
			a.exclusive.push(job{do: func(context.Context) {}}, false)
			a.shared.push(job{do: func(context.Context) {}}, false)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); a.awaitRoom(ctx) }()
		for range 10 {
			<-time.After(7 * time.Minute) // virtual
			if silent := time.Since(a.begun) - time.Duration(a.pulse.Load()); silent >= intakeStall {
				t.Fatalf("no pulse for %v", silent)
			}
		}
		cancel()
		<-ended
	})
}

func TestPatience_GrowsToItsCapAndSpeaksRarely(t *testing.T) {
	p := newPatience(time.Second, time.Minute)
	var waited time.Duration
	spoke := 0
	for range 200 {
		if p.speaks() {
			spoke++
		}
		d := p.next()
		if d > 90*time.Second {
			t.Fatalf("waits %v", d)
		}
		waited += d
	}
	if most := int(waited/sayAgainAfter) + 1; spoke < 2 || spoke > most {
		t.Errorf("spoke %d times in %v", spoke, waited)
	}
	p.reset()
	if p.failed() || !p.speaks() || p.next() > 2*time.Second {
		t.Error("reset does not begin anew")
	}
}

func TestDefaultResultQueues_StayBesideTheCommandQueue(t *testing.T) {
	for command, want := range map[string]string{
		"https://sqs.eu-central-1.amazonaws.com/123456789012/hostmanager-e-1-cmd-i-1": "https://sqs.eu-central-1.amazonaws.com/123456789012/hostmanager-*",
		"http://127.0.0.1:4566/000000000000/q":                                        "http://127.0.0.1:4566/000000000000/hostmanager-*",
		"https://sqs.example/we*rd/q":                                                 `https://sqs.example/we\*rd/hostmanager-*`,
	} {
		if got := defaultResultQueues(command); got != want {
			t.Errorf("%s: %s", command, got)
		}
	}
}

func TestLane_HeldBeginsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLane(1)
		var ran []string
		push := func(name string) {
			l.push(job{identity: name, do: func(context.Context) { ran = append(ran, name); <-time.After(time.Minute) }}, false)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); l.run(t.Context()) }()
		push("before")
		synctest.Wait()
		l.hold()
		push("one")
		push("two")
		<-time.After(time.Hour)
		if waiting, running := l.depth(); waiting != 2 || running != 0 || len(ran) != 1 {
			t.Errorf("held: %d wait, %d run, %v ran", waiting, running, ran)
		}
		l.release()
		<-time.After(time.Hour)
		if fmt.Sprint(ran) != "[before one two]" {
			t.Errorf("ran %v", ran)
		}
		l.hold() // a lane that is closed ends all the same
		push("never")
		l.close()
		<-ended
		if len(ran) != 3 {
			t.Errorf("ran %v", ran)
		}
	})
}
