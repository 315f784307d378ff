package docker_test

import (
	"archive/tar"
	"fmt"
	"io"
	"slices"
	"strings"

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

// filesOf returns the files of an image: mode and content, or where a link leads.
func (f *fixture) filesOf(ref string) map[string]string {
	f.t.Helper()
	ctx := f.t.Context()
	c, err := f.engine.ContainerCreate(ctx, &container.Config{Image: ref, Cmd: []string{"x"}, Labels: map[string]string{"hostmanager": f.ns}}, nil, nil, nil, "")
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = f.engine.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true}) }()
	archive, err := f.engine.ContainerExport(ctx, c.ID)
	if err != nil {
		f.t.Fatal(err)
	}
	defer archive.Close()
	files := map[string]string{}
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			f.t.Fatal(err)
		}
		mount := slices.ContainsFunc([]string{"dev", "etc", "proc", "sys", ".dockerenv"}, func(p string) bool { return strings.HasPrefix(h.Name, p) })
		switch {
		case mount || h.Typeflag == tar.TypeDir:
		case h.Typeflag == tar.TypeSymlink:
			files[h.Name] = "link " + h.Linkname
		default:
			content, err := io.ReadAll(r)
			if err != nil {
				f.t.Fatal(err)
			}
			files[h.Name] = fmt.Sprintf("%04o %s", h.Mode&0o7777, content)
		}
	}
	return files
}

// layers returns the unnamed images whose last step copied the version file of this fixture's broken bundle: what a failed classic build leaves.
func (f *fixture) layers() []string {
	f.t.Helper()
	list, err := f.engine.ImageList(f.t.Context(), image.ListOptions{All: true})
	if err != nil {
		f.t.Fatal(err)
	}
	var ids []string
	for _, i := range list {
		history, err := f.engine.ImageHistory(f.t.Context(), i.ID)
		if err == nil && len(history) > 0 && i.Labels["hostmanager"] == "" && strings.Contains(history[0].CreatedBy, "#(nop) COPY file:") {
			ids = append(ids, i.ID)
		}
	}
	return sorted(ids...)
}
