package source_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hostmanager/fleet/source"
)

type named struct{ name, text string }

func zipOf(t testing.TB, files ...named) string {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, f := range files {
		in, err := w.Create(f.name)
		must(t, err)
		_, err = in.Write([]byte(f.text))
		must(t, err)
	}
	must(t, w.Close())
	return write(t, buf.Bytes())
}

func tarOf(t testing.TB, files ...named) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		must(t, w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.text)), Typeflag: tar.TypeReg}))
		_, err := w.Write([]byte(f.text))
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

func gzipped(t testing.TB, raw []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(raw)
	must(t, err)
	must(t, w.Close())
	return buf.Bytes()
}

func write(t testing.TB, raw []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "bundle")
	must(t, os.WriteFile(p, raw, 0o600))
	return p
}

const rolling = "option_settings:\n  aws:elasticbeanstalk:command:\n    DeploymentPolicy: Rolling\n    BatchSize: 1\n"

func TestDeploymentPolicy_ReadsEveryForm(t *testing.T) {
	tests := []struct {
		name, text, want string
		found            bool
	}{
		{"map", rolling, "Rolling", true},
		{"list", "option_settings:\n- namespace: aws:elasticbeanstalk:command\n  option_name: DeploymentPolicy\n  value: Immutable\n", "Immutable", true},
		{"list, the last counts", "option_settings:\n- {namespace: 'aws:elasticbeanstalk:command', option_name: DeploymentPolicy, value: A}\n- {namespace: 'aws:elasticbeanstalk:command', option_name: DeploymentPolicy, value: B}\n", "B", true},
		{"list without namespace", "option_settings:\n- option_name: DeploymentPolicy\n  value: Immutable\n", "", false},
		{"JSON map", `{"option_settings":{"aws:elasticbeanstalk:command":{"DeploymentPolicy":"AllAtOnce"}}}`, "AllAtOnce", true},
		{"JSON with tabs", "{\n\t\"option_settings\": {\n\t\t\"aws:elasticbeanstalk:command\":\t{\"DeploymentPolicy\":\"Rolling\"}}}", "Rolling", true},
		{"JSON list", `{"option_settings":[{"namespace":"aws:elasticbeanstalk:command","option_name":"DeploymentPolicy","value":"Rolling"}]}`, "Rolling", true},
		{"JSON with a trailing comma is YAML", "{\"option_settings\": {\"aws:elasticbeanstalk:command\": {\"DeploymentPolicy\": \"Rolling\",},},}", "Rolling", true},
		{"another namespace", "option_settings:\n  aws:elasticbeanstalk:application:environment:\n    DeploymentPolicy: mine\n", "", false},
		{"anchors", "x: &c\n  DeploymentPolicy: Rolling\noption_settings:\n  aws:elasticbeanstalk:command: *c\n", "Rolling", true},
		{"merge", "x: &c\n  DeploymentPolicy: Rolling\noption_settings:\n  aws:elasticbeanstalk:command:\n    <<: *c\n    BatchSize: 1\n", "Rolling", true},
		{"own key before merge", "x: &c\n  DeploymentPolicy: Rolling\noption_settings:\n  aws:elasticbeanstalk:command:\n    DeploymentPolicy: Immutable\n    <<: *c\n", "Immutable", true},
		{"null sections", "option_settings:\n", "", false},
		{"null namespace", "option_settings:\n  aws:elasticbeanstalk:command:\n", "", false},
		{"null value", "option_settings:\n  aws:elasticbeanstalk:command:\n    DeploymentPolicy:\n", "", false},
		{"no value", "option_settings:\n- namespace: aws:elasticbeanstalk:command\n  option_name: DeploymentPolicy\n", "", false},
		{"not a string", "option_settings:\n  aws:elasticbeanstalk:command:\n    DeploymentPolicy: 010\n", "010", true},
		{"empty", "", "", false},
		{"comments", "# nothing\n", "", false},
		{"byte order mark", "\xef\xbb\xbf" + rolling, "Rolling", true},
		{"carriage returns", strings.ReplaceAll(rolling, "\n", "\r\n"), "Rolling", true},
		{"list of odd things", "option_settings:\n- 1\n- null\n- [a]\n- {namespace: [x]}\n", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			policy, file, found, err := source.DeploymentPolicy(zipOf(t, named{".ebextensions/a.config", tt.text}))
			if err != nil || policy != tt.want || found != tt.found {
				t.Fatalf("%q, found=%v, err=%v; want %q, %v", policy, found, err, tt.want, tt.found)
			}
			if found && file != ".ebextensions/a.config" {
				t.Fatalf("file = %q", file)
			}
		})
	}
}

