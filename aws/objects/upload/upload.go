// Package upload sends large files to S3, in parts where the size asks for it.
// It stands beside package objects because the SDK's transfer library, which
// only the operator's side needs, would otherwise be in the agent's binary.
package upload

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"

	"hostmanager/aws/objects"
)

// abortTimeout bounds the tidying up after an upload that failed.
const abortTimeout = 10 * time.Second

// Object uploads size bytes of r, which may be read from several places at
// once and, after a passing fault, again. S3 checks every part against a
// SHA-256 sent with it. A failed upload leaves no object and no parts.
//
// progress, when not nil, is told the bytes sent so far: never less than
// before, never two calls at once, and size once the object is there.
func Object(ctx context.Context, c *objects.Client, bucket, key string, r io.ReaderAt, size int64, progress func(sent int64)) error {
	manager := transfermanager.New(c.SDK(), func(o *transfermanager.Options) {
		o.ChecksumAlgorithm = types.ChecksumAlgorithmSha256
		// Parts of a cancelled upload are still removed.
		o.FailTimeout = abortTimeout
		if progress != nil {
			o.ObjectProgressListeners.Register(&listener{report: progress})
		}
	})
	_, err := manager.UploadObject(ctx, &transfermanager.UploadObjectInput{
		Bucket: &bucket, Key: &key, Body: io.NewSectionReader(r, 0, size), ContentLength: aws.Int64(size),
	})
	if err != nil {
		return objects.Wrap("upload", bucket, key, err)
	}
	if progress != nil {
		progress(size)
	}
	return nil
}

// listener puts the reports of concurrent parts into one rising row.
type listener struct {
	mu     sync.Mutex
	most   int64
	report func(int64)
}

// OnObjectBytesTransferred is called by the transfer library.
func (l *listener) OnObjectBytesTransferred(_ context.Context, e *transfermanager.ObjectBytesTransferredEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.BytesTransferred > l.most {
		l.most = e.BytesTransferred
		l.report(l.most)
	}
}
