package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"hostmanager/aws/objects"
	"hostmanager/aws/objects/upload"
	"hostmanager/environment"
	"hostmanager/fleet/source"
	"hostmanager/protocol"
)

// DefaultApplication is the application's name where none is given.
const DefaultApplication = "app"

// DeployRequest is a new version to deploy.
type DeployRequest struct {
	Bundle      Bundle
	Application string // empty: DefaultApplication
	Label       string
	Changes     []Change // to the option settings of the desired state
	Policy      string   // overrides the deployment policy of bundle and settings
	Targets     Selection
	Timeout     time.Duration // of each command; 0: the option setting, else protocol.DefaultCommandTimeout
	NoWait      bool          // all stages in one command, and no waiting for answers; Resume collects them
}

// Deploy uploads a bundle and deploys it. The error is a *FailedError when instances failed, and wraps ErrInterrupted when ctx ended first.
func (f *Fleet) Deploy(ctx context.Context, q DeployRequest) (Report, error) {
	if q.Application == "" {
		q.Application = DefaultApplication
	}
	if err := errors.Join(checkLabel("version label", q.Label), checkLabel("application", q.Application), checkTimeout(q.Timeout)); err != nil {
		return Report{}, err
	}
	var report Report
	err := f.locked(ctx, "deploy "+q.Label, func(ctx context.Context) error {
		o, err := f.prepareDeploy(ctx, q)
		if err != nil {
			return f.notStarted(ctx, err)
		}
		o.sayStarting()
		report, err = o.execute(ctx)
		return err
	})
	return report, err
}

// notStarted says of an interrupted preparation that nothing came of it.
func (f *Fleet) notStarted(ctx context.Context, err error) error {
	if ctx.Err() == nil || errors.Is(context.Cause(ctx), environment.ErrLockLost) {
		return err
	}
	f.say(protocol.Warn, "Stopped before anything was sent: no instance was told, and nothing was changed.")
	return fmt.Errorf("prepare the deployment: %w", ErrInterrupted)
}

func (f *Fleet) prepareDeploy(ctx context.Context, q DeployRequest) (*operation, error) {
	t, err := f.targets(ctx, q.Targets)
	if err != nil {
		return nil, err
	}
	options, err := f.currentOptions(ctx)
	if err != nil {
		return nil, err
	}
	options = applyChanges(options, q.Changes)
	if err := errors.Join(f.checked(options), checkPolicy(q.Policy, options, q.Bundle)); err != nil {
		return nil, err
	}
	timeout, err := commandTimeout(q.Timeout, options)
	if err != nil {
		return nil, err
	}
	f.warnUnknown(q.Changes)
	if q.Bundle.Unread != nil {
		f.say(protocol.Warn, "Passed over what cannot be read in the bundle: %v.", q.Bundle.Unread)
	}
	src, err := f.upload(ctx, q)
	if err != nil {
		return nil, err
	}
	if err := f.giveUpUnfinished(ctx); err != nil { // and not before the upload, which may fail
		return nil, err
	}
	o := f.newOperation(deployKind(), t, timeout, stages(q.NoWait)...)
	o.noWait = q.NoWait
	return o, o.prepare(ctx, protocol.Manifest{
		RuntimeSources: map[string]map[string]protocol.RuntimeSource{q.Application: {q.Label: src}},
		VersionLabel:   q.Label, OptionSettings: options,
	})
}

// stages are the rounds of an operation: a barrier between build and flip, or none where nobody waits at it.
func stages(noWait bool) []int {
	if noWait {
		return []int{allStages}
	}
	return []int{0, 1}
}

// prepare gives the deployment its number, stores its manifest and writes the record. From here on it can be resumed.
func (o *operation) prepare(ctx context.Context, m protocol.Manifest) error {
	serial, err := o.Record.NextSerial(ctx)
	if err != nil {
		return err
	}
	m.DeploymentID, m.Serial = serial.DeploymentID, serial.Serial
	o.d.ID, o.d.Serial, o.d.VersionLabel = serial.DeploymentID, serial.Serial, m.VersionLabel
	if o.d.Manifest, o.d.SHA256, err = o.Record.PutManifest(ctx, m); err != nil {
		return err
	}
	return o.step(ctx, stepPrepared)
}

