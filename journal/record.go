package journal

import (
	"encoding/json"
	"time"

	"hostmanager/protocol"
)

// Type says what a record tells of its command.
type Type string

// The record types, in the order in which a command meets them.
const (
	Accepted Type = "accepted" // payload: the message; from here on the journal owns the command
	Started  Type = "started"  // a step began; payload: what its undo needs. A second one for the same step replaces the payload
	Done     Type = "done"     // the step succeeded
	Undone   Type = "undone"   // the step was taken back
	Resumed  Type = "resumed"  // a later agent took the command up again
	Paused   Type = "paused"   // the agent stopped in good order and left the command to the next one
	Abort    Type = "abort"    // somebody asked for the command's end; payload: who
	Verdict  Type = "verdict"  // the command failed; payload: what its result will say. Behind it nothing is run but undoing and cleaning up
	Result   Type = "result"   // payload: the result to send
	Sent     Type = "sent"     // the result queue took it
	lost     Type = "lost"     // written by Open only: the rest of the command's records were unreadable
	identity Type = "journal"  // the first record: whose journal it is
)

// Record is one line of the journal.
type Record struct {
	Type      Type               `json:"type"`
	Command   string             `json:"command"` // the command's identity
	Time      time.Time          `json:"time"`
	Step      string             `json:"step,omitempty"`
	Semantics protocol.Semantics `json:"semantics,omitempty"`
	Payload   json.RawMessage    `json:"payload,omitempty"`
	Events    json.RawMessage    `json:"events,omitempty"` // what a step that is done reported: a list of protocol.Event
}

// Step is the state of one step, folded from its records.
type Step struct {
	Name      string
	Semantics protocol.Semantics
	State     Type // Started, Done or Undone
	Payload   json.RawMessage
	Events    json.RawMessage // of a step that is done
	At        time.Time       // of the last record
}

// Command is the state of one command, folded from its records. Its JSON payloads are shared: read them, do not change them.
type Command struct {
	Identity   string
	AcceptedAt time.Time       // zero for an old command, whose ResultAt and SentAt are the same
	Message    json.RawMessage // payload of accepted; nil for an old command (see Options.KeepBytes)
	Steps      []Step          // in the order they were started; without payloads once sent
	Verdict    json.RawMessage // nil until the command failed
	Abort      json.RawMessage // nil unless somebody asked for its end
	// Resumed is how often the command was taken up again since it last got further: a step done or undone, or its verdict. A time after a stop
	// in good order does not count.
	Resumed  int
	Paused   bool            // the agent stopped in good order since the command was last begun or taken up
	Result   json.RawMessage // nil until known, and for an old command
	ResultAt time.Time       // zero until the result is known
	SentAt   time.Time       // zero until sent
	// Lost is set when the journal was damaged and the command's end is unknown. Its steps are gone and must not be guessed at: answer it as a
	// failure and touch nothing.
	Lost bool
}

// endedAt is the time of the last record that a finished command had.
func (c Command) endedAt() time.Time {
	if c.SentAt.After(c.ResultAt) {
		return c.SentAt
	}
	return c.ResultAt
}

// Finished tells whether the command's result is known.
func (c Command) Finished() bool { return !c.ResultAt.IsZero() || !c.SentAt.IsZero() }

// Recorder journals the steps of one command. Every method returns after the record is durable. Safe for concurrent use.
type Recorder struct {
	journal *Journal
	command string
}

// Recorder returns the recorder of an accepted command's steps.
func (j *Journal) Recorder(identity string) *Recorder { return &Recorder{j, identity} }

// Started journals that a step is about to begin, or, when called again for the same step, what its undo needs now.
func (r *Recorder) Started(step string, semantics protocol.Semantics, payload json.RawMessage) error {
	return r.journal.Append(Record{Type: Started, Command: r.command, Step: step, Semantics: semantics, Payload: payload})
}

// Done journals that a step succeeded, and what it reported. What its undo needs stays as Started said it.
func (r *Recorder) Done(step string, events json.RawMessage) error {
	return r.journal.Append(Record{Type: Done, Command: r.command, Step: step, Events: events})
}

// Undone journals that a step was taken back.
func (r *Recorder) Undone(step string) error {
	return r.journal.Append(Record{Type: Undone, Command: r.command, Step: step})
}

// Resumed journals that the command is taken up again.
func (r *Recorder) Resumed() error {
	return r.journal.Append(Record{Type: Resumed, Command: r.command})
}

// Paused journals that the agent stops in good order and leaves the command to the next one.
func (r *Recorder) Paused() error { return r.journal.Append(Record{Type: Paused, Command: r.command}) }

// Verdict journals that the command failed, and what its result will say, before anything is undone.
func (r *Recorder) Verdict(payload json.RawMessage) error {
	return r.journal.Append(Record{Type: Verdict, Command: r.command, Payload: payload})
}
