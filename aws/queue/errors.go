package queue

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
	// ErrQueueMissing: no such queue, or it was deleted.
	ErrQueueMissing = errors.New("queue does not exist")
	// ErrQueueExists: the name is taken by a queue with other attributes.
	ErrQueueExists = errors.New("queue name is taken")
	// ErrDeletedRecently: a queue of that name was deleted less than a minute
	// ago; it can be made again once the minute is over.
	ErrDeletedRecently = errors.New("queue was deleted less than a minute ago")
	// ErrReceiptInvalid: the receipt is not, or no longer, good for its message.
	ErrReceiptInvalid = errors.New("receipt handle is not valid")
	// ErrInvalid: SQS refuses the request as it stands (a body too long or with
	// characters it does not carry, an attribute out of range).
	ErrInvalid = errors.New("request is not valid")
	// ErrAccessDenied: the credentials do not allow the operation.
	ErrAccessDenied = errors.New("access denied")
	// ErrThrottled: SQS still asks for fewer requests after the SDK's retries.
	ErrThrottled = errors.New("throttled")
	// ErrUnavailable: no answer, a broken answer, or a 5xx after the retries.
	ErrUnavailable = errors.New("SQS is not available")
	// ErrNoRegion: nothing says which region to talk to.
	ErrNoRegion = hostaws.ErrNoRegion

	errNoAnswer = errors.New("no answer came")
)

// Error is a failed operation.
type Error struct {
	Op     string // a verb phrase: "send to"
	Queue  string // the URL or name it was about
	Kind   error  // one of the sentinels above, or context.Canceled or DeadlineExceeded
	Reason error  // what the SDK said
}

func (e *Error) Error() string {
	var api smithy.APIError
	if errors.As(e.Reason, &api) {
		return fmt.Sprintf("%s %s: %v: %s", e.Op, e.Queue, e.Kind, api.ErrorMessage())
	}
	return fmt.Sprintf("%s %s: %v: %v", e.Op, e.Queue, e.Kind, e.Reason)
}

// Unwrap gives the kind and the SDK's error to errors.Is and errors.As.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Reason} }

// Permanent reports that the same call will fail again however often it is
// made, until somebody changes something. The end of a context is not
// permanent, and neither is an error this package did not make.
func Permanent(err error) bool {
	for _, kind := range []error{ErrQueueMissing, ErrQueueExists, ErrReceiptInvalid, ErrInvalid, ErrAccessDenied, ErrNoRegion} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

func wrap(op, queue string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Queue: queue, Kind: kind(err), Reason: err}
}

func kind(err error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ErrUnavailable
	}
	// The service spells a code in one of two ways, with and without its name
	// before it.
	code := api.ErrorCode()
	if i := strings.LastIndexByte(code, '.'); i >= 0 {
		code = code[i+1:]
	}
	if k, ok := kindOfCode(code); ok {
		return k
	}
	var status interface{ HTTPStatusCode() int }
	if errors.As(err, &status) && status.HTTPStatusCode() >= 400 && status.HTTPStatusCode() < 500 {
		return ErrInvalid
	}
	return ErrUnavailable
}

func kindOfCode(code string) (error, bool) {
	switch code {
	case "QueueDoesNotExist", "NonExistentQueue":
		return ErrQueueMissing, true
	case "QueueNameExists", "QueueAlreadyExists":
		return ErrQueueExists, true
	case "QueueDeletedRecently":
		return ErrDeletedRecently, true
	case "ReceiptHandleIsInvalid", "MessageNotInflight":
		return ErrReceiptInvalid, true
	case "AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "UnrecognizedClientException",
		"SignatureDoesNotMatch", "InvalidSecurity", "MissingAuthenticationToken", "InvalidAddress",
		"KmsAccessDenied", "OptInRequired":
		return ErrAccessDenied, true
	case "RequestThrottled", "ThrottlingException", "Throttling", "TooManyRequestsException", "OverLimit", "KmsThrottled":
		return ErrThrottled, true
	case "ExpiredToken", "ExpiredTokenException", "RequestExpired", "ServiceUnavailable", "InternalError",
		"InternalFailure", "RequestTimeout":
		// Fresh credentials or a moment later may do.
		return ErrUnavailable, true
	}
	return nil, false
}
