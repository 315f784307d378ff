package environment_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hostmanager/environment"
	"hostmanager/environment/locktest"
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
