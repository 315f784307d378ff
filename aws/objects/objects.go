// Package objects is the S3 adapter: small objects read and written whole,
// large ones read by ranges, conditional writes, and the judgement of every
// error S3 or the network can give. Uploads of large files, which need a
// further library, are in its folder upload.
//
// It knows nothing of manifests, bundles or logs. Types of the AWS SDK leave
// it only towards aws/objects/upload. Retries of passing faults are the SDK's;
// an error that comes out of here has already been retried and says with
// Permanent whether trying again can ever help. A conditional Put that meets
// another in flight (409) is tried again here.
package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/cenkalti/backoff/v5"

	hostaws "hostmanager/aws"
)

// Options says which S3 a Client talks to. The zero value takes everything
// from the environment, the shared AWS files and the instance's role.
type Options struct {
	// Region of the buckets. Empty: AWS_REGION or the shared configuration.
	Region string
	// Endpoint is the base URL of the service. Empty: AWS_ENDPOINT_URL_S3,
	// AWS_ENDPOINT_URL, or AWS itself. With an endpoint, however it was given,
	// buckets are addressed by path.
	Endpoint string
	// Config is what package aws/profile loaded. Nil: what package aws finds,
	// which is enough on an instance.
	Config *aws.Config
	// Clock hears the service's time; may be nil.
	Clock *hostaws.Clock
}

// Client talks to S3. It is safe for concurrent use.
type Client struct {
	s3          *s3.Client
	region      string
	credentials aws.CredentialsProvider
	pace        hostaws.Pace
}

// call makes one operation in its turn, with fresh credentials where those it
// had have expired.
func call[T any](ctx context.Context, c *Client, do func() (T, error)) (T, error) {
	if err := c.pace.Wait(ctx); err != nil {
		var none T
		return none, err
	}
	out, err := hostaws.Renewed(c.credentials, do)
	c.pace.Done(err != nil && hostaws.Judge(err, kindOfCode, kindOfStatus) == ErrThrottled)
	return out, err
}

// Info describes a stored object.
type Info struct {
	Key          string
	Size         int64
	ETag         string // in quotes, as S3 gives it
	VersionID    string // empty in a bucket without versions
	LastModified time.Time
}

// Ref names an object, or one version of it.
type Ref struct {
	Bucket    string
	Key       string
	VersionID string // empty: the current version
	ETag      string // when set, anything else is ErrPrecondition
}

// Condition holds a Put back unless the object is as expected. At most one
// field may be set; the zero value always writes.
type Condition struct {
	IfNoneMatch bool   // only when there is no such object
	IfMatch     string // only when the object's ETag is this
}

// conflictRetries bounds how long a conditional Put goes on meeting others.
const conflictRetries = 8

// New builds a Client. It makes no call to S3; credentials are looked up at
// the first operation. The error is ErrNoRegion when no region is known.
func New(_ context.Context, o Options) (*Client, error) {
	cfg, err := hostaws.Resolve(hostaws.Options(o), "S3")
	if err != nil {
		return nil, fmt.Errorf("prepare S3: %w", err)
	}
	client := s3.NewFromConfig(cfg, func(s *s3.Options) {
		// Buckets of a server of one's own have no DNS names.
		s.UsePathStyle = s.BaseEndpoint != nil
	})
	return &Client{s3: client, region: cfg.Region, credentials: cfg.Credentials}, nil
}

// SDK is for aws/objects/upload, which drives the SDK's transfer machinery.
func (c *Client) SDK() *s3.Client { return c.s3 }

// Head describes the object.
func (c *Client) Head(ctx context.Context, bucket, key string) (Info, error) {
	return c.HeadRef(ctx, Ref{Bucket: bucket, Key: key})
}

// HeadRef describes one version of an object.
func (c *Client) HeadRef(ctx context.Context, ref Ref) (Info, error) {
	out, err := call(ctx, c, func() (*s3.HeadObjectOutput, error) {
		out, err := c.s3.HeadObject(ctx, &s3.HeadObjectInput{
			Bucket: &ref.Bucket, Key: &ref.Key, VersionId: optional(ref.VersionID), IfMatch: optional(ref.ETag),
		})
		if wordless(err) {
			err = c.reason(ctx, ref, err)
		}
		return out, err
	})
	if err != nil {
		return Info{}, wrap("head", ref.Bucket, ref.Key, err)
	}
	return Info{
		Key: ref.Key, Size: aws.ToInt64(out.ContentLength), ETag: aws.ToString(out.ETag),
		VersionID: aws.ToString(out.VersionId), LastModified: aws.ToTime(out.LastModified),
	}, nil
}

