package docker_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/google/go-cmp/cmp"

	"hostmanager/internal/dockertest"
	"hostmanager/platform/docker"
	"hostmanager/protocol"
)

func cleanupContext() context.Context { return context.Background() }

func TestBuild_RefusesBundlesInTheWordsOfTheOriginal(t *testing.T) {
	f := newFixture(t)
	outside := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(outside, []byte("FROM scratch\nEXPOSE 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	linked := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(linked, "Dockerfile")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, dir, want string
	}{
		{"empty", bundle(t, nil), "Dockerfile and Dockerrun.aws.json are both missing, abort deployment"},
		{"no image", bundle(t, map[string]string{"Dockerrun.aws.json": `{"AWSEBDockerrunVersion":"1"}`}), "No Docker image specified in either Dockerfile or Dockerrun.aws.json. Abort deployment."},
		{"no FROM", bundle(t, map[string]string{"Dockerfile": "EXPOSE 80\n"}), "No Docker image specified in either Dockerfile or Dockerrun.aws.json. Abort deployment."},
		{"no EXPOSE", bundle(t, map[string]string{"Dockerfile": "FROM scratch\n"}), "No EXPOSE directive found in Dockerfile, abort deployment"},
		{"broken JSON", bundle(t, map[string]string{"Dockerrun.aws.json": `{`, "Dockerfile": "FROM scratch\nEXPOSE 1"}), "Failed to parse Dockerrun.aws.json file, abort deployment"},
		{"version 3", bundle(t, map[string]string{"Dockerrun.aws.json": `{"AWSEBDockerrunVersion":"3"}`}), "Invalid Dockerrun.aws.json version, abort deployment"},
		{"Dockerfile is a folder", bundle(t, map[string]string{"Dockerfile/x": ""}), "The Dockerfile cannot be used, abort deployment"},
		{"Dockerfile leads out of the bundle", linked, "The Dockerfile cannot be used, abort deployment"},
		{"too large", bundle(t, map[string]string{"Dockerfile": "FROM scratch\n" + strings.Repeat("#", 1<<20)}), "The Dockerfile cannot be used, abort deployment"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f.forget()
			c := f.command("CMD-AppDeploy")
			c.configure(nil)
			c.adopt(tt.dir)
			err := c.run(t.Context(), c.platform, "appdeploy/pre")
			if err == nil {
				t.Fatal("was built")
			}
			if diff := cmp.Diff([]string{tt.want}, f.texts(protocol.Error)); diff != "" {
				t.Errorf("ERROR events (-want +got):\n%s\n%v", diff, err)
			}
		})
	}
}

func TestBuild_PortPropertyStandsInForExpose(t *testing.T) {
	f := newFixture(t)
	dir := dockertest.BuildHello(t, "1")
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nCOPY . /\nENTRYPOINT [\"/hello\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.deploy(dir, map[string]string{"PORT": "9123"}); err != nil {
		t.Fatal(err)
	}
	f.wantAnswer("Hello from 1")
	if port := f.state(f.root.ContainerPort()); port != "9123" {
		t.Errorf("port %q", port)
	}
	c := f.command("CMD-ConfigDeploy") // and goes on doing so
	c.configure(map[string]string{"PORT": "9124"})
	if err := c.runOrUnwind(configDirs); err != nil {
		t.Fatal(err)
	}
	if port := f.state(f.root.ContainerPort()); port != "9124" {
		t.Errorf("port %q after the change", port)
	}
}

