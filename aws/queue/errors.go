package queue

import (
	"errors"

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
	ErrInvalid = hostaws.ErrInvalid
	// ErrAccessDenied: the credentials do not allow the operation.
	ErrAccessDenied = hostaws.ErrAccessDenied
	// ErrThrottled: SQS still asks for fewer requests after the SDK's retries.
	ErrThrottled = hostaws.ErrThrottled
	// ErrUnavailable: no answer, a broken answer, or a 5xx after the retries.
	ErrUnavailable = hostaws.ErrUnavailable
	// ErrNoRegion: nothing says which region to talk to.
	ErrNoRegion = hostaws.ErrNoRegion

	errNoAnswer = errors.New("no answer came")
)

// Error is a failed operation; On is the queue's URL or name.
type Error = hostaws.Error

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
	return &Error{Op: op, On: queue, Kind: hostaws.Judge(err, kindOfCode, kindOfStatus(err)), Reason: err}
}

// kindOfStatus judges an answer of SQS; what is not SQS's, such as a proxy's
// page, says nothing of the request.
func kindOfStatus(err error) func(int) error {
	return func(status int) error {
		if hostaws.ErrorCode(err) != "" && status >= 400 && status < 500 {
			return ErrInvalid
		}
		return nil
	}
}

func kindOfCode(code string) error {
	switch code {
	case "QueueDoesNotExist", "NonExistentQueue":
		return ErrQueueMissing
	case "QueueNameExists", "QueueAlreadyExists":
		return ErrQueueExists
	case "QueueDeletedRecently":
		return ErrDeletedRecently
	case "ReceiptHandleIsInvalid", "MessageNotInflight":
		return ErrReceiptInvalid
	case "InvalidSecurity", "InvalidAddress", "KmsAccessDenied":
		return ErrAccessDenied
	case "OverLimit", "KmsThrottled":
		return ErrThrottled
	}
	return nil
}
