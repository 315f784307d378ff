package docker

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// FuzzIgnoreFile reads anything as the ignore file of a bundle: refused, or a walk that sends each name once, and what the builder needs always.
func FuzzIgnoreFile(f *testing.F) {
	f.Add([]byte("# comment\nsecret*\n**/*.tmp\nlogs\n!logs/keep\nDockerfile\n"))
	f.Add([]byte("\xef\xbb\xbf*\n!a/b/../b\n/a\n"))
	f.Add([]byte("[\n[a-\n\\\na/**/\\*\n!\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		tree := t.TempDir()
		err := errors.Join(os.MkdirAll(filepath.Join(tree, "a", "b"), 0o755), os.WriteFile(filepath.Join(tree, ".dockerignore"), text, 0o600))
		for _, name := range []string{"Dockerfile", "x.tmp", "a/b/keep"} {
			err = errors.Join(err, os.WriteFile(filepath.Join(tree, name), nil, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
		in, err := openContext(tree, nil)
		if err != nil {
			return
		}
		defer in.root.Close()
		var sent []string
		if err := in.each(t.Context(), func(e entry) error { sent = append(sent, e.name); return nil }); err != nil {
			return
		}
		if !slices.Contains(sent, "Dockerfile") || !slices.Contains(sent, ".dockerignore") {
			t.Errorf("%q sends %q", text, sent)
		}
		slices.Sort(sent)
		if len(slices.Compact(slices.Clone(sent))) != len(sent) {
			t.Errorf("%q sends %q", text, sent)
		}
		if slices.Contains(sent, "a/b/keep") && !slices.Contains(sent, "a/b") {
			t.Errorf("%q sends a file without its folder: %q", text, sent)
		}
	})
}
