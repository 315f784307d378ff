package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"hostmanager/protocol"
)

// RestartRequest asks for a restart of the application.
type RestartRequest struct {
	Targets Selection
	Timeout time.Duration
	NoWait  bool
}

// Restart restarts the application on the instances. It keeps no record: an interrupted one is simply run again.
func (f *Fleet) Restart(ctx context.Context, q RestartRequest) (Report, error) {
	return f.unrecorded(ctx, restartKind(), q.Targets, q.Timeout, func(o *operation) { o.noWait = q.NoWait }, stages(q.NoWait)...)
}

// SendRequest is a command as it stands, for trying things out.
type SendRequest struct {
	Command       string // "CMD-AppDeploy"
	Data          string // "manifest_..." for deployments
	DataSHA256    string // empty: looked up where Data names a manifest of the environment
	ExecutionData string
	Stage         *int // nil: all stages
	SNS           bool // in an SNS envelope
	Targets       Selection
	Timeout       time.Duration
	NoWait        bool
}

// Send sends a raw command and waits for the answers. It keeps no record and never moves the desired state.
func (f *Fleet) Send(ctx context.Context, q SendRequest) (Report, error) {
	if q.Command == "" || strings.ContainsFunc(q.Command, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Report{}, fmt.Errorf("%w: %.80q is no name of a command", ErrRefused, q.Command)
	}
	if q.Stage != nil && (*q.Stage < 0 || *q.Stage > 99) {
		return Report{}, fmt.Errorf("%w: stage %d is not between 0 and 99", ErrRefused, *q.Stage)
	}
	if wantsManifest(q.Command) && q.Data != "" && !protocol.ValidManifestName(q.Data) {
		return Report{}, fmt.Errorf("%w: data %.80q is no name of a manifest (manifest_<letters, digits, _ and ->), which %s wants", ErrRefused, q.Data, q.Command)
	}
	if q.DataSHA256 == "" && protocol.ValidManifestName(q.Data) {
		_, data, err := f.Record.GetManifest(ctx, q.Data, "")
		if err != nil {
			return Report{}, err
		}
		q.DataSHA256 = protocol.Digest(data)
	}
	stage := allStages
	if q.Stage != nil {
		stage = *q.Stage
	}
	kind := operationKind{
		command: q.Command, purpose: "send " + q.Command,
		starting: []string{q.Command + " is starting."}, done: []string{q.Command + " completed successfully."}, failed: textSendFailed,
	}
	return f.unrecorded(ctx, kind, q.Targets, q.Timeout, func(o *operation) { o.noWait, o.raw = q.NoWait, &q }, stage)
}

// wantsManifest tells whether the data of a command names a manifest.
func wantsManifest(command string) bool {
	switch command {
	case protocol.CmdPreInit, protocol.CmdStartup, protocol.CmdSelfStartup, protocol.CmdAppDeploy, protocol.CmdConfigDeploy:
		return true
	}
	return false
}

// unrecorded runs an operation that has no place in the order of deployments.
func (f *Fleet) unrecorded(ctx context.Context, kind operationKind, sel Selection, asked time.Duration, set func(*operation), stages ...int) (Report, error) {
	if err := checkTimeout(asked); err != nil {
		return Report{}, err
	}
	var report Report
	err := f.locked(ctx, kind.purpose, func(ctx context.Context) error {
		t, err := f.targets(ctx, sel)
		if err != nil {
			return f.notStarted(ctx, err)
		}
		options, err := f.currentOptions(ctx)
		if err != nil {
			return f.notStarted(ctx, err)
		}
		timeout, err := commandTimeout(asked, options)
		if err != nil {
			return err
		}
		o := f.newOperation(kind, t, timeout, stages...)
		set(o)
		o.sayStarting()
		report, err = o.execute(ctx)
		return err
	})
	return report, errors.Join(err)
}
