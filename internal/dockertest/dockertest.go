// Package dockertest is what tests share that need a real Docker Engine: whether one answers, a namespace of the test's own with everything in
// it removed at the end, and the application they deploy. It knows the Engine's client and nothing of the platform. Only tests import it.
package dockertest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
)

// label marks what belongs to a namespace, as the platform writes it.
const label = "hostmanager"

// Client returns a client of the Engine for a test to look with. It is closed at the test's end.
func Client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatalf("make Engine client: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Require skips the test where no Docker Engine answers, and fails it there when CI=true: what CI must run it may not skip.
func Require(t testing.TB) *client.Client {
	t.Helper()
	c := Client(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := c.Ping(ctx); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("no Docker Engine answers (make docker starts one): %v", err)
		}
		t.Skipf("no Docker Engine answers (make docker starts one): %v", err)
	}
	return c
}

// Namespace requires an Engine and returns a Docker namespace nobody else uses. Everything labelled with it is removed at the test's end.
func Namespace(t testing.TB) string {
	t.Helper()
	c := Require(t)
	random := make([]byte, 5)
	_, _ = rand.Read(random)
	ns := "t" + hex.EncodeToString(random)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := Remove(ctx, c, ns); err != nil {
			t.Errorf("remove what the test left in the Engine: %v", err)
		}
	})
	return ns
}

// Remove removes every container, image and network labelled with the namespace.
func Remove(ctx context.Context, c *client.Client, ns string) error {
	only := filters.NewArgs(filters.Arg("label", label+"="+ns))
	var errs []error
	containers, err := c.ContainerList(ctx, container.ListOptions{All: true, Filters: only})
	errs = append(errs, err)
	for _, found := range containers {
		err := c.ContainerRemove(ctx, found.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) { // what the test began to remove may be gone by now, or be in removal
			errs = append(errs, err)
		}
	}
	errs = append(errs, awaitGone(ctx, c, only)) // images and networks in use stay
	images, err := c.ImageList(ctx, image.ListOptions{Filters: only})
	errs = append(errs, err)
	for _, found := range images {
		_, err := c.ImageRemove(ctx, found.ID, image.RemoveOptions{Force: true, PruneChildren: true})
		if !cerrdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	networks, err := c.NetworkList(ctx, network.ListOptions{Filters: only})
	errs = append(errs, err)
	for _, found := range networks {
		if err := c.NetworkRemove(ctx, found.ID); !cerrdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// awaitGone waits until there is none of the containers any more: a removal somebody else began goes on after the Engine has refused ours.
func awaitGone(ctx context.Context, c *client.Client, which filters.Args) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := c.ContainerList(ctx, container.ListOptions{All: true, Filters: which})
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d containers are still there: %w", len(left), context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// BuildHello returns a folder with the application testdata/apps/hello ready to be packed: its static binary, its Dockerfile, and a version
// file that makes it answer as the given version. The folder is the test's own.
func BuildHello(t testing.TB, version string) string {
	t.Helper()
	root, err := builtHello()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	copyFile(t, filepath.Join(root, "build", "apps", "hello"), filepath.Join(dir, "hello"))
	copyFile(t, filepath.Join(root, "testdata", "apps", "hello", "Dockerfile"), filepath.Join(dir, "Dockerfile"))
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte(version+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// BuildBroken returns hello with the files of one of testdata/apps/broken laid over it.
func BuildBroken(t testing.TB, kind, version string) string {
	t.Helper()
	dir := BuildHello(t, version)
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	from := filepath.Join(root, "testdata", "apps", "broken", kind)
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		copyFile(t, filepath.Join(from, e.Name()), filepath.Join(dir, e.Name()))
	}
	return dir
}

// builtHello builds the binary once per process and returns the module's folder.
var builtHello = sync.OnceValues(func() (root string, err error) {
	if root, err = moduleRoot(); err != nil {
		return "", err
	}
	out := filepath.Join(root, "build", "apps")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return "", err
	}
	// Test processes run side by side: one builds, the others find it built.
	lock, err := os.OpenFile(filepath.Join(out, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	// One output for all tests of the machine, left in place: the next build finds it up to date.
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", filepath.Join(out, "hello"), "./testdata/apps/hello")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build testdata/apps/hello: %w: %s", err, output)
	}
	return root, nil
})

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, found := os.Stat(filepath.Join(dir, "go.mod")); found == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	info, err := os.Stat(from)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, info.Mode().Perm()); err != nil {
		t.Fatal(err)
	}
}
