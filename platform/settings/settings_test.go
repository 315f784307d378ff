package settings_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hostmanager/internal/layout"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

func TestParse_Defaults(t *testing.T) {
	got, err := settings.Parse(nil)
	want := settings.Settings{
		Environment: map[string]string{},
		Check:       settings.Check{Codes: settings.Codes{{200, 200}}, Interval: 15 * time.Second, Timeout: 5 * time.Second, Healthy: 3, Unhealthy: 5},

		HealthGateTimeout: time.Minute, DrainTimeout: 20 * time.Second, CommandTimeout: 10 * time.Minute, ReplaceableHooks: []string{},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestParse_Values(t *testing.T) {
	got, err := settings.Parse(protocol.OptionSettings{
		settings.NSEnvironment: {"DB": "postgres://a=b c\n", "EMPTY": "", "é.x-y": "<&>"},
		settings.NSCommand:     {"Timeout": " 30 ", "IgnoreHealthCheck": "TRUE", "DeploymentPolicy": "Rolling"},
		settings.NSProcess: {
			"HealthCheckPath": "/h?a=b", "MatcherHTTPCode": "200, 300-399", "HealthCheckInterval": "1", "HealthCheckTimeout": "60",
			"HealthyThresholdCount": "10", "UnhealthyThresholdCount": "1", "DeregistrationDelay": "0",
		},
		settings.NSHostmanager: {"HealthGateTimeout": "3600", "ReplaceableHooks": "appdeploy/enact/01flip, appdeploy/pre/03build"},
		"aws:autoscaling:asg":  {"MinSize": "not ours to judge"},
	})
	want := settings.Settings{
		Environment: map[string]string{"DB": "postgres://a=b c\n", "EMPTY": "", "é.x-y": "<&>"},
		Check: settings.Check{
			Path: "/h?a=b", Codes: settings.Codes{{200, 200}, {300, 399}}, Interval: time.Second, Timeout: time.Minute, Healthy: 10, Unhealthy: 1,
		},
		HealthGateTimeout: time.Hour, IgnoreHealthCheck: true, CommandTimeout: 30 * time.Second,
		ReplaceableHooks: []string{"appdeploy/enact/01flip", "appdeploy/pre/03build"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if got := got.EnvironmentList(); !cmp.Equal(got, []string{"DB=postgres://a=b c\n", "EMPTY=", "é.x-y=<&>"}) {
		t.Errorf("list %q", got)
	}
}

func TestParse_HealthCheckPath(t *testing.T) {
	tests := []struct {
		process, url string
		want         string
		bad          bool
	}{
		{"", "", "", false},
		{"/health", "/other", "/health", false},
		{"health", "", "", true},
		{"/a b", "", "", true},
		{"/a\r\nX: y", "", "", true},
		{"//host/x", "", "", true},
		{"/a#b", "", "", true},
		{"/caf\u00e9", "", "/caf\u00e9", false},
		{"", "/", "/", false},
		{"", "/health", "/health", false},
		{"", "HTTP:80/health", "/health", false},
		{"", "https:443/h?x=1", "/h?x=1", false},
		{"", "TCP:80", "", false},
		{"", "tcp:80/ignored", "", false},
		{"", "http://host/health", "", true},
		{"", "HTTP:80", "", true},
		{"", "health", "", true},
		{"", "FTP:21/x", "", true},
	}
	for _, tt := range tests {
		s, err := settings.Parse(protocol.OptionSettings{
			settings.NSProcess: {"HealthCheckPath": tt.process}, settings.NSApplication: {"Application Healthcheck URL": tt.url},
		})
		if s.Check.Path != tt.want || (err != nil) != tt.bad || err != nil && !errors.Is(err, settings.ErrInvalid) {
			t.Errorf("%q, %q: path %q, %v", tt.process, tt.url, s.Check.Path, err)
		}
	}
}

func TestParse_InvalidTellsAllAtOnceAndNoProperty(t *testing.T) {
	const secret = "a-secret\x00value"
	_, err := settings.Parse(protocol.OptionSettings{
		settings.NSEnvironment: {"A=B": "x", "": "y", "N\x00": "z", "NUL": secret, "UTF": "a-secret\xff"},
		settings.NSCommand:     {"Timeout": "0", "IgnoreHealthCheck": "yes"},
		settings.NSProcess:     {"HealthCheckInterval": "5s", "HealthCheckTimeout": "61", "HealthyThresholdCount": "1.5", "MatcherHTTPCode": "2xx"},
		settings.NSHostmanager: {"HealthGateTimeout": "99999999999999999999"},
	})
	if !errors.Is(err, settings.ErrInvalid) {
		t.Fatal(err)
	}
	text := err.Error()
	for _, want := range []string{
		`property name "A=B"`, `property name ""`, `property name "N\x00"`, "property NUL holds a NUL byte", `property "UTF" is not valid UTF-8`,
		`aws:elasticbeanstalk:command Timeout is "0", want a whole number from 1 to 3600`, `IgnoreHealthCheck is "yes", want true or false`,
		"HealthCheckInterval", "HealthCheckTimeout", "HealthyThresholdCount", "MatcherHTTPCode", "HealthGateTimeout",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not told in\n%s", want, text)
		}
	}
	if strings.Contains(text, "a-secret") {
		t.Error("a property's value stands in the error")
	}
}

func TestCodes_MatchAndText(t *testing.T) {
	for text, want := range map[string]string{"200": "200", "200,301": "200,301", " 200 - 299 , 404": "200-299,404", "100-599": "100-599"} {
		c, err := settings.ParseCodes(text)
		if err != nil || c.String() != want {
			t.Errorf("%q: %s, %v", text, c, err)
		}
	}
	for _, text := range []string{"", ",", "200,", "2xx", "299-200", "99", "600", "200-", "-200", "200-300-400", "200;201"} {
		if c, err := settings.ParseCodes(text); !errors.Is(err, settings.ErrInvalid) {
			t.Errorf("%q: %v, %v", text, c, err)
		}
	}
	c := settings.Codes{{200, 299}, {404, 404}}
	for code, want := range map[int]bool{199: false, 200: true, 299: true, 300: false, 404: true, 405: false, 0: false} {
		if c.Match(code) != want {
			t.Errorf("%d: %v", code, !want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var c settings.Codes
		for range rapid.IntRange(1, 4).Draw(t, "ranges") {
			from := rapid.IntRange(100, 599).Draw(t, "from")
			c = append(c, [2]int{from, rapid.IntRange(from, 599).Draw(t, "to")})
		}
		if got, err := settings.ParseCodes(c.String()); err != nil || !cmp.Equal(c, got) {
			t.Fatalf("%s became %v, %v", c, got, err)
		}
	})
}

func FuzzParseCodes(f *testing.F) {
	f.Add("200-299,404")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := settings.ParseCodes(text)
		if err != nil {
			return
		}
		again, err := settings.ParseCodes(c.String())
		if err != nil || !cmp.Equal(c, again) {
			t.Fatalf("%q: %v, %v, %v", text, c, again, err)
		}
	})
}

func TestContainerConfiguration_IsReadAsWritten(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		root := layout.Root(dir)
		word := rapid.StringMatching(`[A-Za-z_é.-][A-Za-z0-9_ ]{0,8}`)
		m := protocol.Manifest{
			VersionLabel: rapid.String().Draw(t, "label"), DeploymentID: 7, Serial: 9, Images: map[string]string{"a:b": "sha256:c"},
			OptionSettings: protocol.OptionSettings{
				settings.NSEnvironment: rapid.MapOf(word, rapid.StringMatching(`[ -~é\n\t<>=&"\\]{0,20}`)).Draw(t, "properties"),
				settings.NSCommand:     {"Timeout": "60"},
				"other":                rapid.MapOf(word, word).Draw(t, "others"),
			},
		}
		if err := settings.WriteContainerConfiguration(root, m); err != nil {
			t.Fatal(err)
		}
		want, err := settings.Parse(m.OptionSettings)
		if err != nil {
			t.Fatal(err)
		}
		c, got, err := settings.ReadContainerConfiguration(root)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Fatalf("%v\n%s", err, diff)
		}
		if c.Deployment.VersionLabel != m.VersionLabel || c.Deployment.Serial != 9 || c.Container["app_deploy_dir"] != root.Current() {
			t.Fatalf("%+v", c)
		}
	})
	st, err := os.Stat(layout.Root(dir).ContainerConfiguration())
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; it holds secrets", st.Mode(), err)
	}
}

func TestReadContainerConfiguration_Damaged(t *testing.T) {
	root := layout.Root(t.TempDir())
	if _, _, err := settings.ReadContainerConfiguration(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if err := settings.WriteContainerConfiguration(root, protocol.Manifest{}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"cut": `{"optionsettings":{`, "other types": `{"optionsettings":{"ns":"x"}}`, "huge": strings.Repeat(" ", 5<<20)} {
		if err := os.WriteFile(root.ContainerConfiguration(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := settings.ReadContainerConfiguration(root); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
