package docker

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/disktest"
	"hostmanager/internal/layout"
)

// What a container or a hook puts in a log file's place makes way for a file; nobody waits for a reader that never comes.
func TestOpenLog_WhateverIsInItsPlace(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"a pipe": func(path string) error { return unix.Mkfifo(path, 0o666) },
		"a link to a pipe": func(path string) error {
			return errors.Join(unix.Mkfifo(path+"-pipe", 0o666), os.Symlink(path+"-pipe", path))
		},
		"a link to a file": func(path string) error {
			return errors.Join(os.WriteFile(path+"-file", []byte("x"), 0o600), os.Symlink(path+"-file", path))
		},
		"an empty folder": func(path string) error { return os.Mkdir(path, 0o755) },
	} {
		t.Run(name, func(t *testing.T) {
			p := &Platform{root: layout.Root(t.TempDir()), log: slog.New(slog.DiscardHandler)}
			said := &tail{limit: maxTail, data: []byte("last words")}
			logs := []struct {
				path string
				use  func() error
			}{
				{unexpectedQuitLog(p.root), func() error { return p.appendQuit(instance{id: idA}, said) }},
				{buildLog(p.root, "1-a"), func() error {
					f, err := p.openBuildLog("1-a")
					if err == nil {
						_, err = f.WriteString("last words")
						err = errors.Join(err, f.Close())
					}
					return err
				}},
				{filepath.Join(p.root.ContainerLogs(), shortID(idA)+"-stdouterr.log"), func() error {
					l, err := openContainerLog(p.root, idA)
					if err == nil {
						err = errors.Join(l.add("2026-01-02T03:04:05Z", "last words"), l.close())
					}
					return err
				}},
			}
			for _, log := range logs {
				if err := errors.Join(os.MkdirAll(filepath.Dir(log.path), 0o755), put(log.path)); err != nil {
					t.Fatal(err)
				}
				if err := disktest.Soon(t, log.path, log.use); err != nil {
					t.Error(err)
				}
				info, err := os.Lstat(log.path)
				if err != nil || !info.Mode().IsRegular() {
					t.Fatalf("%s: %v, %v", log.path, info, err)
				}
				if data, err := os.ReadFile(log.path); err != nil || !strings.Contains(string(data), "last words") {
					t.Errorf("%s holds %q, %v", log.path, data, err)
				}
			}
		})
	}
}

// A pipe that takes the place of an open log file is found at the next note of the position, which goes on in a new file.
func TestContainerLog_APipeWhileItIsOpen(t *testing.T) {
	l, err := openContainerLog(layout.Root(t.TempDir()), idA)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(l.add("2026-01-02T03:04:05Z", "one\n"), os.Remove(l.path), unix.Mkfifo(l.path, 0o666))
	if err != nil {
		t.Fatal(err)
	}
	err = disktest.Soon(t, "noting the position", func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.save()
	})
	if err := errors.Join(err, l.add("2026-01-02T03:04:06Z", "two\n"), l.close()); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(l.path); err != nil || string(data) != "two\n" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestReadState_APipeInItsPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "id")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	err := disktest.Soon(t, "reading", func() error {
		_, err := readState(path)
		return err
	})
	if !errors.Is(err, atomicfile.ErrNotRegular) {
		t.Errorf("read: %v", err)
	}
	if err := disktest.Soon(t, "writing", func() error { return writeState(path, idA) }); err != nil {
		t.Error(err)
	}
	if id, err := readState(path); id != idA || err != nil {
		t.Errorf("%q, %v", id, err)
	}
}
