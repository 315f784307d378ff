package objects

import (
	"errors"
	"strings"

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
	ErrAccessDenied = hostaws.ErrAccessDenied
	// ErrInvalid: S3 refuses the request as it stands.
	ErrInvalid = hostaws.ErrInvalid
	// ErrThrottled: S3 still asks for fewer requests after the SDK's retries.
	ErrThrottled = hostaws.ErrThrottled
	// ErrUnavailable: no answer, a broken or damaged answer, or a 5xx after
	// the retries.
	ErrUnavailable = hostaws.ErrUnavailable
	// ErrNoRegion: nothing says which region to talk to.
	ErrNoRegion = hostaws.ErrNoRegion
)

// Error is a failed operation; On is s3://bucket/key.
type Error = hostaws.Error

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
	return &Error{Op: op, On: at(bucket, key), Kind: hostaws.Judge(err, kindOfCode, kindOfStatus), Reason: err}
}

// at names an object, or a bucket where there is no key.
func at(bucket, key string) string { return strings.TrimSuffix("s3://"+bucket+"/"+key, "/") }

func kindOfCode(code string) error {
	switch code {
	case "NoSuchKey", "NoSuchBucket", "NoSuchVersion", "NotFound", "NoSuchUpload":
		return ErrNotFound
	case "PreconditionFailed":
		return ErrPrecondition
	case "ConditionalRequestConflict", "OperationAborted":
		return ErrConflict
	case "AllAccessDisabled", "AccountProblem", "BucketAlreadyExists":
		return ErrAccessDenied
	case "SlowDown", "ServiceUnavailable":
		return ErrThrottled
	case "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch":
		return ErrUnavailable // a body that arrives whole may do
	}
	return nil
}

// kindOfStatus is for answers without a code: those to HEAD have none.
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
	return nil
}
