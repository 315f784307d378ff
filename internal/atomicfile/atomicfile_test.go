package atomicfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/disktest"
)

// names lists a folder.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestWriteFile_ContentAndMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	for _, perm := range []fs.FileMode{0o600, 0o644, 0o755, 0o400} {
		path := filepath.Join(dir, "new", "folders", fmt.Sprintf("%o", perm))
		for _, data := range []string{"one", "", strings.Repeat("long", 100000), "short"} {
			if err := atomicfile.WriteFile(path, []byte(data), perm); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(path)
			st, _ := os.Stat(path)
			if err != nil || string(got) != data || st.Mode().Perm() != perm {
				t.Errorf("%o: %d bytes with mode %v, %v", perm, len(got), st.Mode(), err)
			}
		}
	}
	if got := names(t, filepath.Join(dir, "new", "folders")); got != "400 600 644 755" {
		t.Errorf("folder holds %s", got)
	}
}

func TestWriteFile_ReplacesALinkAndNotItsTarget(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(target, []byte("old"), 0o644), os.Symlink("target", link)); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteFile(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(target); string(got) != "old" {
		t.Errorf("the target was written: %q", got)
	}
	if st, err := os.Lstat(link); err != nil || !st.Mode().IsRegular() {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

func TestWriteFile_FailureLeavesTheOldFileAndNothingElse(t *testing.T) {
	dir := t.TempDir()
	occupied := filepath.Join(dir, "folder")
	if err := os.MkdirAll(filepath.Join(occupied, "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteFile(occupied, []byte("x"), 0o600); err == nil {
		t.Error("a folder was replaced")
	}
	if err := atomicfile.Symlink("x", occupied); err == nil {
		t.Error("a folder was replaced by a link")
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteFile(filepath.Join(file, "below"), nil, 0o600); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
	if got := names(t, dir); got != "file folder" {
		t.Errorf("folder holds %s", got)
	}
}

func TestWriteFile_DiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Skipf("no right to mount a small disk here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path := filepath.Join(dir, "file")
	if err := atomicfile.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.WriteFile(path, make([]byte, 128<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "old" || names(t, dir) != "file" {
		t.Errorf("%q, %v, folder holds %s", got, err, names(t, dir))
	}
}

func TestConcurrentWriters_ReadersSeeOneOrTheOther(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	content := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 1000*(i+1)) }
	if err := errors.Join(atomicfile.WriteFile(file, content(0), 0o600), atomicfile.Symlink("a", link)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for range 8 {
				if err := errors.Join(atomicfile.WriteFile(file, content(w), 0o600), atomicfile.Symlink(strings.Repeat("a", w+1), link)); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 200 {
				got, err := os.ReadFile(file)
				if err != nil || len(got) == 0 || !bytes.Equal(got, content(int(got[0]-'a'))) {
					t.Errorf("a mix of %d bytes, %v", len(got), err)
				}
				if to, err := os.Readlink(link); err != nil || strings.Trim(to, "a") != "" {
					t.Errorf("link to %q, %v", to, err)
				}
			}
		})
	}
	wg.Wait()
	if got := names(t, dir); got != "file link" {
		t.Errorf("folder holds %s", got)
	}
}

func TestSymlink_ReplacesInOneStep(t *testing.T) {
	link := filepath.Join(t.TempDir(), "new", "link")
	for _, target := range []string{"one", "/two", "one"} {
		if err := atomicfile.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(link); err != nil || got != target {
			t.Errorf("link to %q, %v", got, err)
		}
	}
}

func TestRemove_MissingIsFine(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := atomicfile.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := atomicfile.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if err := atomicfile.Remove(filepath.Join(dir, "no", "folder")); err != nil {
		t.Error(err)
	}
	if names(t, dir) != "" {
		t.Errorf("folder holds %s", names(t, dir))
	}
}

func TestReadFileLimit_Bounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	for limit, ok := range map[int64]bool{0: false, 4: false, 5: true, 6: true, math.MaxInt64: true} {
		got, err := atomicfile.ReadFileLimit(path, limit)
		if ok && (err != nil || string(got) != "12345") || !ok && !errors.Is(err, atomicfile.ErrTooLarge) {
			t.Errorf("limit %d: %q, %v", limit, got, err)
		}
	}
	if _, err := atomicfile.ReadFileLimit(path+"x", 5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := atomicfile.ReadFileLimit(filepath.Dir(path), 5); err == nil {
		t.Error("a folder was read")
	}
}

func TestOpenRegular_NeitherWaitsNorTakesAnythingElse(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(
		unix.Mkfifo(at("pipe"), 0o600), os.Symlink("pipe", at("to-pipe")), os.Mkdir(at("folder"), 0o700), os.Symlink(os.DevNull, at("to-device")),
		os.WriteFile(at("file"), []byte("x"), 0o600), os.Symlink("file", at("to-file")), os.Symlink("nowhere", at("dangling")),
	)
	if err != nil {
		t.Fatal(err)
	}
	for name, how := range map[string]int{"read": os.O_RDONLY, "write": os.O_WRONLY | os.O_CREATE | os.O_APPEND, "truncate": os.O_WRONLY | os.O_CREATE | os.O_TRUNC} {
		for _, file := range []string{"pipe", "to-pipe", "folder", "to-device", "file", "to-file", "dangling", "new-" + name} {
			for _, follow := range []bool{true, false} {
				flag := how
				if !follow {
					flag |= unix.O_NOFOLLOW
				}
				err := disktest.Soon(t, name+" "+file, func() error {
					f, err := atomicfile.OpenRegular(at(file), flag, 0o600)
					if err == nil {
						err = f.Close()
					}
					return err
				})
				switch {
				case file == "file" || file == "to-file" && follow || strings.HasPrefix(file, "new-") && name != "read":
					if err != nil {
						t.Errorf("%s %s, following %v: %v", name, file, follow, err)
					}
				case strings.HasPrefix(file, "new-") || file == "dangling" && follow:
					if name == "read" && !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("%s %s, following %v: %v", name, file, follow, err)
					}
				case !errors.Is(err, atomicfile.ErrNotRegular):
					t.Errorf("%s %s, following %v: %v", name, file, follow, err)
				}
				_ = os.Remove(at("nowhere"))
			}
		}
	}
}

func TestReadFileLimit_APipeOnlyWhereItIsGiven(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	err := disktest.Soon(t, "reading a pipe", func() error {
		_, err := atomicfile.ReadFileLimit(pipe, 5)
		return err
	})
	if !errors.Is(err, atomicfile.ErrNotRegular) {
		t.Errorf("got %v", err)
	}
	go func() { _ = os.WriteFile(pipe, []byte("key"), 0o600) }()
	err = disktest.Soon(t, "reading a pipe that is written", func() error {
		got, err := atomicfile.ReadGivenLimit(pipe, 5)
		if string(got) != "key" {
			err = fmt.Errorf("read %q, %w", got, err)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSweep_TakesOnlyItsOwn(t *testing.T) {
	dir := t.TempDir()
	own, err := os.CreateTemp(dir, atomicfile.TempPattern("journal"))
	if err != nil {
		t.Fatal(err)
	}
	_ = own.Close()
	for _, name := range []string{".hidden", "file.hm-tmp-1", "file"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(atomicfile.Sweep(dir), atomicfile.Sweep(filepath.Join(dir, "missing"))); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); got != ".hidden file file.hm-tmp-1" {
		t.Errorf("folder holds %s", got)
	}
}

func TestMakeDir_OnlyTheLeafIsClosed(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	leaf := filepath.Join(dir, "var", "lib", "own")
	for range 2 {
		if err := atomicfile.MakeDir(leaf, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]fs.FileMode{"var": 0o755, "var/lib": 0o755, "var/lib/own": 0o700} {
		st, err := os.Stat(filepath.Join(dir, path))
		if err != nil || st.Mode() != fs.ModeDir|want {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
	if err := atomicfile.MakeDir(filepath.Join(dir, "var"), 0o700); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(filepath.Join(dir, "var")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("a folder that was there: %v, %v", st.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"f", "f/below"} {
		if err := atomicfile.MakeDir(filepath.Join(dir, path), 0o700); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("%s: %v", path, err)
		}
	}
}
