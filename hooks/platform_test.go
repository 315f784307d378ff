package hooks_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hostmanager/hooks"
)

// tree makes a bundle and the staging link to it, and returns the link.
func (b *bench) tree(files map[string]string) string {
	b.t.Helper()
	release := b.root.Release("7", "abc")
	for name, body := range files {
		path := filepath.Join(release, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.t.Fatal(err)
		}
		perm := os.FileMode(0o755)
		if strings.HasSuffix(name, ".lost") {
			perm = 0o644
		}
		if err := os.WriteFile(path, []byte(body), perm); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := os.Symlink(release, b.root.Staging()); err != nil {
		b.t.Fatal(err)
	}
	return b.root.Staging()
}

func TestRunPlatform_BundleHooks(t *testing.T) {
	b := newBench(t)
	staging := b.tree(map[string]string{
		".platform/hooks/prebuild/02_b.lost":   "#!/bin/sh\necho b; pwd -P\n",
		".platform/hooks/prebuild/01_a":        "#!/bin/sh\nenv | grep -v -e ^EB_EVENT_FILE -e ^_= | sort\n",
		".platform/hooks/prebuild/.gitkeep":    "",
		".platform/hooks/prebuild/lib/no_hook": "#!/bin/sh\nexit 1\n",
		".platform/hooks/predeploy/03_other":   "#!/bin/sh\nexit 1\n",
		"index.html":                           "x",
	})
	var log strings.Builder
	bundle := hooks.Bundle{Tree: staging, Dir: "hooks/prebuild", Properties: []string{"DB=postgres://a:b@c/d e", "PORT=3000"}, Log: &log}
	if err := hooks.RunPlatform(t.Context(), bundle, b.call("", "RESULT_QUEUE=not for them"), b, nil); err != nil {
		t.Fatal(err)
	}
	release := b.root.Release("7", "abc")
	step := hooks.StepMark(b.root, b.call("").Deployment, ".platform/hooks/prebuild/01_a")
	want := "DB=postgres://a:b@c/d e\nHOME=/root\n" + hooks.Mark(b.root, b.call("").Deployment) + "\n" + step + "\nPATH=" + hooks.DefaultPath + "\nPORT=3000\nPWD=" + release + "\nb\n" + release + "\n"
	if got := b.output.String(); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	for _, line := range []string{"[INFO] Executing platform hooks in .platform/hooks/prebuild/", "Running platform hook: .platform/hooks/prebuild/02_b.lost", "\nb\n", "Finished running"} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("eb-hooks.log lacks %q:\n%s", line, log.String())
		}
	}
	if len(b.events) != 1 || b.eventTexts() != "WARN The hook .platform/hooks/prebuild/02_b.lost was not executable and was made so. Set its exec bit before packing (chmod +x)." {
		t.Errorf("events: %s", b.eventTexts())
	}
	steps := []string{
		"started .platform/hooks/prebuild/01_a once ", "done .platform/hooks/prebuild/01_a",
		"started .platform/hooks/prebuild/02_b.lost once ", "done .platform/hooks/prebuild/02_b.lost",
	}
	if !slices.Equal(b.steps, steps) {
		t.Errorf("steps %q", b.steps)
	}
	bundle.Dir = "confighooks/prebuild"
	if err := hooks.RunPlatform(t.Context(), bundle, b.call(""), b, nil); err != nil {
		t.Errorf("without such hooks: %v", err)
	}
	bundle.Dir = "hooks/predeploy"
	var e *hooks.Error
	if err := hooks.RunPlatform(t.Context(), bundle, b.call(""), b, nil); !errors.As(err, &e) || e.Path != filepath.Join(release, ".platform/hooks/predeploy/03_other") {
		t.Errorf("failing hook: %v", err)
	}
}

func TestRunPlatform_LinksOutOfTheTreeRunNothing(t *testing.T) {
	for name, link := range map[string][2]string{
		"file":             {"/bin/true", ".platform/hooks/prebuild/02_link"},
		"relative file":    {"../../../../outside", ".platform/hooks/prebuild/02_link"},
		"folder":           {"/etc/init.d", ".platform/hooks/postdeploy"},
		"whole .platform":  {"/usr", ".platform-link"},
		"dangling":         {"nowhere", ".platform/hooks/prebuild/02_link"},
		"chain of two":     {"02_second", ".platform/hooks/prebuild/02_link"},
		"absolute in tree": {"{tree}/index", ".platform/hooks/prebuild/02_link"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			staging := b.tree(map[string]string{".platform/hooks/prebuild/01_a": "#!/bin/sh\necho ran\n", "index": "#!/bin/sh\n"})
			release := b.root.Release("7", "abc")
			dir := "hooks/prebuild"
			target, path := strings.ReplaceAll(link[0], "{tree}", release), link[1]
			switch {
			case path == ".platform-link":
				if err := os.RemoveAll(filepath.Join(release, ".platform")); err != nil {
					t.Fatal(err)
				}
				path = ".platform"
			case strings.HasSuffix(path, "postdeploy"):
				dir = "hooks/postdeploy"
			case target == "02_second":
				if err := os.Symlink("/bin/true", filepath.Join(release, ".platform/hooks/prebuild/02_second")); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Symlink(target, filepath.Join(release, path)); err != nil {
				t.Fatal(err)
			}
			err := hooks.RunPlatform(t.Context(), hooks.Bundle{Tree: staging, Dir: dir}, b.call(""), b, nil)
			if name == "whole .platform" && err == nil {
				t.Error("the link was followed")
			}
			if err == nil || b.output.Len() > 0 || len(b.steps) > 0 {
				t.Errorf("%v, output %q, steps %v", err, b.output.String(), b.steps)
			}
		})
	}
}

func TestRunPlatform_LinkInsideTheTreeIsFollowed(t *testing.T) {
	b := newBench(t)
	staging := b.tree(map[string]string{".platform/hooks/prebuild/01_a": "#!/bin/sh\necho shared\n"})
	if err := os.MkdirAll(filepath.Join(staging, ".platform/confighooks"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../hooks/prebuild", filepath.Join(staging, ".platform/confighooks/prebuild")); err != nil {
		t.Fatal(err)
	}
	if err := hooks.RunPlatform(t.Context(), hooks.Bundle{Tree: staging, Dir: "confighooks/prebuild"}, b.call(""), b, nil); err != nil || b.output.String() != "shared\n" {
		t.Errorf("%v, %q", err, b.output.String())
	}
}

func TestPlatformHook_RunsAsABuiltin(t *testing.T) {
	b := newBench(t)
	staging := b.tree(map[string]string{".platform/hooks/postdeploy/01_a": "#!/bin/sh\necho ran; exit 9\n"})
	hook := hooks.PlatformHook("99platform-postdeploy", func(c *hooks.Call) (hooks.Bundle, error) {
		return hooks.Bundle{Tree: c.Root.Staging(), Dir: "hooks/postdeploy"}, nil
	})
	r := b.runner(hooks.Options{Builtins: map[string][]hooks.Builtin{"appdeploy/post": {hook}}})
	err := r.Run(t.Context(), b.call("appdeploy/post"), b, nil)
	var e *hooks.Error
	if !errors.As(err, &e) || e.ExitCode() != 9 || e.Output() != "ran" || !strings.HasPrefix(e.Error(), "Hook ") {
		t.Errorf("%v of %s: %#v", err, staging, e)
	}
	bad := hooks.PlatformHook("x", func(*hooks.Call) (hooks.Bundle, error) { return hooks.Bundle{}, context.Canceled })
	call := b.call("")
	if err := bad.Run(t.Context(), &call); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
