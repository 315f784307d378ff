package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hostmanager/protocol"
)

// State is where a deployment stands. Running is the only one that is not final.
type State string

// The states of a deployment.
const (
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Aborted   State = "aborted" // given up by an operator, or superseded by a later deployment
)

// Terminal tells whether nothing will follow.
func (s State) Terminal() bool { return s == Succeeded || s == Failed || s == Aborted }

// Step is one thing a deployment set out to do, written down before it was done.
type Step struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// Target is one instance a deployment goes to.
type Target struct {
	InstanceID string `json:"instance_id"` // empty while only the queue is known
	Queue      string `json:"queue"`       // URL
}

// Outcome is the verdict of one instance on one stage.
type Outcome struct {
	InstanceID   string          `json:"instance_id"`
	ResultID     string          `json:"result_id"`
	Status       protocol.Status `json:"status"`
	ReturnCode   int             `json:"returncode"`
	Cause        string          `json:"cause,omitempty"` // as the instance gave it
	Msg          string          `json:"msg,omitempty"`   // the end of it, bounded
	Ignored      bool            `json:"ignored,omitempty"`
	DeploymentID int64           `json:"deployment_id,omitempty"`
	VersionLabel string          `json:"version_label,omitempty"`
	Serial       int64           `json:"serial,omitempty"`
	At           time.Time       `json:"at"`
}

// Stage is one round of commands.
type Stage struct {
	Num      int                `json:"num"` // -1: all stages in one command
	SentAt   time.Time          `json:"sent_at,omitzero"`
	DoneAt   time.Time          `json:"done_at,omitzero"`
	Outcomes map[string]Outcome `json:"outcomes,omitempty"` // by instance
	TimedOut []string           `json:"timed_out,omitempty"`
}

// Abort says that somebody asked for the end of a deployment. From then on the record is theirs: who drove it before finds it changed and stops.
type Abort struct {
	By     string    `json:"by"`
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
}

// String is who and why.
func (a Abort) String() string {
	if a.Reason == "" {
		return a.By
	}
	return a.By + ": " + a.Reason
}

// Deployment is the record of one deployment: enough for another hmctl to see, finish or abort it.
type Deployment struct {
	ID           int64     `json:"deployment_id"`
	Serial       int64     `json:"serial"`
	RequestID    string    `json:"request_id"` // the operation's id, also its InvocationId
	Command      string    `json:"command"`
	State        State     `json:"state"`
	Failure      string    `json:"failure,omitempty"`
	VersionLabel string    `json:"version_label"`
	Manifest     string    `json:"manifest"`
	SHA256       string    `json:"sha256"` // of the manifest
	Holder       string    `json:"holder"`
	Timeout      int       `json:"command_timeout"` // seconds
	ResultQueue  string    `json:"result_queue"`    // name
	Targets      []Target  `json:"targets"`
	Partial      bool      `json:"partial,omitempty"` // to chosen instances only
	Steps        []Step    `json:"steps"`
	Stages       []Stage   `json:"stages"`
	Abort        *Abort    `json:"abort,omitempty"`
	Undoes       int64     `json:"undoes,omitempty"`   // the id of the aborted deployment after which it brings instances back
	Restores     int64     `json:"restores,omitempty"` // the serial whose content it brings back to some instances; the others have it
	StartedAt    time.Time `json:"started_at"`
	UpdatedAt    time.Time `json:"updated_at"`
	Revision     string    `json:"revision"` // unique per write
}

// Deployment reads a deployment record and the ETag that PutDeployment wants. A missing one is ErrNotFound.
func (r *Record) Deployment(ctx context.Context, id int64) (Deployment, string, error) {
	key := protocol.DeploymentKey(r.id, id)
	data, etag, err := r.store.Get(ctx, key, maxDeployment)
	if err != nil {
		return Deployment{}, "", fmt.Errorf("read deployment %d: %w", id, err)
	}
	var d Deployment
	if err := json.Unmarshal(data, &d); err != nil || d.ID != id || d.RequestID == "" {
		return Deployment{}, "", fmt.Errorf("%w: %s", ErrCorrupt, key)
	}
	return d, etag, nil
}

// maxRestored bounds how far Restored looks back.
const maxRestored = 64

// Restored returns the serials whose content is that of the deployment: its own, that which it brought back to some instances after an abort, that
// which the latter brought back, and so on. Instances with any of them run the same. It ends where a record is missing.
func (r *Record) Restored(ctx context.Context, d Deployment) ([]int64, error) {
	serials := []int64{d.Serial}
	for d.Restores > 0 && d.Restores < d.Serial && len(serials) < maxRestored {
		id, serial := d.ID-(d.Serial-d.Restores), d.Restores // both are counted together
		serials = append(serials, serial)
		next, _, err := r.Deployment(ctx, id)
		if errors.Is(err, ErrNotFound) || err == nil && next.Serial != serial {
			return serials, nil
		}
		if err != nil {
			return nil, err
		}
		d = next
	}
	return serials, nil
}

// PutDeployment writes the record if it is still the one with that ETag (empty: there is none yet) and returns the new ETag. It sets UpdatedAt
// and Revision. ErrChanged tells that someone else wrote it.
func (r *Record) PutDeployment(ctx context.Context, d *Deployment, etag string) (string, error) {
	d.UpdatedAt, d.Revision = r.wall(), newNonce()
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode deployment %d: %w", d.ID, err)
	}
	if len(data) > maxDeployment { // nobody could read it again
		return "", fmt.Errorf("write deployment %d: its record would have %d bytes: %w", d.ID, len(data), ErrTooLarge)
	}
	next, err := r.write(ctx, protocol.DeploymentKey(r.id, d.ID), data, Condition{Absent: etag == "", ETag: etag})
	switch {
	case errors.Is(err, ErrPrecondition), etag != "" && errors.Is(err, ErrNotFound):
		return "", fmt.Errorf("write deployment %d: %w", d.ID, ErrChanged)
	case err != nil:
		return "", fmt.Errorf("write deployment %d: %w", d.ID, err)
	}
	return next, nil
}

// lookBack bounds how many given-out deployment ids without a record are passed over.
const lookBack = 20

// LastDeployment returns the latest deployment that has a record, or ErrNotFound. Ids whose operation died before it wrote one are passed over.
func (r *Record) LastDeployment(ctx context.Context) (Deployment, string, error) {
	last, err := r.LastSerial(ctx)
	if err != nil {
		return Deployment{}, "", err
	}
	for id := last.DeploymentID; id > 0 && id > last.DeploymentID-lookBack; id-- {
		d, etag, err := r.Deployment(ctx, id)
		if !errors.Is(err, ErrNotFound) {
			return d, etag, err
		}
	}
	return Deployment{}, "", fmt.Errorf("latest deployment: %w", ErrNotFound)
}
