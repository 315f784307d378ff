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
	Result   Type = "result"   // payload: the result to send
	Sent     Type = "sent"     // the result queue took it
)

// Record is one line of the journal.
type Record struct {
	Type      Type               `json:"type"`
	Command   string             `json:"command"` // the command's identity
	Time      time.Time          `json:"time"`
	Step      string             `json:"step,omitempty"`
	Semantics protocol.Semantics `json:"semantics,omitempty"`
	Payload   json.RawMessage    `json:"payload,omitempty"`
}

// Step is the state of one step, folded from its records.
type Step struct {
	Name      string
	Semantics protocol.Semantics
	State     Type // Started, Done or Undone
	Payload   json.RawMessage
	At        time.Time // of the last record
}

// Command is the state of one command, folded from its records.
type Command struct {
	Identity   string
	AcceptedAt time.Time
	Message    json.RawMessage // payload of accepted
	Steps      []Step          // in the order they were started
	Result     json.RawMessage // nil until known
	ResultAt   time.Time
	SentAt     time.Time // zero until sent
}
