package localaws

import (
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/johannesboyne/gofakes3"
)

// bucketBackend is the store as gofakes3 sees it, for requests about a whole
// bucket. Requests about one object never come this way.
type bucketBackend struct {
	*objectStore
}

var (
	_ gofakes3.Backend          = (*bucketBackend)(nil)
	_ gofakes3.VersionedBackend = (*bucketBackend)(nil)
	_ gofakes3.MultipartBackend = (*bucketBackend)(nil)
)

// ListBuckets lists them by name.
func (s *bucketBackend) ListBuckets() ([]gofakes3.BucketInfo, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []gofakes3.BucketInfo
	for _, name := range slices.Sorted(maps.Keys(s.buckets)) {
		out = append(out, gofakes3.BucketInfo{Name: name, CreationDate: gofakes3.NewContentTime(s.buckets[name].created)})
	}
	return out, nil
}

// CreateBucket makes a bucket; ServeHTTP has answered for those that exist.
func (s *bucketBackend) CreateBucket(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.buckets[name] != nil {
		return gofakes3.ResourceError(gofakes3.ErrBucketAlreadyExists, name)
	}
	s.buckets[name] = newBucket(name, s.clock.Now().UTC())
	return s.disk.storeBuckets(s.buckets)
}

// BucketExists tells whether there is such a bucket.
func (s *bucketBackend) BucketExists(name string) (bool, error) { return s.hasBucket(name), nil }

// DeleteBucket removes an empty bucket.
func (s *bucketBackend) DeleteBucket(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[name]
	if b == nil {
		return gofakes3.BucketNotFound(name)
	}
	if len(b.objects) > 0 || len(b.uploads) > 0 {
		return gofakes3.ResourceError(gofakes3.ErrBucketNotEmpty, name)
	}
	delete(s.buckets, name)
	return s.disk.storeBuckets(s.buckets)
}

// ForceDeleteBucket is not offered.
func (s *bucketBackend) ForceDeleteBucket(string) error { return gofakes3.ErrNotImplemented }

// walk calls fn with each key behind after that begins with prefix, or with
// what keys have in common up to the delimiter, once, and with the last key it
// stands for, until fn returns false.
func (b *bucket) walk(p *gofakes3.Prefix, after string, fn func(key, common, last string) bool) {
	start, found := slices.BinarySearch(b.keys, after)
	if found {
		start++
	}
	for i := start; i < len(b.keys); i++ {
		key := b.keys[i]
		rest, ok := strings.CutPrefix(key, p.Prefix)
		if !ok {
			if key > p.Prefix {
				return
			}
			continue
		}
		common := ""
		if p.HasDelimiter {
			if at := strings.Index(rest, p.Delimiter); at >= 0 {
				common = p.Prefix + rest[:at+len(p.Delimiter)]
			}
		}
		last := key
		if common != "" {
			for i+1 < len(b.keys) && strings.HasPrefix(b.keys[i+1], common) {
				i++
				last = b.keys[i]
			}
		}
		if !fn(key, common, last) {
			return
		}
	}
}

// ListBucket lists current objects.
func (s *bucketBackend) ListBucket(name string, prefix *gofakes3.Prefix, page gofakes3.ListBucketPage) (*gofakes3.ObjectList, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.buckets[name]
	if b == nil {
		return nil, gofakes3.BucketNotFound(name)
	}
	out := gofakes3.NewObjectList()
	var count int64
	b.walk(prefix, page.Marker, func(key, common, last string) bool {
		v := b.current(key)
		if common == "" && v == nil {
			return true
		}
		if count == page.MaxKeys {
			out.IsTruncated = true
			return false
		}
		count++
		out.NextMarker = last
		if common != "" {
			out.AddPrefix(common)
			return true
		}
		out.Add(&gofakes3.Content{
			Key: key, LastModified: gofakes3.NewContentTime(v.Modified), ETag: quoted(v.ETag), Size: v.Size,
		})
		return true
	})
	if !out.IsTruncated {
		out.NextMarker = ""
	}
	return out, nil
}

// VersioningConfiguration tells whether a bucket keeps versions.
func (s *bucketBackend) VersioningConfiguration(name string) (gofakes3.VersioningConfiguration, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if b := s.buckets[name]; b != nil {
		return gofakes3.VersioningConfiguration{Status: b.versioning}, nil
	}
	return gofakes3.VersioningConfiguration{}, gofakes3.BucketNotFound(name)
}

// SetVersioningConfiguration says whether a bucket keeps versions.
func (s *bucketBackend) SetVersioningConfiguration(name string, v gofakes3.VersioningConfiguration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[name]
	switch {
	case b == nil:
		return gofakes3.BucketNotFound(name)
	case v.MFADelete.Enabled():
		return gofakes3.ErrNotImplemented
	}
	b.versioning = v.Status
	return s.disk.storeBuckets(s.buckets)
}

