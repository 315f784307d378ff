package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
)

// engineDisk is where the Engine keeps its data. It is asked once: an Engine that is given another place has none of our containers any more.
type engineDisk struct {
	known bool
	file  string // its data lies in a loop file, else ""
	dir   string // on this host, else ""
}

func (p *Platform) engineDisk(ctx context.Context) (engineDisk, error) {
	if err := p.meet(ctx); err != nil {
		return engineDisk{}, err
	}
	defer p.meeting.Release(1)
	if p.engine.known {
		return p.engine, nil
	}
	info, err := p.cli.Info(ctx)
	if err != nil {
		return engineDisk{}, fmt.Errorf("ask the Docker Engine: %w", err)
	}
	for _, pair := range info.DriverStatus {
		if strings.EqualFold(pair[0], "Data loop file") {
			p.engine.file = pair[1]
		}
	}
	if _, err := os.Stat(info.DockerRootDir); err == nil && strings.HasPrefix(p.cli.DaemonHost(), "unix://") {
		p.engine.dir = info.DockerRootDir
	}
	p.engine.known = true
	return p.engine, nil
}

// ImageRoom is what is known of the room that the next image will take.
type ImageRoom struct {
	Dir  string // where the Engine keeps images on this host; "" where that cannot be told
	Last int64  // size of the image that serves, with what it shares; 0 for none
}

// ImageRoom tells where the next image will lie and how large the last one is. It changes nothing.
func (p *Platform) ImageRoom(ctx context.Context) (ImageRoom, error) {
	if err := p.connect(ctx); err != nil {
		return ImageRoom{}, err
	}
	at, err := p.engineDisk(ctx)
	if at.dir == "" || err != nil {
		return ImageRoom{}, err
	}
	room := ImageRoom{Dir: at.dir}
	if img, err := p.cli.ImageInspect(ctx, p.names.current()); err == nil {
		room.Last = img.Size
	}
	return room, nil
}

// Spare is what Collect with Failed would remove.
type Spare struct {
	Trees      []string // paths
	ImageBytes int64    // at most: images share layers
}

// Spare looks at what could be given up for a new deployment. It changes nothing.
func (p *Platform) Spare(ctx context.Context) (Spare, error) {
	if err := p.connect(ctx); err != nil {
		return Spare{}, err
	}
	old, err := p.findStale(ctx, nil)
	if err != nil {
		return Spare{}, err
	}
	evidence, err := readState(evidenceFile(p.root))
	if err != nil {
		return Spare{}, err
	}
	spare := Spare{Trees: old.trees}
	if in, ok, err := p.find(ctx, evidence); ok && err == nil {
		kept, err := releaseName(p.root.Current())
		if err != nil {
			return Spare{}, err
		}
		if in.release != "" && in.release != kept {
			spare.Trees = append(spare.Trees, filepath.Join(p.root.Releases(), in.release))
		}
	}
	images, err := p.cli.ImageList(ctx, image.ListOptions{Filters: p.names.ours()})
	if err != nil {
		return Spare{}, fmt.Errorf("list images: %w", err)
	}
	current, err := readState(p.root.CurrentImageID())
	if err != nil {
		return Spare{}, err
	}
	for _, img := range images {
		if img.ID != current {
			spare.ImageBytes += img.Size
		}
	}
	return spare, nil
}

// CollectOptions say how far Collect goes.
type CollectOptions struct {
	Failed bool // also what the last failed deployment left, and what is staged: a new deployment is about to begin
	Hard   bool // the disk is short: all of BuildKit's cache, not only what is beyond its bound
}

// Collect removes what nobody needs, going by the files, the proxy and the Engine. It runs beside no command, and never removes what serves or a
// version that is kept.
func (p *Platform) Collect(ctx context.Context, o CollectOptions) error {
	if err := p.connect(ctx); err != nil {
		return err
	}
	if err := p.Wait(ctx); err != nil {
		return err
	}
	var staged string
	var err error
	if o.Failed {
		err = p.dropStaged(ctx)
	} else {
		staged, err = releaseName(p.root.Staging())
	}
	if err != nil {
		return err
	}
	return errors.Join(p.clean(ctx, []string{staged}), p.sweepLogs(ctx), p.collectEngine(ctx, o.Hard))
}

// dropStaged forgets what was staged and what failed.
func (p *Platform) dropStaged(ctx context.Context) error {
	untagged := p.untag(ctx, p.names.staging())
	if cerrdefs.IsConflict(untagged) { // its only name, and a container runs from it: clean knows whether that is needed
		untagged = nil
	}
	return errors.Join(
		p.dropEvidence(ctx, ""),
		writeState(p.root.StagingContainerID(), ""),
		writeLink("", p.root.Staging()),
		untagged,
	)
}

// collectEngine bounds BuildKit's cache, which carries no label, where the Engine is ours alone.
func (p *Platform) collectEngine(ctx context.Context, hard bool) error {
	if !p.wholeEngine || p.names.label != defaultNamespace {
		return nil
	}
	other, err := p.otherNamespace(ctx)
	if err != nil {
		return err
	}
	if other != "" {
		p.log.Info("build cache left alone: another host manager uses the Engine", "namespace", other)
		return nil
	}
	prune := build.CachePruneOptions{All: true, ReservedSpace: p.buildCache}
	prune.KeepStorage = p.buildCache
	if hard {
		prune = build.CachePruneOptions{All: true}
	}
	if _, err := p.cli.BuildCachePrune(ctx, prune); err != nil {
		return fmt.Errorf("prune build cache: %w", err)
	}
	return nil
}

// otherNamespace returns a namespace whose containers or images are on the Engine and are not ours, "" where there is none.
func (p *Platform) otherNamespace(ctx context.Context) (string, error) {
	labelled := filters.NewArgs(filters.Arg("label", labelNamespace))
	containers, err := p.cli.ContainerList(ctx, container.ListOptions{All: true, Filters: labelled})
	if err != nil {
		return "", fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers {
		if ns := c.Labels[labelNamespace]; ns != p.names.label {
			return ns, nil
		}
	}
	images, err := p.cli.ImageList(ctx, image.ListOptions{All: true, Filters: labelled})
	if err != nil {
		return "", fmt.Errorf("list images: %w", err)
	}
	for _, img := range images {
		if ns := img.Labels[labelNamespace]; ns != p.names.label {
			return ns, nil
		}
	}
	return "", nil
}
