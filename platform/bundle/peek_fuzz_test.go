package bundle_test

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hostmanager/platform/bundle"
)

// FuzzPeek holds for any bytes: refused, or at most the files that were asked for, in the folder and nowhere else.
func FuzzPeek(f *testing.F) {
	f.Add(zipBytes(f, zipFile("Dockerfile", "FROM scratch"), zipFile("../Dockerfile", "x")))
	f.Add(zipBytes(f, link("Dockerfile", "/etc/passwd")))
	f.Add(zipBytes(f, storedLie("Dockerfile", "hello", 9, 1)))
	f.Add(tarBytes(f, tarFile("./Dockerfile", "x"), tarOf(tar.TypeSymlink, "Dockerrun.aws.json", "b")))
	f.Add(gzipBytes(f, tarBytes(f, tarFile("Dockerrun.aws.json", "{}"))))
	f.Add([]byte(`{"AWSEBDockerrunVersion":"1"}`))
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		path, dest := filepath.Join(dir, "b"), filepath.Join(dir, "dest")
		must(t, os.WriteFile(path, archive, 0o600))
		must(t, os.Mkdir(dest, 0o755))
		_, err := bundle.Peek(t.Context(), path, dest, "Dockerfile", "Dockerrun.aws.json")
		var refused *bundle.Refused
		if err != nil && !errors.As(err, &refused) {
			t.Fatalf("not a refusal: %v", err)
		}
		if beside, _ := os.ReadDir(dir); len(beside) != 2 {
			t.Fatalf("outside the folder: %v", beside)
		}
		entries, err := os.ReadDir(dest)
		must(t, err)
		for _, e := range entries {
			if !e.Type().IsRegular() || e.Name() != "Dockerfile" && e.Name() != "Dockerrun.aws.json" {
				t.Fatalf("written: %v", e)
			}
		}
	})
}
