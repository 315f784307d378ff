package agent

import (
	"encoding/json"
	"log/slog"

	"hostmanager/protocol"
)

// eventRecord is one line of events.jsonl.
type eventRecord struct {
	Type      string            `json:"type"`
	Timestamp int64             `json:"timestamp"` // epoch milliseconds
	Severity  protocol.Severity `json:"severity"`
	Msg       string            `json:"msg"`
}

// event takes note of an event, whether it belongs to a command or not: in events.jsonl and in the structured log. A message's hidden values
// are masked here, where it enters.
func (a *Agent) event(e protocol.Event) {
	if e.Time.IsZero() {
		e.Time = a.Now()
	}
	e.Msg = a.Redact.String(e.Msg)
	line, err := json.Marshal(eventRecord{"event", e.Time.UnixMilli(), e.Severity, e.Msg})
	if err == nil {
		_, err = a.Events.Write(append(line, '\n'))
	}
	if err != nil {
		a.log.Error("event not written", slog.Any("error", err))
	}
	a.log.Log(a.base, levelOf(e.Severity), "event", slog.String("severity", string(e.Severity)), slog.String("text", e.Msg))
}

func levelOf(s protocol.Severity) slog.Level {
	switch {
	case s.Rank() >= protocol.Error.Rank():
		return slog.LevelError
	case s == protocol.Warn:
		return slog.LevelWarn
	case s == protocol.Info:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}
