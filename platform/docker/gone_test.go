package docker_test

import (
	"testing"

	"github.com/docker/docker/api/types/container"

	"hostmanager/internal/dockertest"
)

// Somebody removed the container that serves. What is left (image, tree, manifest) is enough to restart, to change the configuration, and to deploy.
func TestGone_ServingContainerIsMadeAnew(t *testing.T) {
	for _, way := range []struct {
		name, command string
		dirs          []string
		answer        string
	}{
		{"restart", "CMD-RestartAppServer", restartDirs, "Hello from v1"},
		{"configuration", "CMD-ConfigDeploy", configDirs, "Ahoy from v1"},
		{"deployment", "CMD-AppDeploy", deployDirs, "Ahoy from v2"},
	} {
		t.Run(way.name, func(t *testing.T) {
			f := newFixture(t)
			f.mustDeploy("v1", nil)
			id := f.state(f.root.CurrentContainerID())
			if err := dockertest.Client(t).ContainerRemove(t.Context(), id, container.RemoveOptions{Force: true}); err != nil {
				t.Fatal(err)
			}
			c := f.command(way.command)
			if way.answer != "Hello from v1" {
				c.configure(map[string]string{"GREETING": "Ahoy"})
			}
			if way.name == "deployment" {
				c.unpack(dockertest.BuildHello(t, "v2"))
			}
			if err := c.runOrUnwind(way.dirs); err != nil {
				t.Fatalf("%v\n%s", err, f.said())
			}
			f.wantAnswer(way.answer)
		})
	}
}