// wordless tells whether S3 refused something without saying why, as it does
// to every HEAD: credentials that expired get the same 400 as a bad request.
func wordless(err error) bool {
	var answer interface{ HTTPStatusCode() int }
	if !errors.As(err, &answer) {
		return false
	}
	switch hostaws.ErrorCode(err) {
	case "", "BadRequest", "Forbidden": // the SDK's names of a bare status
		return answer.HTTPStatusCode() == 400 || answer.HTTPStatusCode() == 403
	}
	return false
}

// reason asks for the object's first byte, where S3 has to say what it has
// against it, and returns that; the error as it was where it has nothing.
func (c *Client) reason(ctx context.Context, ref Ref, refused error) error {
	out, err := c.s3.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &ref.Bucket, Key: &ref.Key, VersionId: optional(ref.VersionID), Range: aws.String("bytes=0-0"),
	})
	if err == nil {
		_ = out.Body.Close()
		return refused
	}
	return err
}

// Get reads a small object whole. One larger than limit bytes is ErrTooLarge
// and no more than limit bytes of it are read. A body that breaks off or does
// not match its checksum is asked for once more.
func (c *Client) Get(ctx context.Context, bucket, key string, limit int64) ([]byte, Info, error) {
	body, info, err := c.get(ctx, bucket, key, limit)
	if errors.Is(err, ErrUnavailable) && ctx.Err() == nil {
		body, info, err = c.get(ctx, bucket, key, limit)
	}
	return body, info, err
}

func (c *Client) get(ctx context.Context, bucket, key string, limit int64) ([]byte, Info, error) {
	out, err := call(ctx, c, func() (*s3.GetObjectOutput, error) {
		return c.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled})
	})
	if err != nil {
		return nil, Info{}, wrap("get", bucket, key, err)
	}
	defer out.Body.Close()
	info := Info{
		Key: key, Size: aws.ToInt64(out.ContentLength), ETag: aws.ToString(out.ETag),
		VersionID: aws.ToString(out.VersionId), LastModified: aws.ToTime(out.LastModified),
	}
	if info.Size > limit {
		return nil, info, tooLarge(bucket, key, info.Size, limit)
	}
	var body bytes.Buffer
	body.Grow(int(info.Size))
	if _, err := body.ReadFrom(io.LimitReader(out.Body, limit+1)); err != nil {
		return nil, info, wrap("read", bucket, key, err)
	}
	if int64(body.Len()) > limit {
		return nil, info, tooLarge(bucket, key, int64(body.Len()), limit)
	}
	return body.Bytes(), info, nil
}

func tooLarge(bucket, key string, size, limit int64) error {
	return &Error{
		Op: "get", On: at(bucket, key), Kind: ErrTooLarge,
		Reason: fmt.Errorf("%d bytes, at most %d are read", size, limit),
	}
}

// GetRange opens n bytes of the object from offset off; an object that ends
// earlier gives less. With an etag, an object that is no longer that one is
// ErrPrecondition. The caller closes the body; reading it can fail at any
// point, and is then to be asked for again from there.
func (c *Client) GetRange(ctx context.Context, bucket, key, etag string, off, n int64) (io.ReadCloser, error) {
	return c.GetRangeRef(ctx, Ref{Bucket: bucket, Key: key, ETag: etag}, off, n)
}

// GetRangeRef is GetRange of one version of an object.
func (c *Client) GetRangeRef(ctx context.Context, ref Ref, off, n int64) (io.ReadCloser, error) {
	if off < 0 || n <= 0 {
		return nil, &Error{
			Op: "get range of", On: at(ref.Bucket, ref.Key), Kind: ErrInvalid,
			Reason: fmt.Errorf("no such range: %d bytes from %d", n, off),
		}
	}
	out, err := call(ctx, c, func() (*s3.GetObjectOutput, error) {
		return c.s3.GetObject(ctx, &s3.GetObjectInput{
			Bucket: &ref.Bucket, Key: &ref.Key, VersionId: optional(ref.VersionID), IfMatch: optional(ref.ETag),
			Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, off+n-1)),
		})
	})
	if err != nil {
		return nil, wrap("get range of", ref.Bucket, ref.Key, err)
	}
	return out.Body, nil
}

