package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"

	"hostmanager/aws/objects"
)

// ObjectGetter is what a Fetcher needs of S3; *objects.Client is one. Reading a body may fail at any point, the rest is then asked for again.
// An object that is no longer the ref's ETag must give an error that is objects.ErrPrecondition. Safe for concurrent use.
type ObjectGetter interface {
	HeadRef(ctx context.Context, ref objects.Ref) (objects.Info, error)
	GetRangeRef(ctx context.Context, ref objects.Ref, off, n int64) (io.ReadCloser, error)
}

// Source is a source bundle as the manifest names it.
type Source struct {
	Bucket    string
	Key       string
	VersionID string // empty: the current version
	SHA256    string // 64 lower-case hex digits
	Size      int64  // bytes; 0: not told
}

func (s Source) String() string { return "s3://" + s.Bucket + "/" + s.Key }

func (s Source) check(limits Limits) error {
	switch {
	case s.Bucket == "" || s.Key == "":
		return errors.New("source bundle: the manifest names no bucket and key")
	case !isDigest(s.SHA256):
		return fmt.Errorf("source bundle %s: the manifest's SHA256 %q is not 64 lower-case hex digits", s, s.SHA256)
	case s.Size < 0:
		return fmt.Errorf("source bundle %s: the manifest's size is negative", s)
	}
	return s.checkSize(s.Size, limits)
}

func (s Source) checkSize(size int64, limits Limits) error {
	switch {
	case size > limits.ArchiveBytes:
		return refuse("the archive %s has %d bytes; the limit is %d", s, size, limits.ArchiveBytes)
	case s.Size > 0 && size != s.Size:
		r := refuse("%s has %d bytes, the manifest says %d: it is not the bundle that was uploaded for this version", s, size, s.Size)
		r.Err = ErrDigest
		return r
	}
	return nil
}
