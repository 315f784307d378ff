package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"hostmanager/hooks"
	"hostmanager/internal/atomicfile"
)

// cleanDir is appdeploy/pre/00clean_dir: what a failed deployment left as evidence has had its time, and so has what else is not needed to
// serve or to go back. It makes the folder for the container's output.
func (p *Platform) cleanDir(ctx context.Context, c *hooks.Call) error {
	if err := p.Wait(ctx); err != nil {
		return err
	}
	if err := p.makeLogFolder(); err != nil {
		return err
	}
	this, err := p.release(c.Deployment)
	if err != nil {
		return err
	}
	if err := p.dropEvidence(this); err != nil {
		return err
	}
	return p.clean(ctx, []string{this})
}

// cleanImages is post/00_clean_imgs: as in the original, what cannot be cleaned fails no deployment, and no deployment waits for it.
func (p *Platform) cleanImages(context.Context, *hooks.Call) error {
	staged, err := releaseName(p.root.Staging())
	if err != nil {
		return fmt.Errorf("read link to staged application: %w", err)
	}
	p.later("clean", func(ctx context.Context) error { return p.clean(ctx, []string{staged}) })
	return nil
}

// makeLogFolder makes the folder that a container may be given as its own: its user is unknown, so everybody may write there, but nobody may
// remove another's files.
func (p *Platform) makeLogFolder() error {
	dir := p.root.ContainerLogs()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder for container output: %w", err)
	}
	return os.Chmod(dir, 0o777|fs.ModeSticky)
}

// dropEvidence forgets the evidence of an earlier failure; clean then removes what nobody names any more.
func (p *Platform) dropEvidence(thisRelease string) error {
	if err := writeState(evidenceFile(p.root), ""); err != nil {
		return err
	}
	logs, err := filepath.Glob(filepath.Join(p.root.Evidence(), "*"+buildLogSuffix))
	if err != nil {
		return err
	}
	for _, path := range logs {
		if path != buildLog(p.root, thisRelease) {
			if err := atomicfile.Remove(path); err != nil {
				return fmt.Errorf("remove old build log: %w", err)
			}
		}
	}
	return nil
}

// kept is what must stay.
type kept struct {
	containers []string // id prefixes
	images     []string // ids
	releases   []string
}

func (k kept) container(id string) bool {
	return slices.ContainsFunc(k.containers, func(prefix string) bool { return prefix != "" && strings.HasPrefix(id, prefix) })
}

// keep collects what the files name: the container that serves, the last good one, the one being staged, the evidence.
func (p *Platform) keep() (kept, error) {
	var k kept
	files := []string{p.root.CurrentContainerID(), lastGoodFile(p.root), p.root.StagingContainerID(), evidenceFile(p.root)}
	for _, file := range files {
		id, err := readState(file)
		if err != nil {
			return kept{}, err
		}
		k.containers = append(k.containers, id)
	}
	current, err := releaseName(p.root.Current())
	if err != nil {
		return kept{}, fmt.Errorf("read link to current application: %w", err)
	}
	k.releases = append(k.releases, current)
	return k, nil
}

// clean removes the containers, images and trees of this namespace that neither the files nor the caller name.
func (p *Platform) clean(ctx context.Context, releases []string) error {
	k, err := p.keep()
	if err != nil {
		return err
	}
	k.releases = append(k.releases, releases...)
	if err := p.cleanContainers(ctx, &k); err != nil {
		return err
	}
	return errors.Join(p.cleanImagesBut(ctx, k), p.cleanReleases(k))
}

// cleanContainers removes containers and notes images and trees of those that stay.
func (p *Platform) cleanContainers(ctx context.Context, k *kept) error {
	only := p.names.ours()
	only.Add("label", labelRole+"="+roleApp)
	list, err := p.cli.ContainerList(ctx, container.ListOptions{All: true, Filters: only})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, c := range list {
		if !k.container(c.ID) {
			errs = append(errs, p.remove(ctx, c.ID))
			continue
		}
		k.images = append(k.images, c.ImageID)
		k.releases = append(k.releases, c.Labels[labelRelease])
	}
	return errors.Join(errs...)
}

// cleanImagesBut removes our images, as long as nobody gave them a name besides ours.
func (p *Platform) cleanImagesBut(ctx context.Context, k kept) error {
	list, err := p.cli.ImageList(ctx, image.ListOptions{Filters: p.names.ours()})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	var errs []error
	for _, img := range list {
		if slices.Contains(k.images, img.ID) || slices.ContainsFunc(img.RepoTags, isName) {
			continue
		}
		errs = append(errs, p.removeImage(ctx, img.ID))
	}
	return errors.Join(errs...)
}

// isName tells whether a tag keeps its image: ours, which the next build or flip moves on, and any that somebody else gave it.
func isName(tag string) bool { return tag != "<none>:<none>" }

func (p *Platform) removeImage(ctx context.Context, ref string) error {
	_, err := p.cli.ImageRemove(ctx, ref, image.RemoveOptions{PruneChildren: true})
	if err != nil && !client.IsErrNotFound(err) {
		return fmt.Errorf("remove image %s: %w", ref, err)
	}
	return nil
}

func (p *Platform) cleanReleases(k kept) error {
	entries, err := os.ReadDir(p.root.Releases())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list application trees: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if !slices.Contains(k.releases, e.Name()) && e.IsDir() {
			errs = append(errs, os.RemoveAll(filepath.Join(p.root.Releases(), e.Name())))
		}
	}
	return errors.Join(errs...)
}

// Purge removes everything of the namespace from the Engine: containers, images, network. It is for taking an instance apart, not for its life.
func (p *Platform) Purge(ctx context.Context) error {
	if err := p.Wait(ctx); err != nil {
		return err
	}
	var errs []error
	containers, err := p.cli.ContainerList(ctx, container.ListOptions{All: true, Filters: p.names.ours()})
	errs = append(errs, err)
	for _, c := range containers {
		errs = append(errs, p.remove(ctx, c.ID))
	}
	for _, ref := range []string{p.names.staging(), p.names.current()} {
		errs = append(errs, p.removeImage(ctx, ref))
	}
	errs = append(errs, p.cleanImagesBut(ctx, kept{}))
	networks, err := p.cli.NetworkList(ctx, network.ListOptions{Filters: p.names.ours()})
	errs = append(errs, err)
	for _, n := range networks {
		if err := p.cli.NetworkRemove(ctx, n.ID); err != nil && !client.IsErrNotFound(err) {
			errs = append(errs, fmt.Errorf("remove network: %w", err))
		}
	}
	return errors.Join(errs...)
}
