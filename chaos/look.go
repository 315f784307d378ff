package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hostmanager/journal"
)

// calm waits until the instance is as it must be between two commands: nothing is broken for good that is put right by itself in time. It returns
// what was still wrong at the end.
func (in *instance) calm(ctx context.Context, answer string) []string {
	var wrong []string
	if awaitEvery(ctx, 25*time.Millisecond, calmWithin, func() bool { wrong = in.look(ctx, answer); return len(wrong) == 0 }) {
		return nil
	}
	return wrong
}

const calmWithin = time.Minute

// look says what is not as it must be.
func (in *instance) look(ctx context.Context, answer string) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if answer != "" {
		if got := in.ask(ctx); got != answer {
			bad("the application answers %q, want %q", got, answer)
		}
	}
	snapshot, err := journal.Read(in.root.Journal())
	if err != nil {
		bad("journal: %v", err)
		return wrong
	}
	for _, c := range snapshot.Commands {
		if !c.Finished() || c.SentAt.IsZero() {
			bad("the journal says of %s: result %v, sent %v", c.Identity, c.Finished(), !c.SentAt.IsZero())
		}
	}
	releases, broken := in.lookAtEngine(ctx)
	wrong = append(wrong, broken...)
	return append(wrong, in.lookAtFiles(releases)...)
}

// ask returns what the application answers through the proxy.
func (in *instance) ask(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+in.listen+"/", nil)
	if err != nil {
		return err.Error()
	}
	r.Close = true
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(body))
}

// lookAtEngine checks that every container and image has its reason and that one container runs. It returns the trees that containers are of.
func (in *instance) lookAtEngine(ctx context.Context) (releases, wrong []string) {
	containers, err := in.engine.containers(ctx, in.name)
	if err != nil {
		return nil, []string{err.Error()}
	}
	reasons := in.reasons()
	addEarlier(reasons, containers)
	var images, text []string
	running := 0
	for _, c := range containers {
		reason := reasons[c.ID[:12]]
		text = append(text, fmt.Sprintf("%.12s %s %s %q", c.ID, c.Labels["hostmanager.invocation"], c.State, reason))
		images = append(images, c.ImageID)
		releases = append(releases, c.Labels["hostmanager.release"])
		if c.State == "running" {
			running++
		}
		if reason == "" || (c.State == "running") != (reason == "current") {
			wrong = append(wrong, "a container without its reason")
		}
	}
	if running != 1 && in.serves != "" {
		wrong = append(wrong, fmt.Sprintf("%d containers run", running))
	}
	if len(wrong) > 0 {
		wrong = append(wrong, text...)
	}
	list, err := in.engine.images(ctx, in.name)
	if err != nil {
		return releases, append(wrong, err.Error())
	}
	for _, i := range list {
		ours := slices.ContainsFunc(i.RepoTags, func(t string) bool { return strings.HasPrefix(t, "aws_beanstalk/") })
		if !ours && !slices.Contains(images, i.ID) {
			wrong = append(wrong, fmt.Sprintf("image %.19s %v has no reason", i.ID, i.RepoTags))
		}
	}
	return releases, wrong
}

// keptVersions is how many versions an agent keeps that ran well, with the one that serves.
const keptVersions = 2

// addEarlier gives the containers of earlier versions their reason: where what serves and what served before are of one version, versions before
// them stay as well, one container of each.
func addEarlier(reasons map[string]string, containers []appContainer) {
	var good []string
	for _, c := range containers {
		reason, release := reasons[c.ID[:12]], c.Labels["hostmanager.release"]
		if (reason == "current" || reason == "last good") && !slices.Contains(good, release) {
			good = append(good, release)
		}
	}
	for _, c := range containers {
		release := c.Labels["hostmanager.release"]
		if reasons[c.ID[:12]] == "" && c.State == "exited" && len(good) < keptVersions && !slices.Contains(good, release) {
			good = append(good, release)
			reasons[c.ID[:12]] = "earlier"
		}
	}
}

// reasons tells of each container that may be there why, by its short id.
func (in *instance) reasons() map[string]string {
	reasons := map[string]string{}
	for reason, path := range map[string]string{
		"evidence":  filepath.Join(in.root.Evidence(), "container-id"),
		"last good": filepath.Join(in.root.EtcBeanstalk(), ".aws_beanstalk.last-good-container-id"),
	} {
		if id, err := os.ReadFile(path); err == nil {
			reasons[string(bytes.TrimSpace(id))] = reason
		}
	}
	if id, err := os.ReadFile(in.root.CurrentContainerID()); err == nil { // last: what serves may be the last good one as well
		reasons[string(bytes.TrimSpace(id))] = "current"
	}
	return reasons
}

// lookAtFiles checks that no tree, half-written file or file of a command under way is left.
func (in *instance) lookAtFiles(releases []string) (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for _, link := range []string{in.root.Current(), in.root.Staging()} {
		if target, err := os.Readlink(link); err == nil {
			releases = append(releases, filepath.Base(target))
		}
	}
	logs, _ := filepath.Glob(filepath.Join(in.root.Evidence(), "*.build.log"))
	for _, log := range logs {
		releases = append(releases, strings.TrimSuffix(filepath.Base(log), ".build.log"))
	}
	trees, err := os.ReadDir(in.root.Releases())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		bad("trees: %v", err)
	}
	for _, t := range trees {
		if !slices.Contains(releases, t.Name()) {
			bad("tree %s has no reason (those that have: %v)", t.Name(), releases)
		}
	}
	for _, path := range []string{in.root.StagedManifest()} {
		if _, err := os.Lstat(path); err == nil {
			bad("%s is left", path)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(in.root.Outbox(), "*")); len(left) > 0 {
		bad("the outbox folder holds %v", left)
	}
	if left, _ := filepath.Glob(in.root.Join("tmp", "*event*")); len(left) > 0 {
		bad("event files are left: %v", left)
	}
	return append(wrong, in.halfWritten()...)
}

// tempMark stands in the name of a file that is to be renamed into place.
const tempMark = ".hm-tmp-"

// halfWritten finds files that were never renamed into place. Trees are left out: what is in them is the application's.
func (in *instance) halfWritten() (wrong []string) {
	err := filepath.WalkDir(string(in.root), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // it was renamed meanwhile
			return nil
		case err != nil:
			return err
		case strings.Contains(d.Name(), tempMark):
			wrong = append(wrong, path+" was never finished")
		case d.IsDir() && filepath.Dir(path) == in.root.Releases():
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		wrong = append(wrong, err.Error())
	}
	return wrong
}
