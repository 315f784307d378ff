package localaws

import (
	"crypto/md5"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxMessage        = 1 << 20
	maxAttributes     = 10
	maxAttributeName  = 256
	maxFifoID         = 128
	maxDelay          = 900   // seconds
	maxVisibility     = 43200 // seconds
	maxWait           = 20    // seconds
	maxReceive        = 10
	maxBatch          = 10
	maxBatchEntryName = 80
)

// size is what counts against the limits: the body and every attribute's name,
// type and value.
func (m *outgoing) size() int {
	n := len(m.MessageBody)
	for name, a := range m.MessageAttributes {
		n += len(name) + len(a.DataType) + len(a.BinaryValue)
		if a.StringValue != nil {
			n += len(*a.StringValue)
		}
	}
	return n
}

// check judges a message on its own and for the queue.
func (m *outgoing) check(q *queue) error {
	if m.MessageBody == "" {
		return errMissing("MessageBody")
	}
	if !validContents(m.MessageBody) {
		return errContents()
	}
	if m.size() > q.maxSize {
		return errParameter("One or more parameters are invalid. Reason: Message must be shorter than %d bytes.", q.maxSize)
	}
	if m.DelaySeconds != nil && (*m.DelaySeconds < 0 || *m.DelaySeconds > maxDelay) {
		return errValue(*m.DelaySeconds, "DelaySeconds", "DelaySeconds must be >= 0 and <= %d", maxDelay)
	}
	if err := checkMessageAttributes(m.MessageAttributes); err != nil {
		return err
	}
	for name, a := range m.MessageSystemAttributes {
		if name != "AWSTraceHeader" || a.DataType != "String" || a.StringValue == nil {
			return errParameter("Message system attribute name '%s' is invalid.", name)
		}
	}
	if m.MessageGroupId != "" && !fifoID(m.MessageGroupId) {
		return errValue(m.MessageGroupId, "MessageGroupId",
			"MessageGroupId can only include alphanumeric and punctuation characters. 1 to %d in length", maxFifoID)
	}
	return m.checkOrder(q)
}

// checkOrder judges what only one of the two kinds of queues takes.
func (m *outgoing) checkOrder(q *queue) error {
	const otherKind = "The request include parameter that is not valid for this queue type"
	if !q.fifo {
		if m.MessageDeduplicationId != "" {
			return errValue(m.MessageDeduplicationId, "MessageDeduplicationId", otherKind)
		}
		return nil
	}
	switch {
	case m.MessageGroupId == "":
		return errMissing("MessageGroupId")
	case m.DelaySeconds != nil && *m.DelaySeconds > 0:
		return errValue(*m.DelaySeconds, "DelaySeconds", otherKind)
	case m.MessageDeduplicationId != "" && !fifoID(m.MessageDeduplicationId):
		return errValue(m.MessageDeduplicationId, "MessageDeduplicationId",
			"MessageDeduplicationId can only include alphanumeric and punctuation characters. 1 to %d in length", maxFifoID)
	case m.MessageDeduplicationId == "" && q.attrs["ContentBasedDeduplication"] != "true":
		return errParameter("The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly")
	}
	return nil
}

// validContents tells whether every character is one SQS carries.
func validContents(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if (r < 0x20 && r != '\t' && r != '\n' && r != '\r') || r == 0xFFFE || r == 0xFFFF {
			return false
		}
	}
	return true
}

// fifoID tells whether s can be a group or deduplication id.
func fifoID(s string) bool {
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return false
		}
	}
	return s != "" && len(s) <= maxFifoID
}

// entryID tells whether s can be the id of a batch entry or a label.
func entryID(s string) bool { return nameCharacters(s) && len(s) <= maxBatchEntryName }

func checkMessageAttributes(attrs map[string]attributeValue) error {
	if len(attrs) > maxAttributes {
		return errParameter("Number of message attributes [%d] exceeds the allowed maximum [%d].", len(attrs), maxAttributes)
	}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		if !attributeName(name) {
			return errParameter("Message (user) attribute name '%s' is invalid.", name)
		}
		if err := checkAttributeValue(name, attrs[name]); err != nil {
			return err
		}
	}
	return nil
}

func attributeName(name string) bool {
	lower := strings.ToLower(name)
	switch {
	case len(name) > maxAttributeName, strings.HasPrefix(lower, "aws."), strings.HasPrefix(lower, "amazon."),
		strings.HasPrefix(name, "."), strings.HasSuffix(name, "."), strings.Contains(name, ".."):
		return false
	}
	return nameCharacters(strings.ReplaceAll(name, ".", "-"))
}

func checkAttributeValue(name string, a attributeValue) error {
	kind, _, _ := strings.Cut(a.DataType, ".")
	if len(a.StringListValues) > 0 || len(a.BinaryListValues) > 0 {
		return errUnsupported("Message attribute list values in SendMessage operation are not supported.")
	}
	switch {
	case a.DataType == "":
		return errParameter("The message (user) attribute '%s' must contain a non-empty message attribute type.", name)
	case len(a.DataType) > maxAttributeName, kind != "String" && kind != "Number" && kind != "Binary":
		return errParameter("The message (user) attribute '%s' has an invalid message attribute type, the set of supported type prefixes is Binary, Number, and String.", name)
	case kind == "Binary" && len(a.BinaryValue) == 0, kind != "Binary" && (a.StringValue == nil || *a.StringValue == ""):
		return errParameter("The message (user) attribute '%s' must contain a non-empty message attribute value for message attribute type '%s'.", name, a.DataType)
	case kind == "String" && !validContents(*a.StringValue):
		return errContents()
	case kind == "Number" && !decimal(*a.StringValue):
		return errParameter("Can't cast the value of message (user) attribute '%s' to a number.", name)
	}
	return nil
}

// decimal tells whether s is a number as SQS takes one: sign, digits, fraction
// and exponent, and no more than 38 digits in all.
func decimal(s string) bool {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	mantissa, exponent, hasExponent := strings.Cut(strings.ToLower(s), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	exponent = strings.TrimPrefix(strings.TrimPrefix(exponent, "-"), "+")
	digits := func(s string) bool { return strings.Trim(s, "0123456789") == "" }
	return digits(whole) && digits(fraction) && whole+fraction != "" && len(whole+fraction) <= 38 &&
		digits(exponent) && hasExponent == (exponent != "") && len(exponent) <= 3
}

func bodyMD5(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// attributesMD5 is the digest clients compare: of every name, type and value,
// by name, each with its length before it. Empty without attributes.
func attributesMD5(attrs map[string]attributeValue) string {
	if len(attrs) == 0 {
		return ""
	}
	h := md5.New()
	piece := func(b []byte) {
		_ = binary.Write(h, binary.BigEndian, uint32(len(b))) // a hash never fails
		h.Write(b)
	}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		a := attrs[name]
		piece([]byte(name))
		piece([]byte(a.DataType))
		if strings.HasPrefix(a.DataType, "Binary") {
			h.Write([]byte{2})
			piece(a.BinaryValue)
			continue
		}
		h.Write([]byte{1})
		if a.StringValue != nil {
			piece([]byte(*a.StringValue))
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}
