package bundle_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hostmanager/platform/bundle"
)

// packed makes an archive of the members; a name that ends in @ is a link.
func packed(t *testing.T, kind string, members ...string) string {
	t.Helper()
	var b bytes.Buffer
	switch kind {
	case "zip":
		z := zip.NewWriter(&b)
		for _, name := range members {
			h := &zip.FileHeader{Name: strings.TrimSuffix(name, "@")}
			h.SetMode(0o644)
			if strings.HasSuffix(name, "@") {
				h.SetMode(0o777 | os.ModeSymlink)
			}
			f, err := z.CreateHeader(h)
			if err == nil {
				_, err = f.Write([]byte("of " + h.Name))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	case "tar.gz":
		g := gzip.NewWriter(&b)
		w := tar.NewWriter(g)
		for _, name := range members {
			h := &tar.Header{Name: strings.TrimSuffix(name, "@"), Mode: 0o644, Typeflag: tar.TypeReg}
			text := "of " + strings.TrimPrefix(h.Name, "./")
			h.Size = int64(len(text))
			if strings.HasSuffix(name, "=") {
				h.Name = strings.TrimSuffix(name, "=")
				h.Typeflag, h.Linkname, h.Size, text = tar.TypeLink, "x", 0, ""
			}
			if strings.HasSuffix(name, "@") {
				h.Typeflag, h.Linkname, h.Size, text = tar.TypeSymlink, "x", 0, ""
			}
			err := w.WriteHeader(h)
			if err == nil {
				_, err = w.Write([]byte(text))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.Close(), g.Close()); err != nil {
			t.Fatal(err)
		}
	default: // text
		b.WriteString(kind)
	}
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPeek_WritesTheNamedFilesOfTheRoot(t *testing.T) {
	for _, c := range []struct {
		name    string
		archive string
		want    string // of the Dockerfile; empty: it is not there
		whole   bool
	}{
		{"zip", packed(t, "zip", "a/Dockerfile", "Dockerfile", "b"), "of Dockerfile", true},
		{"tar.gz", packed(t, "tar.gz", "a/Dockerfile", "./Dockerfile", "b"), "of Dockerfile", true},
		{"without", packed(t, "zip", "a/Dockerfile", "../Dockerfile"), "", true},
		{"link in zip", packed(t, "zip", "Dockerfile@"), "", false},
		{"link in tar", packed(t, "tar.gz", "Dockerfile@"), "", false},
		{"hard link in tar", packed(t, "tar.gz", "x", "Dockerfile="), "", false},
		{"lone Dockerfile", packed(t, "FROM scratch\n"), "FROM scratch\n", true},
		{"lone Dockerrun", packed(t, "{}"), "", true},
	} {
		dest := t.TempDir()
		whole, err := bundle.Peek(t.Context(), c.archive, dest, "Dockerfile")
		if err != nil || whole != c.whole {
			t.Errorf("%s: whole %t, %v", c.name, whole, err)
		}
		got, err := os.ReadFile(filepath.Join(dest, "Dockerfile"))
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
		if left, err := os.ReadDir(dest); err != nil || len(left) > 1 {
			t.Errorf("%s: wrote %v, %v", c.name, left, err)
		}
	}
}

func TestPeek_RefusesWhatUnpackRefuses(t *testing.T) {
	whole, err := os.ReadFile(packed(t, "zip", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for name, archive := range map[string]string{
		"text": packed(t, "remember the milk"), "cut": packed(t, string(whole[:len(whole)-10])), "empty": packed(t, ""),
	} {
		var refused, unpacked *bundle.Refused
		_, err := bundle.Peek(t.Context(), archive, t.TempDir(), "Dockerfile")
		_, as := bundle.Unpack(t.Context(), archive, filepath.Join(t.TempDir(), "tree"), bundle.Limits{})
		if !errors.As(err, &refused) || !errors.As(as, &unpacked) || refused.Reason != unpacked.Reason {
			t.Errorf("%s: %v, and unpacking it %v", name, err, as)
		}
	}
}
