package bundle

import (
	"os"
	"path/filepath"
	"testing"
)

// FuzzReadSidecar holds for any file beside a part: only chunks that are in the part count, each once.
func FuzzReadSidecar(f *testing.F) {
	head := `{"format":1,"boot":"b","bucket":"","key":"","version_id":"","etag":"","size":10,"chunk":4}` + "\n"
	f.Add([]byte(head + `{"chunk":0,"crc32c":0}` + "\n"))
	f.Add([]byte(head + `{"chunk":-1}` + "\n" + `{"chunk":2305843009213693952}` + "\n{"))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "s")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		part, err := openPart(filepath.Join(dir, "p"))
		if err != nil {
			t.Fatal(err)
		}
		defer part.Close()
		if _, err := part.WriteString("0123456789"); err != nil {
			t.Fatal(err)
		}
		whole, err := readSidecar(path, sidecarHead{Format: sidecarFormat, Boot: "b", Size: 10, Chunk: 4}, part)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[int]bool{}
		for _, r := range whole {
			if r.Chunk < 0 || r.Chunk > 2 || seen[r.Chunk] {
				t.Fatalf("chunk %d of 3", r.Chunk)
			}
			seen[r.Chunk] = true
		}
	})
}
