package environment

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"hostmanager/internal/procid"
	"hostmanager/protocol"
)

// Times of the lock.
const (
	// DefaultLockTTL is how long a lock outlives its last heartbeat.
	DefaultLockTTL = 2 * time.Minute
	// heartbeatsPerTTL is how often a holder renews it in that time.
	heartbeatsPerTTL = 6
	// skewsPerTTL: others judge a lock dead only a quarter of its TTL after its expiry, because their clocks may differ.
	skewsPerTTL = 4
	// releaseTimeout bounds Unlock, which also runs when everything else was cancelled.
	releaseTimeout = 10 * time.Second
)

// ErrLocked: someone else holds the operation lock. Every such error is a *LockedError.
var ErrLocked = errors.New("environment is locked")

// ErrLockLost is the cause with which the context of a held lock ends when the lock could not be renewed in time.
var ErrLockLost = errors.New("the operation lock was lost")

// LockInfo describes the operation lock. The zero value is a free lock.
type LockInfo struct {
	ID        string    `json:"id,omitempty"` // of this holding, unique
	Holder    string    `json:"holder,omitempty"`
	Reason    string    `json:"reason,omitempty"`
	Acquired  time.Time `json:"acquired,omitzero"`
	Heartbeat time.Time `json:"heartbeat,omitzero"`
	Expires   time.Time `json:"expires,omitzero"` // zero: held by a person until `hmctl unlock`
	Nonce     string    `json:"nonce,omitempty"`  // makes every content unique

	Process   procid.ID  `json:"process,omitzero"`    // of the holder
	Operation *Operation `json:"operation,omitempty"` // what it does on the instances; nil while nothing is sent to them
}

// Operation is what the holder of the lock does on instances.
type Operation struct {
	RequestID string `json:"request_id"`
	Command   string `json:"command"`
	Purpose   string `json:"purpose"`
	// Others are instances it goes to which the registrations do not tell: silent ones and strangers, that were named. Of an operation that keeps no record.
	Others []Target `json:"others,omitempty"`
}

// Held tells whether someone holds it, alive or not.
func (l LockInfo) Held() bool { return l.ID != "" }

// Manual tells whether a person holds it, with no heartbeat.
func (l LockInfo) Manual() bool { return l.Held() && l.Expires.IsZero() }

// AbortReason begins the reason of a lock under which an operation is aborted.
const AbortReason = "abort "

// Aborting tells whether its holder aborts an operation, which cannot be aborted itself.
func (l LockInfo) Aborting() bool {
	return !l.Manual() && (strings.HasPrefix(l.Reason, AbortReason) || l.Operation != nil && l.Operation.Command == protocol.CmdAbort)
}

// Expired tells whether its holder has been silent for so long that others may take it, allowing for clocks that differ.
func (l LockInfo) Expired(now time.Time) bool {
	if !l.Held() || l.Manual() {
		return false
	}
	return now.After(l.FreeAt())
}

// FreeAt is when others may take the lock if its holder renews it no more; zero where a person holds it, or nobody.
func (l LockInfo) FreeAt() time.Time {
	if !l.Held() || l.Manual() {
		return time.Time{}
	}
	return l.Expires.Add(l.Expires.Sub(l.Heartbeat) / skewsPerTTL)
}

// HolderDead tells whether it is proven that nobody renews the lock any more: its holder was a process of this machine, which has ended.
func (l LockInfo) HolderDead() bool { return l.Held() && !l.Manual() && l.Process.Dead() }

// LockedError says who holds the lock.
type LockedError struct {
	EnvironmentID string
	Lock          LockInfo
}

func (e *LockedError) Error() string {
	who := fmt.Sprintf("environment %s is locked by %s since %s: %s", e.EnvironmentID, e.Lock.Holder, e.Lock.Acquired.Format(time.RFC3339), e.Lock.Reason)
	switch {
	case e.Lock.Manual():
		return who + ". Release it with `hmctl unlock`"
	case e.Lock.HolderDead():
		return fmt.Sprintf("%s. Its process %d on this host has ended: carry on what it did with `hmctl deploy --resume`, take it back with `hmctl abort`, "+
			"or only free the lock with `hmctl unlock`", who, e.Lock.Process.PID)
	}
	host := "its process"
	if e.Lock.Process.Host != "" {
		host = fmt.Sprintf("its process %d on %s", e.Lock.Process.PID, e.Lock.Process.Host)
	}
	stop := "Wait for it to end, or stop it with `hmctl abort`"
	if e.Lock.Aborting() {
		stop = "That abort is at work already; wait for it to end, `hmctl status` tells then"
	}
	return fmt.Sprintf("%s. Last heartbeat %s. %s; if %s is dead the lock is free at %s, and `hmctl unlock --force` frees it at once",
		who, e.Lock.Heartbeat.Format(time.RFC3339), stop, host, e.Lock.FreeAt().Format(time.RFC3339))
}

