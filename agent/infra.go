package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"hostmanager/commandproc"
	"hostmanager/environment"
	"hostmanager/hooks"
	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
	"hostmanager/internal/redact"
	"hostmanager/internal/signature"
	"hostmanager/platform/bundle"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// maxManifest bounds a manifest file in bytes, as package environment bounds the object.
const maxManifest = 4 << 20

// Bundles brings a source bundle onto the instance. *bundle.Fetcher is one.
type Bundles interface {
	Fetch(ctx context.Context, src bundle.Source) (string, error)
	Stage(ctx context.Context, src bundle.Source, dest string, before bundle.Before) (bundle.Stats, error)
}

// infra is the built-in actions that no hook directory holds. Between actions and stages state passes through files alone, except for the
// manifest that Prepare just read.
type infra struct {
	root    layout.Root
	record  Record
	bundles Bundles
	redact  *redact.Redactor
	marks   *marks // nil: what is older is not refused
	trusted signature.Keys
	refused func(string) // is told why a signed object is refused, for an event

	mu         sync.Mutex
	invocation string // of the exclusive command that Prepare saw last
	last       prepared
}

type prepared struct {
	manifest protocol.Manifest
	raw      []byte
}

func newInfra(root layout.Root, record Record, bundles Bundles, hide *redact.Redactor) *infra {
	return &infra{root: root, record: record, bundles: bundles, redact: hide}
}

// errNothingDeployed answers a restart before the first deployment.
var errNothingDeployed = errors.New("no version is deployed on this instance yet; deploy one first")

// Prepare finds the manifest a command is about: the one it names, fetched in the first stage and read from disk in later ones, or the deployed
// one. The redactor learns its properties before anything else sees them.
func (i *infra) Prepare(ctx context.Context, j commandproc.Job) (hooks.Deployment, error) {
	d := hooks.Deployment{RequestID: j.Request.RequestID, InvocationID: j.Command.InvocationID, CommandName: j.Request.CommandName, AskedBy: i.askedBy(j.Command)}
	def, _ := commandproc.Lookup(j.Request.CommandName)
	var p prepared
	var err error
	switch {
	case !def.Deploys && (j.Request.Data == "" || j.Request.CommandName != protocol.CmdPreInit):
		p, err = i.deployed()
		if errors.Is(err, fs.ErrNotExist) {
			if j.Request.CommandName == protocol.CmdPreInit {
				return d, nil
			}
			err = errNothingDeployed
		}
	case j.Begun != nil && def.Deploys:
		p, err = i.begunBefore(ctx, j)
	case j.Request.StageNum != nil && *j.Request.StageNum > 0:
		p, err = i.stagedBefore(j.Request)
	default:
		p, err = i.fetch(ctx, j.Request)
		if err == nil {
			err = i.admit(j, p.manifest)
		}
		i.tellRefused(j, err)
	}
	if err != nil {
		return d, err
	}
	if _, err := settings.Parse(p.manifest.OptionSettings); err != nil {
		return d, fmt.Errorf("manifest of version %s: %w", p.manifest.VersionLabel, err)
	}
	i.mu.Lock()
	i.invocation, i.last = d.InvocationID, p
	i.mu.Unlock()
	d.ID, d.VersionLabel, d.Serial = p.manifest.DeploymentID, p.manifest.VersionLabel, p.manifest.Serial
	return d, nil
}

// askedBy says who gave a command, as far as it was proven when it was accepted.
func (i *infra) askedBy(c protocol.Command) string {
	switch k, trusted := i.trusted.Lookup(c.Signature.KeyID); {
	case fromBoot(c):
		return "start-up"
	case i.trusted.Empty():
		return "anyone (insecure_unsigned)"
	case trusted && k.Name != "":
		return k.Name + " (" + k.ID() + ")"
	default: // a key without a name, or one that was trusted then
		return c.Signature.KeyID
	}
}

// admit refuses a manifest older than one that an order brought before. What start-up brings was judged by the desired state.
func (i *infra) admit(j commandproc.Job, m protocol.Manifest) error {
	if i.marks == nil || fromBoot(j.Command) {
		return nil
	}
	if err := i.marks.admit(m.Serial); err != nil {
		return fmt.Errorf("manifest %s of version %s: %w", j.Request.Data, m.VersionLabel, err)
	}
	return nil
}