// Put writes body under cond and returns the new ETag. When the condition does
// not hold the error is ErrPrecondition (for IfMatch of an object that is not
// there, ErrNotFound), and ErrConflict when others kept writing it at the same
// time. S3 checks the body against a SHA-256 sent with it. When it returns
// ErrUnavailable the object may have been written all the same. After an answer
// that was lost, the SDK's next try meets its own write: who must know whether
// an ErrPrecondition is another's work reads the object.
func (c *Client) Put(ctx context.Context, bucket, key string, body []byte, cond Condition) (string, error) {
	put := func() (string, error) {
		etag, err := c.put(ctx, bucket, key, body, cond)
		if err != nil && !errors.Is(err, ErrConflict) {
			return "", backoff.Permanent(err)
		}
		return etag, err
	}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval = 20 * time.Millisecond
	etag, err := backoff.Retry(ctx, put, backoff.WithBackOff(wait), backoff.WithMaxTries(conflictRetries))
	var judged *Error
	if err != nil && !errors.As(err, &judged) {
		err = wrap("put", bucket, key, err) // ctx ended between two tries
	}
	return etag, err
}

func (c *Client) put(ctx context.Context, bucket, key string, body []byte, cond Condition) (string, error) {
	out, err := call(ctx, c, func() (*s3.PutObjectOutput, error) {
		in := &s3.PutObjectInput{
			Bucket: &bucket, Key: &key, Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))),
			ChecksumAlgorithm: types.ChecksumAlgorithmSha256, IfMatch: optional(cond.IfMatch),
		}
		if cond.IfNoneMatch {
			in.IfNoneMatch = aws.String("*")
		}
		return c.s3.PutObject(ctx, in)
	})
	if err != nil {
		return "", wrap("put", bucket, key, err)
	}
	return aws.ToString(out.ETag), nil
}

// List calls fn for every object whose key begins with prefix, in the order of
// their keys, and stops at fn's first error, which it returns as it is.
func (c *Client) List(ctx context.Context, bucket, prefix string, fn func(Info) error) error {
	pages := s3.NewListObjectsV2Paginator(c.s3, &s3.ListObjectsV2Input{Bucket: &bucket, Prefix: optional(prefix)})
	for pages.HasMorePages() {
		page, err := call(ctx, c, func() (*s3.ListObjectsV2Output, error) { return pages.NextPage(ctx) })
		if err != nil {
			return wrap("list", bucket, prefix, err)
		}
		for _, o := range page.Contents {
			info := Info{
				Key: aws.ToString(o.Key), Size: aws.ToInt64(o.Size),
				ETag: aws.ToString(o.ETag), LastModified: aws.ToTime(o.LastModified),
			}
			if err := fn(info); err != nil {
				return err
			}
		}
	}
	return nil
}

// Delete removes the object; one that is not there is no error.
func (c *Client) Delete(ctx context.Context, bucket, key string) error {
	_, err := call(ctx, c, func() (*s3.DeleteObjectOutput, error) {
		return c.s3.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &bucket, Key: &key})
	})
	return wrap("delete", bucket, key, err)
}

// CreateBucket makes the bucket in the client's region; one that is already
// ours is no error.
func (c *Client) CreateBucket(ctx context.Context, bucket string) error {
	in := &s3.CreateBucketInput{Bucket: &bucket}
	// The oldest region is the one that must not be named.
	if c.region != "us-east-1" {
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{
			LocationConstraint: types.BucketLocationConstraint(c.region),
		}
	}
	_, err := c.s3.CreateBucket(ctx, in)
	var ours *types.BucketAlreadyOwnedByYou
	if errors.As(err, &ours) {
		return nil
	}
	return wrap("create bucket", bucket, "", err)
}

// PresignGet returns a URL that lets its holder read the object for as long as
// valid says, with nobody's credentials. It makes no call to S3.
func (c *Client) PresignGet(ctx context.Context, bucket, key string, valid time.Duration) (string, error) {
	req, err := s3.NewPresignClient(c.s3).PresignGetObject(ctx,
		&s3.GetObjectInput{Bucket: &bucket, Key: &key}, s3.WithPresignExpires(valid))
	if err != nil {
		return "", wrap("presign", bucket, key, err)
	}
	return req.URL, nil
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
