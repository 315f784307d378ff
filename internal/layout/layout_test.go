package layout_test

import (
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hostmanager/internal/layout"
)

// paths calls every method of a root that takes nothing and gives a path.
func paths(r layout.Root) map[string]string {
	all := map[string]string{"HookDir": r.HookDir("appdeploy/pre"), "Release": r.Release("7", "abcdefghijk"), "Log": r.Log("x.log")}
	v := reflect.ValueOf(r)
	for i := range v.NumMethod() {
		if m := v.Type().Method(i); m.Type.NumIn() == 1 && m.Type.NumOut() == 1 {
			all[m.Name] = v.Method(i).Call(nil)[0].String()
		}
	}
	return all
}

func TestRoot_PathsOfARealInstance(t *testing.T) {
	got := paths("/")
	for name, want := range map[string]string{
		"HookDir":                "/opt/elasticbeanstalk/hooks/appdeploy/pre",
		"Release":                "/var/app/releases/7-abcdefgh",
		"Log":                    "/var/log/x.log",
		"Staging":                "/var/app/staging",
		"Current":                "/var/app/current",
		"Journal":                "/var/lib/hostmanager/agent/journal",
		"ConfigFile":             "/etc/hostmanager/hostmanager.yaml",
		"AgentSocket":            "/run/hostmanager/agent/control.sock",
		"DeployedManifest":       "/opt/elasticbeanstalk/deploy/manifest",
		"ContainerConfiguration": "/opt/elasticbeanstalk/deploy/configuration/containerconfiguration",
		"SourceBundle":           "/opt/elasticbeanstalk/deploy/appsource/source_bundle",
		"CurrentContainerID":     "/etc/elasticbeanstalk/.aws_beanstalk.current-container-id",
		"ContainerLogs":          "/var/log/eb-docker/containers/eb-current-app",
	} {
		if got[name] != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
}

func TestRoot_EverythingIsBelowAndDistinct(t *testing.T) {
	seen := map[string]string{}
	for name, path := range paths("/srv/instance-1") {
		if !strings.HasPrefix(path, "/srv/instance-1/") || path != filepath.Clean(path) {
			t.Errorf("%s is %s", name, path)
		}
		if other := seen[path]; other != "" {
			t.Errorf("%s and %s are both %s", name, other, path)
		}
		seen[path] = name
	}
	if len(seen) < 25 {
		t.Errorf("only %d paths were found", len(seen))
	}
}

func TestRelease_IsOneFolderWhateverTheWireSays(t *testing.T) {
	root := layout.Root("/r")
	for _, id := range []string{"../../..", "/etc", "..", ".", "", "a/b", "\x00\n", "é漢字", "a b"} {
		got := root.Release("7", id)
		if filepath.Dir(got) != root.Releases() || !strings.HasPrefix(filepath.Base(got), "7-") {
			t.Errorf("%q leads to %q", id, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		got := root.Release(rapid.String().Draw(t, "deployment"), rapid.String().Draw(t, "invocation"))
		if filepath.Dir(got) != root.Releases() {
			t.Fatalf("%q is outside", got)
		}
	})
}
