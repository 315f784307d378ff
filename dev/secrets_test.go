package dev_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/client"

	"hostmanager/aws/objects"
	"hostmanager/dev"
	"hostmanager/fleet"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/layout"
	"hostmanager/platform/settings"
)

// sentinel needs quoting in every way there is. Its middle is in no other text of this test.
const sentinel = `pa"ss'w0rd/+ é$x\y zQ7kPm3vR8tLw2 =&%~`

// shown are the ways in which the sentinel must be seen nowhere. marker alone would tell of a part of it too.
const marker = "zQ7kPm3vR8tLw2"

// printed is what the careless programs print.
func printed() []string {
	quoted, _ := json.Marshal(sentinel)
	shell := "'" + strings.ReplaceAll(sentinel, "'", `'\''`) + "'"
	texts := []string{
		sentinel, string(quoted), shell, "export SECRET=" + shell, url.QueryEscape(sentinel), "/a/" + url.PathEscape(sentinel),
		strings.Repeat("y", 4000) + "{" + sentinel + "}", // across the bound of an event's message
		strings.Repeat("x", 64<<10-20) + sentinel + "x",  // across that of a line
	}
	for skip := range 3 {
		whole := []byte(strings.Repeat("k", skip) + sentinel + "\n")
		texts = append(texts, base64.StdEncoding.EncodeToString(whole), base64.RawURLEncoding.EncodeToString(whole))
	}
	long := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("before ", 9) + sentinel + strings.Repeat(" after", 9)))
	return append(texts, long[:76]+"\n"+long[76:152]+"\n"+long[152:])
}

// leak returns what of the sentinel is seen in data, "" where nothing is.
func leak(data []byte) string {
	forms := []string{marker}
	for skip := range 3 {
		whole := base64.StdEncoding.EncodeToString(append(make([]byte, skip), marker...))
		core := whole[(skip*8+5)/6 : (skip+len(marker))*8/6]
		forms = append(forms, core)
	}
	for _, form := range forms {
		if i := bytes.Index(data, []byte(form)); i >= 0 {
			return fmt.Sprintf("%q", data[max(0, i-60):min(len(data), i+60)])
		}
	}
	return ""
}

// printer builds the careless program.
func printer(t *testing.T, status int) string {
	t.Helper()
	var masked []byte
	for _, b := range []byte(strings.Join(printed(), "\x00") + "\x00") {
		masked = append(masked, b^0x5a)
	}
	path := filepath.Join(t.TempDir(), "printer")
	flags := fmt.Sprintf("-s -w -X main.masked=%s -X main.code=%d", base64.StdEncoding.EncodeToString(masked), status)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags", flags, "-o", path, "./testdata/printer")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build printer: %v\n%s", err, text)
	}
	return path
}

// withFile returns the application with one more file.
func withFile(t *testing.T, version, from, name string) string {
	t.Helper()
	dir := dockertest.BuildHello(t, version)
	data, err := os.ReadFile(from)
	if err == nil {
		err = errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), data, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestSecrets_AreSeenNowhere prints a secret in all ways from a hook, a failing hook, a failing build and an application that ends, and then looks
// for it wherever the agent writes, and at what it starts.
func TestSecrets_AreSeenNowhere(t *testing.T) {
	engine := dockertest.Require(t)
	o, out := options(t, "")
	o.Hostmanager, o.Instances = buildHostmanager(t), 1
	o.Dir = withFile(t, "v1", printer(t, 0), ".platform/hooks/prebuild/01print")
	o.Changes = []fleet.Change{{Namespace: settings.NSEnvironment, Option: "SECRET", Value: sentinel}}
	stop := watchArguments(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Ready = func(r dev.Room) error {
		defer cancel()
		if !r.Deployed {
			return errors.New("the first version was not deployed")
		}
		s := secretive{t: t, room: r, engine: engine, out: out}
		return errors.Join(s.fail(), s.look())
	}
	if err := dev.Run(ctx, o); err != nil {
		t.Fatalf("%v\n%.4000s", err, out.text.String())
	}
	if seen := stop(); seen != "" {
		t.Errorf("among the arguments of a process: %s", seen)
	}
}

// watchArguments looks at the arguments of every process until it is told to stop, and returns the first in which the sentinel was.
func watchArguments(t *testing.T) (stop func() string) {
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan string, 1)
	go func() {
		found := ""
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				tick.Stop()
				seen <- found
				return
			}
			paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, path := range paths {
				if line, err := os.ReadFile(path); err == nil && found == "" {
					found = leak(line)
				}
			}
		}
	}()
	return func() string {
		cancel()
		return <-seen
	}
}

