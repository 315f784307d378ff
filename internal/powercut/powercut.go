// Package powercut is an ext4 filesystem whose power can be taken away: what it finds then is what was written out, and nothing that only memory
// held. It needs root, losetup, mkfs.ext4 and mount. Only tests and chaos use it.
package powercut

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// Disk is an ext4 filesystem in a file, mounted through a loop device. The device writes past the page cache, so the file holds what the filesystem
// has written out, and nothing that only memory holds: a copy of it is what a machine finds after its power went. It is not safe for concurrent use.
type Disk struct {
	image string // the file that is mounted now
	at    string // where
	loop  string
	cuts  int
}

// New makes a filesystem of that many bytes and mounts it at the folder at, which is made where it is missing. Its files lie beside that folder,
// sparse. Close the disk also where there was an error.
func New(at string, bytes int64) (*Disk, error) {
	d := &Disk{image: at + ".ext4", at: at}
	f, err := os.Create(d.image)
	if err != nil {
		return d, fmt.Errorf("make image of disk: %w", err)
	}
	if err := errors.Join(f.Truncate(bytes), f.Close()); err != nil {
		return d, fmt.Errorf("make image of disk: %w", err)
	}
	if _, err := command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image); err != nil {
		return d, err
	}
	return d, d.mount()
}

// mount mounts the image with a commit interval that no case reaches, and without ext4's own guess that a file which is renamed should have been
// synced: nothing is written out that nobody asked to be.
func (d *Disk) mount() (err error) {
	if d.loop, err = command("losetup", "--find", "--show", "--direct-io=on", d.image); err != nil {
		return err
	}
	if err := os.MkdirAll(d.at, 0o755); err != nil {
		return fmt.Errorf("make folder to mount at: %w", err)
	}
	_, err = command("mount", "-t", "ext4", "-o", "data=ordered,commit=300,noauto_da_alloc", d.loop, d.at)
	return err
}

// Close lets go of the mounted image. What memory still held is written to it, which no copy sees any more.
func (d *Disk) Close() error {
	if d == nil || d.loop == "" {
		return nil
	}
	_, err := command("umount", d.at)
	if err != nil {
		_, err = command("umount", "--lazy", d.at)
	}
	_, detached := command("losetup", "--detach", d.loop)
	d.loop = ""
	return errors.Join(err, detached)
}

// Cut takes the power away: the image's file is copied as it is, and the copy is mounted in its place. Nobody may have files open there.
func (d *Disk) Cut() error {
	d.cuts++
	next := fmt.Sprintf("%s.%d.ext4", d.at, d.cuts)
	if err := copySparse(d.image, next); err != nil {
		return fmt.Errorf("copy image of disk: %w", err)
	}
	if err := errors.Join(d.Close(), os.Remove(d.image)); err != nil {
		return fmt.Errorf("let go of the old image: %w", err)
	}
	d.image = next
	return d.mount()
}

// copySparse copies a file and leaves out what is nothing but zeros.
func copySparse(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	buf, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; at += int64(len(buf)) {
		n, err := io.ReadFull(in, buf)
		if n > 0 && string(buf[:n]) != string(zero[:n]) {
			if _, err := out.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return out.Truncate(at + int64(n))
		}
		if err != nil {
			return err
		}
	}
}

// command runs a program of the system and returns what it printed.
func command(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		return text, fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return text, nil
}