// ListBucketVersions lists every version and delete marker, the newest of a key
// first.
func (s *bucketBackend) ListBucketVersions(name string, prefix *gofakes3.Prefix, page *gofakes3.ListBucketVersionsPage) (*gofakes3.ListBucketVersionsResult, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.buckets[name]
	if b == nil {
		return nil, gofakes3.BucketNotFound(name)
	}
	out := gofakes3.NewListBucketVersionsResult(name, prefix, page)
	after := page.KeyMarker
	if page.HasVersionIDMarker {
		after = before(b, page.KeyMarker) // the rest of that key's versions comes first
	}
	b.walk(prefix, after, func(key, common, _ string) bool {
		if common != "" {
			out.AddPrefix(common)
			return true
		}
		all := b.objects[key]
		skip := page.HasVersionIDMarker && key == page.KeyMarker
		for i, v := range slices.Backward(all) {
			if skip {
				skip = v.ID != string(page.VersionIDMarker)
				continue
			}
			if int64(len(out.Versions)) == page.MaxKeys {
				out.IsTruncated = true
				return false
			}
			out.NextKeyMarker, out.NextVersionIDMarker = key, gofakes3.VersionID(v.ID)
			out.Versions = append(out.Versions, v.item(i == len(all)-1))
		}
		return true
	})
	if !out.IsTruncated {
		out.NextKeyMarker, out.NextVersionIDMarker = "", ""
	}
	return out, nil
}

// before returns the key in front of the given one.
func before(b *bucket, key string) string {
	if i, _ := slices.BinarySearch(b.keys, key); i > 0 {
		return b.keys[i-1]
	}
	return ""
}

func (v *version) item(latest bool) gofakes3.VersionItem {
	modified := gofakes3.NewContentTime(v.Modified)
	if v.Marker {
		return &gofakes3.DeleteMarker{
			Key: v.Key, VersionID: gofakes3.VersionID(v.ID), IsLatest: latest, LastModified: modified,
		}
	}
	return &gofakes3.Version{
		Key: v.Key, VersionID: gofakes3.VersionID(v.ID), IsLatest: latest, LastModified: modified,
		Size: v.Size, ETag: quoted(v.ETag),
	}
}

// DeleteMultiVersions deletes the named objects and versions.
func (s *bucketBackend) DeleteMultiVersions(name string, objects ...gofakes3.ObjectID) (gofakes3.MultiDeleteResult, error) {
	var out gofakes3.MultiDeleteResult
	for _, o := range objects {
		_, err := s.delete(name, o.Key, o.VersionID, condition{})
		var refused *s3Error
		switch {
		case err == nil:
			out.Deleted = append(out.Deleted, o)
		case errors.As(err, &refused):
			out.Error = append(out.Error, gofakes3.ErrorResult{
				Key: o.Key, Code: gofakes3.ErrorCode(refused.Code), Message: refused.Message,
			})
		default:
			return out, err
		}
	}
	return out, nil
}

// DeleteMulti is DeleteMultiVersions without versions.
func (s *bucketBackend) DeleteMulti(name string, keys ...string) (gofakes3.MultiDeleteResult, error) {
	ids := make([]gofakes3.ObjectID, len(keys))
	for i, key := range keys {
		ids[i].Key = key
	}
	return s.DeleteMultiVersions(name, ids...)
}

// ListMultipartUploads lists the uploads under way, by key and then by age.
func (s *bucketBackend) ListMultipartUploads(name string, marker *gofakes3.UploadListMarker, prefix gofakes3.Prefix, limit int64) (*gofakes3.ListMultipartUploadsResult, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.buckets[name]
	if b == nil {
		return nil, gofakes3.BucketNotFound(name)
	}
	all := slices.SortedFunc(maps.Values(b.uploads), func(x, y *upload) int {
		if c := strings.Compare(x.version.Key, y.version.Key); c != 0 {
			return c
		}
		return x.initiated.Compare(y.initiated)
	})
	out := &gofakes3.ListMultipartUploadsResult{Bucket: name, Prefix: prefix.Prefix, MaxUploads: limit}
	passed := false // the marker's upload, among those of its key
	for _, u := range all {
		if marker != nil && u.version.Key <= marker.Object {
			beyond := passed && u.version.Key == marker.Object
			passed = passed || u.id == string(marker.UploadID)
			if !beyond {
				continue
			}
		}
		if !strings.HasPrefix(u.version.Key, prefix.Prefix) {
			continue
		}
		if int64(len(out.Uploads)) == limit {
			out.IsTruncated = true
			break
		}
		out.NextKeyMarker, out.NextUploadIDMarker = u.version.Key, gofakes3.UploadID(u.id)
		out.Uploads = append(out.Uploads, gofakes3.ListMultipartUploadItem{
			Key: u.version.Key, UploadID: gofakes3.UploadID(u.id), Initiated: gofakes3.NewContentTime(u.initiated),
		})
	}
	return out, nil
}

