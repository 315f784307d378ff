package bundle_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/platform/bundle"
)

// unpack runs Unpack on the bytes, in a folder that holds nothing else.
func unpack(t testing.TB, archive []byte, limits bundle.Limits) (dest string, stats bundle.Stats, err error) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "bundle")
	must(t, os.WriteFile(path, archive, 0o600))
	dest = filepath.Join(dir, "releases", "7-0a1b2c3d")
	stats, err = bundle.Unpack(t.Context(), path, dest, limits)
	return dest, stats, err
}

// listTree gives a line per entry: mode, path, and content or target.
func listTree(t testing.TB, dir string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		info, err := d.Info()
		if err != nil {
			return err
		}
		tail := ""
		switch {
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			lines = append(lines, "link "+rel+" -> "+to)
			return nil
		case d.Type().IsRegular():
			raw, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			tail = fmt.Sprintf(" %q", raw)
		}
		lines = append(lines, fmt.Sprintf("%v %s%s", info.Mode(), rel, tail))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

type goodArchive struct {
	name    string
	archive []byte
	want    []string // lines of listTree
}

func goodZips(t testing.TB) []goodArchive {
	return []goodArchive{
		{
			"zip: modes, folders, links, empty folder",
			zipBytes(
				t, zipFile("b/c.txt", "c"), zipMode("run.sh", "#!/bin/sh\n", 0o755), zipMode("empty/", "", fs.ModeDir|0o750),
				zipMode("b/up", "../run.sh", fs.ModeSymlink|0o777), zipMode("dangling", "b/none", fs.ModeSymlink|0o777),
			),
			[]string{
				"drwxr-xr-x b", `-rw-r--r-- b/c.txt "c"`, "link b/up -> ../run.sh", "link dangling -> b/none", "drwxr-x--- empty",
				`-rwxr-xr-x run.sh "#!/bin/sh\n"`,
			},
		},
		{
			"zip from Windows: backslashes separate, no modes",
			zipBytes(t, windowsFile(`bin\`, ""), windowsFile(`bin\app.exe`, "x"), windowsFile(`conf/a\b`, "kept")),
			[]string{"drwxr-xr-x bin", `-rw-r--r-- bin/app.exe "x"`, "drwxr-xr-x conf", `-rw-r--r-- conf/a\b "kept"`},
		},
		{
			"zip from Unix: a backslash is a letter",
			zipBytes(t, zipFile(`dev-disk-by\x2dlabel.mount`, "x")),
			[]string{`-rw-r--r-- dev-disk-by\x2dlabel.mount "x"`},
		},
		{
			"zip: a folder after its files, twice, and the root",
			zipBytes(t, zipMode("./", "", fs.ModeDir|0o700), zipFile("a/x", "1"), zipMode("a/", "", fs.ModeDir|0o700), zipMode("a/", "", fs.ModeDir|0o711)),
			[]string{"drwx--x--x a", `-rw-r--r-- a/x "1"`},
		},
		{
			"zip: names that differ by case only are two on Linux",
			zipBytes(t, zipFile("README", "1"), zipFile("readme", "2")),
			[]string{`-rw-r--r-- README "1"`, `-rw-r--r-- readme "2"`},
		},
		{
			"zip: setgid of a folder is dropped, a folder stays open to its owner",
			zipBytes(t, zipMode("s/", "", fs.ModeDir|fs.ModeSetgid|0o575), zipFile("s/x", "1")),
			[]string{"drwxrwxr-x s", `-rw-r--r-- s/x "1"`},
		},
		{
			"zip: dots in names",
			zipBytes(t, zipFile("./a/./..b", "1"), zipFile("a//c...", "2")),
			[]string{"drwxr-xr-x a", `-rw-r--r-- a/..b "1"`, `-rw-r--r-- a/c... "2"`},
		},
	}
}

func goodOthers(t testing.TB) []goodArchive {
	longName := strings.Repeat("n", 200)
	return []goodArchive{
		{
			"tar: files, folders, links, hard link",
			tarBytes(
				t, tarOf(tar.TypeDir, "./", ""), tarOf(tar.TypeDir, "./d/", ""), tarFile("./d/f", "1"), tarOf(tar.TypeLink, "h", "./d/f"),
				tarOf(tar.TypeSymlink, "s", "d/f"), tarFile(longName+"/"+longName, "long"),
			),
			[]string{
				"drwxr-xr-x d", `-rw-r--r-- d/f "1"`, `-rw-r--r-- h "1"`, "drwxr-xr-x " + longName, "-rw-r--r-- " + longName + "/" + longName + ` "long"`,
				"link s -> d/f",
			},
		},
		{
			"tar.gz with the comment git archive writes",
			gzipBytes(t, tarBytes(t, tmember{Header: tar.Header{
				Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "4f2a"},
			}}, tarFile("Dockerfile", "FROM scratch"))),
			[]string{`-rw-r--r-- Dockerfile "FROM scratch"`},
		},
		{
			"a Dockerfile with much before its FROM",
			[]byte("\ufeff# syntax=docker/dockerfile:1\r\n# escape=`\r\n\r\narg A=1 `\r\n# why\r\n  B=2\r\nARG C\\\r\n\tfrom scratch\r\n"),
			[]string{`-rw-r--r-- Dockerfile "\ufeff# syntax=docker/dockerfile:1\r\n# escape=` + "`" + `\r\n\r\narg A=1 ` + "`" + `\r\n# why\r\n  B=2\r\nARG C\\\r\n\tfrom scratch\r\n"`},
		},
		{"a lone Dockerfile", []byte("FROM scratch\nCMD [\"/é\"]\n"), []string{`-rw-r--r-- Dockerfile "FROM scratch\nCMD [\"/é\"]\n"`}},
		{"a lone Dockerrun", []byte("\n{\"AWSEBDockerrunVersion\": 1}"), []string{`-rw-r--r-- Dockerrun.aws.json "\n{\"AWSEBDockerrunVersion\": 1}"`}},
	}
}

func TestUnpack_MakesTheTree(t *testing.T) {
	for _, tt := range slices.Concat(goodZips(t), goodOthers(t)) {
		t.Run(tt.name, func(t *testing.T) {
			dest, _, err := unpack(t, tt.archive, bundle.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			got := listTree(t, dest)
			slices.Sort(got)
			want := slices.Sorted(slices.Values(tt.want))
			if !slices.Equal(got, want) {
				t.Fatalf("tree:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
			if left := filesUnder(t, filepath.Dir(dest)); slices.ContainsFunc(left, func(p string) bool { return strings.HasPrefix(p, ".") }) {
				t.Fatalf("left behind: %v", left)
			}
		})
	}
}

func TestUnpack_DoesNotCareForTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dest, _, err := unpack(t, zipBytes(t, zipFile("a/b/c", "1"), zipMode("a/run", "2", 0o755)), bundle.Limits{})
	must(t, err)
	for p, want := range map[string]fs.FileMode{".": 0o755, "a": 0o755, "a/b": 0o755, "a/b/c": 0o644, "a/run": 0o755} {
		fi, err := os.Stat(filepath.Join(dest, p))
		must(t, err)
		if fi.Mode().Perm() != want {
			t.Errorf("%s is %v, want %v", p, fi.Mode().Perm(), want)
		}
	}
}

func TestUnpack_KeepsTimes(t *testing.T) {
	when := time.Date(2021, 5, 6, 7, 8, 9, 0, time.UTC)
	archive := tarBytes(
		t, tarOf(tar.TypeDir, "d", "").with(func(m *tmember) { m.ModTime = when }), tarFile("d/f", "1").with(func(m *tmember) { m.ModTime = when }),
	)
	dest, _, err := unpack(t, archive, bundle.Limits{})
	must(t, err)
	for _, p := range []string{"d", "d/f"} {
		fi, err := os.Stat(filepath.Join(dest, p))
		must(t, err)
		if !fi.ModTime().Equal(when) {
			t.Errorf("%s: time %v, want %v", p, fi.ModTime(), when)
		}
	}
}

type hostile struct {
	name    string
	archive []byte
	limits  bundle.Limits
	says    string
}

// checkRefused holds that Unpack gives *Refused with the sentence, and leaves nothing.
func checkRefused(t *testing.T, tests []hostile) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dest, _, err := unpack(t, tt.archive, tt.limits)
			var refused *bundle.Refused
			if !errors.As(err, &refused) {
				t.Fatalf("err = %v, want *Refused", err)
			}
			if !strings.Contains(err.Error(), tt.says) {
				t.Fatalf("err = %v\nwant it to say %q", err, tt.says)
			}
			if entries, _ := os.ReadDir(filepath.Dir(dest)); len(entries) > 0 {
				t.Fatalf("left behind: %v", entries)
			}
			outside := filesUnder(t, filepath.Dir(filepath.Dir(dest)))
			if !slices.Equal(outside, []string{"bundle"}) {
				t.Fatalf("outside the tree: %v", outside)
			}
		})
	}
}

func link(name, target string) zmember { return zipMode(name, target, fs.ModeSymlink|0o777) }

func TestUnpack_RefusesHostilePathsInZip(t *testing.T) {
	checkRefused(t, []hostile{
		{"dot dot", zipBytes(t, zipFile("../evil", "x")), bundle.Limits{}, "leads out of the bundle"},
		{"dot dot inside", zipBytes(t, zipFile("a/../../evil", "x")), bundle.Limits{}, "leads out of the bundle"},
		{"dot dot that comes back", zipBytes(t, zipFile("a/../b", "x")), bundle.Limits{}, "leads out of the bundle"},
		{"dot dot folder", zipBytes(t, zipMode("../", "", fs.ModeDir|0o755)), bundle.Limits{}, "leads out of the bundle"},
		{"backslash dot dot from Windows", zipBytes(t, windowsFile(`..\evil`, "x")), bundle.Limits{}, "leads out of the bundle"},
		{"backslash dot dot from Unix", zipBytes(t, zipFile(`..\evil`, "x")), bundle.Limits{}, "leads out of the bundle"},
		{"absolute", zipBytes(t, zipFile("/etc/cron.d/evil", "x")), bundle.Limits{}, "absolute"},
		{"absolute backslash", zipBytes(t, windowsFile(`\evil`, "x")), bundle.Limits{}, "absolute"},
		{"drive", zipBytes(t, windowsFile(`C:\evil`, "x")), bundle.Limits{}, "absolute"},
		{"no name", zipBytes(t, zipFile(".", "x")), bundle.Limits{}, "no name"},
		{"NUL", zipBytes(t, zipFile("a\x00b", "x")), bundle.Limits{}, "NUL"},
		{"not UTF-8", zipBytes(t, zipFile("caf\x82", "x")), bundle.Limits{}, "not valid UTF-8"},
		{"twice", zipBytes(t, zipFile("a", "x"), zipFile("./a", "y")), bundle.Limits{}, "twice"},
		{"file and folder", zipBytes(t, zipFile("a", "x"), zipFile("a/b", "y")), bundle.Limits{}, "both a file and a folder"},
		{"folder and file", zipBytes(t, zipFile("a/b", "x"), zipFile("a", "y")), bundle.Limits{}, "both a file and a folder"},
		{"folder with content", bytes.ReplaceAll(zipBytes(t, storedLie("d|", "x", 1, crcOf("x"))), []byte("d|"), []byte("d/")), bundle.Limits{}, "folder with content"},
		{"long name", zipBytes(t, zipFile(strings.Repeat("a", 256), "x")), bundle.Limits{}, "the limit is 255"},
		{"long path", zipBytes(t, zipFile(strings.Repeat("abcdefghi/", 30)+"x", "x")), bundle.Limits{PathBytes: 200}, "the limit is 200"},
		{"deep", zipBytes(t, zipFile(strings.Repeat("a/", 64)+"x", "x")), bundle.Limits{}, "the limit is 64"},
	})
}

func TestUnpack_RefusesHostileLinksInZip(t *testing.T) {
	checkRefused(t, []hostile{
		{"absolute", zipBytes(t, link("a", "/etc/passwd")), bundle.Limits{}, "leads out of the bundle"},
		{"out", zipBytes(t, link("a", "../x")), bundle.Limits{}, "leads out of the bundle"},
		{"out from below", zipBytes(t, link("a/b", "../../x")), bundle.Limits{}, "leads out of the bundle"},
		{"out and back", zipBytes(t, link("a", "../7-0a1b2c3d/x")), bundle.Limits{}, "leads out of the bundle"},
		// As text the target stays inside (a/b/foo); the kernel goes a/b/c -> the root -> out.
		{"out by way of another link", zipBytes(t, link("a/b/c", "../.."), link("z", "a/b/c/../foo")), bundle.Limits{}, "leads out of the bundle"},
		{"out by a chain", zipBytes(t, link("d/one", ".."), link("two", "d/one/../x")), bundle.Limits{}, "leads out of the bundle"},
		{"circle", zipBytes(t, link("a", "b"), link("b", "a")), bundle.Limits{}, "circle"},
		{"bomb of links", zipBytes(t, linkBomb()...), bundle.Limits{}, "circle"},
		{"tangle of links", zipBytes(t, linkTangle(400, 400)...), bundle.Limits{}, "too often to be checked"},
		{"long way of links", zipBytes(t, linkTangle(1000, 0)...), bundle.Limits{}, "the link's path is too long"},
		{"empty", zipBytes(t, link("a", "")), bundle.Limits{}, "no target"},
		{"NUL", zipBytes(t, link("a", "b\x00c")), bundle.Limits{}, "not a valid path"},
		{"long", zipBytes(t, link("a", strings.Repeat("b/", 2000))), bundle.Limits{}, "the limit is 2048"},
		{"write through", zipBytes(t, link("a", "b"), zipFile("b/x", "1"), zipFile("a/evil", "x")), bundle.Limits{}, "goes through the symbolic link"},
		{"write through, later", zipBytes(t, zipFile("a/evil", "x"), link("a", "/tmp")), bundle.Limits{}, "leads out"},
		{"folder where a link is", zipBytes(t, link("a", "b"), zipMode("a/", "", fs.ModeDir|0o755)), bundle.Limits{}, "goes through the symbolic link"},
		{"link where a folder is", zipBytes(t, zipFile("a/x", "x"), link("a", "b")), bundle.Limits{}, "both a file and a folder"},
		{"link twice", zipBytes(t, link("a", "b"), link("a", "c")), bundle.Limits{}, "twice"},
	})
}

// linkBomb is links each of which walks the one before it twice.
func linkBomb() []zmember {
	members := []zmember{zipMode("l0/", "", fs.ModeDir|0o755)}
	for i := 1; i < 30; i++ {
		members = append(members, link(fmt.Sprintf("l%d", i), fmt.Sprintf("l%d/../l%d", i-1, i-1)))
	}
	return members
}

// linkTangle is many links whose ways are long by one another: to walk them all takes hours.
func linkTangle(down, up int) []zmember {
	var members []zmember
	step := func(n int) string {
		return fmt.Sprintf("l%d", n) + strings.Repeat("/a", down) + strings.Repeat("/..", up)
	}
	for i := range 39 {
		members = append(members, link(fmt.Sprintf("l%d", i), step(i+1)))
	}
	for i := range 10_000 {
		members = append(members, link(fmt.Sprintf("m%d", i), step(1)))
	}
	return members
}

func TestUnpack_RefusesHostileKindsInZip(t *testing.T) {
	checkRefused(t, []hostile{
		{"setuid", zipBytes(t, zipMode("su", "x", fs.ModeSetuid|0o755)), bundle.Limits{}, "setuid"},
		{"setgid", zipBytes(t, zipMode("sg", "x", fs.ModeSetgid|0o755)), bundle.Limits{}, "setgid"},
		{"setuid folder", zipBytes(t, zipMode("d/", "", fs.ModeDir|fs.ModeSetuid|0o755)), bundle.Limits{}, "setuid"},
		{"device", zipBytes(t, zipMode("dev", "", fs.ModeDevice|0o644)), bundle.Limits{}, "device"},
		{"character device", zipBytes(t, zipMode("dev", "", fs.ModeDevice|fs.ModeCharDevice|0o644)), bundle.Limits{}, "device"},
		{"fifo", zipBytes(t, zipMode("p", "", fs.ModeNamedPipe|0o644)), bundle.Limits{}, "named pipe"},
		{"socket", zipBytes(t, zipMode("s", "", fs.ModeSocket|0o644)), bundle.Limits{}, "socket"},
		{"encrypted", zipBytes(t, storedLie("a", "x", 1, 1).with(func(m *zmember) { m.Flags |= 1 })), bundle.Limits{}, "encrypted"},
		{"strong encryption", zipBytes(t, storedLie("a", "x", 1, 1).with(func(m *zmember) { m.Flags |= 1 << 6 })), bundle.Limits{}, "encrypted"},
		{"bzip2 inside", zipBytes(t, storedLie("a", "x", 1, 1).with(func(m *zmember) { m.Method = 12 })), bundle.Limits{}, "method 12"},
	})
}

func TestUnpack_RefusesBombsInZip(t *testing.T) {
	zeros := strings.Repeat("\x00", 40<<20)
	many := make([]zmember, 0, 50)
	for i := range 50 {
		many = append(many, zipFile(fmt.Sprintf("f%d", i), ""))
	}
	checkRefused(t, []hostile{
		{"ratio", zipBytes(t, zipFile("zeros", zeros)), bundle.Limits{}, "more than 200 times its size"},
		{"bytes", zipBytes(t, zipFile("a", "12345"), zipFile("b", "67890")), bundle.Limits{Bytes: 9}, "more than 9 bytes"},
		{"bytes of one", zipBytes(t, zipFile("a", "1234567890")), bundle.Limits{Bytes: 9}, "limit for the whole bundle is 9"},
		{"files", zipBytes(t, many...), bundle.Limits{Files: 49}, "more than 49 files"},
		{"implied folders", zipBytes(t, zipFile("a/b/c/d/e/f", "")), bundle.Limits{Files: 5}, "more than 5 files"},
		{"archive", zipBytes(t, zipFile("a", "x")), bundle.Limits{ArchiveBytes: 20}, "the limit is 20"},
		{"more than told", zipBytes(t, storedLie("a", "0123456789", 3, crcOf("0123456789"))), bundle.Limits{}, "damaged"},
		{"huge size told", zipBytes(t, storedLie("a", "0123456789", 1<<62, 0)), bundle.Limits{}, "limit for the whole bundle"},
		{"sum overflow", zipBytes(t, storedLie("a", "x", 3<<30, 0), storedLie("b", "x", 3<<30, 0)), bundle.Limits{}, "more than 4294967296 bytes"},
		{"members hidden from a 16-bit count", hiddenMembers(t), bundle.Limits{Files: 1000}, "more than 1000 files"},
	})
}

// hiddenMembers is a zip with 65,536 + 1 members whose trailer says 1: a 16-bit count cannot tell.
func hiddenMembers(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for i := range 1<<16 + 1 {
		if _, err := w.CreateRaw(&zip.FileHeader{Name: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	must(t, w.Close())
	raw := buf.Bytes()
	at := bytes.LastIndex(raw, []byte("PK\x05\x06"))
	start := bytes.Index(raw, []byte("PK\x01\x02"))
	end := bytes.LastIndex(raw, []byte("PK\x06\x06")) // the zip64 trailer goes
	if end < 0 {
		end = at
	}
	trailer := slices.Clone(raw[at:])
	binary.LittleEndian.PutUint16(trailer[8:], 1)
	binary.LittleEndian.PutUint16(trailer[10:], 1)
	binary.LittleEndian.PutUint32(trailer[12:], uint32(end-start))
	binary.LittleEndian.PutUint32(trailer[16:], uint32(start))
	return append(slices.Clone(raw[:end]), trailer...)
}

func TestUnpack_RefusesDamagedZip(t *testing.T) {
	good := zipBytes(t, zipFile("a.txt", strings.Repeat("hello ", 1000)), zipFile("b.txt", "b"))
	body := bytes.Index(good, []byte("a.txt")) + len("a.txt")
	flipped := slices.Clone(good)
	flipped[body+20] ^= 0xff
	noDirectory := good[:bytes.Index(good, []byte("PK\x01\x02"))]
	checkRefused(t, []hostile{
		{"cut in the middle", good[:len(good)/2], bundle.Limits{}, "cut short"},
		{"cut at the end", good[:len(good)-1], bundle.Limits{}, "cut short"},
		{"no directory", noDirectory, bundle.Limits{}, "cut short"},
		{"wrong checksum", zipBytes(t, storedLie("a", "hello", 5, 12345)), bundle.Limits{}, "checksum"},
		{"less than told", zipBytes(t, storedLie("a", "hello", 50, 12345)), bundle.Limits{}, "cut short"},
		{"flipped bits", flipped, bundle.Limits{}, "refused"},
		{"only a trailer", zipBytes(t), bundle.Limits{}, "holds no files"},
		{"only a folder", zipBytes(t, zipMode("d/", "", fs.ModeDir|0o755)), bundle.Limits{}, "holds no files"},
		{"split", slices.Concat(good[:len(good)-18], []byte{1, 0}, good[len(good)-16:]), bundle.Limits{}, "split"},
	})
}

func TestUnpack_RefusesWhatIsNoArchive(t *testing.T) {
	checkRefused(t, []hostile{
		{"empty", nil, bundle.Limits{}, "empty"},
		{"blank", []byte(" \n"), bundle.Limits{}, "empty"},
		{"noise", randomBytes(1, 5000), bundle.Limits{}, "no archive"},
		{"NUL in text", []byte("FROM a\x00"), bundle.Limits{}, "no archive"},
		{"broken JSON", []byte(`{"AWSEBDockerrunVersion": `), bundle.Limits{}, "not valid JSON"},
		{"text of something else", []byte("#!/bin/sh\nFROM=1\necho FROM here\n"), bundle.Limits{}, "neither a zip, a tar, a tar.gz, a Dockerrun.aws.json nor a Dockerfile"},
		{"only comments and ARG", []byte("# FROM a\nARG V=1 \\\nFROM b\n"), bundle.Limits{}, "nor a Dockerfile"},
		{"FROM nothing", []byte("FROM\n"), bundle.Limits{}, "nor a Dockerfile"},
		{"long text", bytes.Repeat([]byte("a"), 2<<20), bundle.Limits{}, "no archive"},
		{"bzip2", []byte("BZh91AY&SY"), bundle.Limits{}, "bzip2"},
		{"xz", []byte("\xfd7zXZ\x00...."), bundle.Limits{}, "xz"},
		{"7z", []byte("7z\xbc\xaf\x27\x1c"), bundle.Limits{}, "7z"},
		{"rar", []byte("Rar!\x1a\x07\x00"), bundle.Limits{}, "rar"},
		{"program", []byte("\x7fELF\x02\x01"), bundle.Limits{}, "a program"},
		{"gzip of a text", gzipBytes(t, bytes.Repeat([]byte("hello\n"), 1000)), bundle.Limits{}, "no tar in it"},
		{"gzip of nothing", gzipBytes(t, nil), bundle.Limits{}, "end mark"},
		{"gzip magic only", []byte("\x1f\x8b"), bundle.Limits{}, "cut short"},
	})
}

func TestUnpack_RefusesHostileTar(t *testing.T) {
	ok := tarFile("ok", "x")
	checkRefused(t, []hostile{
		{"dot dot", tarBytes(t, tarFile("../evil", "x")), bundle.Limits{}, "leads out of the bundle"},
		{"absolute", tarBytes(t, tarFile("/etc/evil", "x")), bundle.Limits{}, "absolute"},
		{"not UTF-8", tarBytes(t, tarFile("a\xff", "x").with(func(m *tmember) { m.Format = tar.FormatGNU })), bundle.Limits{}, "not valid UTF-8"},
		{"twice", tarBytes(t, ok, tarFile("ok", "y")), bundle.Limits{}, "twice"},
		{"link out", tarBytes(t, tarOf(tar.TypeSymlink, "a", "../../etc")), bundle.Limits{}, "leads out of the bundle"},
		{"absolute link", tarBytes(t, tarOf(tar.TypeSymlink, "a", "/etc")), bundle.Limits{}, "leads out of the bundle"},
		{"out by a chain", tarBytes(t, tarOf(tar.TypeSymlink, "a/b/c", "../.."), tarOf(tar.TypeSymlink, "z", "a/b/c/../f")), bundle.Limits{}, "leads out"},
		{"write through", tarBytes(t, tarOf(tar.TypeSymlink, "a", "b"), tarFile("a/x", "x")), bundle.Limits{}, "goes through the symbolic link"},
		{"write through in front", tarBytes(t, tarOf(tar.TypeSymlink, "a", "ok"), ok, tarFile("a", "x")), bundle.Limits{}, "twice"},
		{"hard link out", tarBytes(t, tarOf(tar.TypeLink, "a", "../../etc/passwd")), bundle.Limits{}, "leads out of the bundle"},
		{"absolute hard link", tarBytes(t, tarOf(tar.TypeLink, "a", "/etc/passwd")), bundle.Limits{}, "leads out of the bundle"},
		{"hard link to nothing", tarBytes(t, tarOf(tar.TypeLink, "a", "b")), bundle.Limits{}, "no file that comes before it"},
		{"hard link to a link", tarBytes(t, tarOf(tar.TypeSymlink, "s", "ok"), tarOf(tar.TypeLink, "a", "s")), bundle.Limits{}, "no file that comes before it"},
		{"hard link to a folder", tarBytes(t, tarOf(tar.TypeDir, "d", ""), tarOf(tar.TypeLink, "a", "d")), bundle.Limits{}, "no file that comes before it"},
		{"device", tarBytes(t, tarOf(tar.TypeBlock, "a", "")), bundle.Limits{}, "device"},
		{"character device", tarBytes(t, tarOf(tar.TypeChar, "a", "")), bundle.Limits{}, "device"},
		{"fifo", tarBytes(t, tarOf(tar.TypeFifo, "a", "")), bundle.Limits{}, "named pipe"},
		{"setuid", tarBytes(t, tarFile("a", "x").with(func(m *tmember) { m.Mode = 0o4755 })), bundle.Limits{}, "setuid"},
		{"setgid", tarBytes(t, tarFile("a", "x").with(func(m *tmember) { m.Mode = 0o2755 })), bundle.Limits{}, "setgid"},
		{"deep", tarBytes(t, tarFile(strings.Repeat("a/", 64)+"x", "x")), bundle.Limits{}, "the limit is 64"},
		{"files", tarBytes(t, tarFile("a", ""), tarFile("b", ""), tarFile("c", "")), bundle.Limits{Files: 2}, "more than 2 files"},
		{"bytes", tarBytes(t, tarFile("a", "12345"), tarFile("b", "67890")), bundle.Limits{Bytes: 9}, "more than 9 bytes"},
		{"only folders", gzipBytes(t, tarBytes(t)), bundle.Limits{}, "holds no files"},
	})
}

func TestUnpack_RefusesDamagedTar(t *testing.T) {
	good := tarBytes(t, tarFile("a", strings.Repeat("x", 2000)), tarFile("b", "y"))
	zipped := gzipBytes(t, good)
	crc := slices.Clone(zipped)
	crc[len(crc)-8] ^= 0xff
	header := slices.Clone(good)
	header[512+2048+3] ^= 0xff
	bomb := gzipBytes(t, tarBytes(t, tarFile("zeros", strings.Repeat("\x00", 40<<20))))
	headers := gzipBytes(t, bytes.Repeat([]byte{0}, 40<<20))
	checkRefused(t, []hostile{
		{"cut in a file", good[:1000], bundle.Limits{}, "cut short"},
		{"cut in a header", good[:512+2048+100], bundle.Limits{}, "cut short"},
		{"cut between files", good[:512+2048], bundle.Limits{}, "end mark"},
		{"header damaged", header, bundle.Limits{}, "damaged"},
		{"gzip cut", zipped[:len(zipped)/2], bundle.Limits{}, "cut short"},
		{"gzip cut in its trailer", zipped[:len(zipped)-4], bundle.Limits{}, "cut short"},
		{"gzip checksum", crc, bundle.Limits{}, "checksum"},
		{"garbage behind gzip", append(slices.Clone(zipped), "garbage that is no gzip member"...), bundle.Limits{}, "damaged"},
		{"gzip bomb", bomb, bundle.Limits{}, "more than 200 times its size"},
		{"gzip of zeros", headers, bundle.Limits{}, "refused"},
	})
}

func TestUnpack_TakesZip64AndDataDescriptors(t *testing.T) {
	many := make([]zmember, 0, 1<<16+10)
	for i := range cap(many) { // more members than 16 bits count
		many = append(many, zmember{FileHeader: zip.FileHeader{Name: fmt.Sprintf("d%d/f%d", i%20, i)}})
	}
	_, stats, err := unpack(t, zipBytes(t, many...), bundle.Limits{})
	must(t, err)
	if stats.Files != len(many) || stats.Folders != 20 {
		t.Fatalf("stats = %+v, want %d files", stats, len(many))
	}
}

func TestUnpack_NeverTouchesAnExistingTree(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "b")
	must(t, os.WriteFile(path, zipBytes(t, zipFile("a", "x")), 0o600))
	dest := filepath.Join(dir, "tree")
	must(t, os.Mkdir(dest, 0o755))
	if _, err := bundle.Unpack(t.Context(), path, dest, bundle.Limits{}); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("err = %v, want ErrExist", err)
	}
	if got := filesUnder(t, dir); !slices.Equal(got, []string{"b"}) {
		t.Fatalf("files: %v", got)
	}
}

func TestUnpack_StopsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "b")
	for name, archive := range map[string][]byte{
		"zip": zipBytes(t, zipFile("a", "x")), "tar": tarBytes(t, tarFile("a", "x")), "text": []byte("FROM a"),
	} {
		must(t, os.WriteFile(path, archive, 0o600))
		ctx, cancel := context.WithCancelCause(t.Context())
		cause := errors.New("the deadline of the command")
		cancel(cause)
		if _, err := bundle.Unpack(ctx, path, filepath.Join(dir, "t", "1"), bundle.Limits{}); !errors.Is(err, cause) {
			t.Errorf("%s: err = %v, want %v", name, err, cause)
		}
		if entries, _ := os.ReadDir(filepath.Join(dir, "t")); len(entries) > 0 {
			t.Errorf("%s: left behind: %v", name, entries)
		}
	}
}

func TestUnpack_RefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	var refused *bundle.Refused
	if _, err := bundle.Unpack(t.Context(), dir, filepath.Join(dir, "x"), bundle.Limits{}); !errors.As(err, &refused) {
		t.Fatalf("folder: err = %v", err)
	}
	if _, err := bundle.Unpack(t.Context(), filepath.Join(dir, "none"), filepath.Join(dir, "x"), bundle.Limits{}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("missing: err = %v", err)
	}
}

func TestSweep_RemovesLeftoversOnly(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{".unpack-3-abc-123/x", ".unpack-4-abc-9/a/b", "1-abcdef00/f", ".hidden/f"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, p), nil, 0o600))
	}
	n, err := bundle.Sweep(dir)
	must(t, err)
	if got := filesUnder(t, dir); n != 2 || !slices.Equal(got, []string{".hidden/f", "1-abcdef00/f"}) {
		t.Fatalf("removed %d, left %v", n, got)
	}
	if n, err := bundle.Sweep(filepath.Join(dir, "none")); n != 0 || err != nil {
		t.Fatalf("missing folder: %d, %v", n, err)
	}
}

func TestUnpackLike_UnchangedFilesKeepTheirTime(t *testing.T) {
	dir := t.TempDir()
	before, after := filepath.Join(dir, "before"), filepath.Join(dir, "after")
	at := time.Date(2020, 1, 2, 3, 4, 5, 6, time.UTC)
	large := strings.Repeat("0123456789abcdef", 40_000)
	for name, content := range map[string]string{
		"same": "content", "large": large, "large-changed": large[1:] + "x", "sub/same": "s", "changed": "c0ntent", "shorter": "conten", "told": "told", "empty": "",
	} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(before, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(before, name), []byte(content), 0o644))
		must(t, os.Chtimes(filepath.Join(before, name), at, at))
	}
	must(t, os.Symlink("same", filepath.Join(before, "link")))
	must(t, syscall.Mkfifo(filepath.Join(before, "pipe"), 0o600))
	told := time.Date(2021, 6, 7, 8, 9, 10, 0, time.UTC)
	withTime := zipFile("told", "told")
	withTime.Modified = told
	archive := filepath.Join(dir, "bundle")
	must(t, os.WriteFile(archive, zipBytes(t,
		zipFile("same", "content"), zipFile("large", large), zipFile("large-changed", large), zipFile("sub/same", "s"), zipFile("changed", "content"),
		zipFile("shorter", "content"), zipFile("empty", ""), zipFile("link", "content"), zipFile("pipe", ""), zipFile("new", "n"), withTime), 0o600))
	_, err := bundle.UnpackLike(t.Context(), archive, after, before, bundle.Limits{})
	must(t, err)
	for name, want := range map[string]time.Time{
		"same": at, "large": at, "sub/same": at, "empty": at, "told": told,
		"large-changed": {}, "changed": {}, "shorter": {}, "link": {}, "pipe": {}, "new": {},
	} {
		info, err := os.Lstat(filepath.Join(after, name))
		must(t, err)
		switch got := info.ModTime(); {
		case !want.IsZero() && !got.Equal(want):
			t.Errorf("%s has the time %v, want %v", name, got, want)
		case want.IsZero() && time.Since(got) > time.Hour:
			t.Errorf("%s, which is new, has the time %v", name, got)
		}
	}
	if _, err := bundle.UnpackLike(t.Context(), archive, filepath.Join(dir, "first"), filepath.Join(dir, "none"), bundle.Limits{}); err != nil {
		t.Errorf("without a version before: %v", err)
	}
}
