package protocol

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"
)

// Severity orders events; the words and ranks are Elastic Beanstalk's.
type Severity string

// The severities, lowest first.
const (
	System Severity = "SYSTEM"
	Trace  Severity = "TRACE"
	Debug  Severity = "DEBUG"
	Info   Severity = "INFO"
	Warn   Severity = "WARN"
	Error  Severity = "ERROR"
	Fatal  Severity = "FATAL"
)

// Rank returns the place of a severity in the order, or -1 for an unknown word.
func (s Severity) Rank() int {
	for i, v := range [...]Severity{System, Trace, Debug, Info, Warn, Error, Fatal} {
		if s == v {
			return i
		}
	}
	return -1
}

// ParseSeverity reads a severity in any case; the empty string is INFO.
func ParseSeverity(text string) (Severity, error) {
	s := Severity(strings.ToUpper(strings.TrimSpace(text)))
	if s == "" {
		return Info, nil
	}
	if s.Rank() < 0 {
		return "", fmt.Errorf("unknown severity %.40q", text)
	}
	return s, nil
}

// Event is one sentence for the people who follow a deployment. Time travels as epoch milliseconds.
type Event struct {
	Msg      string
	Severity Severity
	Time     time.Time
}

type wireEvent struct {
	Msg       string  `json:"msg"`
	Severity  string  `json:"severity"`
	Timestamp float64 `json:"timestamp"`
}

// secondsBelow separates the two units met on the wire: helpers of the original wrote seconds, the rest milliseconds. 10^11 ms is in 1973,
// 10^11 s in the year 5138.
const secondsBelow = 1e11

// MarshalJSON writes the event with its time in milliseconds.
func (e Event) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Msg       string   `json:"msg"`
		Severity  Severity `json:"severity"`
		Timestamp int64    `json:"timestamp"`
	}{e.Msg, e.Severity, e.Time.UnixMilli()})
}

// UnmarshalJSON reads an event; the timestamp may be in seconds or milliseconds.
func (e *Event) UnmarshalJSON(b []byte) error {
	var w wireEvent
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	severity, err := ParseSeverity(w.Severity)
	if err != nil {
		return err
	}
	*e = Event{Msg: w.Msg, Severity: severity, Time: EventTime(w.Timestamp)}
	return nil
}

// EventTime reads a timestamp in seconds or milliseconds since the epoch. Zero, negative and absurd values give the zero time.
func EventTime(t float64) time.Time {
	switch {
	case math.IsNaN(t) || t <= 0 || t > float64(maxMillis):
		return time.Time{}
	case t < secondsBelow:
		return time.UnixMilli(int64(math.Round(t * 1000)))
	default:
		return time.UnixMilli(int64(math.Round(t)))
	}
}
