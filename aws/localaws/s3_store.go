package localaws

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/johannesboyne/gofakes3"
)

// objectStore holds buckets and objects. One lock makes a condition and its
// write one step. Bodies are read and written outside of it.
type objectStore struct {
	clock Clock
	disk  *disk // nil: in memory

	mu      sync.RWMutex
	buckets map[string]*bucket
	lastSeq uint64 // numbers versions, in the order they were stored
}

type bucket struct {
	name       string
	created    time.Time
	versioning gofakes3.VersioningStatus
	keys       []string // sorted
	objects    map[string][]*version
	uploads    map[string]*upload
}

// version is one version of an object. Only its tags ever change.
type version struct {
	Seq      uint64
	Bucket   string
	Key      string
	ID       string // "null" where the bucket had no versions when it was stored
	Marker   bool   `json:",omitempty"` // a delete marker
	ETag     string // without quotes
	Size     int64
	Modified time.Time
	Headers  map[string]string `json:",omitempty"` // told again at each GET
	Checksum checksum
	Tags     map[string]string `json:",omitempty"`
	Parts    []int64           `json:",omitempty"` // sizes, of a multipart object
	Body     blob
}

const nullVersion = "null"

// condition is what must hold for a write. The zero value always does.
type condition struct {
	ifMatch   string
	ifNoMatch string
}

func openStore(clock Clock, dir string) (*objectStore, error) {
	s := &objectStore{clock: clock, buckets: map[string]*bucket{}}
	if dir == "" {
		return s, nil
	}
	d, err := openDisk(dir)
	if err != nil {
		return nil, err
	}
	s.disk = d
	return s, d.load(s)
}

// dataDir is where bodies go; empty in memory.
func (s *objectStore) dataDir() string {
	if s.disk == nil {
		return ""
	}
	return s.disk.data
}

func newBucket(name string, created time.Time) *bucket {
	return &bucket{name: name, created: created, objects: map[string][]*version{}, uploads: map[string]*upload{}}
}

func (s *objectStore) hasBucket(name string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.buckets[name] != nil
}

// current is the version a GET without a version sees: nil when there is none
// or when it is a delete marker.
func (b *bucket) current(key string) *version {
	all := b.objects[key]
	if len(all) == 0 || all[len(all)-1].Marker {
		return nil
	}
	return all[len(all)-1]
}

// find returns the version with the id, or the current one; s.mu is held.
func (s *objectStore) find(bucketName, key, id string) (*version, error) {
	b := s.buckets[bucketName]
	if b == nil {
		return nil, errNoSuchBucket()
	}
	if id == "" {
		if v := b.current(key); v != nil {
			return v, nil
		}
		return nil, errNoSuchKey()
	}
	for _, v := range b.objects[key] {
		if v.ID == id {
			return v, nil
		}
	}
	return nil, s3Refusal("NoSuchVersion", 404, "The specified version does not exist.")
}

// lookup is find under the lock.
func (s *objectStore) lookup(bucketName, key, id string) (*version, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.find(bucketName, key, id)
}

// check judges a write's condition against what is there.
func (c condition) check(v *version) error {
	if c.ifNoMatch != "" && v != nil && (c.ifNoMatch == "*" || etagIn(c.ifNoMatch, v.ETag)) {
		return errPrecondition("If-None-Match")
	}
	if c.ifMatch == "" {
		return nil
	}
	if v == nil {
		return errNoSuchKey()
	}
	if c.ifMatch != "*" && !etagIn(c.ifMatch, v.ETag) {
		return errPrecondition("If-Match")
	}
	return nil
}

// commit makes v the object's current version if cond holds. The store owns
// v's body from here on, also when it fails.
func (s *objectStore) commit(v *version, cond condition) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[v.Bucket]
	if b == nil {
		v.Body.free(s.dataDir())
		return errNoSuchBucket()
	}
	if err := cond.check(b.current(v.Key)); err != nil {
		v.Body.free(s.dataDir())
		return err
	}
	return s.add(b, v)
}

// add stores a version as the newest; s.mu is held.
func (s *objectStore) add(b *bucket, v *version) error {
	s.lastSeq++
	v.Seq, v.Modified = s.lastSeq, s.clock.Now().UTC()
	v.ID = nullVersion
	if b.versioning == gofakes3.VersioningEnabled {
		v.ID = versionID(v.Seq)
	}
	if err := s.disk.store(v); err != nil {
		v.Body.free(s.dataDir())
		return err
	}
	if v.ID == nullVersion {
		s.drop(b, v.Key, nullVersion)
	}
	b.insert(v)
	return nil
}

// insert puts a version behind the others of its key.
func (b *bucket) insert(v *version) {
	if i, found := slices.BinarySearch(b.keys, v.Key); !found {
		b.keys = slices.Insert(b.keys, i, v.Key)
	}
	b.objects[v.Key] = append(b.objects[v.Key], v)
}

// drop removes the version with the id, if it is there; s.mu is held.
func (s *objectStore) drop(b *bucket, key, id string) *version {
	all := b.objects[key]
	i := slices.IndexFunc(all, func(v *version) bool { return v.ID == id })
	if i < 0 {
		return nil
	}
	gone := all[i]
	s.disk.remove(gone)
	gone.Body.free(s.dataDir())
	if all = slices.Delete(slices.Clone(all), i, i+1); len(all) > 0 {
		b.objects[key] = all
		return gone
	}
	delete(b.objects, key)
	if at, found := slices.BinarySearch(b.keys, key); found {
		b.keys = slices.Delete(b.keys, at, at+1)
	}
	return gone
}

// versionID makes an id out of a number, so that later ones sort later.
func versionID(seq uint64) string {
	return "v" + strconv.FormatUint(1<<40+seq, 36)
}

// delete removes an object as DELETE does: its one version, or by a delete
// marker on top of the others. It returns what was removed or the marker.
func (s *objectStore) delete(bucketName, key, id string, cond condition) (*version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[bucketName]
	if b == nil {
		return nil, errNoSuchBucket()
	}
	if err := cond.check(b.current(key)); err != nil {
		return nil, err
	}
	if id != "" {
		return s.drop(b, key, id), nil
	}
	if b.versioning == gofakes3.VersioningNone {
		s.drop(b, key, nullVersion)
		return nil, nil
	}
	marker := &version{Bucket: bucketName, Key: key, Marker: true}
	return marker, s.add(b, marker)
}

// setTags replaces the tags of a version.
func (s *objectStore) setTags(bucketName, key, id string, tags map[string]string) (*version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.find(bucketName, key, id)
	if err != nil {
		return nil, err
	}
	// Readers hold versions without the lock: a new one takes its place.
	next := *v
	next.Tags = tags
	if err := s.disk.store(&next); err != nil {
		return nil, err
	}
	all := s.buckets[bucketName].objects[key]
	all[slices.Index(all, v)] = &next
	return &next, nil
}
