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

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"

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
	if err := p.mendCurrent(ctx, c); err != nil {
		return err
	}
	if err := p.dropEvidence(ctx, this); err != nil {
		return err
	}
	return p.clean(ctx, []string{this})
}

// cleanImages is post/00_clean_imgs: as in the original, what cannot be cleaned fails no deployment, and no deployment waits for it.
// What is to go is decided here, because the next command may unpack its tree before it waits for the background.
func (p *Platform) cleanImages(ctx context.Context, c *hooks.Call) error {
	staged, err := releaseName(p.root.Staging())
	if err != nil {
		return fmt.Errorf("read link to staged application: %w", err)
	}
	old, err := p.findStale(ctx, []string{staged})
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.Log.Warn("cleaning left to the next deployment", "error", err)
		return nil
	}
	p.later("clean", func(ctx context.Context) error { return p.discard(ctx, old) })
	return nil
}

// makeLogFolder makes the folder that a container may be given as its own: its user is unknown, so everybody may write there, but nobody may
// remove another's files.
func (p *Platform) makeLogFolder() error {
	dir := p.root.ContainerLogs()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make folder for container output: %w", err)
	}
	const everybodys = 0o777 | fs.ModeSticky
	if st, err := os.Stat(dir); err == nil && st.Mode()&(fs.ModePerm|fs.ModeSticky) == everybodys {
		return nil // also on a disk that can only be read
	}
	if err := os.Chmod(dir, everybodys); err != nil {
		return fmt.Errorf("open folder for container output: %w", err)
	}
	return nil
}

// dropEvidence forgets the evidence of an earlier failure; clean then removes what nobody names any more. The container goes first: forgotten and
// still there, it could pass for a version that ran well.
func (p *Platform) dropEvidence(ctx context.Context, thisRelease string) error {
	if err := p.removeEvidence(ctx); err != nil {
		return err
	}
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

func (p *Platform) removeEvidence(ctx context.Context) error {
	id, err := readState(evidenceFile(p.root))
	if err != nil || id == "" {
		return err
	}
	current, err := readState(p.root.CurrentContainerID())
	if err != nil || id == current {
		return err
	}
	in, ok, err := p.find(ctx, id)
	if !ok || errors.Is(err, errNotOurs) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.remove(ctx, in.id)
}

// stale is what nobody needs: neither to serve, nor to go back, nor as evidence.
type stale struct {
	containers []string // ids
	trees      []string // paths
	keptImages []string // ids; other images of ours without a name go
}

// clean removes the containers, images and trees of this namespace that neither the files nor the caller name.
func (p *Platform) clean(ctx context.Context, releases []string) error {
	old, err := p.findStale(ctx, releases)
	if err != nil {
		return err
	}
	return p.discard(ctx, old)
}

// findStale goes by the files, the proxy and the Engine. With their images and trees stay: the container that serves, the last good one, the one
// being staged, the evidence, and what gets the requests though no file names it; the versions that ran well before them, as many as the settings
// say; what current leads to; and the releases the caller names.
func (p *Platform) findStale(ctx context.Context, releases []string) (stale, error) {
	var keep []string
	for _, file := range []string{p.root.CurrentContainerID(), lastGoodFile(p.root), p.root.StagingContainerID(), evidenceFile(p.root)} {
		id, err := readState(file)
		if err != nil {
			return stale{}, err
		}
		if id != "" {
			keep = append(keep, id)
		}
	}
	current, err := releaseName(p.root.Current())
	if err != nil {
		return stale{}, fmt.Errorf("read link to current application: %w", err)
	}
	releases = append(slices.Clone(releases), current)
	only := p.names.ours()
	only.Add("label", labelRole+"="+roleApp)
	list, err := p.cli.ContainerList(ctx, container.ListOptions{All: true, Filters: only})
	if err != nil {
		return stale{}, fmt.Errorf("list containers: %w", err)
	}
	reached := p.reach(ctx)
	named := func(c container.Summary) bool {
		runs := c.State != container.StateExited && c.State != container.StateCreated
		return slices.ContainsFunc(keep, func(id string) bool { return strings.HasPrefix(c.ID, id) }) || reached.has(c.ID, p.addressOf(c), runs)
	}
	good, err := p.goodVersions(ctx, list, named)
	if err != nil {
		return stale{}, err
	}
	var old stale
	for _, c := range list {
		if !named(c) && !slices.Contains(good, c.ID) {
			old.containers = append(old.containers, c.ID)
			continue
		}
		old.keptImages = append(old.keptImages, c.ImageID)
		releases = append(releases, c.Labels[labelRelease])
	}
	old.trees, err = p.staleTrees(releases)
	return old, err
}

// addressOf is where a listed container listens, host:port.
func (p *Platform) addressOf(c container.Summary) string {
	if c.NetworkSettings == nil {
		return ""
	}
	return address(c.NetworkSettings.Networks[p.names.network()], c.Labels[labelPort])
}

// goodVersions returns the ids of the containers by which versions are kept beyond those that the files name: of each version the latest
// container that passed its gate (only that gave it a restart policy) and was stopped since, the latest versions first.
func (p *Platform) goodVersions(ctx context.Context, list []container.Summary, named func(container.Summary) bool) ([]string, error) {
	var versions []string // that are kept already: what serves and what served before
	for _, file := range []string{p.root.CurrentContainerID(), lastGoodFile(p.root)} {
		id, err := readState(file)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(list, func(c container.Summary) bool { return id != "" && strings.HasPrefix(c.ID, id) })
		if i >= 0 && !slices.Contains(versions, list[i].Labels[labelRelease]) {
			versions = append(versions, list[i].Labels[labelRelease])
		}
	}
	if len(versions) >= p.keep {
		return nil, nil
	}
	var past []instance
	for _, c := range list {
		if named(c) || c.State != container.StateExited {
			continue
		}
		in, ok, err := p.find(ctx, c.ID)
		if err != nil {
			return nil, err
		}
		if ok && in.lasting && in.release != "" {
			past = append(past, in)
		}
	}
	slices.SortFunc(past, func(a, b instance) int { return b.started.Compare(a.started) })
	var good []string
	for _, in := range past {
		if len(versions) < p.keep && !slices.Contains(versions, in.release) {
			versions, good = append(versions, in.release), append(good, in.id)
		}
	}
	return good, nil
}

func (p *Platform) staleTrees(releases []string) ([]string, error) {
	entries, err := os.ReadDir(p.root.Releases())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list application trees: %w", err)
	}
	var trees []string
	for _, e := range entries {
		if e.IsDir() && !slices.Contains(releases, e.Name()) {
			trees = append(trees, filepath.Join(p.root.Releases(), e.Name()))
		}
	}
	return trees, nil
}

