package protocol

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// ErrMalformed marks a message that can never become a command. Nobody can be told but the log: it names no valid result queue.
var ErrMalformed = errors.New("malformed command message")

// Command is the outer message of one command, as it came from the queue.
type Command struct {
	DispatcherID string
	CommandName  string // opaque: part of the identity and echoed, never interpreted
	InvocationID string
	Expiration   time.Time
	ResultQueue  string // URL
	EventHandle  string // optional
	Data         string // the request as a JSON string, kept verbatim
	// ExpirationText is how Expiration stands on the wire, where that is not the plain number of milliseconds: it is part of what is signed.
	ExpirationText string
	Signature      Signature // the zero value: not signed
}

// wireCommand has the field names of the wire. Expiration arrives as a number or as a numeric string.
type wireCommand struct {
	DispatcherID string          `json:"DispatcherId"`
	CommandName  string          `json:"CommandName"`
	InvocationID string          `json:"InvocationId"`
	Expiration   json.RawMessage `json:"Expiration"`
	ResultQueue  string          `json:"ResultQueue"`
	EventHandle  string          `json:"EventHandle,omitempty"`
	Data         string          `json:"Data,omitempty"`
	Signature    json.RawMessage `json:"Signature,omitempty"`
}

// commandKeys are the keys of wireCommand.
func commandKeys() []string {
	return []string{"DispatcherId", "CommandName", "InvocationId", "Expiration", "ResultQueue", "EventHandle", "Data", "Signature"}
}

// DecodeCommand reads a queue message body: the command object itself, or an SNS notification (https://docs.aws.amazon.com/sns/latest/dg/
// sns-sqs-as-subscriber.html) that carries it as a JSON string in Message. Errors wrap ErrMalformed.
func DecodeCommand(body []byte) (Command, error) {
	var envelope struct {
		Message *string `json:"Message"`
	}
	if err := json.Unmarshal(body, &envelope); err != nil {
		return Command{}, fmt.Errorf("%w: read body: %w", ErrMalformed, err)
	}
	if err := checkKeys(body, "Message"); err != nil {
		return Command{}, fmt.Errorf("%w: read body: %w", ErrMalformed, err)
	}
	inner := body
	if envelope.Message != nil {
		inner = []byte(*envelope.Message)
	}
	var w wireCommand
	err := json.Unmarshal(inner, &w)
	if err == nil {
		err = checkKeys(inner, commandKeys()...)
	}
	if err != nil {
		return Command{}, fmt.Errorf("%w: read command: %w", ErrMalformed, err)
	}
	return w.command()
}

func (w wireCommand) command() (Command, error) {
	expiration, text, err := parseMillis(w.Expiration)
	if err != nil {
		return Command{}, fmt.Errorf("%w: Expiration: %w", ErrMalformed, err)
	}
	c := Command{
		DispatcherID: w.DispatcherID, CommandName: w.CommandName, InvocationID: w.InvocationID,
		Expiration: expiration, ResultQueue: w.ResultQueue, EventHandle: w.EventHandle, Data: w.Data,
	}
	if text != c.expirationText() {
		c.ExpirationText = text
	}
	if c.Signature, err = decodeSignature(w.Signature); err != nil {
		return Command{}, fmt.Errorf("%w: Signature: %w", ErrMalformed, err)
	}
	return c, c.check()
}

// decodeSignature reads the field Signature; none, and null, is no signature.
func decodeSignature(raw json.RawMessage) (s Signature, err error) {
	if len(raw) == 0 {
		return s, nil
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return s, err
	}
	if len(s.Value) == 0 {
		s.Value = nil
	}
	return s, checkKeys(raw, "KeyId", "Value")
}

// expirationText is Expiration as it is signed.
func (c Command) expirationText() string {
	if c.ExpirationText != "" {
		return c.ExpirationText
	}
	return strconv.FormatInt(c.Expiration.UnixMilli(), 10)
}

// numberForm is a number as JSON writes it.
var numberForm = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// encodedExpiration writes Expiration so that it is read back with the same text.
func (c Command) encodedExpiration() (json.RawMessage, error) {
	text := c.expirationText()
	if numberForm.MatchString(text) {
		return json.RawMessage(text), nil
	}
	return json.Marshal(text)
}

func (c Command) check() error {
	required := []struct{ name, value string }{
		{"DispatcherId", c.DispatcherID},
		{"CommandName", c.CommandName},
		{"InvocationId", c.InvocationID},
		{"ResultQueue", c.ResultQueue},
	}
	for _, f := range required {
		if f.value == "" {
			return fmt.Errorf("%w: %s is missing", ErrMalformed, f.name)
		}
	}
	return nil
}

// maxMillis keeps a time inside what time.Time and int64 nanoseconds hold (year 2262).
const maxMillis = math.MaxInt64 / int64(time.Millisecond)

// parseMillis reads a time, and the text it is signed as.
func parseMillis(raw json.RawMessage) (at time.Time, text string, err error) {
	text = string(bytes.TrimSpace(raw))
	if text == "" || text == "null" {
		return time.Time{}, "", errors.New("is missing")
	}
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(raw, &text); err != nil {
			return time.Time{}, "", err
		}
	}
	number := strings.TrimSpace(text)
	if ms, err := strconv.ParseInt(number, 10, 64); err == nil && ms >= 0 && ms <= maxMillis {
		return time.UnixMilli(ms), text, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > float64(maxMillis) {
		return time.Time{}, "", fmt.Errorf("%.40q is no time in epoch milliseconds", number)
	}
	return time.UnixMilli(int64(f)), text, nil
}

// Encode returns the bare form of the message. Whoever reads it gets the same texts, so a signature stays good.
func (c Command) Encode() ([]byte, error) {
	expiration, err := c.encodedExpiration()
	if err != nil {
		return nil, fmt.Errorf("encode Expiration: %w", err)
	}
	w := wireCommand{
		DispatcherID: c.DispatcherID, CommandName: c.CommandName, InvocationID: c.InvocationID, Expiration: expiration,
		ResultQueue: c.ResultQueue, EventHandle: c.EventHandle, Data: c.Data,
	}
	if c.Signature.KeyID != "" || len(c.Signature.Value) > 0 {
		if w.Signature, err = json.Marshal(c.Signature); err != nil {
			return nil, fmt.Errorf("encode Signature: %w", err)
		}
	}
	return json.Marshal(w)
}

// EncodeSNS returns the message inside an SNS notification envelope.
func (c Command) EncodeSNS() ([]byte, error) {
	inner, err := c.Encode()
	if err != nil {
		return nil, err
	}
	return json.Marshal(map[string]string{"Type": "Notification", "Message": string(inner)})
}

// Identity is what a redelivery of the same command has in common with it. The two stages of a staged operation share dispatcher, name and
// invocation and are still two commands, so the stage is part of it where the request names one.
func (c Command) Identity() string {
	id := c.DispatcherID + "|" + c.CommandName + "|" + c.InvocationID
	if r, err := DecodeRequest(c.Data); err == nil && r.StageNum != nil {
		id += "|stage" + strconv.Itoa(*r.StageNum)
	}
	return id
}

// Expired tells whether the command's time to start is over at now.
func (c Command) Expired(now time.Time) bool { return now.After(c.Expiration) }
