package bundle_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"hostmanager/internal/disktest"
	"hostmanager/platform/bundle"
)

// A tree that Unpack returned is there after a power loss, whole, and so it is where a journal on another disk says that it is done.
func TestUnpack_TheTreeOutlivesAPowerLoss(t *testing.T) {
	members := []zmember{zipMode("link", "d1/f1", fs.ModeSymlink|0o777)}
	for i := range 40 {
		members = append(members, zipMode(fmt.Sprintf("d%d/f%d", i%7, i), string(randomBytes(uint64(i), 9000)), 0o640))
	}
	archive := filepath.Join(t.TempDir(), "bundle")
	must(t, os.WriteFile(archive, zipBytes(t, members...), 0o600))
	dir, cut := disktest.MountPlugged(t, 32<<20)
	dest := filepath.Join(dir, "releases", "7-0a1b2c3d")
	_, err := bundle.Unpack(t.Context(), archive, dest, bundle.Limits{})
	must(t, err)
	before := listTree(t, dest)
	cut()
	after := listTree(t, dest)
	if len(before) < len(members) || !slices.Equal(before, after) {
		t.Errorf("%d entries were there, %d are, and %d of them as they were", len(before), len(after),
			len(after)-len(slices.DeleteFunc(slices.Clone(after), func(line string) bool { return slices.Contains(before, line) })))
	}
}
