package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"hostmanager/agent/config"
	hostaws "hostmanager/aws"
	"hostmanager/aws/identity"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/commandproc"
	"hostmanager/environment"
	"hostmanager/fleet/record"
	"hostmanager/hooks"
	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
	"hostmanager/internal/logfile"
	"hostmanager/internal/redact"
	"hostmanager/internal/signature"
	"hostmanager/journal"
	"hostmanager/platform/bundle"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// Setup says which agent to build.
type Setup struct {
	Root    layout.Root
	Config  config.Config // valid
	Version string        // of the agent
	Stderr  io.Writer     // gets a copy of the structured log; nil: nowhere
	// Platform makes what commands act upon; nil: what Config.Platform names.
	Platform func(PlatformSetup) (Platform, map[string][]hooks.Builtin, error)
	BootID   string           // empty: the kernel's
	Now      func() time.Time // nil: time.Now
	// LookEvery is how often the agent looks at what it has deployed; 0: every ten seconds.
	LookEvery time.Duration
}

// PlatformSetup is what a platform is built of.
type PlatformSetup struct {
	Root   layout.Root
	Config config.Config
	Logs   *logfile.Set
	Redact *redact.Redactor
}

// Built is an agent and what must be let go of after its Run.
type Built struct {
	*Agent
	closers []func() error
}