// Unwrap makes errors.Is(err, ErrLocked) hold.
func (e *LockedError) Unwrap() error { return ErrLocked }

// LockRequest says who wants the lock and why.
type LockRequest struct {
	Holder string
	Reason string
	TTL    time.Duration // 0: DefaultLockTTL

	Process  procid.ID // of the holder
	TakeDead bool      // also take it from a holder whose process on this host has ended
	TakeFrom string    // also take it from the holding with this id, dead or alive
}

// HeldLock is the operation lock, held and renewed in the background until Unlock.
type HeldLock struct {
	record   *Record
	ttl      time.Duration
	ctx      context.Context
	cancel   context.CancelCauseFunc
	unlocked sync.Once
	loops    sync.WaitGroup
	tookOver LockInfo

	beating sync.Mutex // held while a renewal is written: two at once would refuse each other

	mu        sync.Mutex // guards info, etag, operation
	info      LockInfo
	etag      string
	operation *Operation
}

// Lock takes the operation lock. A lock whose holder stopped renewing it is taken over (see TookOver); any other is a *LockedError.
func (r *Record) Lock(ctx context.Context, q LockRequest) (*HeldLock, error) {
	if q.TTL <= 0 {
		q.TTL = DefaultLockTTL
	}
	h := &HeldLock{record: r, ttl: q.TTL}
	info, etag, before, err := r.takeLock(ctx, q, q.TTL)
	if err != nil {
		return nil, err
	}
	h.info, h.etag, h.tookOver = info, etag, before
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	h.loops.Go(h.watch)
	h.loops.Go(h.beat)
	return h, nil
}

// SetLock takes the lock for a person: it has no heartbeat and stands until ReleaseLock or BreakLock.
func (r *Record) SetLock(ctx context.Context, holder, reason string) (LockInfo, error) {
	info, _, _, err := r.takeLock(ctx, LockRequest{Holder: holder, Reason: reason}, 0)
	return info, err
}

func (r *Record) takeLock(ctx context.Context, q LockRequest, ttl time.Duration) (info LockInfo, etag string, before LockInfo, err error) {
	id := newNonce()
	etag, err = r.swap(ctx, protocol.LockKey(r.id), maxSmall, func(old []byte) ([]byte, error) {
		now := r.wall()
		before, err = r.decodeLock(old)
		if err != nil {
			return nil, err
		}
		if before.Held() && before.ID != id && !before.Expired(now) && !q.takes(before) {
			return nil, &LockedError{r.id, before}
		}
		info = LockInfo{ID: id, Holder: q.Holder, Reason: q.Reason, Acquired: now, Heartbeat: now, Nonce: newNonce(), Process: q.Process}
		if ttl > 0 {
			info.Expires = now.Add(ttl)
		}
		return json.Marshal(info)
	})
	if err == nil {
		return info, etag, before, nil
	}
	if info.ID != "" && !errors.Is(err, ErrLocked) {
		// The write may have arrived all the same; a lock nobody knows of would stand until it expires.
		_ = r.releaseAnyway(ctx, id)
	}
	return LockInfo{}, "", LockInfo{}, fmt.Errorf("take the operation lock: %w", err)
}

// takes tells whether a lock that did not expire may be taken all the same.
func (q LockRequest) takes(l LockInfo) bool {
	return q.TakeFrom != "" && l.ID == q.TakeFrom || q.TakeDead && l.HolderDead()
}

func (r *Record) decodeLock(data []byte) (LockInfo, error) {
	var l LockInfo
	if data == nil {
		return l, nil
	}
	if err := json.Unmarshal(data, &l); err != nil {
		return l, fmt.Errorf("%w: %s", ErrCorrupt, protocol.LockKey(r.id))
	}
	return l, nil
}

// LockState returns the lock as it is; the zero LockInfo when it is free.
func (r *Record) LockState(ctx context.Context) (LockInfo, error) {
	data, _, err := r.store.Get(ctx, protocol.LockKey(r.id), maxSmall)
	if errors.Is(err, ErrNotFound) {
		return LockInfo{}, nil
	}
	if err != nil {
		return LockInfo{}, fmt.Errorf("read the operation lock: %w", err)
	}
	return r.decodeLock(data)
}

// ReleaseLock frees the lock if it still is the holding with that id. A lock that is free or someone else's by now is ErrChanged.
func (r *Record) ReleaseLock(ctx context.Context, id string) error {
	_, err := r.swap(ctx, protocol.LockKey(r.id), maxSmall, func(old []byte) ([]byte, error) {
		l, err := r.decodeLock(old)
		if err != nil {
			return nil, err
		}
		if l.ID != id {
			return nil, ErrChanged
		}
		return freeLock()
	})
	if err != nil {
		return fmt.Errorf("release the operation lock: %w", err)
	}
	return nil
}