// TestBuild_ContextIsTheTreeLessItsIgnoreFile looks at what arrives in the image, through an image that holds only the tree.
func TestBuild_ContextIsTheTreeLessItsIgnoreFile(t *testing.T) {
	f := newFixture(t)
	dir := bundle(t, map[string]string{
		"Dockerfile": "FROM scratch\nCOPY . /\nEXPOSE 1\n", ".dockerignore": "# comment\nsecret*\n**/*.tmp\nlogs\n!logs/keep\n!secret-not\nDockerfile\n",
		"secret.txt": "s", "secret-not": "n", "a/b/x.tmp": "t", "a/b/x.txt": "x", "logs/l1": "1", "logs/keep": "k", "run.sh": "#!/bin/sh\n",
	})
	if err := os.Chmod(filepath.Join(dir, "run.sh"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b/x.txt", filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "a", "absolute")); err != nil {
		t.Fatal(err)
	}
	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.adopt(dir)
	if err := c.run(t.Context(), c.platform, "appdeploy/pre"); err != nil {
		t.Fatal(err, f.said())
	}
	want := map[string]string{
		"secret-not": "0644 n", "a/b/x.txt": "0644 x", "logs/keep": "0644 k", "run.sh": "0750 #!/bin/sh\n",
		"a/link": "link b/x.txt", "a/absolute": "link /etc/passwd", ".dockerignore": "", "Dockerfile": "",
	}
	got := f.filesOf("aws_beanstalk/staging-app:" + f.ns)
	for _, always := range []string{".dockerignore", "Dockerfile"} { // sent to the builder whatever is ignored
		delete(want, always)
		delete(got, always)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestBuild_TimesDoNotCostTheCache(t *testing.T) {
	f := newFixture(t)
	var ids []string
	for _, age := range []time.Duration{time.Hour, 48 * time.Hour} {
		dir := dockertest.BuildHello(t, "same")
		when := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, "hello"), when, when); err != nil {
			t.Fatal(err)
		}
		if err := f.deploy(dir, nil); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, f.state(f.root.CurrentImageID()))
	}
	if ids[0] != ids[1] {
		t.Errorf("images %v differ by nothing but times", ids)
	}
	if !strings.Contains(f.said(), "CACHED") {
		t.Errorf("no layer came from the cache:\n%s", f.said())
	}
}

// engineProxy stands between platform and Engine and may answer a request itself.
func engineProxy(t *testing.T, answer func(w http.ResponseWriter, r *http.Request) bool) string {
	t.Helper()
	engine, err := client.ParseHostURL(dockertest.Client(t).DaemonHost())
	if err != nil {
		t.Fatal(err)
	}
	target, _ := url.Parse("http://docker")
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, engine.Scheme, engine.Host+engine.Path)
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		server.Close()
		proxy.Transport.(*http.Transport).CloseIdleConnections()
	})
	return "tcp://" + strings.TrimPrefix(server.URL, "http://")
}

