package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hostmanager/internal/powercut"
)

// diskBytes is the size of the filesystem that loses its power. It is sparse.
const diskBytes = 256 << 20

// plugged is an instance whose root lies on a disk whose power can be taken away.
type plugged struct {
	*instance
	disk *powercut.Disk
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
	if p.disk, err = powercut.New(root, diskBytes); err != nil {
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
		errs = append(errs, p.disk.Close())
	}
	return errors.Join(errs...)
}

// lose takes the power away from agent, proxy and filesystem, and starts all of it again from what the disk had.
func (p *plugged) lose(ctx context.Context) error {
	p.agent.kill()
	p.proxy.kill()
	if err := errors.Join(p.disk.Cut(), p.newBoot(), p.startProxy(ctx)); err != nil {
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
