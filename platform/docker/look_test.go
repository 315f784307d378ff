package docker_test

import (
	"slices"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
)

func (f *fixture) ours() filters.Args {
	return filters.NewArgs(filters.Arg("label", "hostmanager="+f.ns))
}

// containers returns the short ids of the namespace's containers, sorted.
func (f *fixture) containers() []string {
	f.t.Helper()
	list, err := f.engine.ContainerList(f.t.Context(), container.ListOptions{All: true, Filters: f.ours()})
	if err != nil {
		f.t.Fatal(err)
	}
	var ids []string
	for _, c := range list {
		ids = append(ids, c.ID[:12])
	}
	return sorted(ids...)
}

// images returns the ids of the namespace's images, sorted.
func (f *fixture) images() []string {
	f.t.Helper()
	list, err := f.engine.ImageList(f.t.Context(), image.ListOptions{Filters: f.ours()})
	if err != nil {
		f.t.Fatal(err)
	}
	var ids []string
	for _, i := range list {
		ids = append(ids, i.ID)
	}
	return sorted(ids...)
}

func sorted(list ...string) []string {
	slices.Sort(list)
	return list
}
