package localaws

import (
	"crypto/rand"
	"fmt"
	"net/http"
)

// sqsError is a refusal as SQS gives it: its name in the JSON protocol, its
// older name in the query protocol, which SDKs read from a header, and a
// sentence.
type sqsError struct {
	Code    string
	Query   string
	Status  int
	Message string
}

func (e *sqsError) Error() string { return e.Code + ": " + e.Message }

func writeSQSError(w http.ResponseWriter, e *sqsError) {
	fault, space := "Sender", "com.amazonaws.sqs#"
	if e.Status >= 500 {
		fault = "Receiver"
	}
	if e.Query == "InvalidParameterValue" || e.Query == "MissingParameter" {
		space = "com.amazon.coral.service#"
	}
	w.Header().Set("x-amzn-query-error", e.Query+";"+fault)
	writeJSON(w, e.Status, map[string]string{"__type": space + e.Code, "message": e.Message})
}

// simple builds the errors whose older name has the service's name before it.
func simple(code, message string, a ...any) *sqsError {
	return &sqsError{
		Code: code, Query: "AWS.SimpleQueueService." + code,
		Status: http.StatusBadRequest, Message: fmt.Sprintf(message, a...),
	}
}

// plain builds the errors with one name in both protocols.
func plain(code string, status int, message string, a ...any) *sqsError {
	return &sqsError{Code: code, Query: code, Status: status, Message: fmt.Sprintf(message, a...)}
}

func errNoQueue() *sqsError {
	return &sqsError{
		Code: "QueueDoesNotExist", Query: "AWS.SimpleQueueService.NonExistentQueue",
		Status: http.StatusBadRequest, Message: "The specified queue does not exist.",
	}
}

func errQueueExists(attribute string) *sqsError {
	return &sqsError{
		Code: "QueueNameExists", Query: "QueueAlreadyExists", Status: http.StatusBadRequest,
		Message: "A queue already exists with the same name and a different value for attribute " + attribute,
	}
}

func errDeletedRecently() *sqsError {
	return simple("QueueDeletedRecently", "You must wait 60 seconds after deleting a queue before you can create another with the same name.")
}

func errPurgeInProgress(name string) *sqsError {
	e := simple("PurgeQueueInProgress", "Only one PurgeQueue operation on %s is allowed every 60 seconds.", name)
	e.Status = http.StatusForbidden
	return e
}

func errInvalidAddress(address string) *sqsError {
	return plain("InvalidAddress", http.StatusNotFound, "The address %s is not valid for this endpoint.", address)
}

func errReceipt(receipt string) *sqsError {
	return plain("ReceiptHandleIsInvalid", http.StatusNotFound, "The input receipt handle \"%s\" is not a valid receipt handle.", receipt)
}

func errNotInflight() *sqsError {
	return simple("MessageNotInflight", "The message referred to isn't in flight.")
}

func errOverLimit(message string, a ...any) *sqsError {
	return plain("OverLimit", http.StatusForbidden, message, a...)
}

func errContents() *sqsError {
	return plain("InvalidMessageContents", http.StatusBadRequest,
		"Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | #x10000 to #x10FFFF")
}

func errAttributeName(name string) *sqsError {
	return plain("InvalidAttributeName", http.StatusBadRequest, "Unknown Attribute %s.", name)
}

func errAttributeValue(name string) *sqsError {
	return plain("InvalidAttributeValue", http.StatusBadRequest, "Invalid value for the parameter %s.", name)
}

func errUnsupported(message string) *sqsError { return simple("UnsupportedOperation", "%s", message) }

func errNotFound(message string) *sqsError {
	return plain("ResourceNotFoundException", http.StatusNotFound, "%s", message)
}

func errMissing(parameter string) *sqsError {
	return &sqsError{
		Code: "MissingRequiredParameterException", Query: "MissingParameter", Status: http.StatusBadRequest,
		Message: "The request must contain the parameter " + parameter + ".",
	}
}

func errValue(value any, parameter, reason string, a ...any) *sqsError {
	return errParameter("Value %v for parameter %s is invalid. Reason: %s.", value, parameter, fmt.Sprintf(reason, a...))
}

func errParameter(message string, a ...any) *sqsError {
	return &sqsError{
		Code: "InvalidParameterValueException", Query: "InvalidParameterValue",
		Status: http.StatusBadRequest, Message: fmt.Sprintf(message, a...),
	}
}

func errSerialization(err error) *sqsError {
	return plain("SerializationException", http.StatusBadRequest, "%v", err)
}

func errRequestTooLong(err error) *sqsError {
	return plain("RequestEntityTooLarge", http.StatusRequestEntityTooLarge, "%v", err)
}

func errUnknownOperation() *sqsError {
	return plain("UnknownOperationException", http.StatusNotFound, "There is no such operation.")
}

// newUUID returns a random UUID.
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
