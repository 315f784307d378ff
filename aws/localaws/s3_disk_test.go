package localaws_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hostmanager/aws/localaws"
)

func TestDir_KeepsObjectsAcrossRestarts(t *testing.T) {
	dir := t.TempDir()
	s := bucketed(t, localaws.Options{Dir: dir})
	put(t, s, "/bucket?versioning", `<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>`)
	r, _ := s3(t, s, "PUT", "/bucket/k", strings.NewReader("one"), head("X-Amz-Meta-Rev", "1"))
	one := r.Header.Get("X-Amz-Version-Id")
	put(t, s, "/bucket/k", "two")
	s3(t, s, "POST", "/bucket/mp?uploads", nil, nil)
	if err := os.WriteFile(filepath.Join(dir, "data", "body-orphan"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}

	s = direct(t, localaws.Options{Dir: dir})
	if _, body := s3(t, s, "GET", "/bucket/k", nil, nil); body != "two" {
		t.Errorf("current: %q", body)
	}
	r, body := s3(t, s, "GET", "/bucket/k?versionId="+one, nil, nil)
	if body != "one" || r.Header.Get("X-Amz-Meta-Rev") != "1" {
		t.Errorf("version: %q %v", body, r.Header)
	}
	put(t, s, "/bucket/k", "three")
	if _, body := s3(t, s, "GET", "/bucket/k", nil, nil); body != "three" {
		t.Errorf("after another write: %q", body)
	}
	if files, err := os.ReadDir(filepath.Join(dir, "data")); err != nil || len(files) != 3 {
		t.Errorf("%d bodies, want 3 (%v)", len(files), err)
	}
}

func TestDir_RefusesADamagedStore(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "buckets.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := localaws.New(localaws.Options{Dir: dir}); err == nil || !contains(err.Error(), "buckets.json") {
		t.Errorf("opened it: %v", err)
	}
}

// zeros is n bytes without holding them.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	return int(n), nil
}

func TestDir_TakesALargeObject(t *testing.T) {
	s := start(t, localaws.Options{Dir: t.TempDir()})
	const size = 128 << 20
	put(t, s, "/bucket", "")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.URL()+"/bucket/big", &zeros{size})
	if err != nil {
		t.Fatal(err)
	}
	r.ContentLength = size
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("PUT: %v %v", resp, err)
	}
	_ = resp.Body.Close()
	resp, err = http.Get(s.URL() + "/bucket/big")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("GET: %d bytes, %v", n, err)
	}
}