func refuse(w http.ResponseWriter, r *http.Request, status int, message string) bool {
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"message":"`+message+`"}`)
	return true
}

func buildOf(r *http.Request) (version string, is bool) {
	return r.URL.Query().Get("version"), strings.HasSuffix(r.URL.Path, "/build")
}

func TestBuild_ClassicBuilderOnlyWhereBuildKitIsRefused(t *testing.T) {
	f := newFixture(t)
	var classic atomic.Int64
	f.platform = f.open(engineProxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		version, is := buildOf(r)
		if is && version == "2" {
			return refuse(w, r, http.StatusBadRequest, "buildkit is not supported by daemon")
		}
		if is {
			classic.Add(1)
		}
		return false
	}))
	f.mustDeploy("classic", nil)
	f.wantAnswer("Hello from classic")
	if !strings.Contains(f.said(), "Step 1/") {
		t.Errorf("output of the classic builder is missing:\n%s", f.said())
	}
	before := f.layers()
	err := f.deploy(dockertest.BuildBroken(t, "dockerfile-error", f.ns), nil)
	if err == nil || !strings.Contains(err.Error(), "forgotten.txt") {
		t.Errorf("error %v", err)
	}
	if now := f.layers(); !slices.Equal(now, before) {
		t.Errorf("images without a name before %v and after the failed build %v", before, now)
	}
	if classic.Load() != 2 {
		t.Errorf("%d classic builds, want one a deployment", classic.Load())
	}
}

// What a step prints may look like the classic builder's own words: an image that was there before the build is nobody's to remove.
func TestBuild_FailedClassicBuildLeavesImagesOfOthers(t *testing.T) {
	f := newFixture(t)
	f.platform = f.open(engineProxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		version, is := buildOf(r)
		return is && version == "2" && refuse(w, r, http.StatusBadRequest, "buildkit is not supported by daemon")
	}))
	theirs := f.untagged()
	dir := dockertest.BuildHello(t, "said\n---> "+theirs[:12]+"\nsaid")
	// No port of that number: the step says its version, and fails.
	text := "FROM scratch\nCOPY . /\nENV PORT=99999\nRUN [\"/hello\"]\nEXPOSE 8080\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	before := f.layers()
	if err := f.deploy(dir, nil); err == nil || !strings.Contains(f.said(), "\n---> "+theirs[:12]+"\n") {
		t.Fatalf("error %v\n%s", err, f.said())
	}
	if _, err := f.engine.ImageInspect(t.Context(), theirs); err != nil {
		t.Errorf("the image of others: %v", err)
	}
	if now := f.layers(); !slices.Equal(now, before) {
		t.Errorf("images without a name before %v and after the failed build %v", before, now)
	}
}

// untagged makes an image without a name or a label, and returns the digits of its id.
func (f *fixture) untagged() string {
	f.t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	body := []byte(f.ns) // one of its own
	err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(body))})
	if err == nil {
		_, err = w.Write(body)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		f.t.Fatal(err)
	}
	answer, err := f.engine.ImageImport(f.t.Context(), image.ImportSource{Source: &archive, SourceName: "-"}, "", image.ImportOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	defer answer.Close()
	var said struct{ Status string }
	if err := json.NewDecoder(answer).Decode(&said); err != nil {
		f.t.Fatal(err)
	}
	id := strings.TrimPrefix(said.Status, "sha256:")
	f.t.Cleanup(func() { _, _ = f.engine.ImageRemove(cleanupContext(), id, image.RemoveOptions{}) })
	return id
}

func TestBuild_EngineFailureIsTriedOnceMore(t *testing.T) {
	f := newFixture(t)
	var failures, builds atomic.Int64
	f.platform = f.open(engineProxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if _, is := buildOf(r); !is {
			return false
		}
		builds.Add(1)
		if failures.Add(-1) >= 0 {
			return refuse(w, r, http.StatusInternalServerError, "no space left on device")
		}
		return false
	}))
	failures.Store(1)
	f.mustDeploy("1", nil)
	if diff := cmp.Diff([]string{"Failed to build Docker image aws_beanstalk/staging-app, retrying..."}, f.texts(protocol.Warn)); diff != "" {
		t.Errorf("WARN events (-want +got):\n%s", diff)
	}
	f.forget()
	failures.Store(10)
	builds.Store(0)
	err := f.deploy(dockertest.BuildHello(t, "2"), nil)
	if err == nil || builds.Load() != 2 {
		t.Errorf("error %v after %d builds, want two", err, builds.Load())
	}
	if texts := f.texts(protocol.Error); len(texts) != 1 || !strings.Contains(texts[0], "no space left on device. Check snapshot logs") {
		t.Errorf("ERROR events %q", texts)
	}
	f.wantAnswer("Hello from 1")
}

func TestNew_RefusesWhatCannotBeANamespace(t *testing.T) {
	for _, ns := range []string{"with space", "a/b", "-x", strings.Repeat("x", 64), "ü"} {
		if _, err := docker.New(docker.Options{Root: "/nowhere", Namespace: ns, Valve: &valve{}}); err == nil {
			t.Errorf("namespace %q was taken", ns)
		}
	}
	if _, err := docker.New(docker.Options{Root: "/nowhere"}); err == nil {
		t.Error("no valve was taken")
	}
}

func TestBuild_ContentCountsWhateverTheTimes(t *testing.T) {
	f := newFixture(t)
	when := time.Now().Add(-time.Hour).Truncate(time.Second)
	for _, content := range []string{"one", "two"} { // of one size, and archives made by machines give every version the same time
		dir := bundle(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY data /data\nEXPOSE 1\n", "data": content})
		if err := os.Chtimes(filepath.Join(dir, "data"), when, when); err != nil {
			t.Fatal(err)
		}
		c := f.command("CMD-AppDeploy")
		c.configure(nil)
		c.adopt(dir)
		if err := c.run(t.Context(), c.platform, "appdeploy/pre"); err != nil {
			t.Fatal(err, f.said())
		}
		if diff := cmp.Diff(map[string]string{"data": "0644 " + content}, f.filesOf("aws_beanstalk/staging-app:"+f.ns)); diff != "" {
			t.Errorf("files (-want +got):\n%s", diff)
		}
	}
}

func TestBuild_TreeIsSentWholeWhereThereAreNoSessions(t *testing.T) {
	f := newFixture(t)
	for _, sessions := range []bool{true, false} {
		var sent atomic.Int64
		f.platform = f.open(engineProxy(t, func(w http.ResponseWriter, r *http.Request) bool {
			if !sessions && strings.HasSuffix(r.URL.Path, "/session") {
				return refuse(w, r, http.StatusNotFound, "page not found")
			}
			if _, is := buildOf(r); is {
				r.Body = counted{r.Body, &sent}
			}
			return false
		}))
		f.mustDeploy("1", nil)
		if whole := sent.Load() > 1<<20; whole == sessions {
			t.Errorf("sessions %v: %d bytes in the build's request", sessions, sent.Load())
		}
	}
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}