// tellRefused makes an event of a verdict on something signed. What start-up is refused it tells itself.
func (i *infra) tellRefused(j commandproc.Job, err error) {
	var older *olderError
	if i.refused != nil && !fromBoot(j.Command) && (signature.Refused(err) || errors.Is(err, environment.ErrDigest) || errors.As(err, &older)) {
		i.refused(fmt.Sprintf("An order was refused (invocation %.80s): %v.", j.Command.InvocationID, err))
	}
}

func (i *infra) fetch(ctx context.Context, r protocol.Request) (prepared, error) {
	if !protocol.ValidManifestName(r.Data) {
		return prepared{}, fmt.Errorf("%w: data %.80q is no name of a manifest (manifest_<letters, digits, _ and ->), which %s wants", protocol.ErrBadRequest, r.Data, r.CommandName)
	}
	if r.DataSHA256 == "" {
		return prepared{}, fmt.Errorf("%w: %s must give the SHA-256 of its manifest in manifest_sha256", protocol.ErrBadRequest, r.CommandName)
	}
	m, raw, err := i.record.GetManifest(ctx, r.Data, r.DataSHA256)
	if err != nil {
		return prepared{}, err
	}
	i.learn(m)
	return prepared{m, raw}, nil
}

func (i *infra) stagedBefore(r protocol.Request) (prepared, error) {
	raw, err := atomicfile.ReadFileLimit(i.root.StagedManifest(), maxManifest)
	if err != nil {
		return prepared{}, fmt.Errorf("read the manifest of the stage before: %w", err)
	}
	if r.DataSHA256 != "" && protocol.Digest(raw) != r.DataSHA256 {
		return prepared{}, fmt.Errorf("%w: stage %d names another manifest than the stage before it", protocol.ErrBadRequest, *r.StageNum)
	}
	return i.decode(raw)
}

// deployed reads the manifest of the version that serves.
func (i *infra) deployed() (prepared, error) {
	raw, err := atomicfile.ReadFileLimit(i.root.DeployedManifest(), maxManifest)
	if err != nil {
		return prepared{}, fmt.Errorf("read the deployed manifest: %w", err)
	}
	return i.decode(raw)
}

func (i *infra) decode(raw []byte) (prepared, error) {
	m, err := protocol.DecodeManifest(raw)
	if err != nil {
		return prepared{}, err
	}
	i.learn(m)
	return prepared{m, raw}, nil
}

// learn hides the properties from all output, from now on.
func (i *infra) learn(m protocol.Manifest) {
	i.redact.Add(slices.Collect(maps.Values(m.OptionSettings[settings.NSEnvironment]))...)
}

// learnStored hides what the manifests on disk hold; the agent calls it before its first line of log.
func (i *infra) learnStored() error {
	var errs []error
	for _, file := range []string{i.root.DeployedManifest(), i.root.StagedManifest(), previousManifest(i.root)} {
		raw, err := atomicfile.ReadFileLimit(file, maxManifest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			_, err = i.decode(raw)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w", file, err))
		}
	}
	return errors.Join(errs...)
}

// of returns the manifest of the command under way; none for a PreInit before the first deployment.
func (i *infra) of(c *hooks.Call) (prepared, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.last, i.invocation == c.Deployment.InvocationID && c.Deployment.ID > 0
}

// builtins are the infra actions by name. None needs undoing of its own: Settle puts the files they write back.
func (i *infra) builtins() map[string]hooks.Builtin {
	actions := map[string]hooks.Builtin{}
	for name, run := range map[string]func(context.Context, *hooks.Call) error{
		"InfraWriteConfig":      i.writeConfig,
		"DownloadSourceBundle":  i.downloadSourceBundle,
		"EbExtensionPreBuild":   i.preBuild,
		"EbExtensionPostBuild":  func(context.Context, *hooks.Call) error { return nil }, // the place of container_commands
		"InfraCleanEbextension": i.cleanEbextensions,
	} {
		actions[name] = hooks.Builtin{Name: name, Semantics: protocol.Repeatable, Run: run}
	}
	return actions
}

// writeConfig puts manifest and containerconfiguration where the hooks find them.
func (i *infra) writeConfig(_ context.Context, c *hooks.Call) error {
	p, ok := i.of(c)
	if !ok { // PreInit before the first deployment
		return nil
	}
	if keeps, err := i.keepsFiles(c); keeps || err != nil {
		return err
	}
	if def, _ := commandproc.Lookup(c.Deployment.CommandName); def.Deploys {
		if err := atomicfile.WriteFile(i.root.StagedManifest(), p.raw, 0o600); err != nil {
			return fmt.Errorf("write the staged manifest: %w", err)
		}
	}
	return settings.WriteContainerConfiguration(i.root, p.manifest)
}

