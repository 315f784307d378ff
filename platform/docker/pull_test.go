package docker_test

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/docker/docker/api/types/image"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"hostmanager/internal/dockertest"
	"hostmanager/protocol"
)

// testRegistry is a registry on the loopback, which the Engine accepts without TLS.
type testRegistry struct {
	host   string
	down   atomic.Bool  // manifests are answered with 500
	locked atomic.Bool  // every request is answered with 401
	pulls  atomic.Int64 // manifests asked for
}

func newRegistry(t *testing.T) *testRegistry {
	r := &testRegistry{}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch {
		case r.locked.Load():
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		case strings.Contains(q.URL.Path, "/manifests/") && q.Method != http.MethodPut:
			r.pulls.Add(1)
			if r.down.Load() {
				http.Error(w, "out of order", http.StatusInternalServerError)
				return
			}
		}
		inner.ServeHTTP(w, q)
	}))
	t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r
}

// push puts an image with the given files into the registry and sees to it that the Engine forgets it again.
func (r *testRegistry) push(t *testing.T, f *fixture, name string, files map[string]string, config v1.Config) string {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for path, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err == nil {
		var cf *v1.ConfigFile
		if cf, err = img.ConfigFile(); err == nil {
			cf = cf.DeepCopy()
			cf.Config, cf.OS, cf.Architecture = config, "linux", "amd64"
			img, err = mutate.ConfigFile(img, cf)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	ref := r.host + "/" + f.ns + "/" + name
	if err := crane.Push(img, ref, crane.Insecure); err != nil {
		t.Fatal(err)
	}
	f.forgetImage(ref)
	return ref
}

// forgetImage removes an image the Engine pulled, at the test's end: before the namespace's own cleaning, which does not know it.
func (f *fixture) forgetImage(ref string) {
	f.t.Cleanup(func() {
		ctx := cleanupContext()
		_ = f.platform.Purge(ctx)
		_, _ = f.engine.ImageRemove(ctx, ref, image.RemoveOptions{Force: true, PruneChildren: true})
	})
}

func helloBinary(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dockertest.BuildHello(t, ""), "hello"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// bundle is a folder with the given files.
func bundle(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func dockerrunOf(ref, update string) map[string]string {
	return map[string]string{"Dockerrun.aws.json": `{"AWSEBDockerrunVersion": "1", "Image": {"Name": "` + ref + `", "Update": "` + update + `"}, "Ports": [{"ContainerPort": "8080"}]}`}
}

func TestPull_DockerrunImageIsPulledAndRun(t *testing.T) {
	f, r := newFixture(t), newRegistry(t)
	files := map[string]string{"hello": helloBinary(t), "version": "from the registry"}
	ref := r.push(t, f, "app:1", files, v1.Config{Entrypoint: []string{"/hello"}})
	r.down.Store(true) // until the first failure is reported
	f.onEvent = func(e protocol.Event) { r.down.Store(r.down.Load() && e.Severity != protocol.Warn) }
	if err := f.deploy(bundle(t, dockerrunOf(ref, "true")), nil); err != nil {
		t.Fatal(err, f.said())
	}
	f.wantAnswer("Hello from from the registry")
	if diff := cmp.Diff([]string{"Failed to pull Docker image " + ref + ", retrying..."}, f.texts(protocol.Warn)); diff != "" {
		t.Errorf("WARN events (-want +got):\n%s", diff)
	}
	if traces := f.texts(protocol.Trace); len(traces) == 0 || traces[0] != "Successfully pulled "+ref {
		t.Errorf("TRACE events %q", traces)
	}

	asked := r.pulls.Load()
	if err := f.deploy(bundle(t, dockerrunOf(ref, "false")), nil); err != nil {
		t.Fatal(err)
	}
	if r.pulls.Load() != asked {
		t.Error("Update false, and the registry was asked for an image that was there")
	}
	if err := f.deploy(bundle(t, dockerrunOf(ref, "true")), nil); err != nil {
		t.Fatal(err)
	}
	if r.pulls.Load() == asked {
		t.Error("Update true, and the registry was not asked")
	}
}

func TestPull_FailureSaysWhatTheRegistrySaid(t *testing.T) {
	tests := []struct {
		name   string
		locked bool
		want   string
	}{
		{"missing image", false, "not found"},
		{"no permission", true, "no basic auth credentials"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, r := newFixture(t), newRegistry(t)
			r.locked.Store(tt.locked)
			ref := r.host + "/" + f.ns + "/nothing"
			err := f.deploy(bundle(t, dockerrunOf(ref, "true")), nil)
			if err == nil {
				t.Fatal("deployed an image that cannot be pulled")
			}
			errors := f.texts(protocol.Error)
			if len(errors) != 1 || !strings.HasPrefix(errors[0], "Failed to pull Docker image "+ref+":latest: ") ||
				!strings.HasSuffix(errors[0], ". Check snapshot logs for details.") || !strings.Contains(errors[0], tt.want) {
				t.Errorf("ERROR events %q", errors)
			}
			if warned := f.texts(protocol.Warn); len(warned) != 1 {
				t.Errorf("WARN events %q, want one retry", warned)
			}
		})
	}
}

func TestPull_MultiStageBasesByTheirNames(t *testing.T) {
	f, r := newFixture(t), newRegistry(t)
	base := r.push(t, f, "base:1", map[string]string{"hello": helloBinary(t)}, v1.Config{})
	tools := r.push(t, f, "tools:2", map[string]string{"version": "copied"}, v1.Config{})
	dir := bundle(t, map[string]string{"Dockerfile": "ARG TAG=1\nFROM " + r.host + "/" + f.ns + "/base:${TAG} AS build\nFROM build\nCOPY --from=" + tools +
		" /version /version\nEXPOSE 8080 9090\nENTRYPOINT [\"/hello\"]\n"})
	if err := f.deploy(dir, nil); err != nil {
		t.Fatal(err, f.said())
	}
	f.wantAnswer("Hello from copied")
	traces := f.texts(protocol.Trace)
	if len(traces) < 2 || traces[0] != "Successfully pulled "+base || traces[1] != "Successfully pulled "+tools {
		t.Errorf("TRACE events %q", traces)
	}
	if diff := cmp.Diff([]string{"Only one EXPOSE directive is allowed, using the first one: 8080"}, f.texts(protocol.Warn)); diff != "" {
		t.Errorf("WARN events (-want +got):\n%s", diff)
	}
}
