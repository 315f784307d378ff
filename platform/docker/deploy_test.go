package docker_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hostmanager/internal/dockertest"
	"hostmanager/platform/docker"
	"hostmanager/protocol"
)

func TestDeploy_ServesAndWritesWhatTheOriginalWrote(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1.0", map[string]string{"GREETING": "Good day"})
	f.wantAnswer("Good day from 1.0")

	id := f.state(f.root.CurrentContainerID())
	want := []string{"Successfully built aws_beanstalk/staging-app", "Docker container " + id + " is running aws_beanstalk/current-app."}
	if diff := cmp.Diff(want, f.texts(protocol.Trace)); diff != "" {
		t.Errorf("TRACE events (-want +got):\n%s", diff)
	}
	if len(id) != 12 {
		t.Errorf("container id file holds %q, want twelve characters", id)
	}
	if port := f.state(f.root.ContainerPort()); port != "8080" {
		t.Errorf("port file holds %q", port)
	}
	img, err := f.engine.ImageInspect(t.Context(), "aws_beanstalk/current-app:"+f.ns)
	if err != nil {
		t.Fatal(err)
	}
	if got := f.state(f.root.CurrentImageID()); got != img.ID {
		t.Errorf("image id file holds %q, the tag is %q", got, img.ID)
	}
	for _, gone := range []string{f.root.StagingContainerID(), f.root.StagingImageID()} {
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	if link, _ := os.Readlink(f.root.Current()); link != "releases/1-00000001" {
		t.Errorf("current leads to %q", link)
	}
	c, err := f.engine.ContainerInspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if c.Config.Labels["hostmanager"] != f.ns || c.HostConfig.RestartPolicy.Name != "unless-stopped" {
		t.Errorf("labels %v, restart policy %q", c.Config.Labels, c.HostConfig.RestartPolicy.Name)
	}
	if !strings.Contains(f.said(), "COPY hello /hello") {
		t.Errorf("the build's steps are not in the output:\n%s", f.said())
	}
}

func TestDeploy_KeepsLastGoodAndRemovesOlder(t *testing.T) {
	f := newFixture(t)
	var ids []string
	for _, v := range []string{"1", "2", "3"} {
		f.mustDeploy(v, nil)
		ids = append(ids, f.state(f.root.CurrentContainerID()))
	}
	f.wantAnswer("Hello from 3")
	s, err := f.platform.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Running || !s.Healthy || s.LastGood != ids[1] || s.DeploymentID != 3 || s.VersionLabel != "v3" {
		t.Errorf("status %+v", s)
	}
	if got := f.containers(); !slices.Equal(got, sorted(ids[1], ids[2])) {
		t.Errorf("containers %v, want the current and the last good of %v", got, ids)
	}
	if got := f.images(); len(got) != 2 {
		t.Errorf("images %v, want two", got)
	}
	trees, _ := filepath.Glob(filepath.Join(f.root.Releases(), "*"))
	if len(trees) != 2 {
		t.Errorf("trees %v, want two", trees)
	}
}

// TestDeploy_CleaningLeavesTheNextTreeAlone unpacks the next bundle, which comes before any hook of its command, while the last one is cleaned up.
func TestDeploy_CleaningLeavesTheNextTreeAlone(t *testing.T) {
	f := newFixture(t)
	dirs := []string{dockertest.BuildHello(t, "0"), dockertest.BuildHello(t, "1"), dockertest.BuildHello(t, "2"), dockertest.BuildHello(t, "3")}
	for _, dir := range dirs {
		if err := f.deploy(dir, nil); err != nil {
			t.Fatal(err)
		}
	}
	f.wantAnswer("Hello from 3")
	_ = f.platform.Wait(t.Context())
	if n := len(f.containers()); n != 2 {
		t.Errorf("%d containers", n)
	}
}

func TestDeploy_FailureLeavesTheOldServingAndKeepsEvidence(t *testing.T) {
	health := [3]string{"aws:elasticbeanstalk:environment:process:default", "HealthCheckPath", "/health"}
	brief := [3]string{"aws:elasticbeanstalk:hostmanager", "HealthGateTimeout", "5"}
	tests := []struct {
		kind      string
		event     string // part of the ERROR event
		cause     string // part of the error
		container bool   // whether there is a container to look at
	}{
		{"dockerfile-error", "Failed to build Docker image aws_beanstalk/staging-app: ", "forgotten.txt", false},
		{"exits-at-once", "Docker container quit unexpectedly after launch: hello: told to exit by EXIT=3. Check snapshot logs for details.", "exit code 3", true},
		{"never-healthy", "did not become healthy within 5s: GET http://", "answered 503, want 200", true},
		{"fails-on-one", "Failed to build Docker image aws_beanstalk/staging-app: ", "instance.txt", false},
	}
	for _, tt := range tests {
		t.Run(tt.kind, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.mustDeploy("good", nil, health)
			before := f.state(f.root.CurrentContainerID())
			f.forget()
			err := f.deploy(dockertest.BuildBroken(t, tt.kind, "bad"), nil, health, brief)
			if err == nil || !strings.Contains(err.Error(), tt.cause) {
				t.Fatalf("deploy: %v, want %q", err, tt.cause)
			}
			gate := tt.kind == "never-healthy"
			if got := failureCause(err); (got == protocol.CauseHealthGate) != gate {
				t.Errorf("cause %q", got)
			}
			told := f.texts(protocol.Error)
			if len(told) != 1 || !strings.Contains(told[0], tt.event) {
				t.Errorf("ERROR events %q, want one with %q", told, tt.event)
			}
			if retried := f.texts(protocol.Warn); len(retried) != 0 {
				t.Errorf("WARN events %q: a deterministic failure was tried again", retried)
			}
			f.wantAnswer("Hello from good")
			if now := f.state(f.root.CurrentContainerID()); now != before {
				t.Errorf("current moved from %s to %s", before, now)
			}
			f.checkEvidence(tt.container)
			f.mustDeploy("better", nil, health)
			f.wantAnswer("Hello from better")
			if f.evidence() != "" || len(f.containers()) != 2 {
				t.Errorf("evidence %q, containers %v after the next deployment", f.evidence(), f.containers())
			}
		})
	}
}

// failureCause is which of protocol's causes the error names.
func failureCause(err error) string {
	var f *docker.Failure
	if !errors.As(err, &f) {
		return ""
	}
	return f.FailureCause()
}

// checkEvidence looks for the stopped container, the tree and the build log of the second deployment.
func (f *fixture) checkEvidence(container bool) {
	f.t.Helper()
	if _, err := os.Stat(filepath.Join(f.root.Releases(), "2-00000002", "Dockerfile")); err != nil {
		f.t.Errorf("tree: %v", err)
	}
	log, err := os.ReadFile(filepath.Join(f.root.Evidence(), "2-00000002.build.log"))
	if err != nil || !strings.Contains(string(log), "COPY hello") {
		f.t.Errorf("build log %q: %v", log, err)
	}
	id := f.evidence()
	if (id != "") != container {
		f.t.Errorf("evidence %q, want a container: %t", id, container)
	}
	if !container {
		return
	}
	c, err := f.engine.ContainerInspect(f.t.Context(), id)
	if err != nil || c.State.Running {
		f.t.Errorf("evidence container: %v, running %v", err, c.State)
	}
}
