package aws

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"
)

// What the services agree on. Packages queue and objects have these under
// their own names, beside kinds of their own.
var (
	// ErrAccessDenied: the credentials do not allow the operation.
	ErrAccessDenied = errors.New("access denied")
	// ErrInvalid: the service refuses the request as it stands.
	ErrInvalid = errors.New("request is not valid")
	// ErrThrottled: the service still asks for fewer requests after the SDK's
	// retries.
	ErrThrottled = errors.New("throttled")
	// ErrUnavailable: no answer, a broken answer, or a 5xx after the retries.
	ErrUnavailable = errors.New("service is not available")
)

// Error is a failed operation.
type Error struct {
	Op     string // a verb phrase: "send to"
	On     string // what it was about, as people write it: a queue's URL, s3://bucket/key
	Kind   error  // a sentinel of the service's package, or context.Canceled or DeadlineExceeded
	Reason error  // what the SDK said
}

func (e *Error) Error() string {
	var api smithy.APIError
	if errors.As(e.Reason, &api) {
		return strings.TrimSuffix(fmt.Sprintf("%s %s: %v: %s", e.Op, e.On, e.Kind, api.ErrorMessage()), ": ")
	}
	return fmt.Sprintf("%s %s: %v: %v", e.Op, e.On, e.Kind, e.Reason)
}

// Unwrap gives the kind and the SDK's error to errors.Is and errors.As.
func (e *Error) Unwrap() []error { return []error{e.Kind, e.Reason} }

// Judge says what kind of failure an error of the SDK is. codes are the
// service's own; a nil answer leaves a code to what all services agree on.
// status judges an answer of the service without a code that is known; a nil
// answer of it is ErrUnavailable.
func Judge(err error, codes func(code string) error, status func(int) error) error {
	switch {
	case errors.Is(err, context.Canceled):
		return context.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	}
	if code := ErrorCode(err); code != "" {
		if kind := codes(code); kind != nil {
			return kind
		}
		if kind := commonCode(code); kind != nil {
			return kind
		}
	}
	var answer interface{ HTTPStatusCode() int }
	if errors.As(err, &answer) {
		if kind := status(answer.HTTPStatusCode()); kind != nil {
			return kind
		}
	}
	return ErrUnavailable
}

// ErrorCode is the service's code for what went wrong, "" where there is none.
// SQS spells a code in one of two ways, with and without its name before it.
func ErrorCode(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	code := api.ErrorCode()
	return code[strings.LastIndexByte(code, '.')+1:]
}

func commonCode(code string) error {
	switch code {
	case "AccessDenied", "AccessDeniedException", "InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId",
		"SignatureDoesNotMatch", "MissingAuthenticationToken", "OptInRequired":
		return ErrAccessDenied
	case "Throttling", "ThrottlingException", "RequestThrottled", "TooManyRequests", "TooManyRequestsException":
		return ErrThrottled
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "RequestTimeTooSkewed",
		"ServiceUnavailable", "InternalError", "InternalFailure", "RequestTimeout":
		// Fresh credentials, a right clock or a moment later may do.
		return ErrUnavailable
	}
	return nil
}
