package dev_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"hostmanager/dev"
	"hostmanager/fleet"
	"hostmanager/internal/disk"
	"hostmanager/internal/disktest"
	"hostmanager/internal/dockertest"
	"hostmanager/internal/layout"
	"hostmanager/internal/steadystream"
)

const smallDisk = 256 << 20

// TestRun_OnADiskThatIsShortAndThenFull has a real instance live on a small ext4 of its own, while clients keep asking. At 95 % of the bytes and at 99 %
// of the inodes a deployment is refused with what is missing, and changes nothing. At 100 %, which a hook reaches in the middle of one, the old version
// serves on, the operator is told why, a restart works, and with room again so does the next deployment. One that fits in the place of what failed gets it; one that only
// fits in the place of the version to go back to is refused. No request fails at any time.
func TestRun_OnADiskThatIsShortAndThenFull(t *testing.T) {
	engine := dockertest.Require(t)
	mount := disktest.Mount(t, disktest.Options{Bytes: smallDisk, Inodes: 5000})
	o, out := options(t, "")
	o.Hostmanager, o.Dir, o.Instances = buildHostmanager(t), dockertest.BuildHello(t, "v1"), 1
	o.Root = filepath.Join(mount, "room")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o.Ready = func(r dev.Room) error {
		defer cancel()
		c := &cramped{t: t, room: r, engine: engine, mount: mount, root: layout.Root(r.Instances[0].Root)}
		return c.play()
	}
	if err := dev.Run(ctx, o); err != nil {
		t.Fatalf("%v\n%s", err, out.text.String())
	}
	checkRemoved(t, engine, namespace(t, filepath.Join(o.Root, "i-dev0000001")))
}

// cramped is an instance on a small disk.
type cramped struct {
	t      *testing.T
	room   dev.Room
	engine *client.Client
	mount  string
	root   layout.Root
}

func (c *cramped) play() error {
	url := c.room.Instances[0].URL
	stream, err := steadystream.Start(c.t.Context(), steadystream.Options{
		URL: url + "/", PostURL: url + "/echo", Concurrency: 4, Rate: 200, Check: helloAnswers,
	})
	if err != nil {
		return err
	}
	err = c.scenes()
	report := stream.Stop()
	c.t.Log(report)
	if report.Failed > 0 || report.Requests == 0 {
		err = errors.Join(err, fmt.Errorf("the stream lost requests: %v", report))
	}
	if err != nil {
		log, _ := os.ReadFile(c.root.Log("hostmanager.log"))
		err = fmt.Errorf("%w\n%s", err, log[max(0, len(log)-8000):])
	}
	return err
}

func (c *cramped) ballast() string { return filepath.Join(c.mount, "ballast") }

func (c *cramped) free() error {
	return errors.Join(os.RemoveAll(c.ballast()), os.RemoveAll(c.ballast()+".d"))
}

func (c *cramped) scenes() error {
	if err := c.reserved(); err != nil {
		return err
	}
	disktest.Fill(c.t, c.ballast(), smallDisk/20)
	if err := c.refused("v2", `no room on `+c.mount+`: needs [\d.,]+ MB more there; has `); err != nil {
		return fmt.Errorf("at 95 %% of the bytes: %w", err)
	}
	if err := c.free(); err != nil {
		return err
	}
	disktest.FillInodes(c.t, c.ballast()+".d", 5000/100)
	if err := c.refused("v3", `no room on `+c.mount+`: needs [\d,]+ inodes more there; has `); err != nil {
		return fmt.Errorf("at 99 %% of the inodes: %w", err)
	}
	if err := errors.Join(c.free(), c.reserved(), c.fillingHook()); err != nil {
		return err
	}
	if err := c.fullUnderWay(); err != nil {
		return fmt.Errorf("at 100 %% in the middle of a deployment: %w", err)
	}
	if err := errors.Join(os.Remove(c.root.HookDir("appdeploy/enact/00fill")), c.free()); err != nil {
		return err
	}
	if _, _, err := c.deploy("v5"); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if err := errors.Join(answers(c.room, "v5"), c.reserved()); err != nil {
		return err
	}
	if err := c.pressed(); err != nil {
		return fmt.Errorf("under pressure: %w", err)
	}
	return nil
}

