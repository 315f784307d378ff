// Package config is the agent's configuration: a file, over it environment variables, over them flags. Every option has all three; the table in
// options.go is the only place that lists them, and docs/configuration.md is held to it by a test. The package reads the file and nothing else.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/proc"
	"hostmanager/platform/bundle"
	"hostmanager/protocol"
)

// ErrInvalid marks a configuration that cannot be used. The text names the option and what is allowed.
var ErrInvalid = errors.New("invalid configuration")

// maxFile bounds the configuration file in bytes.
const maxFile = 1 << 20

// maxBundle bounds the bounds of source bundles: 1 TiB, or as many.
const maxBundle = 1 << 40

// The values of OnStop: what becomes of the running command when the agent is asked to stop.
const (
	StopDrain  = "drain"  // it is run to its end
	StopResume = "resume" // it stops where the next start can take it up
)

// Config is what an operator can choose. New sets the defaults, Load reads, Validate checks.
type Config struct {
	EnvironmentID    string        `yaml:"environment_id"`
	EnvironmentName  string        `yaml:"environment_name"`
	InstanceID       string        `yaml:"instance_id"`
	Region           string        `yaml:"region"`
	Bucket           string        `yaml:"bucket"`
	CommandQueueURL  string        `yaml:"command_queue_url"`
	ResultQueues     []string      `yaml:"result_queues"`
	TrustedKeys      []string      `yaml:"trusted_keys"`
	InsecureUnsigned bool          `yaml:"insecure_unsigned"`
	Platform         string        `yaml:"platform"`
	Proxy            string        `yaml:"proxy"`
	Listen           string        `yaml:"listen"`
	DockerNamespace  string        `yaml:"docker_namespace"`
	OnStop           string        `yaml:"on_stop"`
	Containment      string        `yaml:"containment"`
	ContainmentGroup string        `yaml:"containment_group"`
	HookMemoryMax    string        `yaml:"hook_memory_max"`
	HookCPUQuota     string        `yaml:"hook_cpu_quota"`
	HookPidsMax      string        `yaml:"hook_pids_max"`
	DrainTimeout     time.Duration `yaml:"drain_timeout"`
	ResumeLimit      int           `yaml:"resume_limit"`
	CleanupTimeout   time.Duration `yaml:"cleanup_timeout"`
	RegisterInterval time.Duration `yaml:"register_interval"`
	SharedCommands   int           `yaml:"shared_commands"`
	BundleCache      int64         `yaml:"bundle_cache"`
	BundleMaxArchive int64         `yaml:"bundle_max_archive"`
	BundleMaxBytes   int64         `yaml:"bundle_max_bytes"`
	BundleMaxFiles   int64         `yaml:"bundle_max_files"`
	BundleMaxRatio   int64         `yaml:"bundle_max_ratio"`
	BundleMaxDepth   int64         `yaml:"bundle_max_depth"`
	KeepVersions     int           `yaml:"keep_versions"`
	DiskReserve      int64         `yaml:"disk_reserve"`
	ImageReserve     int64         `yaml:"image_reserve"`
	DockerGC         string        `yaml:"docker_gc"`
	BuildCache       int64         `yaml:"build_cache"`
	LogLevel         string        `yaml:"log_level"`
}

// New returns the defaults.
func New() Config {
	return Config{
		Platform: "docker", Proxy: "builtin", Listen: ":80", OnStop: StopDrain, DrainTimeout: 15 * time.Minute, ResumeLimit: 3, CleanupTimeout: time.Minute,
		Containment: proc.Auto, HookMemoryMax: "none", HookCPUQuota: "none", HookPidsMax: "1024",
		RegisterInterval: time.Minute, SharedCommands: 4, LogLevel: "info",
		KeepVersions: 2, DiskReserve: 16 << 20, ImageReserve: 1 << 30, DockerGC: "engine", BuildCache: 2 << 30,
		BundleCache:      bundle.DefaultCacheBytes,
		BundleMaxArchive: bundle.DefaultArchiveBytes, BundleMaxBytes: bundle.DefaultBytes, BundleMaxFiles: bundle.DefaultFiles,
		BundleMaxRatio: bundle.DefaultRatio, BundleMaxDepth: bundle.DefaultDepth,
	}
}

// Load returns the defaults, overlaid by the file, the environment and the flags that were set. A file that is missing is an error only when it
// was asked for. It does not Validate.
func Load(file string, asked bool, getenv func(string) (string, bool), flags map[string]string) (Config, error) {
	c := New()
	if err := c.readFile(file, asked); err != nil {
		return c, err
	}
	for _, o := range Options() {
		name := o.Variable()
		if v, ok := getenv(name); ok {
			if err := o.Set(&c, v); err != nil {
				return c, fmt.Errorf("%w: %s: %w", ErrInvalid, name, err)
			}
		}
		if v, ok := flags[o.Flag()]; ok {
			if err := o.Set(&c, v); err != nil {
				return c, fmt.Errorf("%w: --%s: %w", ErrInvalid, o.Flag(), err)
			}
		}
	}
	return c, nil
}

func (c *Config) readFile(file string, asked bool) error {
	data, err := atomicfile.ReadGivenLimit(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: read %s: %w", ErrInvalid, file, err)
	}
	d := yaml.NewDecoder(strings.NewReader(string(data)))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil && err.Error() != "EOF" { // an empty file
		return fmt.Errorf("%w: read %s: %w", ErrInvalid, file, err)
	}
	return nil
}