func TestDeploymentPolicy_LaterFileWins(t *testing.T) {
	immutable := strings.ReplaceAll(rolling, "Rolling", "Immutable")
	files := []named{
		{".ebextensions/20.config", immutable},
		{".ebextensions/100.config", rolling},
		{".ebextensions/99.yaml", rolling},
		{".ebextensions/sub/99.config", rolling},
		{"app/.ebextensions/99.config", rolling},
		{".ebextensions/99-none.config", "commands: {}\n"},
		{"Dockerfile", "FROM scratch"},
	}
	dotted := []named{}
	for _, f := range files {
		dotted = append(dotted, named{"./" + f.name, f.text})
	}
	windows := []named{}
	for _, f := range files {
		windows = append(windows, named{strings.ReplaceAll(f.name, "/", `\`), f.text})
	}
	for name, archive := range map[string]string{
		"zip": zipOf(t, files...), "tar": write(t, tarOf(t, dotted...)), "tar.gz": write(t, gzipped(t, tarOf(t, files...))), "zip from Windows": zipOf(t, windows...),
	} {
		t.Run(name, func(t *testing.T) {
			policy, file, found, err := source.DeploymentPolicy(archive)
			if err != nil || !found || policy != "Immutable" || file != ".ebextensions/20.config" {
				t.Fatalf("%q from %q, found=%v, err=%v", policy, file, found, err)
			}
			if has, err := source.HasEbextensions(archive); !has || err != nil {
				t.Fatalf("HasEbextensions = %v, %v", has, err)
			}
		})
	}
}

func TestDeploymentPolicy_GoesOnPastAFileItCannotRead(t *testing.T) {
	for name, text := range map[string]string{
		"tab": "a:\n\tb: c\n", "scalar": "just text", "list": "- a\n- b\n", "two documents": "a: b\n---\nc: d\n", "missing comma": `{"a": 1 "b": 2}`,
		"settings are text": "option_settings: none\n", "policy is a map": "option_settings:\n  aws:elasticbeanstalk:command:\n    DeploymentPolicy: {a: b}\n",
		"NUL": "a: \"b\x00\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			policy, _, found, err := source.DeploymentPolicy(zipOf(t, named{".ebextensions/1.config", rolling}, named{".ebextensions/2.config", text}))
			var bad *source.ConfigError
			if !errors.As(err, &bad) || bad.File != ".ebextensions/2.config" {
				t.Fatalf("err = %v, want a ConfigError of 2.config", err)
			}
			if !found || policy != "Rolling" {
				t.Fatalf("%q, found=%v: what could be read must stand", policy, found)
			}
		})
	}
}

func TestDeploymentPolicy_BundlesWithoutEbextensions(t *testing.T) {
	for name, archive := range map[string]string{
		"zip": zipOf(t, named{"Dockerfile", "FROM scratch"}), "lone Dockerfile": write(t, []byte("FROM scratch")), "empty": write(t, nil),
		"lone Dockerrun": write(t, []byte(`{"AWSEBDockerrunVersion":"1"}`)), "only a folder": zipOf(t, named{".ebextensions/", ""}),
	} {
		t.Run(name, func(t *testing.T) {
			policy, _, found, err := source.DeploymentPolicy(archive)
			if err != nil || found {
				t.Fatalf("%q, found=%v, err=%v", policy, found, err)
			}
			if has, err := source.HasEbextensions(archive); has || err != nil {
				t.Fatalf("HasEbextensions = %v, %v", has, err)
			}
		})
	}
}

func TestDeploymentPolicy_IsBounded(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c < 'k'; c++ {
		bomb += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 9), ",") + "]\n"
	}
	merges := "m0: &m0 {k: v}\n"
	for c := '1'; c <= '9'; c++ {
		merges += "m" + string(c) + ": &m" + string(c) + " {<<: [" + strings.TrimSuffix(strings.Repeat("*m"+string(c-1)+",", 9), ",") + "]}\n"
	}
	merges += "option_settings:\n  aws:elasticbeanstalk:command: *m9\n"
	for name, text := range map[string]string{"aliases": bomb + rolling, "merges": merges} {
		t.Run(name, func(t *testing.T) {
			if _, _, _, err := source.DeploymentPolicy(zipOf(t, named{".ebextensions/a.config", text})); err != nil {
				t.Fatal(err)
			}
		})
	}
	if _, _, _, err := source.DeploymentPolicy(zipOf(t, named{".ebextensions/a.config", strings.Repeat("# long\n", 200_000)})); err == nil {
		t.Fatal("a .config of more than 1 MiB was read")
	}
	cut := gzipped(t, tarOf(t, named{".ebextensions/a.config", rolling}, named{"b", strings.Repeat("b", 10_000)}))
	if _, _, _, err := source.DeploymentPolicy(write(t, cut[:len(cut)/2])); err == nil {
		t.Fatal("a cut archive was taken")
	}
}

// TestDeploymentPolicy_RealFiles reads every .config of a collection of real bundles, where one is given: no panic, and errors only where a file is broken.
func TestDeploymentPolicy_RealFiles(t *testing.T) {
	root := os.Getenv("EBEXTENSIONS_CORPUS")
	if root == "" {
		t.Skip("EBEXTENSIONS_CORPUS names no folder of real .ebextensions")
	}
	files, broken, policies := 0, 0, map[string]int{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".config") {
			return err
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		files++
		policy, found, err := source.PolicyOf(text)
		if err != nil {
			broken++
			t.Logf("%s: %v", p, err)
		}
		if found {
			policies[policy]++
		}
		if want := strings.Contains(string(text), "DeploymentPolicy:"); found != want && err == nil {
			t.Errorf("%s: found=%v, the text says %v", p, found, want)
		}
		return nil
	})
	must(t, err)
	t.Logf("%d files, %d broken, policies %v", files, broken, policies)
	if files > 0 && broken*10 > files {
		t.Errorf("%d of %d files could not be read", broken, files)
	}
}

func FuzzPolicyOf(f *testing.F) {
	f.Add([]byte(rolling))
	f.Add([]byte(`{"option_settings":[{"namespace":"aws:elasticbeanstalk:command","option_name":"DeploymentPolicy","value":"Rolling"}]}`))
	f.Add([]byte("a: &a\n  <<: *a\noption_settings: *a"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if policy, found, err := source.PolicyOf(text); !found && policy != "" || err != nil && found {
			t.Fatalf("%q, found=%v, err=%v", policy, found, err)
		}
	})
}
