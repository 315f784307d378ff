package agent

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hostmanager/protocol"
)

// tended is a tender at work in a bubble of virtual time, over a platform of two words.
type tended struct {
	lane  *lane
	start time.Time

	mu      sync.Mutex // guards the rest
	astray  string
	blinded error  // of a look
	stuck   error  // of mending
	between func() // runs after the next look
	looks   int
	mended  []time.Duration // since start
	events  []string
	owed    *atomic.Bool
}

func (p *tended) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *tended) look(context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks++
	astray := p.astray
	if between := p.between; between != nil {
		p.between = nil
		between()
	}
	return astray, p.blinded
}

func (p *tended) mend(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mended = append(p.mended, time.Since(p.start))
	if p.stuck == nil {
		p.astray = ""
	}
	return p.stuck
}

func tend(t *testing.T, script func(*tended)) *tended {
	t.Helper()
	p := &tended{}
	synctest.Test(t, func(t *testing.T) {
		p.lane, p.start = newLane(1), time.Now()
		event := func(e protocol.Event) { p.set(func() { p.events = append(p.events, e.Msg) }) }
		tender := newTender(defaultLook, p.lane, newOutages(event, slog.New(slog.DiscardHandler)))
		tender.look, tender.mend, tender.event = p.look, p.mend, event
		p.owed = tender.owed
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { p.lane.run(ctx) })
		wg.Go(func() { tender.run(ctx) })
		script(p)
		<-time.After(time.Second) // a script may end at a tick: what that set going is not to be cut off by the end
		synctest.Wait()
		cancel()
		wg.Wait()
	})
	return p
}

func TestTender_ActsAtOnceAndThenAtMostOnceAMinute(t *testing.T) {
	p := tend(t, func(p *tended) {
		for range 60 { // somebody stops it again and again
			p.set(func() { p.astray = "the container was stopped" })
			<-time.After(time.Minute)
		}
	})
	if len(p.mended) < 5 || p.mended[0] != defaultLook {
		t.Errorf("acted at %v", p.mended)
	}
	for i := range p.mended[1:] {
		if p.mended[i+1]-p.mended[i] < mendPause {
			t.Errorf("acted at %v", p.mended)
		}
	}
	if len(p.events) != len(p.mended) || p.events[0] != "Outside any deployment, the container was stopped. It was put right." {
		t.Errorf("%d events: %q", len(p.events), p.events)
	}
}

func TestTender_BacksOffAndSpeaksSeldomWhereItCannotHelp(t *testing.T) {
	p := tend(t, func(p *tended) {
		p.set(func() { p.astray, p.stuck = "the proxy had no target", errors.New("no") })
		<-time.After(5 * time.Hour)
	})
	// Every five minutes on average, once the waits have grown.
	if n := len(p.mended); n < 20 || n > 110 {
		t.Errorf("acted %d times", n)
	}
	if n := len(p.events); n < 2 || n > 32 {
		t.Errorf("%d events of %d attempts", n, len(p.mended))
	}
	if want := "Outside any deployment, the proxy had no target. It could not be put right: no. It is tried again."; p.events[0] != want {
		t.Errorf("event %q", p.events[0])
	}
}

func TestTender_ForgetsOldTroubleAfterAQuietTime(t *testing.T) {
	p := tend(t, func(p *tended) {
		p.set(func() { p.astray, p.stuck = "astray", errors.New("no") })
		<-time.After(time.Hour)
		p.set(func() { p.stuck = nil })
		<-time.After(time.Hour)
		p.set(func() { p.mended, p.astray = nil, "astray" })
		<-time.After(defaultLook + time.Second)
	})
	if len(p.mended) != 1 {
		t.Errorf("acted at %v", p.mended)
	}
}

func TestTender_LeavesTheLaneToCommands(t *testing.T) {
	p := tend(t, func(p *tended) {
		done := make(chan struct{})
		p.lane.push(job{identity: "command", do: func(context.Context) {
			<-time.After(time.Hour + time.Second) // while it runs nobody looks; it ends between two ticks
			p.set(func() { p.astray = "astray" })
		}}, false)
		p.lane.push(job{identity: "another", do: func(context.Context) { p.set(func() { p.astray = "" }); close(done) }}, false)
		<-done
		p.set(func() {
			if p.looks != 0 {
				t.Errorf("%d looks beside a command", p.looks)
			}
			// What a command that came between the look and the act puts right is left alone.
			p.astray = "astray"
			p.between = func() {
				p.lane.push(job{identity: "between", do: func(context.Context) { p.set(func() { p.astray = "" }) }}, false)
			}
		})
		<-time.After(time.Minute)
	})
	if len(p.mended) != 0 || len(p.events) != 0 || p.looks == 0 {
		t.Errorf("%d looks, acted at %v, events %q", p.looks, p.mended, p.events)
	}
}

func TestTender_BlindLooksChangeNothingAndSpeakOnce(t *testing.T) {
	p := tend(t, func(p *tended) {
		p.set(func() { p.blinded = errors.New("the proxy is not running") })
		<-time.After(time.Hour)
		p.set(func() { p.blinded, p.astray = nil, "the proxy had no target" })
		<-time.After(time.Minute)
	})
	if len(p.mended) != 1 || len(p.events) != 3 {
		t.Fatalf("acted at %v, events %q", p.mended, p.events)
	}
	for i, want := range []string{"The platform does not answer: the proxy is not running. It is tried until it does", "The platform answers again, after ", "It was put right."} {
		if !strings.Contains(p.events[i], want) {
			t.Errorf("event %q, want %q", p.events[i], want)
		}
	}
}

func TestTender_DoesWhatTheStartStillOwesOnceThePlatformAnswers(t *testing.T) {
	p := tend(t, func(p *tended) {
		p.owed.Store(true)
		p.set(func() { p.blinded = errors.New("no Engine") })
		<-time.After(10 * time.Minute)
		p.set(func() {
			if len(p.mended) != 0 {
				t.Errorf("acted on a platform that does not answer, at %v", p.mended)
			}
			p.blinded = nil
		})
		<-time.After(10 * time.Minute)
	})
	if len(p.mended) != 1 || p.owed.Load() || p.mended[0] > 11*time.Minute {
		t.Errorf("acted at %v", p.mended)
	}
}
