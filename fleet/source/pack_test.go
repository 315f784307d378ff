package source_test

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hostmanager/fleet/source"
)

type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func must(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type packedEntry struct {
	Name string
	Mode fs.FileMode
	Body string
}

// packed packs dir and reads the zip back.
func packed(t tester, dir string) []packedEntry {
	t.Helper()
	work, err := os.MkdirTemp("", "pack")
	must(t, err)
	defer os.RemoveAll(work)
	dst := filepath.Join(work, "b.zip")
	_, err = source.Pack(context.Background(), dir, dst, nil)
	if errors.Is(err, source.ErrEmpty) {
		return nil
	}
	must(t, err)
	return readZip(t, dst)
}

func readZip(t tester, name string) []packedEntry {
	t.Helper()
	zr, err := zip.OpenReader(name)
	must(t, err)
	defer zr.Close()
	var all []packedEntry
	for _, f := range zr.File {
		r, err := f.Open()
		must(t, err)
		body, err := io.ReadAll(r)
		must(t, err)
		must(t, r.Close())
		all = append(all, packedEntry{f.Name, f.Mode(), string(body)})
	}
	return all
}

// folder makes a folder of files; a name that ends in / is a folder, a body that begins with "->" a link.
func folder(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, body := range files {
		p := filepath.Join(dir, filepath.FromSlash(name))
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		target, isLink := strings.CutPrefix(body, "->")
		switch {
		case strings.HasSuffix(name, "/"):
			must(t, os.MkdirAll(p, 0o755))
		case isLink:
			must(t, os.Symlink(target, p))
		default:
			must(t, os.WriteFile(p, []byte(body), 0o644))
		}
	}
	return dir
}

func names(entries []packedEntry) []string {
	var all []string
	for _, e := range entries {
		all = append(all, e.Name)
	}
	return all
}

func TestPack_KeepsContentExecBitsAndLinks(t *testing.T) {
	dir := folder(t, map[string]string{
		"Dockerfile": "FROM scratch", ".platform/hooks/prebuild/01.sh": "#!/bin/sh", "latest": "->Dockerfile", "empty/": "", "private": "secret",
	})
	must(t, os.Chmod(filepath.Join(dir, ".platform/hooks/prebuild/01.sh"), 0o700))
	must(t, os.Chmod(filepath.Join(dir, "private"), 0o600))
	want := []packedEntry{
		{".platform/", fs.ModeDir | 0o755, ""},
		{".platform/hooks/", fs.ModeDir | 0o755, ""},
		{".platform/hooks/prebuild/", fs.ModeDir | 0o755, ""},
		{".platform/hooks/prebuild/01.sh", 0o755, "#!/bin/sh"},
		{"Dockerfile", 0o644, "FROM scratch"},
		{"empty/", fs.ModeDir | 0o755, ""},
		{"latest", fs.ModeSymlink | 0o777, "Dockerfile"},
		{"private", 0o644, "secret"},
	}
	if got := packed(t, dir); !slices.Equal(got, want) {
		t.Fatalf("packed:\n%v\nwant:\n%v", got, want)
	}
}

func TestPack_ChoosesFiles(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{
			"without an ignore file all but the state of tools",
			map[string]string{"a": "", ".git/config": "", "sub/.git": "gitdir: x", "sub/b": "", ".elasticbeanstalk/config.yml": "", "sub/.elasticbeanstalk": ""},
			[]string{"a", "sub/", "sub/.elasticbeanstalk", "sub/b"},
		},
		{
			".gitignore, nested ones too",
			map[string]string{".gitignore": "*.log\n/dist/\n", "a.log": "", "dist/x": "", "sub/.gitignore": "!keep.log\nlocal", "sub/keep.log": "", "sub/local": "", "sub/dist/y": ""},
			[]string{".gitignore", "sub/", "sub/.gitignore", "sub/dist/", "sub/dist/y", "sub/keep.log"},
		},
		{
			".ebignore alone where there is one",
			map[string]string{".ebignore": "node_modules/\n", ".gitignore": "dist\n", "dist": "built", "node_modules/x": "", "sub/.gitignore": "*", "sub/a": "", "sub/.ebignore": "a"},
			[]string{".ebignore", ".gitignore", "dist", "sub/", "sub/.ebignore", "sub/.gitignore", "sub/a"},
		},
		{
			"an ignored folder's files cannot come back, a star's can",
			map[string]string{".gitignore": "one/\n!one/keep\ntwo/*\n!two/keep\n", "one/keep": "", "two/keep": "", "two/go": ""},
			[]string{".gitignore", "two/", "two/keep"},
		},
		{
			"a .gitignore that is a link is none",
			map[string]string{"rules": "*", ".gitignore": "->rules"},
			[]string{".gitignore", "rules"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := names(packed(t, folder(t, tt.files))); !slices.Equal(got, tt.want) {
				t.Fatalf("packed %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestPack_IsTheSameBytesEveryTime(t *testing.T) {
	files := map[string]string{"b/2": strings.Repeat("two", 1000), "a": "1", "b/l": "->2", "c/": ""}
	one, two := folder(t, files), folder(t, files)
	old := time.Now().Add(-1000 * time.Hour)
	must(t, os.Chtimes(filepath.Join(two, "a"), old, old))
	must(t, os.Chmod(filepath.Join(two, "a"), 0o664))
	first, err := source.Pack(t.Context(), one, filepath.Join(t.TempDir(), "b.zip"), nil)
	must(t, err)
	second, err := source.Pack(t.Context(), two, filepath.Join(t.TempDir(), "b.zip"), nil)
	must(t, err)
	if first != second {
		t.Fatalf("%+v\n%+v", first, second)
	}
	if first.Files != 3 {
		t.Fatalf("Files = %d, want 3", first.Files)
	}
}

func TestPack_TellsDigestSizeAndProgress(t *testing.T) {
	dir := folder(t, map[string]string{"a": strings.Repeat("x", 1<<20), "b": "y"})
	dst := filepath.Join(t.TempDir(), "b.zip")
	var done, total int64
	info, err := source.Pack(t.Context(), dir, dst, func(d, n int64) { done, total = d, n })
	must(t, err)
	raw, err := os.ReadFile(dst)
	must(t, err)
	sum := sha256.Sum256(raw)
	if info != (source.Info{SHA256: hex.EncodeToString(sum[:]), Size: int64(len(raw)), Files: 2}) {
		t.Fatalf("info = %+v", info)
	}
	if done != 1<<20+1 || total != done {
		t.Fatalf("progress ended at %d of %d", done, total)
	}
}

func TestPack_IntoTheFolderItself(t *testing.T) {
	dir := folder(t, map[string]string{"a": "1"})
	dst := filepath.Join(dir, "bundle.zip")
	first, err := source.Pack(t.Context(), dir, dst, nil)
	must(t, err)
	second, err := source.Pack(t.Context(), dir, dst, nil)
	must(t, err)
	if first != second || !slices.Equal(names(readZip(t, dst)), []string{"a"}) {
		t.Fatalf("%+v, then %+v with %q", first, second, names(readZip(t, dst)))
	}
}

func TestPack_RefusesWhatAnInstanceCannotTake(t *testing.T) {
	sock := folder(t, map[string]string{"a": ""})
	l, err := net.Listen("unix", filepath.Join(sock, "s"))
	must(t, err)
	defer l.Close()
	tests := []struct {
		name, dir, says string
	}{
		{"absolute link", folder(t, map[string]string{"a": "->/etc/passwd"}), "points outside the folder"},
		{"link out", folder(t, map[string]string{"d/a": "->../../x"}), "points outside the folder"},
		{"socket", sock, "neither file, folder nor link"},
		{"empty", folder(t, nil), "no file to deploy"},
		{"all ignored", folder(t, map[string]string{".ebignore": "*", "a": ""}), "no file to deploy"},
		{"file", filepath.Join(folder(t, map[string]string{"a": ""}), "a"), "not a folder"},
		{"missing", filepath.Join(t.TempDir(), "none"), "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			work := t.TempDir()
			_, err := source.Pack(t.Context(), tt.dir, filepath.Join(work, "b.zip"), nil)
			if err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("err = %v, want %q", err, tt.says)
			}
			if left, _ := os.ReadDir(work); len(left) > 0 {
				t.Fatalf("left behind: %v", left)
			}
		})
	}
}

func TestPack_StopsWithItsContext(t *testing.T) {
	dir := folder(t, map[string]string{"a": strings.Repeat("x", 1<<20), "b": "y"})
	ctx, cancel := context.WithCancel(t.Context())
	work := t.TempDir()
	_, err := source.Pack(ctx, dir, filepath.Join(work, "b.zip"), func(int64, int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("err = %v, want Canceled", err)
	}
	if left, _ := os.ReadDir(work); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestPrepare_TakesAnArchiveAsItIs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "given.tar.gz")
	must(t, os.WriteFile(file, []byte("whatever it is"), 0o644))
	work := t.TempDir()
	got, info, packed, err := source.Prepare(t.Context(), file, work, nil)
	must(t, err)
	sum := sha256.Sum256([]byte("whatever it is"))
	if got != file || packed || info.SHA256 != hex.EncodeToString(sum[:]) || info.Size != 14 {
		t.Fatalf("%s %+v packed=%v", got, info, packed)
	}
	if left, _ := os.ReadDir(work); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
}

func TestPrepare_PacksAFolder(t *testing.T) {
	work := t.TempDir()
	got, info, packed, err := source.Prepare(t.Context(), folder(t, map[string]string{"a": "1"}), work, nil)
	must(t, err)
	if !packed || filepath.Dir(got) != work || info.Files != 1 || !slices.Equal(names(readZip(t, got)), []string{"a"}) {
		t.Fatalf("%s %+v packed=%v", got, info, packed)
	}
	if _, _, _, err := source.Prepare(t.Context(), folder(t, nil), work, nil); !errors.Is(err, source.ErrEmpty) {
		t.Fatalf("err = %v, want ErrEmpty", err)
	}
	if left, _ := os.ReadDir(work); len(left) != 1 {
		t.Fatalf("left behind: %v", left)
	}
}
