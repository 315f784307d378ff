package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/image"

	"hostmanager/hooks"
	"hostmanager/internal/atomicfile"
	"hostmanager/internal/redact"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// errBuildStep marks a failure that a second build would meet again: a step of the Dockerfile, or the Dockerfile itself.
var errBuildStep = errors.New("build step failed")

// maxBuildLog bounds the build log on disk. The activity log gets every line.
const maxBuildLog = 64 << 20

// buildImage is the hook 03build: it makes the staging image of the staged tree.
func (p *Platform) buildImage(ctx context.Context, c *hooks.Call) error {
	_, set, err := settings.ReadContainerConfiguration(p.root)
	if err != nil {
		return err
	}
	tree, err := filepath.EvalSymlinks(p.root.Staging())
	if err != nil {
		return fmt.Errorf("find staged application: %w", err)
	}
	src, err := p.plan(c, tree, set.Environment)
	if err != nil {
		return err
	}
	log, err := p.openBuildLog(filepath.Base(tree))
	if err != nil {
		return err
	}
	defer log.Close()
	out := io.MultiWriter(&capped{w: log, left: maxBuildLog}, c.Output)
	if err := p.pullAll(ctx, c, src.file.images, src.run.update, out); err != nil {
		return err
	}
	id, err := p.buildTwice(ctx, c, src, out)
	if err != nil {
		return err
	}
	if err := writeState(p.root.StagingImageID(), id); err != nil {
		return err
	}
	report(c, protocol.Trace, "Successfully built %s", stagingImage)
	return nil
}

// plan reads the tree and makes sure that there is a port, reporting what is wrong with them as an event.
func (p *Platform) plan(c *hooks.Call, tree string, environment map[string]string) (source, error) {
	src, err := readSource(tree)
	if err == nil {
		if ports := src.file.ports; len(ports) > 1 {
			report(c, protocol.Warn, "Only one EXPOSE directive is allowed, using the first one: %s", ports[0])
		}
		_, err = choosePort(src.file.exposed(), environment)
	}
	var f *Failure
	if errors.As(err, &f) {
		return source{}, fail(c, f)
	}
	return src, err
}

func (p *Platform) openBuildLog(release string) (*os.File, error) {
	if err := atomicfile.MakeDir(p.root.Evidence(), 0o700); err != nil {
		return nil, fmt.Errorf("make evidence folder: %w", err)
	}
	path := buildLog(p.root, release)
	f, err := openLog(path, os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open build log: %w", err)
	}
	if err := atomicfile.Symlink(path, lastBuildLog(p.root)); err != nil {
		p.log.Warn("link to build log not made", "error", err)
	}
	return f, nil
}

// buildTwice builds, and once more only where it was not the build that failed: a broken Dockerfile breaks again, and costs as long.
func (p *Platform) buildTwice(ctx context.Context, c *hooks.Call, src source, out io.Writer) (string, error) {
	last := tail{limit: maxTail}
	id, err := p.build(ctx, src, out, &last)
	if err != nil && !errors.Is(err, errBuildStep) && ctx.Err() == nil {
		report(c, protocol.Warn, "Failed to build Docker image %s, retrying...", stagingImage)
		last = tail{limit: maxTail}
		id, err = p.build(ctx, src, out, &last)
	}
	switch {
	case err == nil:
		return id, nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("build image: %w", context.Cause(ctx))
	}
	return "", fail(c, &Failure{
		Sentence: fmt.Sprintf("Failed to build Docker image %s: %s. Check snapshot logs for details.", stagingImage, last.last(150)),
		Last:     last.last(maxTail),
		Cause:    err,
	})
}

// build builds once. Whatever goes wrong also stands at the end of log and last, which hold no secrets.
func (p *Platform) build(ctx context.Context, src source, log io.Writer, last *tail) (string, error) {
	out := p.hide.Writer(io.MultiWriter(log, last))
	defer out.Close()
	id, err := p.buildWith(ctx, build.BuilderBuildKit, src, out)
	if refusesBuildKit(err) {
		fmt.Fprintln(out, "The Engine has no BuildKit, building with the classic builder.")
		id, err = p.buildWith(ctx, build.BuilderV1, src, out)
	}
	if err != nil {
		fmt.Fprintln(out, err)
	}
	return id, err
}

// refusedError is an answer of the Engine instead of a build.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return "start build: " + e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// refusesBuildKit: Engines without it answer the request itself with an error that names it; a failing build is told of in the stream.
func refusesBuildKit(err error) bool {
	var refused *refusedError
	return errors.As(err, &refused) && strings.Contains(strings.ToLower(refused.err.Error()), "buildkit")
}

