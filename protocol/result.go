package protocol

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Status is the verdict of a command, outer or inner.
type Status string

// The two verdicts.
const (
	Success Status = "SUCCESS"
	Failure Status = "FAILURE"
)

// MaxMessage is the size in bytes up to which a result travels in the message itself; a larger one carries a Location. It leaves room under
// the 256 KiB that every SQS queue takes.
const MaxMessage = 256<<10 - 4<<10

// Result is the outer message sent to the result queue. Data is set when the command was processed (whatever came of it), Message when not.
// The same ResultID means the same result, however often it arrives.
type Result struct {
	DispatcherID string `json:"DispatcherId"`
	InvocationID string `json:"InvocationId"`
	CommandName  string `json:"CommandName"`
	ListenerID   string `json:"ListenerId"`
	Status       Status `json:"Status"`
	ResultID     string `json:"ResultId"`
	Data         string `json:"Data,omitempty"`
	Message      string `json:"Message,omitempty"`
}

// Response is the inner result, the JSON string in Result.Data.
type Response struct {
	Status     Status          `json:"status"`
	APIVersion string          `json:"api_version"`
	Truncated  string          `json:"truncated,omitempty"` // "true" when something was cut
	Results    []ResponseEntry `json:"results"`
}

// The causes of a failure that someone decides by; all others have none.
const (
	CauseHealthGate  = "health_gate" // the new version ran and did not pass its health check in time
	CauseTimeout     = "timeout"     // the command's own time was over
	CauseAborted     = "aborted"     // somebody asked for its end, or the agent's own end would not wait for it
	CauseSuperseded  = "superseded"  // a newer deployment waited behind it, so it was never begun
	CauseNoRoom      = "no_room"     // a disk had no room for it
	CauseInterrupted = "interrupted" // a crash cut it short where it cannot be taken up again
)

// ResponseEntry is what one instance reports of one command.
type ResponseEntry struct {
	Status       Status    `json:"status"`
	Msg          string    `json:"msg"`
	ReturnCode   int       `json:"returncode"`
	Cause        string    `json:"cause,omitempty"` // of a failure: one of the constants, or one a later agent knows
	Events       []Event   `json:"events"`
	ConfigSet    string    `json:"config_set,omitempty"`
	DeploymentID int64     `json:"deployment_id,omitempty"`
	VersionLabel string    `json:"version_label,omitempty"`
	Serial       int64     `json:"serial,omitempty"`
	StageNum     *int      `json:"stage_num,omitempty"` // as the request had it
	Location     *Location `json:"location,omitempty"`  // where the whole response lies when it was too large to send
}

// Location names a spilled response in S3.
type Location struct {
	Bucket string `json:"bucket"`
	Key    string `json:"key"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// ErrBadResult marks a message on the result queue that is no result.
var ErrBadResult = errors.New("undecodable result")

// DecodeResult reads a result message and, where there is one, the response inside it.
func DecodeResult(body []byte) (Result, *Response, error) {
	var r Result
	if err := json.Unmarshal(body, &r); err != nil {
		return Result{}, nil, fmt.Errorf("%w: %w", ErrBadResult, err)
	}
	if r.ListenerID == "" || r.InvocationID == "" || (r.Status != Success && r.Status != Failure) {
		return r, nil, fmt.Errorf("%w: ListenerId, InvocationId or Status is missing", ErrBadResult)
	}
	if r.Data == "" {
		return r, nil, nil
	}
	var inner Response
	if err := json.Unmarshal([]byte(r.Data), &inner); err != nil {
		return r, nil, fmt.Errorf("%w: Data: %w", ErrBadResult, err)
	}
	return r, &inner, nil
}

// Entry returns the first entry of a response, or an empty one.
func (r *Response) Entry() ResponseEntry {
	if r == nil || len(r.Results) == 0 {
		return ResponseEntry{}
	}
	return r.Results[0]
}

// NewResponse returns a response of one entry with the entry's status.
func NewResponse(e ResponseEntry) *Response {
	if e.Events == nil {
		e.Events = []Event{}
	}
	return &Response{Status: e.Status, APIVersion: APIVersion, Results: []ResponseEntry{e}}
}

// Encode returns the JSON string that goes into Result.Data.
func (r *Response) Encode() (string, error) {
	b, err := json.Marshal(r)
	return string(b), err
}