// HookLimits reads the limits of hooks.
func (c Config) HookLimits() (proc.Limits, error) {
	memory, err1 := proc.ParseMemory(c.HookMemoryMax)
	cpu, err2 := proc.ParseCPU(c.HookCPUQuota)
	pids, err3 := proc.ParsePIDs(c.HookPidsMax)
	return proc.Limits{Memory: memory, CPU: cpu, PIDs: pids}, errors.Join(err1, err2, err3)
}

// complaints gathers what is wrong with a configuration.
type complaints []error

func (l *complaints) add(key, format string, args ...any) {
	*l = append(*l, fmt.Errorf("%w: %s %s", ErrInvalid, key, fmt.Sprintf(format, args...)))
}

// oneOf complains of a value that is none of the choices.
func (l *complaints) oneOf(key, value string, choices ...string) {
	if !slices.Contains(choices, value) {
		l.add(key, "is %q, want one of %s", value, strings.Join(choices, ", "))
	}
}

// within complains of a number out of its bounds; why may be empty.
func (l *complaints) within(key string, value, low, high int64, why string) {
	if value < low || value > high {
		l.add(key, "is %d, want %d to %d%s", value, low, high, why)
	}
}

// Validate reports everything that is wrong at once.
func (c Config) Validate() error {
	var bad complaints
	c.checkNames(&bad)
	c.checkOrders(&bad)
	c.checkWork(&bad)
	c.checkBounds(&bad)
	return errors.Join(bad...)
}

// checkNames looks at what names things outside the agent.
func (c Config) checkNames(bad *complaints) {
	if !protocol.ValidID(c.EnvironmentID) {
		bad.add("environment_id", "is %q, want letters, digits, - and _", c.EnvironmentID)
	}
	if c.InstanceID != "" && !protocol.ValidID(c.InstanceID) {
		bad.add("instance_id", "is %q, want letters, digits, - and _", c.InstanceID)
	}
	if c.Bucket == "" {
		bad.add("bucket", "is missing: it names the S3 bucket of the environment's record")
	}
	if c.DockerNamespace != "" && !protocol.ValidID(c.DockerNamespace) {
		bad.add("docker_namespace", "is %q, want letters, digits, - and _", c.DockerNamespace)
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		bad.add("listen", "is %q, want host:port or :port", c.Listen)
	}
	bad.oneOf("platform", c.Platform, "docker")
	bad.oneOf("proxy", c.Proxy, "builtin")
}

// checkOrders looks at who may give orders, and where answers may go.
func (c Config) checkOrders(bad *complaints) {
	switch {
	case len(c.TrustedKeys) == 0 && !c.InsecureUnsigned:
		bad.add("trusted_keys", "is missing: make a key with `hmctl keygen`, and list its public half here; only orders signed with it are carried out. "+
			"To take orders from whoever can send to the command queue, say insecure_unsigned: true")
	case len(c.TrustedKeys) > 0 && c.InsecureUnsigned:
		bad.add("trusted_keys, insecure_unsigned", "contradict each other: remove insecure_unsigned, or the keys")
	}
	for _, p := range c.ResultQueues {
		if _, err := path.Match(p, ""); err != nil {
			bad.add("result_queues", "has the pattern %q, which is malformed", p)
		}
	}
}

// checkWork looks at how commands and their hooks are run.
func (c Config) checkWork(bad *complaints) {
	bad.oneOf("on_stop", c.OnStop, StopDrain, StopResume)
	bad.oneOf("log_level", c.LogLevel, "debug", "info", "warn", "error")
	bad.oneOf("containment", c.Containment, proc.Kinds()...)
	if _, err := c.HookLimits(); err != nil {
		bad.add("hook_memory_max, hook_cpu_quota, hook_pids_max", "cannot be read: %v", err)
	}
	if c.DrainTimeout < 0 || c.RegisterInterval <= 0 {
		bad.add("drain_timeout, register_interval", "are %v, %v, want durations such as 90s or 15m", c.DrainTimeout, c.RegisterInterval)
	}
	if c.CleanupTimeout <= 0 {
		bad.add("cleanup_timeout", "is %v, want a duration such as 60s", c.CleanupTimeout)
	}
	bad.within("resume_limit", int64(c.ResumeLimit), 0, 100, "")
	bad.within("shared_commands", int64(c.SharedCommands), 1, 64, "")
}

// checkBounds looks at what bundles, images and kept versions may take.
func (c Config) checkBounds(bad *complaints) {
	bad.oneOf("docker_gc", c.DockerGC, "engine", "own")
	bad.within("bundle_cache", c.BundleCache, 1, maxBundle, "")
	bad.within("bundle_max_archive", c.BundleMaxArchive, 1, maxBundle, "")
	bad.within("bundle_max_bytes", c.BundleMaxBytes, 1, maxBundle, "")
	bad.within("bundle_max_files", c.BundleMaxFiles, 1, maxBundle, "")
	bad.within("bundle_max_ratio", c.BundleMaxRatio, 1, maxBundle, "")
	bad.within("bundle_max_depth", c.BundleMaxDepth, 1, maxBundle, "")
	bad.within("build_cache", c.BuildCache, 1, maxBundle, "")
	bad.within("disk_reserve", c.DiskReserve, 0, maxBundle, "")
	bad.within("image_reserve", c.ImageReserve, 0, maxBundle, "")
	bad.within("keep_versions", int64(c.KeepVersions), 2, 50, ": the one that serves and the one to go back to always stay")
}
