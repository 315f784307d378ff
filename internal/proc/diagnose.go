package proc

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"hostmanager/internal/atomicfile"
)

// diagnose turns a refused start into a sentence that says which part is missing.
func diagnose(c *Command, err error) error {
	e := &StartError{Path: c.Path, Err: err, Hint: "the system refused to start it"}
	var sys unix.Errno
	if errors.As(err, &sys) {
		e.Err = sys
	}
	if c.Dir != "" {
		if st, err := os.Stat(c.Dir); err != nil || !st.IsDir() {
			e.Hint = fmt.Sprintf("its working directory %s does not exist", c.Dir)
			return e
		}
	}
	for _, word := range append(append([]string{c.Path}, c.Args...), c.Env...) {
		if name, _, _ := strings.Cut(word, "="); strings.ContainsRune(word, 0) {
			e.Hint = fmt.Sprintf("%.40q holds a NUL byte, which no process can be given", name)
			return e
		}
	}
	switch e.Err {
	case unix.ENOENT, unix.ENOTDIR:
		e.Hint = missing(c.Path)
	case unix.EACCES, unix.EPERM:
		e.Hint = forbidden(c.Path)
	case unix.ENOEXEC:
		e.Hint = notExecutable(c.Path)
	case unix.ETXTBSY:
		e.Hint = "some process still has it open for writing; close the file before it is run"
	case unix.E2BIG:
		e.Hint = tooBig(c)
	}
	return e
}

func missing(path string) string {
	if _, err := os.Stat(path); err != nil {
		if st, err := os.Lstat(path); err == nil && st.Mode().Type() == os.ModeSymlink {
			return "it is a link to a file that does not exist"
		}
		return "the file does not exist"
	}
	line := firstLine(path)
	interpreter := shebang(line)
	switch {
	case strings.HasSuffix(line, "\r"):
		return fmt.Sprintf("the interpreter %q of its first line does not exist because the line ends in a carriage return; save the file with Unix line endings", strings.TrimSuffix(interpreter, "\r"))
	case interpreter != "":
		return fmt.Sprintf("the interpreter %s named in its first line does not exist on this instance", interpreter)
	}
	if loader := elfLoader(path); loader != "" {
		return fmt.Sprintf("it is a program linked for the loader %s, which does not exist on this instance; link it statically or install that loader", loader)
	}
	return "the file exists, but something it needs to start does not"
}

func forbidden(path string) string {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return "the file cannot be looked at: " + err.Error()
	case st.IsDir():
		return "it is a folder"
	case !st.Mode().IsRegular():
		return "it is no regular file"
	case st.Mode().Perm()&0o111 == 0:
		return fmt.Sprintf("the file is not executable; run chmod +x %s and pack it again", filepath.Base(path))
	}
	if interpreter := shebang(firstLine(path)); interpreter != "" {
		if st, err := os.Stat(interpreter); err == nil && (st.IsDir() || st.Mode().Perm()&0o111 == 0) {
			return fmt.Sprintf("the interpreter %s named in its first line is not executable", interpreter)
		}
	}
	return "running files is not allowed there: check the folder's permissions, and the noexec mount option"
}

func notExecutable(path string) string {
	head := make([]byte, 64)
	f, err := atomicfile.OpenRegular(path, os.O_RDONLY, 0)
	if err != nil {
		return "its content cannot be read: " + err.Error()
	}
	defer f.Close()
	n, _ := io.ReadFull(f, head)
	head = head[:n]
	switch {
	case n == 0:
		return "the file is empty"
	case bytes.HasPrefix(head, []byte(elf.ELFMAG)):
		return "it is a program for another kind of processor; build it for this instance's"
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf#!")):
		return "a byte order mark stands before its #! line; save the file as UTF-8 without BOM"
	}
	return "it is neither a program nor a script with a #! line; begin it with a line such as #!/bin/sh"
}

func tooBig(c *Command) string {
	name, size, total := "", 0, 0
	for _, kv := range append(append([]string{}, c.Args...), c.Env...) {
		total += len(kv) + 1
		if len(kv) > size {
			size = len(kv)
			name, _, _ = strings.Cut(kv, "=")
		}
	}
	return fmt.Sprintf("arguments and environment hold %d bytes, the largest (%.40q) %d; the system takes 131071 for one and about 2 MB in all", total, name, size)
}

func firstLine(path string) string {
	f, err := atomicfile.OpenRegular(path, os.O_RDONLY, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 256) // the kernel reads as much
	n, _ := io.ReadFull(f, head)
	line, _, _ := bytes.Cut(head[:n], []byte("\n"))
	return string(line)
}

// shebang returns the interpreter of a first line, or nothing.
func shebang(line string) string {
	rest, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return ""
	}
	word, _, _ := strings.Cut(strings.TrimLeft(rest, " \t"), " ")
	word, _, _ = strings.Cut(word, "\t")
	return word
}

func elfLoader(path string) string {
	file, err := atomicfile.OpenRegular(path, os.O_RDONLY, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	f, err := elf.NewFile(file)
	if err != nil {
		return ""
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			b, err := io.ReadAll(p.Open())
			if err == nil {
				return strings.TrimRight(string(b), "\x00")
			}
		}
	}
	return ""
}
