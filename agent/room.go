package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"hostmanager/commandproc"
	"hostmanager/hooks"
	"hostmanager/internal/disk"
	"hostmanager/platform/bundle"
	"hostmanager/protocol"
)

// What a deployment needs beside archive, tree and image: logs, state files, the journal and a copy of it.
const (
	logRoom   = 16 << 20
	logInodes = 64
	// imageFile is how large the files of an image are taken to be.
	imageFile = 32 << 10
	// measureTimeout bounds the look into an archive that is still in S3.
	measureTimeout = 15 * time.Second
)

// noRoomError refuses a deployment before anything of it was done.
type noRoomError struct {
	version string
	short   error
	tried   bool // what could be given up is gone
}

func (e *noRoomError) Error() string {
	text := fmt.Sprintf("version %s is not deployed, nothing was changed: %s", e.version, strings.ReplaceAll(e.short.Error(), "\n", "; "))
	if e.tried {
		text += " (what nobody needs was removed for it already)"
	}
	return text + "; free some room and deploy again"
}

func (e *noRoomError) Unwrap() error        { return e.short }
func (e *noRoomError) FailureCause() string { return protocol.CauseNoRoom }

// preparation is Processor.Prepare.
type preparation = func(context.Context, commandproc.Job) (hooks.Deployment, error)

// reserving is Prepare with a look at the disks behind it: what they cannot take is refused before anything of it is done. A command that goes on
// after a crash is not judged again, and one that brings no bundle never is: where the disk is full it gets the reserve.
func (k *diskKeeper) reserving(prepare preparation) preparation {
	return func(ctx context.Context, j commandproc.Job) (hooks.Deployment, error) {
		if !fetches(j.Request) {
			k.makeWay()
			return prepare(ctx, j)
		}
		d, err := prepare(ctx, j)
		if err != nil || d.ID == 0 {
			return d, err
		}
		if c, _ := k.journal.Command(j.Identity); !commandproc.Untouched(c.Steps) {
			return d, nil
		}
		p, ok := k.infra.of(&hooks.Call{Deployment: d})
		if !ok {
			return d, nil
		}
		src, err := sourceOf(p.manifest)
		if err != nil {
			return d, err
		}
		return d, k.admit(ctx, d, src)
	}
}

// fetches tells whether the request's stages bring a bundle.
func fetches(r protocol.Request) bool {
	def, _ := commandproc.Lookup(r.CommandName)
	for n, stage := range def.Stages {
		if r.StageNum != nil && *r.StageNum != n {
			continue
		}
		if slices.ContainsFunc(stage, func(a commandproc.Action) bool { return a.Name == "DownloadSourceBundle" }) {
			return true
		}
	}
	return false
}

// admit refuses the deployment where a file system cannot take its share. The worst that the bundle can be is looked at first, which costs nothing;
// only where that does not fit is the archive itself.
func (k *diskKeeper) admit(ctx context.Context, d hooks.Deployment, src bundle.Source) error {
	k.replenish() // first, so that it is counted: a deployment that follows a start or a full disk at once needs it as much as any
	tree, err := disk.Of(k.root.Releases())
	if err != nil {
		return err
	}
	dir, last := k.imageRoom(ctx)
	needs := k.needsOf(d, k.bundles.Worst(src, tree.Block), dir, last)
	err = disk.Check(needs...)
	if errors.Is(err, disk.ErrNoRoom) {
		bounded, cancel := context.WithTimeout(ctx, measureTimeout)
		needs = k.needsOf(d, k.bundles.Measure(bounded, src, tree.Block), dir, last)
		cancel()
		err = disk.Check(needs...)
	}
	k.mu.Lock()
	k.needs, k.of = needs, d.InvocationID
	k.mu.Unlock()
	if !errors.Is(err, disk.ErrNoRoom) {
		return err
	}
	if !k.couldHelp(ctx, err, src.SHA256, dir) {
		return &noRoomError{version: d.VersionLabel, short: err}
	}
	k.collect(ctx, collection{failed: true, hard: true, except: src.SHA256})
	if err := disk.Check(needs...); err != nil {
		return &noRoomError{version: d.VersionLabel, short: err, tried: true}
	}
	return nil
}