// Close frees files and connections.
func (b *Built) Close() error {
	var errs []error
	for _, c := range slices.Backward(b.closers) {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// Build makes an agent and everything it is made of. It talks to nobody but, where no instance id is configured, the metadata service.
func Build(ctx context.Context, s Setup) (*Built, error) {
	b := &builder{Setup: s, redact: redact.New(), built: &Built{}}
	agent, err := b.build(ctx)
	if err != nil {
		return nil, errors.Join(err, b.built.Close())
	}
	b.built.Agent = agent
	return b.built, nil
}

type builder struct {
	Setup
	built  *Built
	redact *redact.Redactor
	logs   *logfile.Set
	events []protocol.Event // before there is an agent to take them

	queue   *queue.Client
	objects *objects.Client
	record  *environment.Record
	store   *patientStore
	infra   *infra
	hooks   hooks.Spawning
	disk    *diskKeeper
	trusted signature.Keys
	marks   *marks
	clock   *hostaws.Clock
	local   func() time.Time // the machine's own clock
}

func (b *builder) build(ctx context.Context) (*Agent, error) {
	if b.Now == nil {
		b.Now = time.Now
	}
	b.disk = newDiskKeeper(b.Root, b.Config)
	b.disk.makeWay()
	if err := b.identify(ctx); err != nil {
		return nil, err
	}
	if err := b.clients(ctx); err != nil {
		return nil, err
	}
	stored := b.infra.learnStored() // before the first line of log
	b.openLogs()
	if stored != nil {
		b.logs.Structured.Warn("manifest on disk is unreadable", "error", stored)
	}
	j, err := journal.Open(b.Root.Journal(), journal.Options{
		InstanceID: b.Config.InstanceID, Log: b.logs.Structured, Now: b.Now,
		OnEvent: func(e protocol.Event) { b.events = append(b.events, e) }, OnFull: b.disk.onFull,
	})
	if err != nil {
		return nil, err
	}
	b.built.closers = append(b.built.closers, j.Close)
	if b.hooks, err = b.spawning(ctx); err != nil {
		return nil, err
	}
	return b.assemble(j)
}

// identify finds out which instance this is, where the operator does not say.
func (b *builder) identify(ctx context.Context) error {
	if b.BootID == "" {
		id, err := atomicfile.ReadFileLimit("/proc/sys/kernel/random/boot_id", 100)
		if err != nil {
			return fmt.Errorf("read boot id: %w", err)
		}
		b.BootID = strings.TrimSpace(string(id))
	}
	if b.Config.InstanceID != "" {
		return nil
	}
	id, err := b.discover(ctx)
	if err != nil {
		return fmt.Errorf("find out which instance this is (set instance_id to say it): %w", err)
	}
	b.Config.InstanceID = id.InstanceID
	if b.Config.Region == "" {
		b.Config.Region = id.Region
	}
	return nil
}

// metadataPatience is how long a machine that was an instance before waits for the metadata service to say which.
const metadataPatience = time.Minute

// discover asks the metadata service. Where it does not answer, a machine that never was an instance hears so at once; one that was meets an outage.
func (b *builder) discover(ctx context.Context) (identity.Identity, error) {
	id, err := identity.Discover(ctx, identity.Options{})
	if err == nil {
		return id, nil
	}
	if was, errJournal := journal.Read(b.Root.Journal()); errJournal != nil || was.Instance == "" {
		return id, err
	}
	began, again := time.Now(), newPatience(time.Second, 10*time.Second)
	for err != nil && ctx.Err() == nil && time.Since(began) < metadataPatience {
		again.wait(ctx, nil)
		id, err = identity.Discover(ctx, identity.Options{})
	}
	return id, err
}

func (b *builder) clients(ctx context.Context) error {
	var err error
	b.clock = hostaws.NewClock(b.Setup.Now)
	b.local, b.Now = b.Now, b.clock.Now // logs go by the machine's clock, as all its other logs do
	if b.queue, err = queue.New(ctx, queue.Options{Region: b.Config.Region, Clock: b.clock}); err != nil {
		return fmt.Errorf("prepare SQS: %w", err)
	}
	if b.objects, err = objects.New(ctx, objects.Options{Region: b.Config.Region, Clock: b.clock}); err != nil {
		return fmt.Errorf("prepare S3: %w", err)
	}
	if b.record, err = record.Open(b.objects, b.Config.Bucket, b.Config.EnvironmentID); err != nil {
		return fmt.Errorf("open the environment's record: %w", err)
	}
	if b.trusted, err = loadKeys(b.Config); err != nil {
		return err
	}
	b.record = b.record.Secured(nil, b.trusted)
	bundles := bundle.NewFetcher(b.objects, b.Root.BundleCache())
	b.disk.bundles = bundles
	bundles.CacheBytes = b.Config.BundleCache
	bundles.Limits = bundle.Limits{
		ArchiveBytes: b.Config.BundleMaxArchive, Bytes: b.Config.BundleMaxBytes, Files: int(b.Config.BundleMaxFiles),
		Ratio: b.Config.BundleMaxRatio, Depth: int(b.Config.BundleMaxDepth),
	}
	b.store = &patientStore{Record: b.record, Bundles: bundles}
	b.infra = newInfra(b.Root, b.store, b.store, b.redact)
	b.disk.infra = b.infra
	b.marks = &marks{file: filepath.Join(b.Root.AgentState(), "serials.json"), environment: b.Config.EnvironmentID}
	b.infra.trusted = b.trusted
	if !b.trusted.Empty() {
		b.infra.marks = b.marks
	}
	return nil
}

func (b *builder) openLogs() {
	b.logs = logfile.OpenSet(logfile.Options{
		Root: b.Root, Redact: b.redact, Level: levelNamed(b.Config.LogLevel), Now: b.local, PID: os.Getpid(), Also: b.Stderr,
	})
	b.built.closers = append(b.built.closers, b.logs.Close)
}

// levelNamed reads a level that Config.Validate has checked.
func levelNamed(name string) slog.Level {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err != nil {
		return slog.LevelInfo
	}
	return l
}

// Bounds of events.jsonl: MiB of a file, files kept beside it.
const (
	eventsSize    = 5
	eventsBackups = 2
)

func (b *builder) assemble(j *journal.Journal) (*Agent, error) {
	platform, builtins, err := b.platform()
	if err != nil {
		return nil, fmt.Errorf("prepare platform %s: %w", b.Config.Platform, err)
	}
	dirs, err := hooks.New(hooks.Options{Root: b.Root, Builtins: withBundleHooks(b.Root, b.logs.Hooks, builtins), Replaceable: b.replaceable, Log: b.logs.Structured, Spawning: b.hooks})
	if err != nil {
		return nil, fmt.Errorf("prepare hooks: %w", err)
	}
	events := logfile.Open(b.Root.AgentEvents(), eventsSize, eventsBackups)
	b.built.closers = append(b.built.closers, events.Close)
	var agent *Agent
	processor := &commandproc.Processor{
		Root: b.Root, InstanceID: b.Config.InstanceID, Stack: "awseb-" + b.Config.EnvironmentID + "-stack",
		Steps: journalSteps{j, b.redact}, Dirs: helpedDirs{dirs, b.disk}, Infra: b.disk.builtins(b.infra.builtins()),
		Prepare: b.disk.reserving(b.infra.Prepare), Commit: b.disk.builtin(b.infra.commit()), Settle: b.disk.settling(b.infra.settle),
		Log: b.logs.Processor, Activity: b.logs.Activity, Structured: b.logs.Structured, Redact: b.redact,
		OnEvent: func(e protocol.Event) { agent.event(e) }, Now: b.Now,
		ResumeLimit: b.Config.ResumeLimit, CleanupTimeout: b.Config.CleanupTimeout,
	}
	agent = New(Parts{
		Root: b.Root, Config: b.Config, InstanceID: b.Config.InstanceID, Version: b.Version, BootID: b.BootID,
		Queue: b.queue, Record: b.record, Spills: spills{b.objects}, Platform: platform, Journal: j, Processor: processor,
		Logs: b.logs, Events: events, Redact: b.redact, Trusted: b.trusted, Marks: b.marks, Now: b.Now, Skew: b.clock.Skew, LookEvery: b.LookEvery,
		Notify: func(state string) { _, _ = daemon.SdNotify(false, state) }, // without systemd there is nobody to tell
	})
	b.store.outages = agent.outages
	b.disk.serve(agent, platform, func() int64 { return b.logs.Lost() + events.Lost() })
	b.infra.refused = func(text string) { agent.event(protocol.Event{Severity: protocol.Warn, Msg: text}) }
	for _, e := range b.events {
		agent.event(e)
	}
	agent.sayUnsigned()
	return agent, nil
}

func (b *builder) platform() (Platform, map[string][]hooks.Builtin, error) {
	setup := PlatformSetup{Root: b.Root, Config: b.Config, Logs: b.logs, Redact: b.redact}
	if b.Setup.Platform != nil {
		return b.Setup.Platform(setup)
	}
	p, err := newDockerPlatform(setup)
	if err != nil {
		return nil, nil, err
	}
	b.built.closers = append(b.built.closers, p.Close)
	return p, p.Hooks(), nil
}

// replaceable returns the built-in hooks that the settings of the deployment under way let files replace.
func (b *builder) replaceable() []string {
	_, s, err := settings.ReadContainerConfiguration(b.Root)
	if err != nil {
		return nil
	}
	return s.ReplaceableHooks
}

// withBundleHooks puts the bundle's own hooks (.platform) at their places among the platform's.
func withBundleHooks(root layout.Root, log io.Writer, builtins map[string][]hooks.Builtin) map[string][]hooks.Builtin {
	all := map[string][]hooks.Builtin{}
	for dir, list := range builtins {
		all[dir] = slices.Clone(list)
	}
	for _, place := range []struct{ dir, name, moment, tree string }{
		{"appdeploy/pre", "02platform-prebuild", "hooks/prebuild", root.Staging()},          // staged, not built
		{"appdeploy/enact", "00platform-predeploy", "hooks/predeploy", root.Staging()},      // built, not started
		{"appdeploy/post", "02platform-postdeploy", "hooks/postdeploy", root.Current()},     // serves
		{"configdeploy/pre", "02platform-prebuild", "confighooks/prebuild", root.Current()}, // a configuration deployment has no tree of its own
		{"configdeploy/enact", "00platform-predeploy", "confighooks/predeploy", root.Current()},
		{"configdeploy/post", "02platform-postdeploy", "confighooks/postdeploy", root.Current()},
	} {
		all[place.dir] = append(all[place.dir], hooks.PlatformHook(place.name, func(*hooks.Call) (hooks.Bundle, error) {
			_, s, err := settings.ReadContainerConfiguration(root)
			return hooks.Bundle{Tree: place.tree, Dir: place.moment, Properties: s.EnvironmentList(), Log: log}, err
		}))
	}
	for _, place := range []struct{ dir, moment string }{
		{"appdeploy/cleanup", "hooks/cleanup"}, {"configdeploy/cleanup", "confighooks/cleanup"}, {"restartappserver/cleanup", "hooks/cleanup"},
	} {
		all[place.dir] = append(all[place.dir], hooks.PlatformCleanup("02platform-cleanup", func(c *hooks.Call) (hooks.Bundle, error) {
			return cleanupBundle(root, place.moment, c, log)
		}))
	}
	return all
}

// cleanupBundle is the bundle whose cleanup hooks run: that of the command, or of what serves where the command has no tree.
func cleanupBundle(root layout.Root, moment string, c *hooks.Call, log io.Writer) (hooks.Bundle, error) {
	b := hooks.Bundle{Dir: moment, Log: log}
	for _, tree := range []string{root.Release(strconv.FormatInt(c.Deployment.ID, 10), c.Deployment.InvocationID), root.Current()} {
		if _, err := os.Stat(tree); err == nil {
			b.Tree = tree
			break
		}
	}
	if b.Tree == "" {
		return b, nil
	}
	_, s, err := settings.ReadContainerConfiguration(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // after a first deployment that failed there is none
		return b, err
	}
	b.Properties = s.EnvironmentList()
	for _, v := range c.Env {
		if strings.HasPrefix(v, "EB_COMMAND_STATUS=") {
			b.Properties = append(b.Properties, v)
		}
	}
	return b, nil
}

// spills puts large responses into the environment's bucket.
type spills struct{ objects *objects.Client }

// PutSpill writes the object; writing it again changes nothing.
func (s spills) PutSpill(ctx context.Context, bucket, key string, body []byte) error {
	_, err := s.objects.Put(ctx, bucket, key, body, objects.Condition{})
	return err
}

var (
	_ Queue            = (*queue.Client)(nil)
	_ Record           = (*environment.Record)(nil)
	_ Bundles          = (*bundle.Fetcher)(nil)
	_ commandproc.Dirs = (*hooks.Runner)(nil)
)