// upload puts the bundle into the bucket under a key that also holds its digest: a label that is used again overwrites nothing that an older
// manifest names, and the same bundle is sent once.
func (f *Fleet) upload(ctx context.Context, q DeployRequest) (protocol.RuntimeSource, error) {
	b := q.Bundle
	src := protocol.RuntimeSource{
		Bucket: f.Bucket, SHA256: b.SHA256, Size: b.Size,
		Key: protocol.BundleKey(f.Record.EnvironmentID(), q.Application, q.Label+"/"+b.SHA256[:16]),
	}
	progress := Upload{Application: q.Application, VersionLabel: q.Label, Archive: q.Label + b.ending(), Size: b.Size}
	info, err := f.Objects.Head(ctx, f.Bucket, src.Key)
	switch {
	case err == nil && info.Size == b.Size:
		progress.Sent, progress.Done, progress.Skipped = b.Size, true, true
		f.Printer.Upload(progress)
		return src, nil
	case err != nil && !errors.Is(err, objects.ErrNotFound):
		return src, fmt.Errorf("look for the bundle: %w", err)
	}
	file, err := os.Open(b.Path)
	if err != nil {
		return src, fmt.Errorf("open the bundle: %w", err)
	}
	defer file.Close()
	f.Printer.Upload(progress)
	err = upload.Object(ctx, f.Objects, f.Bucket, src.Key, file, b.Size, func(sent int64) {
		progress.Sent = sent
		f.Printer.Upload(progress)
	})
	if err != nil {
		return src, fmt.Errorf("upload the bundle: %w", err)
	}
	if err := f.checkUploaded(ctx, b, src.Key); err != nil {
		return src, err
	}
	progress.Sent, progress.Done = b.Size, true
	f.Printer.Upload(progress)
	return src, nil
}

// checkUploaded removes what was uploaded when the file has changed since its digest was taken: under a key with that digest it would be taken
// for the bundle by every later deployment.
func (f *Fleet) checkUploaded(ctx context.Context, b Bundle, key string) error {
	if b.packed {
		return nil // nobody else has it
	}
	info, err := source.Describe(ctx, b.Path, nil)
	if err == nil && info.SHA256 == b.SHA256 {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("%w: %s was changed while it was uploaded; deploy again when it is whole", ErrRefused, b.Path)
	}
	tidy, cancel := afterwards(ctx)
	defer cancel()
	if removed := f.Objects.Delete(tidy, f.Bucket, key); removed != nil {
		err = errors.Join(err, fmt.Errorf("remove the changed bundle: %w; deploy under another label", removed))
	}
	return err
}

// ConfigRequest is a change of the configuration of the version that is deployed.
type ConfigRequest struct {
	Changes []Change
	Targets Selection
	Timeout time.Duration
	NoWait  bool
}

// ConfigDeploy deploys the desired state's version with changed option settings. Changes that change nothing are ErrRefused.
func (f *Fleet) ConfigDeploy(ctx context.Context, q ConfigRequest) (Report, error) {
	if err := errors.Join(checkTimeout(q.Timeout), checkPolicyChange(q.Changes)); err != nil {
		return Report{}, err
	}
	var report Report
	err := f.locked(ctx, "change the configuration", func(ctx context.Context) error {
		o, err := f.prepareConfig(ctx, q)
		if err != nil {
			return f.notStarted(ctx, err)
		}
		o.sayStarting()
		report, err = o.execute(ctx)
		return err
	})
	return report, err
}

func (f *Fleet) prepareConfig(ctx context.Context, q ConfigRequest) (*operation, error) {
	t, err := f.targets(ctx, q.Targets)
	if err != nil {
		return nil, err
	}
	_, m, err := f.Record.CurrentManifest(ctx)
	if errors.Is(err, environment.ErrNoCurrent) {
		return nil, fmt.Errorf("%w: %w; deploy a version first, with its settings as --env and --option", ErrRefused, err)
	}
	if err != nil {
		return nil, err
	}
	options := applyChanges(m.OptionSettings, q.Changes)
	if sameOptions(options, m.OptionSettings) {
		return nil, fmt.Errorf("%w: the configuration already is as asked", ErrRefused)
	}
	if err := f.checked(options); err != nil {
		return nil, err
	}
	f.warnUnknown(q.Changes)
	timeout, err := commandTimeout(q.Timeout, options)
	if err != nil {
		return nil, err
	}
	if err := f.giveUpUnfinished(ctx); err != nil {
		return nil, err
	}
	m.OptionSettings = options
	o := f.newOperation(configKind(), t, timeout, stages(q.NoWait)...)
	o.noWait = q.NoWait
	return o, o.prepare(ctx, m)
}

// currentOptions returns the option settings of the desired state; none before the first deployment.
func (f *Fleet) currentOptions(ctx context.Context) (protocol.OptionSettings, error) {
	_, m, err := f.Record.CurrentManifest(ctx)
	if errors.Is(err, environment.ErrNoCurrent) {
		return protocol.OptionSettings{}, nil
	}
	return m.OptionSettings, err
}

func checkTimeout(d time.Duration) error {
	if d < 0 || d > protocol.MaxCommandTimeout || (d > 0 && d < time.Second) || d%time.Second != 0 {
		return fmt.Errorf("%w: a command timeout of %s is not between 1s and %s in whole seconds", ErrRefused, d, protocol.MaxCommandTimeout)
	}
	return nil
}

func commandTimeout(asked time.Duration, options protocol.OptionSettings) (time.Duration, error) {
	if asked > 0 {
		return asked, nil
	}
	text := options[nsCommand]["Timeout"]
	if text == "" {
		return protocol.DefaultCommandTimeout, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 3600 {
		return 0, fmt.Errorf("%w: %s Timeout is %q, want whole seconds from 1 to 3600", ErrRefused, nsCommand, text)
	}
	return time.Duration(n) * time.Second, nil
}
