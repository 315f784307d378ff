package localaws

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/johannesboyne/gofakes3"
)

// disk keeps a store in a folder:
//
//	buckets.json          names, creation, versioning
//	objects/<seq>.json    one version each, with the names of its body's files
//	data/body-*           bodies
//
// A nil disk is a store in memory: its methods do nothing. Bodies that no
// version names, left by a crash or an unfinished upload, go at the next open.
type disk struct {
	root, objects, data string
}

// diskBucket is a bucket in buckets.json.
type diskBucket struct {
	Name       string
	Created    time.Time
	Versioning string `json:",omitempty"`
}

func openDisk(root string) (*disk, error) {
	d := &disk{root: root, objects: filepath.Join(root, "objects"), data: filepath.Join(root, "data")}
	for _, dir := range []string{d.objects, d.data} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of the store: %w", err)
		}
	}
	return d, nil
}

// load fills the store with what the folder holds.
func (d *disk) load(s *objectStore) error {
	if err := d.loadBuckets(s); err != nil {
		return err
	}
	files, err := os.ReadDir(d.objects)
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	var versions []*version
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".json") {
			continue
		}
		v := new(version)
		if err := readJSON(filepath.Join(d.objects, f.Name()), v); err != nil {
			return err
		}
		versions = append(versions, v)
	}
	slices.SortFunc(versions, func(a, b *version) int { return int(int64(a.Seq) - int64(b.Seq)) })
	named := map[string]bool{}
	for _, v := range versions {
		b := s.buckets[v.Bucket]
		if b == nil {
			d.remove(v)
			continue
		}
		if v.ID == nullVersion {
			s.drop(b, v.Key, nullVersion) // a crash came between storing it and dropping its elder
		}
		b.insert(v)
		s.lastSeq = max(s.lastSeq, v.Seq)
		for _, p := range v.Body {
			named[p.File] = true
		}
	}
	return d.sweep(named)
}

func (d *disk) loadBuckets(s *objectStore) error {
	var list []diskBucket
	err := readJSON(filepath.Join(d.root, "buckets.json"), &list)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, in := range list {
		b := newBucket(in.Name, in.Created)
		b.versioning = gofakes3.VersioningStatus(in.Versioning)
		s.buckets[in.Name] = b
	}
	return nil
}

// sweep removes the bodies that nothing names.
func (d *disk) sweep(named map[string]bool) error {
	files, err := os.ReadDir(d.data)
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	for _, f := range files {
		if !named[f.Name()] {
			_ = os.Remove(filepath.Join(d.data, f.Name()))
		}
	}
	return nil
}

func (d *disk) file(v *version) string {
	return filepath.Join(d.objects, fmt.Sprintf("%016x.json", v.Seq))
}

// store writes a version down.
func (d *disk) store(v *version) error {
	if d == nil {
		return nil
	}
	return writeJSONFile(d.file(v), v)
}

// remove forgets a version; its body is not touched.
func (d *disk) remove(v *version) {
	if d != nil {
		_ = os.Remove(d.file(v))
	}
}

// storeBuckets writes the buckets down.
func (d *disk) storeBuckets(buckets map[string]*bucket) error {
	if d == nil {
		return nil
	}
	list := make([]diskBucket, 0, len(buckets))
	for _, b := range buckets {
		list = append(list, diskBucket{Name: b.name, Created: b.created, Versioning: string(b.versioning)})
	}
	return writeJSONFile(filepath.Join(d.root, "buckets.json"), list)
}

func readJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read store: %w", err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("read store: %s: %w", path, err)
	}
	return nil
}

// writeJSONFile replaces a file in one step, without fsync (see readFileBlob).
func writeJSONFile(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	temp := path + ".tmp"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write store: %w", err)
	}
	return nil
}
