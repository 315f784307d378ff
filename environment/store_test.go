package environment_test

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/environment"
	"hostmanager/protocol"
)

// bucket is an ObjectStore in memory with the conditions of S3. The same promises are tested over S3's wire in fleet/record.
type bucket struct {
	mu      sync.Mutex
	objects map[string]object
	writes  int

	before fault
}

// fault may refuse a call, or make its answer get lost.
type fault func(op, key string) (lost bool, err error)

type object struct {
	body []byte
	etag string
}

func newBucket() *bucket { return &bucket{objects: map[string]object{}} }

func (b *bucket) inject(f fault) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.before = f
}

// fault asks the injected fault, without the mutex: it may wait.
func (b *bucket) fault(op, key string) (bool, error) {
	b.mu.Lock()
	f := b.before
	b.mu.Unlock()
	if f == nil {
		return false, nil
	}
	return f(op, key)
}

func (b *bucket) Get(ctx context.Context, key string, limit int64) ([]byte, string, error) {
	if _, err := b.fault("get", key); err != nil {
		return nil, "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.objects[key]
	switch {
	case ctx.Err() != nil:
		return nil, "", ctx.Err()
	case !ok:
		return nil, "", environment.ErrNotFound
	case int64(len(o.body)) > limit:
		return nil, "", environment.ErrTooLarge
	}
	return slices.Clone(o.body), o.etag, nil
}

func (b *bucket) Put(ctx context.Context, key string, body []byte, cond environment.Condition) (string, error) {
	lost, err := b.fault("put", key)
	if err != nil && !lost {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.objects[key]
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case cond.Absent && ok, cond.ETag != "" && ok && cond.ETag != o.etag:
		return "", environment.ErrPrecondition
	case cond.ETag != "" && !ok:
		return "", environment.ErrNotFound
	}
	b.writes++
	b.objects[key] = object{slices.Clone(body), strconv.Itoa(b.writes)}
	return b.objects[key].etag, err
}

func (b *bucket) List(ctx context.Context, prefix string, fn func(string) error) error {
	b.mu.Lock()
	keys := slices.Sorted(maps.Keys(b.objects))
	b.mu.Unlock()
	for _, k := range keys {
		if strings.HasPrefix(k, prefix) {
			if err := fn(k); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func (b *bucket) Delete(ctx context.Context, key string) error {
	if _, err := b.fault("delete", key); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.objects, key)
	return ctx.Err()
}

func (b *bucket) set(key, body string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.writes++
	b.objects[key] = object{[]byte(body), strconv.Itoa(b.writes)}
}

func open(t *testing.T, b *bucket) *environment.Record {
	t.Helper()
	return openAt(t, b, nil)
}

func openAt(t *testing.T, b *bucket, now func() time.Time) *environment.Record {
	t.Helper()
	r, err := environment.Open(b, "e-test", environment.Options{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func manifest(serial int64) protocol.Manifest {
	return protocol.Manifest{
		RuntimeSources: map[string]map[string]protocol.RuntimeSource{"app": {"v1": {
			Bucket: "b", Key: "k", SHA256: strings.Repeat("a", 64), Size: 1,
		}}},
		VersionLabel: "v1", DeploymentID: serial, Serial: serial,
	}
}