// ListParts lists the parts an upload has so far.
func (s *bucketBackend) ListParts(name, key string, id gofakes3.UploadID, after int, limit int64) (*gofakes3.ListMultipartUploadPartsResult, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, u, err := s.findUpload(name, key, string(id))
	if err != nil {
		return nil, gofakes3.ErrNoSuchUpload
	}
	out := &gofakes3.ListMultipartUploadPartsResult{
		Bucket: name, Key: key, UploadID: id, PartNumberMarker: after, MaxParts: limit,
	}
	for _, number := range slices.Sorted(maps.Keys(u.parts)) {
		if number <= after {
			continue
		}
		if int64(len(out.Parts)) == limit {
			out.IsTruncated = true
			break
		}
		p := u.parts[number]
		out.NextPartNumberMarker = number
		out.Parts = append(out.Parts, gofakes3.ListMultipartUploadPartItem{
			PartNumber: number, ETag: quoted(p.etag), Size: p.body.size(), LastModified: gofakes3.NewContentTime(p.modified),
		})
	}
	return out, nil
}

// AbortMultipartUpload drops an upload.
func (s *bucketBackend) AbortMultipartUpload(name, key string, id gofakes3.UploadID) error {
	if err := s.abort(name, key, string(id)); err != nil {
		return gofakes3.ErrNoSuchUpload
	}
	return nil
}

// What is below is about one object and answered by s3Service itself. Only a
// form upload from a browser could come here, and is refused.

// GetObject is not offered.
func (s *bucketBackend) GetObject(string, string, *gofakes3.ObjectRangeRequest) (*gofakes3.Object, error) {
	return nil, gofakes3.ErrNotImplemented
}

// HeadObject is not offered.
func (s *bucketBackend) HeadObject(string, string) (*gofakes3.Object, error) {
	return nil, gofakes3.ErrNotImplemented
}

// PutObject is not offered.
func (s *bucketBackend) PutObject(string, string, map[string]string, io.Reader, int64, *gofakes3.PutConditions) (gofakes3.PutObjectResult, error) {
	return gofakes3.PutObjectResult{}, gofakes3.ErrNotImplemented
}

// DeleteObject is not offered.
func (s *bucketBackend) DeleteObject(string, string) (gofakes3.ObjectDeleteResult, error) {
	return gofakes3.ObjectDeleteResult{}, gofakes3.ErrNotImplemented
}

// CopyObject is not offered.
func (s *bucketBackend) CopyObject(string, string, string, string, map[string]string) (gofakes3.CopyObjectResult, error) {
	return gofakes3.CopyObjectResult{}, gofakes3.ErrNotImplemented
}

// GetObjectVersion is not offered.
func (s *bucketBackend) GetObjectVersion(string, string, gofakes3.VersionID, *gofakes3.ObjectRangeRequest) (*gofakes3.Object, error) {
	return nil, gofakes3.ErrNotImplemented
}

// HeadObjectVersion is not offered.
func (s *bucketBackend) HeadObjectVersion(string, string, gofakes3.VersionID) (*gofakes3.Object, error) {
	return nil, gofakes3.ErrNotImplemented
}

// DeleteObjectVersion is not offered.
func (s *bucketBackend) DeleteObjectVersion(string, string, gofakes3.VersionID) (gofakes3.ObjectDeleteResult, error) {
	return gofakes3.ObjectDeleteResult{}, gofakes3.ErrNotImplemented
}

// CreateMultipartUpload is not offered.
func (s *bucketBackend) CreateMultipartUpload(string, string, map[string]string) (gofakes3.UploadID, error) {
	return "", gofakes3.ErrNotImplemented
}

// UploadPart is not offered.
func (s *bucketBackend) UploadPart(string, string, gofakes3.UploadID, int, int64, io.Reader) (string, error) {
	return "", gofakes3.ErrNotImplemented
}

// CompleteMultipartUpload is not offered.
func (s *bucketBackend) CompleteMultipartUpload(string, string, gofakes3.UploadID, *gofakes3.CompleteMultipartUploadRequest) (gofakes3.VersionID, string, error) {
	return "", "", gofakes3.ErrNotImplemented
}