type secretive struct {
	t      *testing.T
	room   dev.Room
	engine *client.Client
	out    *lines
}

// fail deploys what fails in every way in which output comes into a result.
func (s *secretive) fail() error {
	prints := printer(s.t, 7)
	hook := withFile(s.t, "v2", prints, ".platform/hooks/predeploy/01fail")
	built := withFile(s.t, "v3", prints, "printer")
	ends := withFile(s.t, "v4", prints, "printer")
	for dir, text := range map[string]string{
		built: "FROM scratch\nCOPY printer /printer\nRUN [\"/printer\"]\nEXPOSE 8080\n",
		ends:  "FROM scratch\nCOPY printer /printer\nCMD [\"/printer\"]\nEXPOSE 8080\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for n, dir := range []string{hook, built, ends} {
		bundle, err := fleet.OpenBundle(s.t.Context(), dir)
		if err != nil {
			return err
		}
		f, err := operator(s.t.Context(), s.room, s.out)
		if err != nil {
			return errors.Join(err, bundle.Close())
		}
		_, err = f.Deploy(s.t.Context(), fleet.DeployRequest{Bundle: bundle, Label: fmt.Sprintf("bad%d", n)})
		if err := errors.Join(bundle.Close()); err != nil {
			return err
		}
		if !errors.Is(err, fleet.ErrFailed) {
			return fmt.Errorf("deployment %d was to fail: %w", n, err)
		}
		if text := err.Error(); leak([]byte(text)) != "" {
			s.t.Errorf("the operator's error: %s", leak([]byte(text)))
		}
	}
	return nil
}

// look looks at every file of the room, every object, and all that the operator was told.
func (s *secretive) look() error {
	told := s.out.text.String()
	if seen := leak([]byte(told)); seen != "" {
		s.t.Errorf("the operator was told %s", seen)
	}
	if n := strings.Count(told, "[redacted]"); n < 20 {
		s.t.Errorf("the operator was told %d redacted things; the programs did not say what they were to say:\n%.3000s", n, told)
	}
	return errors.Join(s.files(), s.objects())
}

func (s *secretive) files() error {
	root := layout.Root(s.room.Instances[0].Root)
	may := map[string]bool{root.ContainerConfiguration(): true, root.DeployedManifest(): true}
	masked := 0
	err := filepath.WalkDir(s.room.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			if d != nil && d.IsDir() && path == root.ContainerLogs() {
				return fs.SkipDir // the application's own output
			}
			return err
		}
		info, err := d.Info()
		if err != nil || !info.Mode().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		masked += bytes.Count(data, []byte("[redacted]"))
		seen := leak(data)
		switch {
		case seen != "" && !may[path]:
			s.t.Errorf("%s holds %s", path, seen)
		case seen != "" && info.Mode().Perm() != 0o600:
			s.t.Errorf("%s has mode %v", path, info.Mode())
		case seen == "" && may[path]:
			s.t.Errorf("%s does not hold the property", path)
		}
		return err
	})
	if masked < 100 {
		s.t.Errorf("only %d places were masked in all files", masked)
	}
	return err
}

func (s *secretive) objects() error {
	f, err := operator(s.t.Context(), s.room, s.out)
	if err != nil {
		return err
	}
	seen := 0
	err = f.Objects.List(s.t.Context(), s.room.Bucket, "", func(object objects.Info) error {
		if seen++; strings.Contains(object.Key, "manifest_") {
			return nil // it is what holds the properties
		}
		data, _, err := f.Objects.Get(s.t.Context(), s.room.Bucket, object.Key, 64<<20)
		if found := leak(data); found != "" {
			s.t.Errorf("object %s holds %s", object.Key, found)
		}
		return err
	})
	if err == nil && seen == 0 {
		err = errors.New("there are no objects")
	}
	return err
}

