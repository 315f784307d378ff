package config

import (
	"strconv"
	"strings"
	"time"
)

// Option is one row of the table: a key of the file, a variable HOSTMANAGER_<KEY>, a flag, and what it is for.
type Option struct {
	Key string
	Doc string // one line, as --help and the manual show it
	Set func(c *Config, value string) error
	Get func(c Config) string
}

// Variable is the environment variable of the option.
func (o Option) Variable() string { return "HOSTMANAGER_" + strings.ToUpper(o.Key) }

// Flag is the option's flag without the dashes.
func (o Option) Flag() string { return strings.ReplaceAll(o.Key, "_", "-") }

// Options returns the table of options, in the order of the manual.
func Options() []Option {
	return []Option{
		text("environment_id", "id of the environment this instance belongs to (required)", func(c *Config) *string { return &c.EnvironmentID }),
		text("environment_name", "name of the environment, for people", func(c *Config) *string { return &c.EnvironmentName }),
		text("instance_id", "id of this instance; asked of the instance metadata service when not given", func(c *Config) *string { return &c.InstanceID }),
		text("region", "AWS region; asked of the AWS configuration, then of the instance metadata service, when not given", func(c *Config) *string { return &c.Region }),
		text("bucket", "S3 bucket of the environment's record (required)", func(c *Config) *string { return &c.Bucket }),
		text("command_queue_url", "URL of this instance's command queue; hostmanager-<environment_id>-cmd-<instance_id>, made when missing, when not given", func(c *Config) *string { return &c.CommandQueueURL }),
		list("result_queues", "URL patterns results may be sent to; queues named hostmanager-* beside the command queue when not given", func(c *Config) *[]string { return &c.ResultQueues }),
		list("trusted_keys", "public keys that orders must be signed with: name:base64 as hmctl keygen prints it, files of keys, or folders of *.pub; required unless insecure_unsigned", func(c *Config) *[]string { return &c.TrustedKeys }),
		flag("insecure_unsigned", "true: carry out unsigned orders, from anyone who can send to the command queue", func(c *Config) *bool { return &c.InsecureUnsigned }),
		text("platform", "what commands act upon: docker", func(c *Config) *string { return &c.Platform }),
		text("proxy", "what stands before the application: builtin (nginx and none are not built yet)", func(c *Config) *string { return &c.Proxy }),
		text("listen", "address the proxy serves clients on", func(c *Config) *string { return &c.Listen }),
		text("docker_namespace", "keeps the containers and images of several agents on one Docker Engine apart", func(c *Config) *string { return &c.DockerNamespace }),
		text("containment", "what holds hooks and all they start: auto (the best that works), cgroup2, cgroup1 or subreaper", func(c *Config) *string { return &c.Containment }),
		text("containment_group", "control group to make hooks' groups in, as a path below the hierarchy's root; the agent's own when not given", func(c *Config) *string { return &c.ContainmentGroup }),
		text("hook_memory_max", "memory of a hook and all it starts: bytes such as 512M or 2G, a share of the machine's such as 50%, or none", func(c *Config) *string { return &c.HookMemoryMax }),
		text("hook_cpu_quota", "processor time of a hook and all it starts: processors such as 1.5, percent of one such as 150%, or none", func(c *Config) *string { return &c.HookCPUQuota }),
		text("hook_pids_max", "processes and threads of a hook and all it starts, or none", func(c *Config) *string { return &c.HookPidsMax }),
		text("on_stop", "what becomes of the running command when the agent is asked to stop: drain (it is run to its end) or resume (it stops where the next start can take it up)", func(c *Config) *string { return &c.OnStop }),
		duration("drain_timeout", "how long a stopping agent waits for the running command to end, or to come to a place where it can be left, before it aborts it", func(c *Config) *time.Duration { return &c.DrainTimeout }),
		number("resume_limit", "how often a command is taken up after crashes of the agent without getting further, before it fails; 0: it is never taken up, only undone", func(c *Config) *int { return &c.ResumeLimit }),
		duration("cleanup_timeout", "how long the cleanup hooks of one command may take in all", func(c *Config) *time.Duration { return &c.CleanupTimeout }),
		duration("register_interval", "how often the instance's registration in the record is renewed", func(c *Config) *time.Duration { return &c.RegisterInterval }),
		number("shared_commands", "how many commands that change nothing may run at once", func(c *Config) *int { return &c.SharedCommands }),
		size("bundle_cache", "how many bytes of source bundles are kept for the next time; the oldest go first, and all but those of kept versions when the disk is short", func(c *Config) *int64 { return &c.BundleCache }),
		size("bundle_max_archive", "how large the archive of a source bundle may be, bytes", func(c *Config) *int64 { return &c.BundleMaxArchive }),
		size("bundle_max_bytes", "how much a source bundle may unpack to, bytes", func(c *Config) *int64 { return &c.BundleMaxBytes }),
		size("bundle_max_files", "how many files, folders and links a source bundle may hold", func(c *Config) *int64 { return &c.BundleMaxFiles }),
		size("bundle_max_ratio", "how many bytes one byte of the archive may unpack to; looked at above 32 MiB", func(c *Config) *int64 { return &c.BundleMaxRatio }),
		size("bundle_max_depth", "how many components a path in a source bundle may have", func(c *Config) *int64 { return &c.BundleMaxDepth }),
		number("keep_versions", "how many versions that ran well stay on the instance (tree, image, bundle), the one that serves among them, whatever the pressure; at least 2", func(c *Config) *int { return &c.KeepVersions }),
		size("disk_reserve", "how many bytes are kept back for the moment the disk is full; 0 keeps none", func(c *Config) *int64 { return &c.DiskReserve }),
		size("image_reserve", "how many bytes a first image is taken to need, beside its tree; later ones are taken to be like the one that serves", func(c *Config) *int64 { return &c.ImageReserve }),
		text("docker_gc", "what is cleaned on the Docker Engine: engine (where docker_namespace is not given, also the build cache) or own (only what carries our label)", func(c *Config) *string { return &c.DockerGC }),
		size("build_cache", "how many bytes of BuildKit's cache stay, where docker_gc looks after it; none when the disk is short", func(c *Config) *int64 { return &c.BuildCache }),
		text("log_level", "of hostmanager.log: debug, info, warn or error", func(c *Config) *string { return &c.LogLevel }),
	}
}