func (p *Platform) buildWith(ctx context.Context, builder build.BuilderVersion, src source, out io.Writer) (string, error) {
	tree, err := openContext(src.tree, src.generated)
	if err != nil {
		return "", err
	}
	defer tree.root.Close()
	labels := p.names.labels()
	labels[labelPort] = src.file.exposed()
	options := build.ImageBuildOptions{
		Version:     builder,
		Tags:        []string{p.names.staging()},
		Labels:      labels,
		Dockerfile:  "Dockerfile",
		Remove:      true,
		ForceRemove: true,
	}
	layers := classicLayers{}
	if builder == build.BuilderV1 {
		if layers.before, err = p.allImages(ctx); err != nil {
			return "", err
		}
	}
	body, sent := p.supply(ctx, tree, &options)
	response, err := p.cli.ImageBuild(ctx, body, options)
	var id string
	if err != nil {
		err = &refusedError{err}
	} else {
		id, err = followBuild(response.Body, io.MultiWriter(out, &layers), p.hide)
		drainAndClose(response.Body)
		if err != nil {
			p.dropLayers(ctx, layers.made)
		}
	}
	if unread := sent(); unread != nil {
		return "", unread // the cause of whatever the Engine made of half a tree
	}
	if err == nil && id == "" {
		id, err = p.imageID(ctx, p.names.staging())
	}
	return id, err
}

// supply says how the tree comes to the builder: BuildKit asks for it through a session, which the options then name; otherwise all of it is the
// request's body. sent ends that and tells what was wrong with the tree.
func (p *Platform) supply(ctx context.Context, tree *buildContext, options *build.ImageBuildOptions) (body io.Reader, sent func() error) {
	if options.Version == build.BuilderBuildKit && tree.dockerfile == nil {
		s, err := p.openSession(ctx, tree)
		if err == nil {
			options.SessionID, options.RemoteContext = s.id, "client-session"
			return nil, s.close
		}
		p.log.Info("the whole tree is sent to the builder", "reason", err)
	}
	archive, packed := tree.stream(ctx)
	return archive, func() error {
		_ = archive.Close()
		if err := <-packed; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			return err
		}
		return nil
	}
}

// followBuild copies the build's output and returns the id of the image. A failed step wraps errBuildStep.
func followBuild(body io.Reader, out io.Writer, hide *redact.Redactor) (id string, err error) {
	trace := newBuildTrace(out, hide)
	defer trace.close()
	err = eachMessage(body, func(m streamMessage) error {
		if text := m.failure(hide); text != "" {
			return fmt.Errorf("%w: %s", errBuildStep, text)
		}
		switch {
		case m.ID == "moby.buildkit.trace":
			var message []byte
			if err := json.Unmarshal(m.Aux, &message); err != nil {
				return fmt.Errorf("decode build progress: %w", err)
			}
			return trace.add(message)
		case len(m.Aux) > 0:
			var image struct{ ID string }
			if json.Unmarshal(m.Aux, &image) == nil && image.ID != "" {
				id = image.ID
			}
		case m.Stream != "":
			_, _ = io.WriteString(out, m.Stream)
		}
		return nil
	})
	return id, err
}

// classicLayers finds in the classic builder's output the images of the steps it carried out. It sets our label only with the last step, so
// those of a build that fails are known to nobody else. What a RUN prints looks the same: an image that was there before is none of them.
type classicLayers struct {
	before map[string]bool // by their ids' first twelve digits
	made   []string
	step   string
	cached bool
}

func (l *classicLayers) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		id, isID := strings.CutPrefix(line, "---> ")
		switch {
		case strings.HasPrefix(line, "Step "):
			_, l.step, _ = strings.Cut(line, " : ")
			l.cached = false
		case line == "---> Using cache":
			l.cached = true
		case isID && classicID.MatchString(id) && !l.cached && !l.before[id] && !strings.HasPrefix(strings.ToUpper(l.step), "FROM "):
			l.made = append(l.made, id)
		}
	}
	return len(b), nil
}

func (p *Platform) allImages(ctx context.Context) (map[string]bool, error) {
	list, err := p.cli.ImageList(ctx, image.ListOptions{All: true})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	ids := map[string]bool{}
	for _, img := range list {
		ids[shortID(strings.TrimPrefix(img.ID, "sha256:"))] = true
	}
	return ids, nil
}

var classicID = regexp.MustCompile(`^[0-9a-f]{12}$`)

// dropLayers removes what a failed classic build made, the last first. What has got a name or a child since stays.
func (p *Platform) dropLayers(ctx context.Context, ids []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	for _, id := range slices.Backward(ids) {
		found, err := p.cli.ImageInspect(ctx, id)
		if err != nil || len(found.RepoTags) > 0 || len(found.RepoDigests) > 0 {
			return
		}
		if _, err := p.cli.ImageRemove(ctx, id, image.RemoveOptions{}); err != nil {
			p.log.Warn("layer of a failed build remains", "image", id, "error", err)
			return
		}
	}
}

// imageID returns the id of the image that a reference stands for.
func (p *Platform) imageID(ctx context.Context, ref string) (string, error) {
	found, err := p.cli.ImageInspect(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("inspect image %s: %w", ref, err)
	}
	return found.ID, nil
}

// capped writes the first bytes and then drops the rest, saying so once. What cannot be written is dropped too: a build does not fail for its log.
type capped struct {
	w    io.Writer
	left int
}

func (c *capped) Write(b []byte) (int, error) {
	n := len(b)
	if c.left <= 0 {
		return n, nil
	}
	if len(b) > c.left {
		b = append(b[:c.left:c.left], "\n(the log was cut here)\n"...)
	}
	c.left -= n
	if _, err := c.w.Write(b); err != nil {
		c.left = 0
	}
	return n, nil
}
