package bundle_test

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hostmanager/platform/bundle"
)

// FuzzUnpack holds for any bytes: no panic, either a whole tree or nothing, and never a file, link or mode that the bundle may not bring.
func FuzzUnpack(f *testing.F) {
	f.Add(zipBytes(f, zipFile("a/b", "x"), link("l", "a/b"), zipMode("run", "#!", 0o755)))
	f.Add(zipBytes(f, windowsFile(`a\b`, "x"), zipMode("d/", "", fs.ModeDir|0o700)))
	f.Add(zipBytes(f, storedLie("a", "hello", 9, 1)))
	f.Add(tarBytes(f, tarFile("a", "x"), tarOf(tar.TypeLink, "b", "a"), tarOf(tar.TypeSymlink, "c", "b")))
	f.Add(gzipBytes(f, tarBytes(f, tarFile("a", "x"))))
	f.Add([]byte(`{"AWSEBDockerrunVersion":"1"}`))
	f.Add([]byte("FROM scratch"))
	limits := bundle.Limits{ArchiveBytes: 1 << 20, Bytes: 1 << 20, Files: 200}
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "b")
		must(t, os.WriteFile(path, archive, 0o600))
		dest := filepath.Join(dir, "t", "tree")
		stats, err := bundle.Unpack(t.Context(), path, dest, limits)
		if err != nil {
			var refused *bundle.Refused
			if !errors.As(err, &refused) {
				t.Fatalf("not a refusal: %v", err)
			}
			if entries, _ := os.ReadDir(filepath.Dir(dest)); len(entries) > 0 {
				t.Fatalf("refused (%v), but left %v", err, entries)
			}
			return
		}
		checkTree(t, dest, stats)
		if outside, _ := os.ReadDir(dir); len(outside) != 2 {
			t.Fatalf("outside the tree: %v", outside)
		}
	})
}

func checkTree(t *testing.T, dest string, stats bundle.Stats) {
	t.Helper()
	real, err := filepath.EvalSymlinks(dest)
	must(t, err)
	files, folders, links := 0, 0, 0
	err = filepath.WalkDir(dest, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dest {
			return err
		}
		info, err := d.Info()
		must(t, err)
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			links++
			if to, err := filepath.EvalSymlinks(p); err == nil && to != real && !strings.HasPrefix(to, real+"/") {
				t.Fatalf("link %s leads to %s", p, to)
			}
		case info.IsDir():
			folders++
		case info.Mode().IsRegular():
			files++
		default:
			t.Fatalf("%s is %v", p, info.Mode())
		}
		if info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			t.Fatalf("%s is %v", p, info.Mode())
		}
		return nil
	})
	must(t, err)
	if files != stats.Files || folders != stats.Folders || links != stats.Links {
		t.Fatalf("the tree has %d files, %d folders, %d links; stats = %+v", files, folders, links, stats)
	}
}