// keepsFiles tells whether the files that hooks read stay as they are: PreInit only prepares, so where a version is deployed they go on telling of
// that one. Only the command that brings another in may change them, because only it puts them back.
func (i *infra) keepsFiles(c *hooks.Call) (bool, error) {
	if c.Deployment.CommandName != protocol.CmdPreInit {
		return false, nil
	}
	_, err := os.Stat(i.root.DeployedManifest())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the deployed manifest: %w", err)
	}
	return true, nil
}

// downloadSourceBundle fetches, verifies and unpacks the version's bundle.
func (i *infra) downloadSourceBundle(ctx context.Context, c *hooks.Call) error {
	p, ok := i.of(c)
	if !ok {
		return nil
	}
	src, err := sourceOf(p.manifest)
	if err != nil {
		return err
	}
	archive, err := i.bundles.Fetch(ctx, src)
	if err != nil {
		return fmt.Errorf("download source bundle of version %s: %w", p.manifest.VersionLabel, err)
	}
	if keeps, err := i.keepsFiles(c); keeps || err != nil {
		return err
	}
	if err := atomicfile.Symlink(archive, i.root.SourceBundle()); err != nil {
		return fmt.Errorf("link source bundle: %w", err)
	}
	if c.Deployment.CommandName == protocol.CmdPreInit { // only what SelfStartup will need; its tree is its own
		return nil
	}
	dest := i.release(c)
	serves, err := sameFolder(dest, i.root.Current())
	if err != nil {
		return err
	}
	if serves {
		return fmt.Errorf("the files in %s serve, of an order with the same manifest whose InvocationId begins alike; send this one with an InvocationId that differs in its first 8 characters", dest)
	}
	if err := os.RemoveAll(dest); err != nil { // of an attempt that was cut short
		return fmt.Errorf("remove older tree: %w", err)
	}
	stats, err := i.bundles.Stage(ctx, src, dest, i.before())
	if err != nil {
		return fmt.Errorf("unpack source bundle of version %s: %w", p.manifest.VersionLabel, err)
	}
	fmt.Fprintf(c.Output, "Unpacked %d files, %d bytes, from a %s of %d bytes into %s\n", stats.Files, stats.Bytes, stats.Kind, stats.Archive, dest)
	return nil
}

// sameFolder tells whether both paths lead to one folder; what is not there is none.
func sameFolder(a, b string) (bool, error) {
	var info [2]fs.FileInfo
	for n, path := range []string{a, b} {
		var err error
		info[n], err = os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("look at the tree that serves: %w", err)
		}
	}
	return os.SameFile(info[0], info[1]), nil
}

// before is the version that serves, as far as it is known.
func (i *infra) before() bundle.Before {
	b := bundle.Before{Tree: i.root.Current()}
	if p, err := i.deployed(); err == nil {
		if src, err := sourceOf(p.manifest); err == nil {
			b.SHA256 = src.SHA256
		}
	}
	return b
}

func sourceOf(m protocol.Manifest) (bundle.Source, error) {
	_, s, err := m.Source()
	return bundle.Source{Bucket: s.Bucket, Key: s.Key, VersionID: s.VersionID, SHA256: strings.ToLower(s.SHA256), Size: s.Size}, err
}

func (i *infra) release(c *hooks.Call) string {
	return i.root.Release(fmt.Sprint(c.Deployment.ID), c.Deployment.InvocationID)
}

// preBuild is the place of packages ... services; until they are applied the owner of a bundle that has some is told.
func (i *infra) preBuild(_ context.Context, c *hooks.Call) error {
	files, err := filepath.Glob(filepath.Join(i.release(c), ".ebextensions", "*.config"))
	if err != nil || len(files) == 0 {
		return nil
	}
	slices.Sort(files)
	for n, f := range files {
		files[n] = filepath.Base(f)
	}
	c.Event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
		"The source bundle has .ebextensions (%s), which this host manager does not apply yet. The version is deployed without them.", strings.Join(files, ", "))})
	return nil
}

// cleanEbextensions removes .ebextensions from the tree: the application does not serve them.
func (i *infra) cleanEbextensions(_ context.Context, c *hooks.Call) error {
	if err := os.RemoveAll(filepath.Join(i.release(c), ".ebextensions")); err != nil {
		return fmt.Errorf("remove .ebextensions: %w", err)
	}
	return nil
}
