package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
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
	inner := body
	if envelope.Message != nil {
		inner = []byte(*envelope.Message)
	}
	var w wireCommand
	if err := json.Unmarshal(inner, &w); err != nil {
		return Command{}, fmt.Errorf("%w: read command: %w", ErrMalformed, err)
	}
	expiration, err := parseMillis(w.Expiration)
	if err != nil {
		return Command{}, fmt.Errorf("%w: Expiration: %w", ErrMalformed, err)
	}
	c := Command{
		DispatcherID: w.DispatcherID, CommandName: w.CommandName, InvocationID: w.InvocationID,
		Expiration: expiration, ResultQueue: w.ResultQueue, EventHandle: w.EventHandle, Data: w.Data,
	}
	return c, c.check()
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

func parseMillis(raw json.RawMessage) (time.Time, error) {
	text := strings.TrimSpace(string(raw))
	if text == "" || text == "null" {
		return time.Time{}, errors.New("is missing")
	}
	if strings.HasPrefix(text, `"`) {
		if err := json.Unmarshal(raw, &text); err != nil {
			return time.Time{}, err
		}
		text = strings.TrimSpace(text)
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms >= 0 && ms <= maxMillis {
		return time.UnixMilli(ms), nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > float64(maxMillis) {
		return time.Time{}, fmt.Errorf("%.40q is no time in epoch milliseconds", text)
	}
	return time.UnixMilli(int64(f)), nil
}

// Encode returns the bare form of the message.
func (c Command) Encode() ([]byte, error) {
	return json.Marshal(wireCommand{
		DispatcherID: c.DispatcherID, CommandName: c.CommandName, InvocationID: c.InvocationID,
		Expiration:  json.RawMessage(strconv.FormatInt(c.Expiration.UnixMilli(), 10)),
		ResultQueue: c.ResultQueue, EventHandle: c.EventHandle, Data: c.Data,
	})
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
