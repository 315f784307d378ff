// Package record puts an environment's record on S3: it fits aws/objects to what package environment wants of a store. The two stand on one
// floor and must not know each other; whoever stands above both (hmctl, the agent) opens the record here.
package record

import (
	"context"
	"errors"

	"hostmanager/aws/objects"
	"hostmanager/environment"
)

// Open returns the record of an environment in a bucket. It makes no call to S3.
func Open(c *objects.Client, bucket, environmentID string) (*environment.Record, error) {
	return environment.Open(Store{Client: c, Bucket: bucket}, environmentID, environment.Options{})
}

// Store is a bucket as package environment wants it.
type Store struct {
	Client *objects.Client
	Bucket string
}

var _ environment.ObjectStore = Store{}

// Get reads an object of at most limit bytes.
func (s Store) Get(ctx context.Context, key string, limit int64) ([]byte, string, error) {
	body, info, err := s.Client.Get(ctx, s.Bucket, key, limit)
	return body, info.ETag, judged(err)
}

// Put writes an object under a condition.
func (s Store) Put(ctx context.Context, key string, body []byte, cond environment.Condition) (string, error) {
	etag, err := s.Client.Put(ctx, s.Bucket, key, body, objects.Condition{IfNoneMatch: cond.Absent, IfMatch: cond.ETag})
	return etag, judged(err)
}

// List calls fn with every key under prefix, once each. A listing that breaks off is taken up again once where it broke.
func (s Store) List(ctx context.Context, prefix string, fn func(key string) error) error {
	last := ""
	list := func() error {
		return s.Client.List(ctx, s.Bucket, prefix, func(i objects.Info) error {
			if i.Key <= last { // keys come in order
				return nil
			}
			last = i.Key
			return fn(i.Key)
		})
	}
	err := list()
	if errors.Is(err, objects.ErrUnavailable) && ctx.Err() == nil {
		err = list()
	}
	return err
}

// Delete removes an object.
func (s Store) Delete(ctx context.Context, key string) error {
	return s.Client.Delete(ctx, s.Bucket, key)
}

// storeError is an S3 error that also is one of environment's.
type storeError struct{ kind, err error }

func (e *storeError) Error() string   { return e.err.Error() }
func (e *storeError) Unwrap() []error { return []error{e.kind, e.err} }

func judged(err error) error {
	switch {
	case errors.Is(err, objects.ErrNotFound):
		return &storeError{environment.ErrNotFound, err}
	case errors.Is(err, objects.ErrPrecondition), errors.Is(err, objects.ErrConflict):
		return &storeError{environment.ErrPrecondition, err}
	case errors.Is(err, objects.ErrTooLarge):
		return &storeError{environment.ErrTooLarge, err}
	}
	return err
}