// imageRoom asks the platform where its next image will lie. A platform that does not answer fails the command later, with its own reason.
func (k *diskKeeper) imageRoom(ctx context.Context) (dir string, last int64) {
	if k.images == nil {
		return "", 0
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	dir, last, err := k.images.ImageRoom(ctx)
	if err != nil {
		k.log.Debug("room of images unknown", "error", err)
		return "", 0
	}
	k.mu.Lock()
	k.docker = dir
	k.mu.Unlock()
	return dir, last
}

// needsOf is the rule. The image is taken to be as large as the one that serves, or its tree where that is larger; before there is one, the tree and
// what the settings say for a base image that has to be pulled.
func (k *diskKeeper) needsOf(d hooks.Deployment, f bundle.Footprint, imageDir string, last int64) []disk.Need {
	needs := []disk.Need{
		{What: "source bundle", Path: k.root.BundleCache(), Bytes: f.Archive, Inodes: 3},
		{What: "logs and state", Path: k.root.AgentState(), Bytes: logRoom, Inodes: logInodes},
	}
	if d.CommandName == protocol.CmdPreInit { // it only fetches
		return needs
	}
	needs = append(needs, disk.Need{What: "tree", Path: k.root.Releases(), Bytes: f.Bytes, Inodes: f.Inodes})
	if imageDir != "" {
		image := max(f.Bytes, last)
		if last == 0 {
			image = f.Bytes + k.conf.ImageReserve
		}
		needs = append(needs, disk.Need{What: "image", Path: imageDir, Bytes: image, Inodes: f.Inodes + image/imageFile})
	}
	return needs
}

// couldHelp tells whether giving up what may be given up can be enough, so that it is not given up for nothing.
func (k *diskKeeper) couldHelp(ctx context.Context, refusal error, except, imageDir string) bool {
	spare := k.spare(ctx, except, imageDir)
	var all []*disk.ShortError
	for _, err := range unjoin(refusal) {
		var s *disk.ShortError
		if errors.As(err, &s) {
			all = append(all, s)
		}
	}
	return len(all) > 0 && !slices.ContainsFunc(all, func(s *disk.ShortError) bool {
		bytes, inodes := s.Missing()
		has := spare[s.Dev]
		return bytes > has.Bytes || inodes > has.Inodes
	})
}

func unjoin(err error) []error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

// spare adds up by file system what collect with all its options could free, at the most.
func (k *diskKeeper) spare(ctx context.Context, except, imageDir string) map[uint64]disk.Need {
	all := map[uint64]disk.Need{}
	add := func(path string, bytes, inodes int64) {
		if s, err := disk.Of(path); err == nil && bytes+inodes > 0 {
			has := all[s.Dev]
			all[s.Dev] = disk.Need{Bytes: has.Bytes + bytes, Inodes: has.Inodes + inodes}
		}
	}
	var trees []string
	var imageBytes int64
	if k.garbage != nil {
		var err error
		if trees, imageBytes, err = k.garbage.Spare(ctx); err != nil {
			k.log.Warn("what could be given up is unknown", "error", err)
		}
	}
	for _, tree := range trees {
		bytes, inodes := sizeOf(tree)
		add(tree, bytes, inodes)
	}
	stay, err := k.trees()
	stay = slices.DeleteFunc(stay, func(name string) bool {
		return slices.Contains(trees, filepath.Join(k.root.Releases(), name))
	})
	if n, errSpare := k.bundles.Spare(stay, except); err == nil && errSpare == nil {
		add(k.root.BundleCache(), n, 2)
	}
	if imageDir != "" && imageBytes > 0 {
		add(imageDir, imageBytes, imageBytes/512) // how many files an image has nobody tells
	}
	return all
}

// sizeOf adds up what a tree takes.
func sizeOf(tree string) (bytes, inodes int64) {
	_ = filepath.WalkDir(tree, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // what cannot be seen is not counted
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += st.Blocks * 512
			}
			inodes++
		}
		return nil
	})
	return bytes, inodes
}
