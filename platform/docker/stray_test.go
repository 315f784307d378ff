package docker_test

import (
	"errors"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"hostmanager/internal/dockertest"
)

// What a killed agent asked the Engine for may come into being when the next one has looked already, and takes the name it wants: the container is
// put away, the command goes on.
func TestResume_TheContainerOfTheKilledAgentComesLate(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.unpack(dockertest.BuildHello(t, "2"))
	dying := f.open("")
	dying.SetFault(killAt("run.created"))
	if err := c.run(t.Context(), dying, deployDirs...); !errors.Is(err, errKilled) {
		t.Fatalf("run: %v", err)
	}
	created, err := f.engine.ContainerList(t.Context(), container.ListOptions{
		All: true, Filters: filters.NewArgs(filters.Arg("label", "hostmanager="+f.ns), filters.Arg("status", "created")),
	})
	if err != nil || len(created) != 1 {
		t.Fatalf("%d containers created (%v)", len(created), err)
	}
	stray, name := created[0].ID, created[0].Names[0]
	// Under another name it is as unseen as one that is not there yet.
	if err := f.engine.ContainerRename(t.Context(), stray, f.ns+"-unseen"); err != nil {
		t.Fatal(err)
	}
	last := f.open("")
	last.SetFault(func(at string) error {
		if at == "run.planned" {
			return f.engine.ContainerRename(t.Context(), stray, name)
		}
		return nil
	})
	if err := c.resume(last, deployDirs); err != nil {
		t.Fatalf("resume: %v\n%s", err, f.said())
	}
	f.wantAnswer("Hello from 2")
	if err := last.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.engine.ContainerInspect(t.Context(), stray); err == nil {
		t.Error("the late container is still there")
	}
}
