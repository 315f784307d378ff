package proc_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/internal/proc"
)

func TestRun_StartThatFailsSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	file := func(name, body string, perm os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(body), perm); err != nil {
			t.Fatal(err)
		}
		return p
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("nowhere", link); err != nil {
		t.Fatal(err)
	}
	busy := file("busy", "#!/bin/sh\n", 0o755)
	writer, err := os.OpenFile(busy, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	plain := file("plain", "x", 0o644)
	big := strings.Repeat("v", 200<<10)
	tests := []struct {
		name string
		c    proc.Command
		err  error
		hint string
	}{
		{"no file", proc.Command{Path: filepath.Join(dir, "none")}, syscall.ENOENT, "the file does not exist"},
		{"dangling link", proc.Command{Path: link}, syscall.ENOENT, "link to a file that does not exist"},
		{"no interpreter", proc.Command{Path: file("a", "#!/opt/ruby/bin/ruby -w\n", 0o755)}, syscall.ENOENT, "interpreter /opt/ruby/bin/ruby named in its first line"},
		{"windows line ends", proc.Command{Path: file("b", "#!/bin/sh\r\necho\r\n", 0o755)}, syscall.ENOENT, "carriage return"},
		{"no exec bit", proc.Command{Path: plain}, syscall.EACCES, "chmod +x plain"},
		{"folder", proc.Command{Path: dir}, syscall.EACCES, "folder"},
		{"interpreter without exec bit", proc.Command{Path: file("c", "#!"+plain+"\n", 0o755)}, syscall.EACCES, "interpreter " + plain},
		{"no shebang", proc.Command{Path: file("d", "echo hello\n", 0o755)}, syscall.ENOEXEC, "#!/bin/sh"},
		{"empty", proc.Command{Path: file("e", "", 0o755)}, syscall.ENOEXEC, "empty"},
		{"byte order mark", proc.Command{Path: file("f", "\xef\xbb\xbf#!/bin/sh\n", 0o755)}, syscall.ENOEXEC, "byte order mark"},
		{"other processor", proc.Command{Path: file("g", "\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 9)+"\x02\x00\xb7\x00"+strings.Repeat("\x00", 100), 0o755)}, syscall.ENOEXEC, "another kind of processor"},
		{"being written", proc.Command{Path: busy}, syscall.ETXTBSY, "open for writing"},
		{"no folder to work in", proc.Command{Path: "/bin/true", Dir: filepath.Join(dir, "none")}, syscall.ENOENT, "working directory"},
		{"NUL in a variable", proc.Command{Path: "/bin/true", Env: []string{"A=b", "N=x\x00y"}}, nil, `"N" holds a NUL`},
		{"NUL in an argument", proc.Command{Path: "/bin/true", Args: []string{"x\x00y"}}, syscall.EINVAL, "holds a NUL"},
		{"too large", proc.Command{Path: "/bin/true", Env: []string{"BIG=" + big}}, syscall.E2BIG, `("BIG")`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := proc.Run(t.Context(), tt.c)
			var e *proc.StartError
			if !errors.As(err, &e) || tt.err != nil && !errors.Is(err, tt.err) || !strings.Contains(e.Hint, tt.hint) {
				t.Errorf("got %v, want %v and %q", err, tt.err, tt.hint)
			}
			if strings.Contains(err.Error(), "vvvv") {
				t.Error("the value stands in the error")
			}
		})
	}
	if _, err := proc.Run(t.Context(), proc.Command{}); err == nil {
		t.Error("a command without a path ran")
	}
	if _, err := proc.Run(t.Context(), proc.Command{Path: "sh"}); err == nil {
		t.Error("a program was looked up in PATH")
	}
}

// A pipe in a program's place is refused by the kernel; looking for the reason must not wait for somebody who writes there.
func TestRun_APipeInAProgramsPlace(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(pipe, 0o755); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := proc.Run(t.Context(), proc.Command{Path: pipe})
		ended <- err
	}()
	select {
	case err := <-ended:
		var e *proc.StartError
		if !errors.As(err, &e) || !errors.Is(err, syscall.EACCES) || e.Hint != "it is no regular file" {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it hangs")
	}
}