func (p *Platform) discard(ctx context.Context, old stale) error {
	var errs []error
	for _, id := range old.containers {
		errs = append(errs, p.remove(ctx, id))
	}
	errs = append(errs, p.cleanImagesBut(ctx, old.keptImages))
	for _, tree := range old.trees {
		errs = append(errs, os.RemoveAll(tree))
	}
	if len(old.containers) > 0 {
		errs = append(errs, p.sweepLogs(ctx))
	}
	return errors.Join(errs...)
}

// cleanImagesBut removes our images without a name, but for those of containers that stay.
func (p *Platform) cleanImagesBut(ctx context.Context, keep []string) error {
	list, err := p.cli.ImageList(ctx, image.ListOptions{Filters: p.names.ours()})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	var errs []error
	for _, img := range list {
		if !slices.Contains(keep, img.ID) && !slices.ContainsFunc(img.RepoTags, isName) {
			errs = append(errs, p.removeImage(ctx, img.ID))
		}
	}
	return errors.Join(errs...)
}

// isName tells whether a tag keeps its image: ours, which the next build or flip moves on, and any that somebody else gave it.
func isName(tag string) bool { return tag != "<none>:<none>" }

func (p *Platform) removeImage(ctx context.Context, ref string) error {
	_, err := p.cli.ImageRemove(ctx, ref, image.RemoveOptions{PruneChildren: true})
	if err == nil || cerrdefs.IsNotFound(err) {
		return nil
	}
	// The Engine goes on with what a killed agent asked for: whose removal meets that one gets any error, for an image that is gone.
	if _, gone := p.cli.ImageInspect(ctx, ref); cerrdefs.IsNotFound(gone) {
		return nil
	}
	return fmt.Errorf("remove image %s: %w", ref, err)
}

// Purge removes everything of the namespace from the Engine: containers, images, network. It is for taking an instance apart, not for its life.
func (p *Platform) Purge(ctx context.Context) error {
	if err := p.connect(ctx); err != nil {
		return err
	}
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
	errs = append(errs, p.cleanImagesBut(ctx, nil))
	networks, err := p.cli.NetworkList(ctx, network.ListOptions{Filters: p.names.ours()})
	errs = append(errs, err)
	for _, n := range networks {
		if err := p.cli.NetworkRemove(ctx, n.ID); err != nil && !cerrdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove network: %w", err))
		}
	}
	return errors.Join(errs...)
}
