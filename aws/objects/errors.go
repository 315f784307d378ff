package objects

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"

	hostaws "hostmanager/aws"
)

// What callers branch on. Every error of an operation is an *Error; these are
// found in it with errors.Is.
var (
	// ErrNotFound: no such object, version or bucket.
	ErrNotFound = errors.New("not found")
	// ErrPrecondition: the object is not as the condition wants it.
	ErrPrecondition = errors.New("precondition failed")
	// ErrConflict: another conditional write of the object was under way at
	// every try.
	ErrConflict = errors.New("conflicting write")
	// ErrTooLarge: the object is larger than the caller accepts.
	ErrTooLarge = errors.New("object is too large")
	// ErrAccessDenied: the credentials do not allow the operation.
	ErrAccessDenied = errors.New("access denied")
	// ErrInvalid: S3 refuses the request as it stands.
	ErrInvalid = errors.New("request is not valid")
	// ErrThrottled: S3 still asks for fewer requests after the SDK's retries.
	ErrThrottled = errors.New("throttled")
	// ErrUnavailable: no answer, a broken or damaged answer, or a 5xx after
	// the retries.
	ErrUnavailable = errors.New("S3 is not available")
	// ErrNoRegion: nothing says which region to talk to.
	ErrNoRegion = hostaws.ErrNoRegion
)

// Error is a failed operation.
type Error struct {
	Op     string // a verb phrase: "get range of"
	Bucket string
	Key    string // empty when it was about the bucket
	Kind   error  // one of the sentinels above, or context.Canceled or DeadlineExceeded
	Reason error  // what the SDK said
}

func (e *Error) Error() string {
	at := strings.TrimSuffix("s3://"+e.Bucket+"/"+e.Key, "/")
	var api smithy.APIError
	if errors.As(e.Reason, &api) {
		return strings.TrimSuffix(fmt.Sprintf("%s %s: %v: %s", e.Op, at, e.Kind, api.ErrorMessage()), ": ")
	}
	return fmt.Sprintf("%s %s: %v: %v", e.Op, at, e.Kind, e.Reason)
}

// Unwrap gives the kind and the SDK's error to errors.Is and errors.As.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Reason} }

// Permanent reports that the same call will fail again however often it is
// made, until somebody changes something. The end of a context is not
// permanent, and neither is an error this package did not make.
func Permanent(err error) bool {
	for _, kind := range []error{ErrNotFound, ErrPrecondition, ErrTooLarge, ErrAccessDenied, ErrInvalid, ErrNoRegion} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// Wrap judges an error of the SDK; nil stays nil. It is for aws/objects/upload.
func Wrap(op, bucket, key string, err error) error { return wrap(op, bucket, key, err) }

func wrap(op, bucket, key string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Bucket: bucket, Key: key, Kind: kind(err), Reason: err}
}

func kind(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	}
	var api smithy.APIError
	if errors.As(err, &api) {
		if k, ok := kindOfCode(api.ErrorCode()); ok {
			return k
		}
	}
	// Answers to HEAD carry no code, only a status.
	var status interface{ HTTPStatusCode() int }
	if errors.As(err, &status) {
		return kindOfStatus(status.HTTPStatusCode())
	}
	return ErrUnavailable
}

func kindOfCode(code string) (error, bool) {
	switch code {
	case "NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound", "NoSuchUpload":
		return ErrNotFound, true
	case "PreconditionFailed":
		return ErrPrecondition, true
	case "ConditionalRequestConflict", "OperationAborted":
		return ErrConflict, true
	case "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled", "AccountProblem",
		"BucketAlreadyExists":
		return ErrAccessDenied, true
	case "SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests":
		return ErrThrottled, true
	case "RequestTimeout", "InternalError", "ExpiredToken", "RequestTimeTooSkewed", "BadDigest", "IncompleteBody",
		"XAmzContentSHA256Mismatch":
		// A later try, fresh credentials or a body that arrives whole may do.
		return ErrUnavailable, true
	}
	return nil, false
}

func kindOfStatus(status int) error {
	switch {
	case status == 404:
		return ErrNotFound
	case status == 412:
		return ErrPrecondition
	case status == 409:
		return ErrConflict
	case status == 401 || status == 403:
		return ErrAccessDenied
	case status == 429 || status == 503:
		return ErrThrottled
	case status >= 400 && status < 500:
		return ErrInvalid
	}
	return ErrUnavailable
}