// BreakLock frees the lock whoever holds it, even one that cannot be read, and returns what it was. A live holder notices at its next
// heartbeat and stops.
func (r *Record) BreakLock(ctx context.Context) (LockInfo, error) {
	var before LockInfo
	_, err := r.swap(ctx, protocol.LockKey(r.id), maxSmall, func(old []byte) ([]byte, error) {
		var err error
		if before, err = r.decodeLock(old); err == nil && !before.Held() {
			return nil, nil
		}
		return freeLock()
	})
	if err != nil {
		return LockInfo{}, fmt.Errorf("break the operation lock: %w", err)
	}
	return before, nil
}

// freeLock is what a released lock looks like. It is written and not deleted, because only a PUT can be conditional everywhere.
func freeLock() ([]byte, error) { return json.Marshal(LockInfo{Nonce: newNonce()}) }

// Context ends when the context given to Lock does, when the lock is released, and with the cause ErrLockLost when it could not be renewed.
func (h *HeldLock) Context() context.Context { return h.ctx }

// Info returns the lock as last written.
func (h *HeldLock) Info() LockInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.info
}

// SetOperation writes into the lock what its holder begins to do on instances, so that others can stop it. A write that does not get through is no
// error: the next heartbeat brings it.
func (h *HeldLock) SetOperation(o Operation) error {
	h.mu.Lock()
	h.operation = &o
	h.mu.Unlock()
	return h.renew()
}

// TookOver returns the dead lock that was taken over; the zero LockInfo when it was free.
func (h *HeldLock) TookOver() LockInfo { return h.tookOver }

// Unlock stops renewing and frees the lock. It works when ctx has ended, for a bounded time; a second call does nothing. A lock that was lost
// before is ErrChanged.
func (h *HeldLock) Unlock(ctx context.Context) (err error) {
	h.unlocked.Do(func() {
		h.cancel(context.Canceled)
		h.loops.Wait()
		err = h.record.releaseAnyway(ctx, h.Info().ID)
	})
	return err
}

// releaseAnyway releases also after ctx has ended.
func (r *Record) releaseAnyway(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	return r.ReleaseLock(ctx, id)
}

// watch ends the lock's context when it expired. It wakes often and goes by the wall clock: timers stand still while a machine sleeps, and the
// lock does not.
func (h *HeldLock) watch() {
	tick := time.NewTicker(max(h.ttl/(heartbeatsPerTTL*4), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		}
		if info := h.Info(); !h.record.wall().Before(info.Expires) {
			h.cancel(fmt.Errorf("%w: no heartbeat got through since %s", ErrLockLost, info.Heartbeat.Format(time.RFC3339)))
			return
		}
	}
}

// beat renews the lock. It runs beside watch, because a renewal can hang for longer than the lock lives.
func (h *HeldLock) beat() {
	tick := time.NewTicker(max(h.ttl/heartbeatsPerTTL, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-tick.C:
		}
		if err := h.renew(); err != nil {
			h.cancel(err)
			return
		}
	}
}

// renew writes one heartbeat. An error means that the lock is lost; a store that cannot be reached is none, until the lock expires.
func (h *HeldLock) renew() error {
	h.beating.Lock()
	defer h.beating.Unlock()
	h.mu.Lock()
	next, etag := h.info, h.etag
	next.Operation = h.operation
	h.mu.Unlock()
	now := h.record.wall()
	next.Heartbeat, next.Expires, next.Nonce = now, now.Add(h.ttl), newNonce()
	data, err := json.Marshal(next)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(h.ctx, h.ttl)
	defer cancel()
	key := protocol.LockKey(h.record.id)
	etag, err = h.record.write(ctx, key, data, Condition{ETag: etag})
	if errors.Is(err, ErrPrecondition) || errors.Is(err, ErrNotFound) {
		return h.afterRefusal(ctx, key)
	}
	if err == nil {
		h.renewed(next, etag)
	}
	return nil
}

func (h *HeldLock) renewed(info LockInfo, etag string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.info, h.etag = info, etag
}

// afterRefusal looks why a heartbeat was refused: an earlier one, believed lost, may have arrived after all.
func (h *HeldLock) afterRefusal(ctx context.Context, key string) error {
	data, etag, err := h.record.store.Get(ctx, key, maxSmall)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil
	}
	l, err := h.record.decodeLock(data)
	if err == nil && l.ID == h.Info().ID {
		h.renewed(l, etag)
		return nil
	}
	if l.Held() {
		return fmt.Errorf("%w: %s took it over (%s)", ErrLockLost, l.Holder, l.Reason)
	}
	return fmt.Errorf("%w: someone released it", ErrLockLost)
}

// newNonce returns a text nobody else has.
func newNonce() string { return rand.Text() }
