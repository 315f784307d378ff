package source_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hostmanager/fleet/source"
)

func TestIgnore_FollowsGitignore(t *testing.T) {
	type path struct {
		name    string
		ignored bool
	}
	yes := func(names ...string) (all []path) {
		for _, n := range names {
			all = append(all, path{n, true})
		}
		return all
	}
	no := func(names ...string) (all []path) {
		for _, n := range names {
			all = append(all, path{n, false})
		}
		return all
	}
	tests := []struct {
		name  string
		text  string
		paths []path // a trailing slash is a folder
	}{
		{"name at any level", "node_modules", slices.Concat(yes("node_modules", "node_modules/", "a/node_modules/x"), no("node_modules2"))},
		{"anchored by a slash in front", "/build", slices.Concat(yes("build", "build/x"), no("a/build"))},
		{"anchored by a slash inside", "doc/frotz", slices.Concat(yes("doc/frotz", "doc/frotz/"), no("a/doc/frotz"))},
		{"folders only", "tmp/", slices.Concat(yes("tmp/", "a/tmp/", "tmp/x"), no("tmp", "a/tmp"))},
		{"star within a name", "*.log", slices.Concat(yes("a.log", ".log", "d/b.log"), no("a.log2", "log"))},
		{"star does not cross slashes", "a/*.txt", slices.Concat(yes("a/b.txt"), no("a/b/c.txt"))},
		{"question mark", "?at", slices.Concat(yes("cat", "d/bat"), no("at", "chat"))},
		{"question mark is no slash", "a?b/c", slices.Concat(yes("axb/c"), no("a/b/c"))},
		{"brackets", "[a-c0]x", slices.Concat(yes("ax", "cx", "0x"), no("dx", "x"))},
		{"negated brackets", "[!a]x", slices.Concat(yes("bx"), no("ax"))},
		{"caret brackets", "[^a]x", slices.Concat(yes("bx"), no("ax"))},
		{"closing bracket as member", "[]a]x", slices.Concat(yes("]x", "ax"), no("bx"))},
		{"named class", "v[[:digit:]]", slices.Concat(yes("v1"), no("va"))},
		{"unclosed bracket", "[ab", no("a", "[ab")},
		{"leading double star", "**/foo", slices.Concat(yes("foo", "a/foo", "a/b/foo"), no("foo2"))},
		{"leading double star and path", "**/foo/bar", slices.Concat(yes("foo/bar", "a/foo/bar"), no("foo/x/bar"))},
		{"trailing double star", "abc/**", slices.Concat(yes("abc/x", "abc/x/y"), no("abc/", "x/abc/y"))},
		{"middle double star", "a/**/b", slices.Concat(yes("a/b", "a/x/b", "a/x/y/b"), no("ab", "x/a/b"))},
		{"two double stars", "a/**/b/**/c", slices.Concat(yes("a/b/c", "a/1/b/2/3/c", "a/b/b/c"), no("a/c", "a/b"))},
		{"double star inside a name", "a**b", slices.Concat(yes("ab", "axxb"), no("a/b"))},
		{"double star alone", "**", yes("a", "a/b")},
		{"negation", "*.log\n!keep.log", slices.Concat(yes("a.log"), no("keep.log", "d/keep.log"))},
		{"last match wins", "!a\na", yes("a")},
		{"nothing comes back from an ignored folder", "d/\n!d/keep", yes("d/keep")},
		{"all but", "/*\n!/app\n", slices.Concat(yes("x", "y/"), no("app/", "app/z"))},
		{"comment and blank", "# a\n\n   \n", no("a", "# a", " ")},
		{"escaped hash", `\#a`, slices.Concat(yes("#a"), no("a"))},
		{"escaped bang", `\!a`, slices.Concat(yes("!a"), no("a"))},
		{"escaped star", `a\*`, slices.Concat(yes("a*"), no("ab"))},
		{"escaped slash", `a\/**`, slices.Concat(yes("a/b"), no("a/"))},
		{"trailing backslash", `a\`, no("a", `a\`)},
		{"trailing spaces", "a  ", slices.Concat(yes("a"), no("a  "))},
		{"escaped space", `a\ `, slices.Concat(yes("a "), no("a"))},
		{"carriage return", "a\r\nb\r\n", yes("a", "b")},
		{"byte order mark", "\xef\xbb\xbfa", yes("a")},
		{"only a slash", "/", no("a", "a/")},
		{"only a bang", "!", no("a", "!")},
		{"UTF-8", "é*", slices.Concat(yes("éa"), no("e"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for _, p := range tt.paths {
				name, isDir := strings.CutSuffix(p.name, "/")
				if got := source.Ignored(tt.text, name, isDir); got != p.ignored {
					t.Errorf("%q: %q ignored = %v, want %v", tt.text, p.name, got, p.ignored)
				}
			}
		})
	}
}

// TestIgnore_LongPatternsTakeNoTime guards against a matcher whose time explodes with the number of stars.
func TestIgnore_LongPatternsTakeNoTime(t *testing.T) {
	name := strings.Repeat("a", 200)
	path := strings.Repeat("a/", 200) + "a"
	begin := time.Now()
	source.Ignored(strings.Repeat("*a", 100)+"b", name, false)
	source.Ignored(strings.Repeat("**/a/", 100)+"b", path, false)
	if took := time.Since(begin); took > 10*time.Second {
		t.Fatalf("took %v", took)
	}
}

// TestIgnore_AgreesWithGit packs random trees under random .gitignore files and compares with what git would list.
func TestIgnore_AgreesWithGit(t *testing.T) {
	git, err := exec.LookPath("git")
	if err != nil {
		t.Skip("git is not on the PATH; the table above holds the same rules") // a peer to compare with, not a part of ours
	}
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		name := rapid.SampledFrom([]string{"a", "b", "ab", "a.log", "x y", "[a]", "!b", "#c", "d-1"})
		line := rapid.Custom(func(rt *rapid.T) string {
			parts := rapid.SliceOfN(rapid.SampledFrom([]string{
				"a", "b", "ab", "*", "**", "?", "/", "/", "[ab]", "[!a]", "[a-c]", "[]", "[", "\\", "!", "#", " ", ".log", "[[:alpha:]]", "-1", "a/", "**/", "/**",
			}), 1, 5).Draw(rt, "parts")
			return rapid.SampledFrom([]string{"", "", "", "!"}).Draw(rt, "bang") + strings.Join(parts, "")
		}).Filter(documented)
		write := func(rel, text string) {
			p := filepath.Join(dir, filepath.FromSlash(rel))
			if os.MkdirAll(filepath.Dir(p), 0o755) == nil {
				_ = os.WriteFile(p, []byte(text), 0o600) // a name that is a folder already is left out
			}
		}
		for range rapid.IntRange(1, 10).Draw(rt, "files") {
			write(strings.Join(rapid.SliceOfN(name, 1, 4).Draw(rt, "path"), "/"), "x")
		}
		write(".gitignore", strings.Join(rapid.SliceOfN(line, 1, 4).Draw(rt, "rules"), "\n"))
		write("a/.gitignore", strings.Join(rapid.SliceOfN(line, 0, 3).Draw(rt, "nested"), "\n"))

		want := gitLists(rt, git, dir)
		var got []string
		for _, e := range packed(rt, dir) {
			if !strings.HasSuffix(e.Name, "/") {
				got = append(got, e.Name)
			}
		}
		slices.Sort(want)
		if !slices.Equal(got, want) {
			rt.Fatalf("packed %q\ngit lists %q", got, want)
		}
	})
}

// documented leaves out what gitignore(5) does not promise and git does one way or another: empty names between slashes, and `**` with something else
// between the same slashes.
func documented(line string) bool {
	parts := strings.Split(strings.ReplaceAll(strings.TrimPrefix(line, "!"), `\/`, "/"), "/")
	for i, p := range parts {
		empty := p == "" && i > 0 && i < len(parts)-1 || strings.HasPrefix(line, "//")
		if empty || len(parts) > 1 && p != "**" && strings.Contains(p, "**") {
			return false
		}
	}
	return true
}

func gitLists(t rapid.TB, git, dir string) []string {
	t.Helper()
	run := func(args ...string) []byte {
		cmd := exec.Command(git, append([]string{"-c", "core.excludesFile=/dev/null", "-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("git %v: %v: %s", args, err, errs.String())
		}
		return out
	}
	run("init", "-q")
	var names []string
	for n := range bytes.SplitSeq(run("ls-files", "--others", "--exclude-standard", "-z"), []byte{0}) {
		if len(n) > 0 {
			names = append(names, string(n))
		}
	}
	return names
}

func FuzzIgnore(f *testing.F) {
	f.Add("*.log\n!keep.log\n/build/\n**/x/**", "a/keep.log")
	f.Add("[[:alpha:]-z]\\", "[")
	f.Add("a/**/b/**", "a/b/c")
	f.Fuzz(func(t *testing.T, text, path string) {
		if strings.HasPrefix(path, "/") || len(path) > 200 || len(text) > 2000 {
			return
		}
		asFile, asDir := source.Ignored(text, path, false), source.Ignored(text, path, true)
		if asFile && !asDir && !strings.Contains(text, "!") {
			t.Fatalf("%q: as a file it is ignored, as a folder not, and nothing is negated", path)
		}
		if again := source.Ignored(text+"\n"+text, path, false); again != asFile && !strings.Contains(text, "!") {
			t.Fatalf("%q: the same rules twice judge otherwise", path)
		}
		// A rule that names the path itself has the last word, unless a folder above is ignored.
		if !strings.ContainsAny(path, "\\/*?[]!# \r\n\x00") && path != "" {
			if !source.Ignored(text+"\n/"+path, path, false) {
				t.Fatalf("%q is not ignored by its own name", path)
			}
		}
	})
}
