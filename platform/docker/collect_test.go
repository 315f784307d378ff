package docker_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"hostmanager/internal/dockertest"
	"hostmanager/platform/docker"
)

// Whatever a crash, or somebody, left in the files and on the Engine: what serves is not removed, and what it would be made anew from is not either.
func TestCollect_NeverTakesWhatServes(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("v1", nil)
	id, trees := f.state(f.root.CurrentContainerID()), f.trees()
	if err := os.WriteFile(filepath.Join(f.root.Evidence(), "container-id"), []byte(id+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	all := docker.CollectOptions{Failed: true, Hard: true}
	if err := f.keeping(1).Collect(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	f.wantAnswer("Hello from v1")
	if err := dockertest.Client(t).ContainerRemove(t.Context(), id, container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := f.keeping(1).Collect(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	if got := f.trees(); !slices.Equal(got, trees) || len(f.images()) == 0 {
		t.Errorf("left: trees %v of %v, images %v", got, trees, f.images())
	}
}

// keeping makes a platform, as a new process would, that keeps so many versions.
func (f *fixture) keeping(n int) *docker.Platform {
	f.t.Helper()
	p, err := docker.New(docker.Options{Root: f.root, Namespace: f.ns, Valve: f.valve, Log: slog.New(slog.DiscardHandler), Keep: n})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = p.Close() })
	return p
}

func (f *fixture) trees() []string {
	f.t.Helper()
	entries, err := os.ReadDir(f.root.Releases())
	if err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A process that knows nothing finds out from the Engine which versions ran well, and keeps as many as it is told, however hard it is pressed.
func TestCollect_KeepsTheLastGoodVersions(t *testing.T) {
	f, other := newFixture(t), newFixture(t)
	other.mustDeploy("elsewhere", nil)
	others := slices.Concat(other.containers(), other.images())
	f.platform = f.keeping(3)
	var ids, images []string
	for _, v := range []string{"1", "2", "3", "4"} {
		f.mustDeploy(v, nil)
		ids = append(ids, f.state(f.root.CurrentContainerID()))
		images = append(images, f.state(f.root.CurrentImageID()))
	}
	if err := f.deploy(dockertest.BuildBroken(t, "exits-at-once", "5"), nil); err == nil {
		t.Fatal("a broken version was deployed")
	}
	failed := f.evidence()
	if got, want := f.containers(), sorted(ids[1], ids[2], ids[3], failed); !slices.Equal(got, want) {
		t.Errorf("containers %v, want %v", got, want)
	}
	fresh := f.keeping(3)
	for _, o := range []docker.CollectOptions{{}, {Hard: true}} {
		if err := fresh.Collect(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		if got, want := f.containers(), sorted(ids[1], ids[2], ids[3], failed); !slices.Equal(got, want) {
			t.Errorf("after %+v containers %v, want %v", o, got, want)
		}
	}
	spare, err := fresh.Spare(t.Context())
	if err != nil || len(spare.Trees) != 1 || spare.ImageBytes == 0 {
		t.Errorf("spare %+v, %v", spare, err)
	}
	if err := fresh.Collect(t.Context(), docker.CollectOptions{Failed: true, Hard: true}); err != nil {
		t.Fatal(err)
	}
	if got, want := f.containers(), sorted(ids[1], ids[2], ids[3]); !slices.Equal(got, want) {
		t.Errorf("at last containers %v, want %v", got, want)
	}
	for i, id := range images {
		if _, err := f.engine.ImageInspect(t.Context(), id); (err == nil) != (i > 0) {
			t.Errorf("image of version %d: %v", i+1, err)
		}
	}
	if got := f.trees(); len(got) != 3 {
		t.Errorf("trees %v, want those of three versions", got)
	}
	if spare, err := fresh.Spare(t.Context()); err != nil || len(spare.Trees) > 0 {
		t.Errorf("still spare: %+v, %v", spare, err)
	}
	f.wantAnswer("Hello from 4")
	if got := slices.Concat(other.containers(), other.images()); !slices.Equal(got, others) {
		t.Errorf("another namespace had %v, has %v", others, got)
	}
	other.wantAnswer("Hello from elsewhere")

	if err := f.keeping(0).Collect(t.Context(), docker.CollectOptions{Failed: true, Hard: true}); err != nil {
		t.Fatal(err)
	}
	if got, want := f.containers(), sorted(ids[2], ids[3]); !slices.Equal(got, want) {
		t.Errorf("containers %v, want the current and the last good, which never go: %v", got, want)
	}
	f.mustDeploy("6", nil)
	f.wantAnswer("Hello from 6")
}

// A restart makes the version that serves its own last good one; the version before stays to go back to.
func TestCollect_ARestartCostsNoVersion(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	first := f.state(f.root.CurrentContainerID())
	f.mustDeploy("2", nil)
	for range 2 {
		c := f.command("CMD-RestartAppServer")
		if err := c.runOrUnwind(restartDirs); err != nil {
			t.Fatal(err)
		}
		_ = f.platform.Wait(t.Context())
	}
	if got := f.containers(); len(got) != 3 || !slices.Contains(got, first) {
		t.Errorf("containers %v, want the current, the one before the restart and %s", got, first)
	}
	if got := f.trees(); len(got) != 2 {
		t.Errorf("trees %v", got)
	}
}

func TestImageRoom_IsWhereTheEngineKeepsImages(t *testing.T) {
	f := newFixture(t)
	before, err := f.platform.ImageRoom(t.Context())
	if err != nil || before.Last != 0 {
		t.Errorf("before the first deployment: %+v, %v", before, err)
	}
	f.mustDeploy("1", nil)
	after, err := f.platform.ImageRoom(t.Context())
	list, errList := f.engine.ImageList(t.Context(), image.ListOptions{})
	i := slices.IndexFunc(list, func(s image.Summary) bool { return s.ID == f.state(f.root.CurrentImageID()) })
	if err != nil || errList != nil || i < 0 || after.Last != list[i].Size || after.Dir != before.Dir {
		t.Errorf("after it: %+v, %v, %v", after, err, errList)
	}
	if st, err := os.Stat(filepath.Clean(after.Dir)); after.Dir != "" && (err != nil || !st.IsDir()) {
		t.Errorf("%s: %v", after.Dir, err)
	}
}
