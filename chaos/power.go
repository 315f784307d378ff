package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// diskBytes is the size of the filesystem that loses its power. It is sparse.
const diskBytes = 256 << 20

// disk is an ext4 filesystem in a file, mounted through a loop device. The device writes past the page cache, so the file holds what the filesystem
// has written out, and nothing that only memory holds: a copy of it is what a machine finds after its power went.
type disk struct {
	image string // the file that is mounted now
	at    string // where
	loop  string
	cuts  int
}

// newDisk makes and mounts a filesystem.
func newDisk(at string) (*disk, error) {
	d := &disk{image: at + ".ext4", at: at}
	f, err := os.Create(d.image)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Truncate(diskBytes), f.Close()); err != nil {
		return nil, err
	}
	if _, err := command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.image); err != nil {
		return nil, err
	}
	return d, d.mount()
}

// mount mounts the image with a commit interval that no case reaches: nothing is written out that nobody asked to be.
func (d *disk) mount() (err error) {
	if d.loop, err = command("losetup", "--find", "--show", "--direct-io=on", d.image); err != nil {
		return err
	}
	if err := os.MkdirAll(d.at, 0o755); err != nil {
		return err
	}
	_, err = command("mount", "-t", "ext4", "-o", "data=ordered,commit=300", d.loop, d.at)
	return err
}

// unmount lets go of the mounted image. What memory still held is written to it, which no copy sees any more.
func (d *disk) unmount() error {
	if d.loop == "" {
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

// cut takes the power away: the image's file is copied as it is, and the copy is mounted in its place. Nobody may have files open there.
func (d *disk) cut() error {
	d.cuts++
	next := fmt.Sprintf("%s.%d.ext4", d.at, d.cuts)
	if err := copySparse(d.image, next); err != nil {
		return err
	}
	if err := errors.Join(d.unmount(), os.Remove(d.image)); err != nil {
		return err
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

// plugged is an instance whose root lies on a disk whose power can be taken away.
type plugged struct {
	*instance
	disk *disk
	boot int
}

// openPlugged makes such an instance. Its binaries see a boot id of their own, which changes with each power loss as a machine's does.
func openPlugged(ctx context.Context, at *site, binary string) (_ *plugged, err error) {
	p := &plugged{}
	name := "chaos-" + word()
	root := filepath.Join(at.dir, name, "root")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	if p.disk, err = newDisk(root); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if p.instance, err = newInstance(ctx, at, name, binary, nil); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if err := p.newBoot(); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if err := errors.Join(p.startProxy(ctx), p.startAgent(), p.play(ctx, trial{name: "first", kind: deploy})); err != nil {
		return nil, errors.Join(err, p.close())
	}
	if p.serves == "" {
		return nil, errors.Join(errors.New("the first deployment did not succeed"), p.close())
	}
	return p, nil
}

// newBoot lets the binaries that are started from now on see another boot id. They run in a mount namespace of their own for that.
func (p *plugged) newBoot() error {
	p.boot++
	file := filepath.Join(p.dir, "boot_id")
	if err := os.WriteFile(file, fmt.Appendf(nil, "00000000-0000-4000-8000-%012d\n", p.boot), 0o644); err != nil {
		return err
	}
	p.wrap = []string{
		"unshare", "--mount", "--propagation", "private", "sh", "-c",
		`mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@"`, file,
	}
	return nil
}

func (p *plugged) close() error {
	var errs []error
	if p.instance != nil {
		errs = append(errs, p.instance.close())
	}
	if p.disk != nil {
		errs = append(errs, p.disk.unmount())
	}
	return errors.Join(errs...)
}

// lose takes the power away from agent, proxy and filesystem, and starts all of it again from what the disk had.
func (p *plugged) lose(ctx context.Context) error {
	p.agent.kill()
	p.proxy.kill()
	if err := errors.Join(p.disk.cut(), p.newBoot(), p.startProxy(ctx)); err != nil {
		return err
	}
	return p.startAgent()
}

// playPower takes the power away at random moments of commands.
func playPower(ctx context.Context, at *site) (err error) {
	p, err := openPlugged(ctx, at, at.built.hostmanager)
	if err != nil {
		return err
	}
	defer func() { p.judgeAll(ctx); err = errors.Join(err, p.close()) }()
	takes := map[string]time.Duration{}
	for _, kind := range []string{deploy, config, restart} {
		if _, takes[kind], err = p.clean(ctx, kind); err != nil {
			return err
		}
	}
	r := rand.New(rand.NewPCG(at.seed, 4))
	for n := range max(3, at.kills/20) {
		kind := []string{deploy, deploy, config, restart}[r.IntN(4)]
		after := time.Duration(r.Float64() * 1.1 * float64(takes[kind]))
		if err := p.loseDuring(ctx, fmt.Sprintf("power loss %d: %s after %s", n+1, kind, after.Round(time.Millisecond)), kind, after); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// loseDuring takes the power away in the middle of a command and judges what came of it.
func (p *plugged) loseDuring(ctx context.Context, name, kind string, after time.Duration) error {
	o, err := p.prepare(ctx, kind)
	if err != nil {
		return err
	}
	t := &played{instance: p.instance, trial: trial{name: name, kind: kind}, order: o, since: time.Now()}
	if err := t.begin(ctx); err != nil {
		return err
	}
	rest(ctx, after)
	if err := p.lose(ctx); err != nil {
		return err
	}
	t.fell(t.mine())
	p.tally.count(func(t *tally) { t.commands++ })
	if err := t.judge(ctx); err != nil {
		return err
	}
	if p.verbose {
		fmt.Fprintf(p.out, "%s  %s: %s; %s\n", p.name, name, strings.Join(t.told, ", "), t.verdict)
	}
	return nil
}
