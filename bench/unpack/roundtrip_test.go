package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hostmanager/fleet/source"
	"hostmanager/platform/bundle"
)

// The operator's packing and the instance's unpacking may not import each other; here, where both are at hand, they are held to each other.

// TestRoundTrip_PackThenUnpackGivesTheSameTree draws trees with files, exec bits, empty folders and links that stay inside.
func TestRoundTrip_PackThenUnpackGivesTheSameTree(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir, work := t.TempDir(), t.TempDir()
		drawTree(rt, dir)
		want := listTree(rt, dir)
		file := filepath.Join(work, "b.zip")
		info, err := source.Pack(t.Context(), dir, file, nil)
		must(rt, err)
		dest := filepath.Join(work, "releases", "1")
		stats, err := bundle.Unpack(t.Context(), file, dest, bundle.Limits{})
		must(rt, err)
		if got := listTree(rt, dest); !slices.Equal(got, want) {
			rt.Fatalf("unpacked:\n%s\npacked:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if stats.Files+stats.Links != info.Files || stats.Archive != info.Size {
			rt.Fatalf("packed %+v, unpacked %+v", info, stats)
		}
		again, err := source.Pack(t.Context(), dest, filepath.Join(work, "again.zip"), nil)
		must(rt, err)
		if again != info {
			rt.Fatalf("the unpacked tree packs to %+v, the first to %+v", again, info)
		}
	})
}

func must(t rapid.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func drawTree(t *rapid.T, dir string) {
	name := rapid.StringMatching(`[a-zé ._\\-]{1,12}`).Filter(func(s string) bool {
		return s != "." && s != ".." && s != ".git" && s != ".elasticbeanstalk" && s != ".ebignore" && s != ".gitignore" && !strings.Contains(s, `..`) &&
			!strings.HasPrefix(s, `\`)
	})
	path := rapid.Custom(func(t *rapid.T) string { return filepath.Join(rapid.SliceOfN(name, 1, 5).Draw(t, "path")...) })
	must(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch"), 0o644))
	for i := range rapid.IntRange(0, 12).Draw(t, "entries") {
		p := filepath.Join(dir, path.Draw(t, "path"))
		if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
			continue // goes through a file
		}
		switch rapid.SampledFrom([]string{"file", "file", "program", "folder", "link"}).Draw(t, "kind") {
		case "file":
			_ = os.WriteFile(p, rapid.SliceOfN(rapid.Byte(), 0, 3000).Draw(t, "content"), 0o644)
		case "program":
			if _, err := os.Lstat(p); err != nil {
				must(t, os.WriteFile(p, fmt.Appendf(nil, "#!/bin/sh\necho %d\n", i), 0o755))
			}
		case "folder":
			_ = os.Mkdir(p, 0o755)
		case "link":
			up := strings.Repeat("../", strings.Count(strings.TrimPrefix(p, dir+"/"), "/"))
			_ = os.Symlink(up+"Dockerfile", p)
		}
	}
}

func listTree(t rapid.TB, dir string) []string {
	var lines []string
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		tail := ""
		switch {
		case d.Type() == fs.ModeSymlink:
			tail, err = os.Readlink(p)
		case d.Type().IsRegular():
			var raw []byte
			raw, err = os.ReadFile(p)
			tail = string(raw)
		}
		lines = append(lines, fmt.Sprintf("%v %q %q", info.Mode(), strings.TrimPrefix(p, dir), tail))
		return err
	}))
	return lines
}

// TestBench_RunsOnASmallBundle keeps the benchmark itself working.
func TestBench_RunsOnASmallBundle(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "b.zip")
	must(t, makeBundle(file, 20, 200_000))
	stats, err := bundle.Unpack(t.Context(), file, filepath.Join(dir, "tree"), bundle.Limits{})
	must(t, err)
	if stats.Files != 20 || stats.Bytes != 200_000 {
		t.Fatalf("stats = %+v", stats)
	}
	if ratio := float64(stats.Bytes) / float64(stats.Archive); ratio < 1.5 || ratio > 2.5 {
		t.Fatalf("the bundle packs %.2f to 1; about 2 is meant", ratio)
	}
}
