package protocol

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// APIVersion is the only version of request and response.
const APIVersion = "1.0"

// DefaultCommandTimeout bounds a command whose request gives no command_timeout: the default of aws:elasticbeanstalk:command Timeout.
const DefaultCommandTimeout = 600 * time.Second

// MaxCommandTimeout bounds what a request may ask for.
const MaxCommandTimeout = 24 * time.Hour

// ErrBadRequest marks a Data that is no request: the command is answered with an outer FAILURE.
var ErrBadRequest = errors.New("undecodable command data")

// The commands the host manager knows.
const (
	CmdPreInit          = "CMD-PreInit"
	CmdStartup          = "CMD-Startup"
	CmdSelfStartup      = "CMD-SelfStartup"
	CmdAppDeploy        = "CMD-AppDeploy"
	CmdConfigDeploy     = "CMD-ConfigDeploy"
	CmdRestartAppServer = "CMD-RestartAppServer"
	CmdAbort            = "CMD-Abort" // of the operation whose request_id data names; our own, the original has none
)

// Request is the inner command: what CMD_DATA holds.
type Request struct {
	APIVersion    string
	CommandName   string
	RequestID     string
	InstanceIDs   []string // empty: every instance
	StageNum      *int     // nil: all stages
	IsLastStage   bool
	StageName     string
	ResourceName  string
	EnvironmentID string // the environment the order is for; empty: not told, which only unsigned orders may be
	Data          string // the manifest's file name for deployments
	DataSHA256    string // hex digest of the manifest object (manifest_sha256); empty where Data names none
	ExecutionData string
	Timeout       time.Duration // from the start of the command
}

type wireRequest struct {
	APIVersion     string   `json:"api_version"`
	CommandName    string   `json:"command_name"`
	RequestID      string   `json:"request_id"`
	InstanceIDs    []string `json:"instance_ids,omitempty"`
	StageNum       flexInt  `json:"stage_num,omitzero"`
	IsLastStage    flexBool `json:"is_last_stage,omitzero"`
	StageName      string   `json:"stage_name,omitempty"`
	ResourceName   string   `json:"resource_name,omitempty"`
	Data           string   `json:"data,omitempty"`
	EnvironmentID  string   `json:"environment_id,omitempty"`
	ManifestSHA256 string   `json:"manifest_sha256,omitempty"`
	OldSHA256      string   `json:"data_sha256,omitempty"` // what manifest_sha256 was called before orders were signed; still in journals
	ExecutionData  string   `json:"execution_data,omitempty"`
	CommandTimeout flexInt  `json:"command_timeout,omitzero"`
}

// requestKeys are the keys of wireRequest.
func requestKeys() []string {
	return []string{
		"api_version", "command_name", "request_id", "instance_ids", "stage_num", "is_last_stage", "stage_name", "resource_name", "data",
		"environment_id", "manifest_sha256", "data_sha256", "execution_data", "command_timeout",
	}
}

// flexInt reads a number or a numeric string: the original's parsers took both.
type flexInt struct {
	set   bool
	value int
}

func (f *flexInt) UnmarshalJSON(b []byte) error {
	text := strings.TrimSpace(strings.Trim(string(b), `"`))
	if text == "null" || text == "" {
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return fmt.Errorf("%.40q is no whole number", text)
	}
	*f = flexInt{true, n}
	return nil
}

func (f flexInt) MarshalJSON() ([]byte, error) {
	if !f.set {
		return []byte("null"), nil
	}
	return []byte(strconv.Itoa(f.value)), nil
}

type flexBool bool

func (f *flexBool) UnmarshalJSON(b []byte) error {
	switch strings.ToLower(strings.Trim(string(b), `"`)) {
	case "true":
		*f = true
	case "false", "null", "":
		*f = false
	default:
		return fmt.Errorf("%.40q is neither true nor false", b)
	}
	return nil
}

// DecodeRequest reads a command's Data. Errors wrap ErrBadRequest.
func DecodeRequest(data string) (Request, error) {
	var w wireRequest
	if data == "" {
		return Request{}, fmt.Errorf("%w: CMD_DATA not provided", ErrBadRequest)
	}
	if err := json.Unmarshal([]byte(data), &w); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if err := checkKeys([]byte(data), requestKeys()...); err != nil {
		return Request{}, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if w.OldSHA256 != "" && w.ManifestSHA256 != "" && !strings.EqualFold(w.OldSHA256, w.ManifestSHA256) {
		return Request{}, fmt.Errorf("%w: manifest_sha256 and data_sha256 name two manifests", ErrBadRequest)
	}
	if w.APIVersion == "" {
		w.APIVersion = APIVersion
	}
	r := Request{
		APIVersion: w.APIVersion, CommandName: w.CommandName, RequestID: w.RequestID, InstanceIDs: w.InstanceIDs,
		IsLastStage: bool(w.IsLastStage), StageName: w.StageName, ResourceName: w.ResourceName,
		EnvironmentID: w.EnvironmentID, Data: w.Data, DataSHA256: strings.ToLower(cmp.Or(w.ManifestSHA256, w.OldSHA256)),
		ExecutionData: w.ExecutionData, Timeout: DefaultCommandTimeout,
	}
	if w.StageNum.set {
		r.StageNum = &w.StageNum.value
	}
	if w.CommandTimeout.set {
		r.Timeout = time.Duration(w.CommandTimeout.value) * time.Second
	}
	return r, r.check(w.CommandTimeout)
}

func (r Request) check(timeout flexInt) error {
	switch {
	case r.APIVersion != APIVersion:
		return fmt.Errorf("%w: Not supported command API version %.40q", ErrBadRequest, r.APIVersion)
	case r.CommandName == "":
		return fmt.Errorf("%w: Missing command name", ErrBadRequest)
	case r.RequestID == "":
		return fmt.Errorf("%w: Missing request ID", ErrBadRequest)
	case r.StageNum != nil && (*r.StageNum < 0 || *r.StageNum > 99):
		return fmt.Errorf("%w: stage_num %d is not between 0 and 99", ErrBadRequest, *r.StageNum)
	case timeout.set && (timeout.value <= 0 || time.Duration(timeout.value) > MaxCommandTimeout/time.Second):
		return fmt.Errorf("%w: command_timeout %d is not between 1 and %d seconds", ErrBadRequest, timeout.value, int(MaxCommandTimeout.Seconds()))
	}
	return nil
}

// Encode returns the JSON string that goes into a command's Data.
func (r Request) Encode() (string, error) {
	w := wireRequest{
		APIVersion: r.APIVersion, CommandName: r.CommandName, RequestID: r.RequestID, InstanceIDs: r.InstanceIDs,
		IsLastStage: flexBool(r.IsLastStage), StageName: r.StageName, ResourceName: r.ResourceName,
		EnvironmentID: r.EnvironmentID, Data: r.Data, ManifestSHA256: r.DataSHA256, ExecutionData: r.ExecutionData,
	}
	if w.APIVersion == "" {
		w.APIVersion = APIVersion
	}
	if r.StageNum != nil {
		w.StageNum = flexInt{true, *r.StageNum}
	}
	if r.Timeout > 0 { // whole seconds on the wire, and never zero
		w.CommandTimeout = flexInt{true, int((r.Timeout + time.Second - 1) / time.Second)}
	}
	b, err := json.Marshal(w)
	return string(b), err
}

// AppliesTo tells whether the instance is among those the request names.
func (r Request) AppliesTo(instanceID string) bool {
	return len(r.InstanceIDs) == 0 || slices.Contains(r.InstanceIDs, instanceID)
}
