package settings_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"hostmanager/internal/layout"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// FuzzParse holds for the option settings of any manifest: refused, or properties that a container can be given, byte for byte.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"aws:elasticbeanstalk:application:environment":{"A":"1","B":"x y"},"aws:elasticbeanstalk:command":{"Timeout":"60"}}`))
	f.Add([]byte(`{"aws:elasticbeanstalk:application":{"Application Healthcheck URL":"/health"},"aws:elasticbeanstalk:hostmanager":{"HealthGateTimeout":"3"}}`))
	f.Add([]byte(`{"aws:elasticbeanstalk:application:environment":{"A=B":"1","":"2","\u0000":"3"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var options protocol.OptionSettings
		if json.Unmarshal(data, &options) != nil {
			return
		}
		set, err := settings.Parse(options)
		if err != nil {
			return
		}
		for _, kv := range set.EnvironmentList() {
			name, value, ok := strings.Cut(kv, "=")
			if !ok || name == "" || strings.ContainsRune(kv, 0) || !utf8.ValidString(kv) {
				t.Fatalf("the container would be given %q", kv)
			}
			if want := options[settings.NSEnvironment][name]; want != value {
				t.Fatalf("%s: %q became %q", name, want, value)
			}
		}
	})
}

// FuzzContainerConfiguration reads the file that hooks may have written to.
func FuzzContainerConfiguration(f *testing.F) {
	f.Add([]byte(`{"raw":{},"optionsettings":{}}`))
	f.Add([]byte(`{}`))
	root := layout.Root(f.TempDir()) // one a process, and nothing is synced: waiting for the disk finds nothing
	if err := settings.WriteContainerConfiguration(root, protocol.Manifest{}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(root.ContainerConfiguration(), data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, set, err := settings.ReadContainerConfiguration(root)
		if err == nil && set.Check.Timeout < 0 {
			t.Fatalf("a gate of %v", set.Check.Timeout)
		}
	})
}
