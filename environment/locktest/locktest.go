// Package locktest holds an environment's lock to its one promise over any store: the tests of the record in memory and of the one on S3's wire
// share it. It knows nothing of the store. Only tests import it.
package locktest

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"hostmanager/environment"
)

// OneHolder has many holders at once try for the lock until each had it, and fails the test when two hold it together or one is left out.
func OneHolder(t *testing.T, r *environment.Record, holders int) {
	t.Helper()
	var inside, had atomic.Int64
	var wg sync.WaitGroup
	for range holders {
		wg.Go(func() {
			for t.Context().Err() == nil {
				h, err := r.Lock(t.Context(), environment.LockRequest{Holder: "someone", Reason: "a test"})
				if errors.Is(err, environment.ErrLocked) || errors.Is(err, environment.ErrChanged) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two holders at once")
				}
				had.Add(1)
				inside.Add(-1)
				if err := h.Unlock(t.Context()); err != nil {
					t.Error(err)
				}
				return
			}
		})
	}
	wg.Wait()
	if int(had.Load()) != holders {
		t.Errorf("%d of %d had it", had.Load(), holders)
	}
}
