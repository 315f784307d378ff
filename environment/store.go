package environment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"hostmanager/internal/signature"
	"hostmanager/protocol"
)

// What an ObjectStore reports, found with errors.Is.
var (
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("not found")
	// ErrPrecondition: the object is not as the condition wants it.
	ErrPrecondition = errors.New("precondition failed")
	// ErrTooLarge: the object is larger than the limit given to Get.
	ErrTooLarge = errors.New("object is too large")
)

// What a Record reports.
var (
	// ErrNoCurrent: no deployment has succeeded in this environment yet.
	ErrNoCurrent = errors.New("nothing was deployed to this environment yet")
	// ErrStale: the desired state is already newer.
	ErrStale = errors.New("a newer deployment is the desired state")
	// ErrDigest: an object is not the one its reader was told to expect.
	ErrDigest = errors.New("object does not have the expected SHA-256")
	// ErrCorrupt: an object of the record cannot be read. Restore it from a version of the bucket, or delete it.
	ErrCorrupt = errors.New("damaged object in the environment's record")
	// ErrChanged: someone else changed the object since it was read.
	ErrChanged = errors.New("changed by someone else in the meantime")
)

// Condition holds a Put back unless the object is as expected; the zero value always writes.
type Condition struct {
	Absent bool   // only when there is no such object
	ETag   string // only when this is the object's ETag
}

// ObjectStore is one bucket. Get must see every Put that returned before it. An error of Put may mean that the object was written all the
// same (a lost answer); callers here look before they try again.
type ObjectStore interface {
	Get(ctx context.Context, key string, limit int64) (body []byte, etag string, err error)
	Put(ctx context.Context, key string, body []byte, cond Condition) (etag string, err error)
	List(ctx context.Context, prefix string, fn func(key string) error) error
	Delete(ctx context.Context, key string) error // one that is not there is no error
}

// Limits in bytes of what is read into memory.
const (
	maxManifest   = 4 << 20
	maxSmall      = 64 << 10
	maxDeployment = 16 << 20
)

// maxSwaps bounds how often a compare-and-swap is tried when others keep winning. Fifty writers at once need at most fifty rounds.
const maxSwaps = 200

// Record is the record of one environment.
type Record struct {
	store   ObjectStore
	id      string
	now     func() time.Time
	signer  Signer         // nil: what is written is not signed
	trusted signature.Keys // empty: what is read is not verified
}

// Options of Open.
type Options struct {
	Now func() time.Time // wall clock; nil: time.Now
}

// Open returns the record of the environment. It reads nothing. An id that cannot stand in keys is an error.
func Open(store ObjectStore, environmentID string, o Options) (*Record, error) {
	if !protocol.ValidID(environmentID) {
		return nil, fmt.Errorf("environment id %.80q: want up to 64 letters, digits, - and _", environmentID)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Record{store: store, id: environmentID, now: o.Now}, nil
}

// EnvironmentID returns the id the record was opened with.
func (r *Record) EnvironmentID() string { return r.id }

// wall returns the wall clock in the form the record keeps: without a monotonic reading, which stands still while a laptop sleeps.
func (r *Record) wall() time.Time { return r.now().Round(0).UTC().Truncate(time.Millisecond) }

// change computes the next content of an object from the present one (nil: there is none). A nil result leaves the object as it is.
type change func(old []byte) (next []byte, err error)

// swap applies fn to the object until nobody came between. Contents must differ between writers (a nonce), so that a write whose answer was
// lost can be told from someone else's.
func (r *Record) swap(ctx context.Context, key string, limit int64, fn change) (etag string, err error) {
	for range maxSwaps {
		old, tag, err := r.store.Get(ctx, key, limit)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return "", err
		}
		next, err := fn(old)
		if err != nil || next == nil {
			return tag, err
		}
		etag, err := r.write(ctx, key, next, Condition{Absent: tag == "", ETag: tag})
		if !errors.Is(err, ErrPrecondition) && !errors.Is(err, ErrNotFound) {
			return etag, err
		}
	}
	return "", fmt.Errorf("write %s: others changed it %d times in a row: %w", key, maxSwaps, ErrChanged)
}

// write puts body, and when the store refuses looks whether that is because an earlier try of the same write had arrived.
func (r *Record) write(ctx context.Context, key string, body []byte, cond Condition) (string, error) {
	etag, err := r.store.Put(ctx, key, body, cond)
	if !errors.Is(err, ErrPrecondition) {
		return etag, err
	}
	now, tag, getErr := r.store.Get(ctx, key, int64(len(body)))
	if getErr == nil && bytes.Equal(now, body) {
		return tag, nil
	}
	return "", err
}