// TestSecrets_ReachTheContainerByteForByte sets two thousand values of every kind, and reads them from the container's first process.
func TestSecrets_ReachTheContainerByteForByte(t *testing.T) {
	engine := dockertest.Require(t)
	o, out := options(t, "")
	o.Hostmanager, o.Instances, o.Dir = buildHostmanager(t), 1, dockertest.BuildHello(t, "v1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Ready = func(r dev.Room) error {
		defer cancel()
		random := rand.New(rand.NewPCG(20, 26))
		for batch := range 8 {
			if err := setAndCompare(t, r, engine, values(random, 250)); err != nil {
				return fmt.Errorf("batch %d: %w", batch, err)
			}
		}
		return nil
	}
	if err := dev.Run(ctx, o); err != nil {
		t.Fatalf("%v\n%.4000s", err, out.text.String())
	}
}

// values are names with values of every byte but NUL, in valid UTF-8.
func values(random *rand.Rand, n int) map[string]string {
	pieces := []string{
		"\n", "\r\n", "\t", " ", "'", `"`, "`", `\`, "$", "${HOME}", "$(id)", "=", "#", "%", "&", ";", "|", "*", "!", "~", "{", "}", "é", "漢", "🙂",
		"\u2028", "\ufeff", "\ufffd", "\U0010ffff", "\x01", "\x1b[31m", "\x7f", "null", "true", "<a>", "%41", `\n`, `\u0041`,
	}
	all := map[string]string{"EDGE_LARGE": strings.Repeat("0123456789abcde\n", 6400), "EDGE_EQUALS": "=a=b=", "EDGE_BLANK": "  x  ", "EDGE_EMPTY": "", "EDGE_LINES": "\n\n"}
	for len(all) < n {
		var v strings.Builder
		for range random.IntN(12) {
			if random.IntN(3) == 0 {
				fmt.Fprintf(&v, "%x", random.Uint64())
			} else if random.IntN(2) == 0 {
				v.WriteRune(rune(1 + random.IntN(0x2ff)))
			} else {
				v.WriteString(pieces[random.IntN(len(pieces))])
			}
		}
		all[fmt.Sprintf("V%d", len(all))] = v.String()
	}
	return all
}

func setAndCompare(t *testing.T, r dev.Room, engine *client.Client, want map[string]string) error {
	given := map[string]string{}
	var changes []fleet.Change
	for name, v := range want {
		if v == "" { // in a file that removes it
			changes = append(changes, fleet.Change{Namespace: settings.NSEnvironment, Option: name})
			continue
		}
		given[name] = v
	}
	file, err := json.Marshal(given)
	if err != nil {
		return err
	}
	read, err := fleet.ReadProperties(bytes.NewReader(file))
	if err != nil {
		return err
	}
	f, err := operator(t.Context(), r, &lines{})
	if err != nil {
		return err
	}
	if _, err := f.ConfigDeploy(t.Context(), fleet.ConfigRequest{Changes: append(changes, read...)}); err != nil {
		return err
	}
	id, err := os.ReadFile(layout.Root(r.Instances[0].Root).CurrentContainerID())
	if err != nil {
		return err
	}
	found, err := engine.ContainerInspect(t.Context(), strings.TrimSpace(string(id)))
	if err != nil {
		return err
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", found.State.Pid))
	if err != nil {
		return err
	}
	return same(strings.Split(strings.TrimSuffix(string(environ), "\x00"), "\x00"), want)
}

func same(environ []string, want map[string]string) error {
	var errs []error
	for name, v := range want {
		if !slices.Contains(environ, name+"="+v) {
			i := slices.IndexFunc(environ, func(e string) bool { return strings.HasPrefix(e, name+"=") })
			got := "nothing"
			if i >= 0 {
				got = fmt.Sprintf("%.200q", environ[i])
			}
			errs = append(errs, fmt.Errorf("%s was set to %.200q; the process has %s", name, v, got))
		}
	}
	return errors.Join(errs...)
}
