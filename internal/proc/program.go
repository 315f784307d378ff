package proc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"hostmanager/internal/proc/table"
)

// program is the file to be executed, held open so that what was checked stays the same thing: its inode cannot pass to another file.
type program struct {
	file   *os.File
	state  unix.Stat_t // when it was read
	real   string      // its own path, with no link in it
	exec   string      // what is executed: real, or a copy only root can reach
	sum    string      // SHA-256 of its content
	native bool        // a program of this machine's kind, which the kernel itself loads
	copied bool
}

// openProgram resolves the links of a path once, opens what is there and reads it. Its errors are the system's.
func openProgram(ctx context.Context, path, within, copies string) (*program, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, err
	}
	if within != "" && !strings.HasPrefix(real, strings.TrimSuffix(within, "/")+"/") {
		return nil, &StartError{Path: path, Err: ErrExchanged, Hint: "it leads out of " + within + " now, to " + real}
	}
	file, err := openPlain(real)
	if err != nil {
		return nil, err
	}
	p := &program{file: file, real: real, exec: real}
	if err := p.read(ctx); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if !p.native && !onlyRootChanges(real) {
		if err := p.copy(ctx, copies); err != nil {
			return nil, errors.Join(fmt.Errorf("copy %s, which others than root can exchange: %w", real, err), p.close())
		}
	}
	return p, nil
}

// openPlain opens a path that must not lead over a link.
func openPlain(path string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOFOLLOW // a pipe must not hold us
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before Linux 5.6, or not let through by a filter
		fd, err = unix.Open(path, flags, 0)
	}
	if errors.Is(err, unix.ELOOP) {
		return nil, ErrExchanged
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// read checks what was opened and takes its digest.
func (p *program) read(ctx context.Context) error {
	if err := unix.Fstat(int(p.file.Fd()), &p.state); err != nil {
		return err
	}
	if p.state.Mode&unix.S_IFMT != unix.S_IFREG {
		return unix.EACCES
	}
	sum := sha256.New()
	if err := readAll(ctx, p.file, sum); err != nil {
		return err
	}
	p.sum = hex.EncodeToString(sum.Sum(nil))
	head := make([]byte, 20)
	n, err := p.file.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	p.native = isNative(head[:n])
	return nil
}

// readAll copies the file from its beginning.
func readAll(ctx context.Context, f *os.File, to io.Writer) error {
	buf := make([]byte, 256<<10)
	for off := int64(0); ; {
		n, err := f.ReadAt(buf, off)
		if _, werr := to.Write(buf[:n]); werr != nil {
			return werr
		}
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// isNative tells a program that no interpreter stands before, neither one of a #! line nor one of binfmt_misc.
func isNative(head []byte) bool {
	if len(head) < 20 || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) || head[5] != byte(elf.ELFDATA2LSB) {
		return false
	}
	machine := elf.Machine(uint16(head[18]) | uint16(head[19])<<8)
	return runtime.GOARCH == "amd64" && machine == elf.EM_X86_64 || runtime.GOARCH == "arm64" && machine == elf.EM_AARCH64
}

// onlyRootChanges tells whether nobody but root (or this process's own user) can write to the file or put another one in its place. In a sticky
// folder only a file's owner can.
func onlyRootChanges(path string) bool {
	for {
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return false
		}
		ours := st.Uid == 0 || int(st.Uid) == os.Geteuid()
		if !ours || st.Mode&0o022 != 0 && (st.Mode&unix.S_ISVTX == 0 || st.Mode&unix.S_IFMT != unix.S_IFDIR) {
			return false
		}
		if path == "/" {
			return true
		}
		path = filepath.Dir(path)
	}
}

// copy makes a copy that only root can reach, under the file's own name.
func (p *program) copy(ctx context.Context, below string) error {
	if below == "" {
		return errors.New("no folder for copies is configured")
	}
	if err := os.MkdirAll(below, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(below, "exec-")
	if err != nil {
		return err
	}
	p.exec, p.copied = filepath.Join(dir, filepath.Base(p.real)), true
	mode := os.FileMode(p.state.Mode&0o555) | 0o400 // without an exec bit it is refused as the file itself would be
	f, err := os.OpenFile(p.exec, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	sum := sha256.New()
	err = errors.Join(readAll(ctx, p.file, io.MultiWriter(f, sum)), f.Chmod(mode), f.Close())
	if err == nil && hex.EncodeToString(sum.Sum(nil)) != p.sum {
		err = ErrExchanged
	}
	return err
}

// verify is called when the kernel has loaded the program and not yet run it: a native one is what it executes, a script is what its path still
// leads to.
func (p *program) verify(t *table.Table, pid int) error {
	if p.copied {
		return nil
	}
	exchanged := &StartError{Path: p.real, Err: ErrExchanged, Hint: "another process replaces it while it is run; nothing of it was executed"}
	var now unix.Stat_t
	if err := unix.Fstat(int(p.file.Fd()), &now); err != nil {
		return fmt.Errorf("look at %s: %w", p.real, err)
	}
	if now.Mtim != p.state.Mtim || now.Size != p.state.Size {
		return exchanged
	}
	if p.native {
		dev, ino, err := t.Program(pid)
		if err != nil {
			return fmt.Errorf("look at what runs for %s: %w", p.real, err)
		}
		if dev != p.state.Dev || ino != p.state.Ino {
			return exchanged
		}
		return nil
	}
	if p.changed() {
		return exchanged
	}
	return nil
}

// changed tells whether the path leads elsewhere, or to another content, than what was read.
func (p *program) changed() bool {
	var now unix.Stat_t
	if err := unix.Lstat(p.real, &now); err != nil {
		return true
	}
	return now.Dev != p.state.Dev || now.Ino != p.state.Ino || now.Mtim != p.state.Mtim || now.Size != p.state.Size
}

func (p *program) close() error {
	var err error
	if p.copied {
		err = os.RemoveAll(filepath.Dir(p.exec))
	}
	return errors.Join(err, p.file.Close())
}
