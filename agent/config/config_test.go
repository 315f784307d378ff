package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"hostmanager/agent/config"
)

func sample(o config.Option) string {
	switch o.Key {
	case "drain_timeout", "register_interval":
		return "7s"
	case "shared_commands", "bundle_cache", "bundle_max_archive", "bundle_max_bytes", "bundle_max_files", "bundle_max_ratio", "bundle_max_depth",
		"keep_versions", "disk_reserve", "image_reserve", "build_cache":
		return "7"
	case "resume_limit":
		return "5"
	case "cleanup_timeout":
		return "17s"
	case "insecure_unsigned":
		return "true"
	}
	return "v-" + o.Key
}

func none(string) (string, bool) { return "", false }

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hostmanager.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func fileLine(o config.Option, value string) string {
	if o.Key == "result_queues" || o.Key == "trusted_keys" {
		return fmt.Sprintf("%s: [%q]\n", o.Key, value)
	}
	return o.Key + ": " + value + "\n"
}

func TestOptions_EachHasFileKeyVariableAndFlag(t *testing.T) {
	for _, o := range config.Options() {
		want := sample(o)
		fromFile, err := config.Load(writeFile(t, fileLine(o, want)), true, none, nil)
		if err != nil || o.Get(fromFile) != want {
			t.Errorf("%s from the file: %q, %v", o.Key, o.Get(fromFile), err)
		}
		env := func(name string) (string, bool) { return want, name == "HOSTMANAGER_"+strings.ToUpper(o.Key) }
		fromEnv, err := config.Load("/nonexistent", false, env, nil)
		if err != nil || o.Get(fromEnv) != want {
			t.Errorf("%s from the environment: %q, %v", o.Key, o.Get(fromEnv), err)
		}
		fromFlag, err := config.Load("/nonexistent", false, none, map[string]string{o.Flag(): want})
		if err != nil || o.Get(fromFlag) != want {
			t.Errorf("%s from the flag: %q, %v", o.Key, o.Get(fromFlag), err)
		}
	}
}

func TestOptions_CoverEveryField(t *testing.T) {
	typ := reflect.TypeFor[config.Config]()
	keys := map[string]bool{}
	for _, o := range config.Options() {
		keys[o.Key] = true
	}
	for i := range typ.NumField() {
		if key := typ.Field(i).Tag.Get("yaml"); !keys[key] {
			t.Errorf("field %s (%s) is in no row of the table", typ.Field(i).Name, key)
		}
	}
	if typ.NumField() != len(keys) {
		t.Errorf("%d fields, %d options", typ.NumField(), len(keys))
	}
}

func TestOptions_StandInTheManual(t *testing.T) {
	manual, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range config.Options() {
		row := fmt.Sprintf("| `%s` | `%s` | `--%s` | %s | %s |", o.Key, o.Variable(), o.Flag(), quoted(o.Get(config.New())), o.Doc)
		if !strings.Contains(string(manual), row+"\n") {
			t.Errorf("docs/configuration.md lacks the row\n%s", row)
		}
	}
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return "`" + s + "`"
}

func TestLoad_FlagBeatsVariableBeatsFile(t *testing.T) {
	path := writeFile(t, "bucket: file\nregion: file\nenvironment_id: file\n")
	env := func(name string) (string, bool) {
		v, ok := map[string]string{"HOSTMANAGER_BUCKET": "env", "HOSTMANAGER_REGION": "env"}[name]
		return v, ok
	}
	c, err := config.Load(path, true, env, map[string]string{"bucket": "flag"})
	if err != nil || c.Bucket != "flag" || c.Region != "env" || c.EnvironmentID != "file" || c.Platform != "docker" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestLoad_RefusesWhatItDoesNotKnow(t *testing.T) {
	for name, path := range map[string]string{
		"unknown key":  writeFile(t, "buckets: x\n"),
		"no YAML":      writeFile(t, "\t:"),
		"missing file": filepath.Join(t.TempDir(), "none"),
		"bad duration": writeFile(t, "drain_timeout: soon\n"),
	} {
		if _, err := config.Load(path, true, none, nil); !errors.Is(err, config.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := config.Load("/nonexistent", false, none, map[string]string{"drain-timeout": "x"}); !errors.Is(err, config.ErrInvalid) {
		t.Errorf("bad flag: %v", err)
	}
	if c, err := config.Load(writeFile(t, ""), true, none, nil); err != nil || c.Listen != ":80" {
		t.Errorf("empty file: %+v, %v", c, err)
	}
}

func TestValidate_NamesTheOption(t *testing.T) {
	good := config.New()
	good.EnvironmentID, good.Bucket, good.TrustedKeys = "e-1", "b", []string{"k"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for key, breakIt := range map[string]func(*config.Config){
		"environment_id":     func(c *config.Config) { c.EnvironmentID = "../x" },
		"instance_id":        func(c *config.Config) { c.InstanceID = "a/b" },
		"bucket":             func(c *config.Config) { c.Bucket = "" },
		"platform":           func(c *config.Config) { c.Platform = "tomcat" },
		"proxy":              func(c *config.Config) { c.Proxy = "x" },
		"listen":             func(c *config.Config) { c.Listen = "80" },
		"docker_namespace":   func(c *config.Config) { c.DockerNamespace = "a b" },
		"register_interval":  func(c *config.Config) { c.RegisterInterval = -time.Second },
		"shared_commands":    func(c *config.Config) { c.SharedCommands = 0 },
		"bundle_max_archive": func(c *config.Config) { c.BundleMaxArchive = 0 },
		"bundle_max_bytes":   func(c *config.Config) { c.BundleMaxBytes = -1 },
		"bundle_max_files":   func(c *config.Config) { c.BundleMaxFiles = 0 },
		"bundle_max_ratio":   func(c *config.Config) { c.BundleMaxRatio = 0 },
		"bundle_max_depth":   func(c *config.Config) { c.BundleMaxDepth = 1 << 62 },
		"log_level":          func(c *config.Config) { c.LogLevel = "loud" },
		"on_stop":            func(c *config.Config) { c.OnStop = "drain|resume" }, // two that are right make no right one
		"keep_versions":      func(c *config.Config) { c.KeepVersions = 1 },
		"disk_reserve":       func(c *config.Config) { c.DiskReserve = -1 },
		"containment":        func(c *config.Config) { c.Containment = "jail" },
		"result_queues":      func(c *config.Config) { c.ResultQueues = []string{"["} },
		"hmctl keygen":       func(c *config.Config) { c.TrustedKeys = nil },
		"insecure_unsigned":  func(c *config.Config) { c.InsecureUnsigned = true },
	} {
		c := good
		breakIt(&c)
		if err := c.Validate(); !errors.Is(err, config.ErrInvalid) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add("bucket: b\nresult_queues: [a, b]\ndrain_timeout: 5s\n")
	f.Add("&a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := config.Load(writeFile(t, text), true, none, nil)
		if err != nil && !errors.Is(err, config.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
		if err := c.Validate(); err != nil && !errors.Is(err, config.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
