package environment_test

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hostmanager/environment"
	"hostmanager/environment/locktest"
	"hostmanager/internal/procid"
)

func lock(t *testing.T, r *environment.Record, holder string) *environment.HeldLock {
	t.Helper()
	h, err := r.Lock(t.Context(), environment.LockRequest{Holder: holder, Reason: "deploy v1", TTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestLock_TellsTheSecondWhoHoldsIt(t *testing.T) {
	r := open(t, newBucket())
	h := lock(t, r, "anna@laptop")
	_, err := r.Lock(t.Context(), environment.LockRequest{Holder: "bert"})
	var locked *environment.LockedError
	if !errors.As(err, &locked) || locked.Lock.Holder != "anna@laptop" {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"anna@laptop", "deploy v1", "hmctl unlock --force"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not tell %q", err, want)
		}
	}
	if err := h.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h.Context().Err() == nil {
		t.Error("the context of a released lock goes on")
	}
	if err := h.Unlock(t.Context()); err != nil {
		t.Errorf("a second Unlock: %v", err)
	}
	second := lock(t, r, "bert")
	if second.TookOver().Held() {
		t.Error("a free lock counted as taken over")
	}
	if err := second.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestLock_IsRenewedAsLongAsItIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket()
		r := open(t, b)
		h := lock(t, r, "anna")
		for range 100 {
			<-time.After(30 * time.Second)
			if _, err := r.Lock(t.Context(), environment.LockRequest{Holder: "bert"}); !errors.Is(err, environment.ErrLocked) {
				t.Fatalf("a lock that is renewed was given away: %v", err)
			}
		}
		if err := context.Cause(h.Context()); err != nil {
			t.Fatal(err)
		}
		if err := h.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLock_DiesBeforeAnyoneMayTakeIt: when the store cannot be reached the holder's context ends first, and only later others may come.
func TestLock_DiesBeforeAnyoneMayTakeIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket()
		r := open(t, b)
		h := lock(t, r, "anna")
		var unreachable atomic.Bool
		b.inject(func(op, _ string) (bool, error) {
			if op == "put" && unreachable.Load() {
				return false, errors.New("no answer")
			}
			return false, nil
		})
		unreachable.Store(true)
		<-h.Context().Done()
		if cause := context.Cause(h.Context()); !errors.Is(cause, environment.ErrLockLost) {
			t.Fatalf("ended with %v", cause)
		}
		unreachable.Store(false)
		if _, err := r.Lock(t.Context(), environment.LockRequest{Holder: "bert"}); !errors.Is(err, environment.ErrLocked) {
			t.Fatalf("taken over in the moment it died: %v", err)
		}
		<-time.After(time.Minute)
		second := lock(t, r, "bert")
		if second.TookOver().Holder != "anna" {
			t.Errorf("took over from %+v", second.TookOver())
		}
		if err := h.Unlock(t.Context()); !errors.Is(err, environment.ErrChanged) {
			t.Errorf("the dead holder released the other's lock: %v", err)
		}
		if l, err := r.LockState(t.Context()); err != nil || l.Holder != "bert" {
			t.Errorf("the lock is %+v, %v", l, err)
		}
		if err := second.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLock_GoesByTheWallClock: a machine that slept finds its lock dead although no timer ran.
func TestLock_GoesByTheWallClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var slept atomic.Int64
		b := newBucket()
		r := openAt(t, b, func() time.Time { return time.Now().Add(time.Duration(slept.Load())) })
		hang := make(chan struct{})
		h := lock(t, r, "anna")
		b.inject(func(op, _ string) (bool, error) {
			if op == "put" {
				<-hang // the connection died in the sleep
			}
			return false, nil
		})
		<-time.After(11 * time.Second) // a heartbeat is on its way and hangs
		slept.Store(int64(time.Hour))
		<-h.Context().Done()
		if cause := context.Cause(h.Context()); !errors.Is(cause, environment.ErrLockLost) {
			t.Errorf("ended with %v", cause)
		}
		b.inject(nil)
		close(hang)
		_ = h.Unlock(t.Context())
	})
}

func TestLock_NoticesThatItWasBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newBucket())
		h := lock(t, r, "anna")
		before, err := r.BreakLock(t.Context())
		if err != nil || before.Holder != "anna" {
			t.Fatalf("broke %+v, %v", before, err)
		}
		second := lock(t, r, "bert")
		<-h.Context().Done()
		cause := context.Cause(h.Context())
		if !errors.Is(cause, environment.ErrLockLost) || !strings.Contains(cause.Error(), "bert") {
			t.Errorf("ended with %v", cause)
		}
		_ = h.Unlock(t.Context())
		if err := second.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestLock_LivesOnWhenAnAnswerIsLost: a heartbeat that was written but not answered is the holder's own.
func TestLock_LivesOnWhenAnAnswerIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBucket()
		r := open(t, b)
		h := lock(t, r, "anna")
		var puts atomic.Int64
		b.inject(func(op, _ string) (bool, error) {
			if op == "put" && puts.Add(1)%2 == 1 {
				return true, errors.New("no answer")
			}
			return false, nil
		})
		<-time.After(10 * time.Minute)
		if err := context.Cause(h.Context()); err != nil {
			t.Fatal(err)
		}
		b.inject(nil)
		if err := h.Unlock(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestLock_OfAPersonStandsUntilReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := open(t, newBucket())
		info, err := r.SetLock(t.Context(), "anna", "do not touch on Friday")
		if err != nil || !info.Manual() {
			t.Fatalf("got %+v, %v", info, err)
		}
		<-time.After(1000 * time.Hour)
		_, err = r.Lock(t.Context(), environment.LockRequest{Holder: "bert"})
		if !errors.Is(err, environment.ErrLocked) || !strings.Contains(err.Error(), "do not touch on Friday") {
			t.Fatalf("got %v", err)
		}
		if err := r.ReleaseLock(t.Context(), "another"); !errors.Is(err, environment.ErrChanged) {
			t.Errorf("released with a wrong id: %v", err)
		}
		if err := r.ReleaseLock(t.Context(), info.ID); err != nil {
			t.Fatal(err)
		}
		if l, err := r.LockState(t.Context()); err != nil || l.Held() {
			t.Errorf("the lock is %+v, %v", l, err)
		}
	})
}

func TestLock_IsNotLeftBehindByACancelledCall(t *testing.T) {
	b := newBucket()
	r := open(t, b)
	ctx, cancel := context.WithCancel(t.Context())
	b.inject(func(op, _ string) (bool, error) {
		if op == "put" && ctx.Err() == nil {
			cancel()
			return true, context.Canceled // it was written, and nobody waited for the answer
		}
		return false, nil
	})
	// The bucket refuses a put under a cancelled context, so the lost write is made with the test's own.
	if _, err := r.Lock(context.WithoutCancel(ctx), environment.LockRequest{Holder: "anna"}); err == nil {
		t.Fatal("taken")
	}
	if l, err := r.LockState(t.Context()); err != nil || l.Held() {
		t.Errorf("the lock is %+v, %v", l, err)
	}
}

func TestLock_HasOneHolder(t *testing.T) { locktest.OneHolder(t, open(t, newBucket()), 50) }

// TestLock_OfAProvenDeadHolderIsTakenByWhoAsksForIt: everyone else is told what to do, and a holder elsewhere is waited for.
func TestLock_OfAProvenDeadHolderIsTakenByWhoAsksForIt(t *testing.T) {
	dead := procid.Self()
	dead.Start++ // a process with this pid, but not this one
	elsewhere := dead
	elsewhere.BootID, elsewhere.Host = "another", "laptop"
	for _, c := range []struct {
		name    string
		process procid.ID
		q       environment.LockRequest
		says    string // empty: the lock is taken
	}{
		{"an abort", procid.Self(), environment.LockRequest{TakeDead: true, Reason: environment.AbortReason + "CMD-AppDeploy"}, "That abort is at work already; wait for it to end"},
		{"dead, asked for", dead, environment.LockRequest{TakeDead: true}, ""},
		{"dead", dead, environment.LockRequest{}, "has ended: carry on what it did with `hmctl deploy --resume`"},
		{"alive", procid.Self(), environment.LockRequest{TakeDead: true}, "stop it with `hmctl abort`"},
		{"elsewhere", elsewhere, environment.LockRequest{TakeDead: true}, "on laptop is dead the lock is free at 20"},
		{"unknown", procid.ID{}, environment.LockRequest{TakeDead: true}, "if its process is dead the lock is free at 20"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := open(t, newBucket())
			held, err := r.Lock(t.Context(), environment.LockRequest{Holder: "anna", Reason: cmp.Or(c.q.Reason, "deploy v1"), TTL: time.Minute, Process: c.process})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = held.Unlock(t.Context()) }()
			c.q.Holder = "bert"
			second, err := r.Lock(t.Context(), c.q)
			switch {
			case c.says == "" && err != nil:
				t.Fatal(err)
			case c.says == "":
				if second.TookOver().Holder != "anna" {
					t.Errorf("took over %+v", second.TookOver())
				}
				if err := second.Unlock(t.Context()); err != nil {
					t.Error(err)
				}
			case !errors.Is(err, environment.ErrLocked) || !strings.Contains(err.Error(), c.says):
				t.Errorf("got %v, want it to say %q", err, c.says)
			}
		})
	}
}

// TestLock_TellsWhatItsHolderDoes also when heartbeats go out at the same time.
func TestLock_TellsWhatItsHolderDoes(t *testing.T) {
	r := open(t, newBucket())
	h, err := r.Lock(t.Context(), environment.LockRequest{Holder: "anna", TTL: 6 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	want := environment.Operation{
		RequestID: "r-1", Command: "CMD-RestartAppServer", Purpose: "restart", Others: []environment.Target{{InstanceID: "i-silent", Queue: "http://q"}},
	}
	if err := h.SetOperation(want); err != nil {
		t.Fatal(err)
	}
	first := h.Info()
	for h.Info().Heartbeat.Equal(first.Heartbeat) && h.Context().Err() == nil { // a heartbeat comes by itself
		time.Sleep(time.Millisecond)
	}
	l, err := r.LockState(t.Context())
	if err != nil || l.Operation == nil || !reflect.DeepEqual(*l.Operation, want) {
		t.Errorf("the lock is %+v, %v", l, err)
	}
	taken, err := r.Lock(t.Context(), environment.LockRequest{Holder: "bert", TakeFrom: l.ID})
	if err != nil {
		t.Fatal(err)
	}
	<-h.Context().Done()
	if err := taken.Unlock(t.Context()); err != nil {
		t.Error(err)
	}
}