func text(key, doc string, field func(*Config) *string) Option {
	return Option{
		Key: key, Doc: doc,
		Set: func(c *Config, v string) error { *field(c) = v; return nil },
		Get: func(c Config) string { return *field(&c) },
	}
}

func list(key, doc string, field func(*Config) *[]string) Option {
	return Option{
		Key: key, Doc: doc + " (separated by commas)",
		Set: func(c *Config, v string) error {
			*field(c) = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
			return nil
		},
		Get: func(c Config) string { return strings.Join(*field(&c), ",") },
	}
}

func flag(key, doc string, field func(*Config) *bool) Option {
	return Option{
		Key: key, Doc: doc,
		Set: func(c *Config, v string) (err error) { *field(c), err = strconv.ParseBool(v); return err },
		Get: func(c Config) string { return strconv.FormatBool(*field(&c)) },
	}
}

func duration(key, doc string, field func(*Config) *time.Duration) Option {
	return Option{
		Key: key, Doc: doc,
		Set: func(c *Config, v string) (err error) { *field(c), err = time.ParseDuration(v); return err },
		Get: func(c Config) string { return field(&c).String() },
	}
}

func number(key, doc string, field func(*Config) *int) Option {
	return Option{
		Key: key, Doc: doc,
		Set: func(c *Config, v string) (err error) { *field(c), err = strconv.Atoi(v); return err },
		Get: func(c Config) string { return strconv.Itoa(*field(&c)) },
	}
}

func size(key, doc string, field func(*Config) *int64) Option {
	return Option{
		Key: key, Doc: doc,
		Set: func(c *Config, v string) (err error) { *field(c), err = strconv.ParseInt(v, 10, 64); return err },
		Get: func(c Config) string { return strconv.FormatInt(*field(&c), 10) },
	}
}