// pressed deploys what only fits when something goes: the evidence of a failure does, the version to go back to never.
func (c *cramped) pressed() error {
	if _, _, err := c.deployDir("v6", c.heavy(dockertest.BuildBroken(c.t, "exits-at-once", "v6"), 40<<20)); !errors.Is(err, fleet.ErrFailed) {
		return fmt.Errorf("a broken version: %w", err)
	}
	if _, _, err := c.deployDir("v7", c.heavy(dockertest.BuildHello(c.t, "v7"), 60<<20)); err != nil {
		return fmt.Errorf("in the place of what failed: %w", err)
	}
	if err := answers(c.room, "v7"); err != nil {
		return err
	}
	if err := await(c.t, func() bool { kept, err := c.listing(); return err == nil && c.versions(kept) == 2 && c.trees() == 2 }); err != nil {
		return fmt.Errorf("the version to go back to: %w", err)
	}
	before, err := c.listing()
	if err != nil {
		return err
	}
	_, text, err := c.deployDir("v8", c.heavy(dockertest.BuildHello(c.t, "v8"), 60<<20))
	if !errors.Is(err, fleet.ErrFailed) || !strings.Contains(text, "nothing was changed: no room on "+c.mount) {
		return fmt.Errorf("in the place of the version to go back to: %q, %w", text, err)
	}
	after, err := c.listing()
	if err == nil && !slices.Equal(before, after) {
		err = fmt.Errorf("the refusal changed\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	return errors.Join(err, answers(c.room, "v7"))
}

// heavy adds so many bytes that do not compress to a version.
func (c *cramped) heavy(dir string, bytes int64) string {
	c.t.Helper()
	f, err := os.Create(filepath.Join(dir, "data"))
	if err == nil {
		_, err = io.CopyN(f, rand.Reader, bytes)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		c.t.Fatal(err)
	}
	return dir
}

// trees counts the application trees, and the notes of which bundle each was made from.
func (c *cramped) trees() int {
	trees, _ := filepath.Glob(filepath.Join(c.root.Releases(), "*"))
	notes, _ := filepath.Glob(filepath.Join(c.root.BundleCache(), "trees", "*"))
	return max(len(trees), len(notes))
}

// versions counts the containers of a listing.
func (c *cramped) versions(listing []string) (n int) {
	for _, line := range listing {
		if strings.HasPrefix(line, "container ") {
			n++
		}
	}
	return n
}

// reserved waits until the agent keeps room back.
func (c *cramped) reserved() error {
	r := disk.NewReserve(c.root.DiskReserve(), 16<<20)
	if err := await(c.t, r.Held); err != nil {
		return fmt.Errorf("the reserve is not made: %w", err)
	}
	return nil
}

// deploy deploys a version and returns what the operator was told.
func (c *cramped) deploy(version string) (fleet.Report, string, error) {
	return c.deployDir(version, dockertest.BuildHello(c.t, version))
}

func (c *cramped) deployDir(version, dir string) (fleet.Report, string, error) {
	bundle, err := fleet.OpenBundle(c.t.Context(), dir)
	if err != nil {
		return fleet.Report{}, "", err
	}
	told := &lines{}
	f, err := operator(c.t.Context(), c.room, told)
	if err != nil {
		return fleet.Report{}, "", errors.Join(err, bundle.Close())
	}
	report, err := f.Deploy(c.t.Context(), fleet.DeployRequest{Bundle: bundle, Label: version})
	text := told.text.String() + report.Failure
	c.t.Logf("%s: %s\n%s", version, report.State, text)
	return report, text, errors.Join(err, bundle.Close())
}

// refused wants a deployment refused with these words and nothing changed, on the disk or in the Engine.
func (c *cramped) refused(version, says string) error {
	before, err := c.listing()
	if err != nil {
		return err
	}
	_, text, err := c.deploy(version)
	if !errors.Is(err, fleet.ErrFailed) {
		return fmt.Errorf("the operator was told %w", err)
	}
	if !regexp.MustCompile(says).MatchString(text) {
		return fmt.Errorf("the operator was told %q, want %q", text, says)
	}
	after, err := c.listing()
	if err == nil && !slices.Equal(before, after) {
		err = fmt.Errorf("the refusal changed\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
	return errors.Join(err, answers(c.room, "v1"))
}

// listing is what a deployment changes: trees, bundles, the platform's files; containers and images.
func (c *cramped) listing() ([]string, error) {
	var all []string
	for _, dir := range []string{c.root.Join("var/app"), c.root.BundleCache(), c.root.EtcBeanstalk(), c.root.Deploy(), c.root.Evidence()} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && path == dir {
				return nil
			}
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err == nil {
				all = append(all, fmt.Sprint(path, " ", info.Mode(), " ", info.Size()))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	only := filters.NewArgs(filters.Arg("label", "hostmanager="+c.room.Instances[0].Namespace))
	containers, err := c.engine.ContainerList(c.t.Context(), container.ListOptions{All: true, Filters: only})
	if err != nil {
		return nil, err
	}
	for _, found := range containers {
		all = append(all, "container "+found.ID+" "+found.State)
	}
	images, err := c.engine.ImageList(c.t.Context(), image.ListOptions{Filters: only})
	for _, found := range images {
		all = append(all, fmt.Sprint("image ", found.ID, found.RepoTags))
	}
	return all, err
}

// fillingHook puts a hook between building and running that takes every block of the disk.
func (c *cramped) fillingHook() error {
	path := c.root.HookDir("appdeploy/enact/00fill")
	script := fmt.Sprintf("#!/bin/sh\nfor bs in 1M 64k 4k 1k 512; do dd if=/dev/zero bs=$bs oflag=append conv=notrunc of=%s 2>/dev/null; done\ntrue\n", c.ballast())
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(script), 0o755))
}

func (c *cramped) fullUnderWay() error {
	_, text, err := c.deploy("v4")
	if !errors.Is(err, fleet.ErrFailed) {
		return fmt.Errorf("the operator was told %w", err)
	}
	if want := `the disk is full \(` + c.mount + ` has .* left, at least .* more are needed`; !regexp.MustCompile(want).MatchString(text) {
		return fmt.Errorf("the operator was told %q, want %q", text, want)
	}
	if err := answers(c.room, "v1"); err != nil {
		return err
	}
	f, err := operator(c.t.Context(), c.room, &lines{})
	if err != nil {
		return err
	}
	if report, err := f.Restart(c.t.Context(), fleet.RestartRequest{}); err != nil {
		return fmt.Errorf("restart: %w (%+v)", err, report)
	}
	return answers(c.room, "v1")
}
