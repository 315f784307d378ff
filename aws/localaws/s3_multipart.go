package localaws

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxPart     = 10_000
	minPartSize = 5 << 20 // of every part but the last
)

// upload is a multipart upload under way. The store's lock guards it.
type upload struct {
	id        string
	version   *version // what it will become
	algorithm string   // of the checksum, may be empty
	kind      string   // of the checksum
	initiated time.Time
	parts     map[int]*part
}

type part struct {
	number   int
	etag     string
	checksum checksum
	modified time.Time
	body     blob
}

func (s *s3Service) createMultipartUpload(r *s3Request) error {
	v, err := r.newVersion()
	if err != nil {
		return err
	}
	u := &upload{
		id: newUUID(), version: v, parts: map[int]*part{}, initiated: s.store.clock.Now().UTC(),
		algorithm: strings.ToUpper(r.Header.Get("X-Amz-Checksum-Algorithm")),
		kind:      strings.ToUpper(r.Header.Get("X-Amz-Checksum-Type")),
	}
	if u.algorithm != "" && newHash(u.algorithm) == nil {
		return s3Refusal("NotImplemented", http.StatusNotImplemented, "Checksum algorithm %s is not implemented.", u.algorithm)
	}
	if u.kind == "" {
		u.kind = composite
		if u.algorithm == "CRC64NVME" {
			u.kind = fullObject
		}
	}
	if err := s.store.begin(r.bucket, u); err != nil {
		return err
	}
	if u.algorithm != "" {
		r.w.Header().Set("X-Amz-Checksum-Algorithm", u.algorithm)
		r.w.Header().Set("X-Amz-Checksum-Type", u.kind)
	}
	writeXML(r.w, http.StatusOK, struct {
		XMLName  xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ InitiateMultipartUploadResult"`
		Bucket   string
		Key      string
		UploadID string `xml:"UploadId"`
	}{Bucket: r.bucket, Key: r.key, UploadID: u.id})
	return nil
}

func (s *objectStore) begin(bucketName string, u *upload) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.buckets[bucketName]
	if b == nil {
		return errNoSuchBucket()
	}
	b.uploads[u.id] = u
	return nil
}

// findUpload returns an upload under way; s.mu is held.
func (s *objectStore) findUpload(bucketName, key, id string) (*bucket, *upload, error) {
	b := s.buckets[bucketName]
	if b == nil {
		return nil, nil, errNoSuchBucket()
	}
	u := b.uploads[id]
	if u == nil || u.version.Key != key {
		return nil, nil, errNoSuchUpload()
	}
	return b, u, nil
}

func (s *s3Service) uploadPart(r *s3Request) error {
	query := r.URL.Query()
	number, err := strconv.Atoi(query.Get("partNumber"))
	if err != nil || number < 1 || number > maxPart {
		return s3Refusal("InvalidArgument", http.StatusBadRequest, "Part number must be an integer between 1 and %d, inclusive", maxPart)
	}
	if err := s.store.hasUpload(r.bucket, r.key, query.Get("uploadId")); err != nil {
		return err
	}
	body, err := newRequestBody(r.Request)
	if err != nil {
		return err
	}
	p := &part{number: number}
	if p.body, err = readBlob(body, s.store.dataDir()); err != nil {
		return err
	}
	p.etag, p.checksum = body.sums()
	p.modified = s.store.clock.Now().UTC()
	if err := s.store.putPart(r.bucket, r.key, query.Get("uploadId"), p); err != nil {
		return err
	}
	h := r.w.Header()
	h.Set("ETag", quoted(p.etag))
	if p.checksum.Value != "" {
		h.Set(p.checksum.header(), p.checksum.Value)
	}
	r.w.WriteHeader(http.StatusOK)
	return nil
}

func (s *objectStore) hasUpload(bucketName, key, id string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, _, err := s.findUpload(bucketName, key, id)
	return err
}

func (s *objectStore) putPart(bucketName, key, id string, p *part) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, u, err := s.findUpload(bucketName, key, id)
	if err != nil {
		p.body.free(s.dataDir())
		return err
	}
	if old := u.parts[p.number]; old != nil {
		old.body.free(s.dataDir())
	}
	u.parts[p.number] = p
	return nil
}

// abort drops an upload and its parts.
func (s *objectStore) abort(bucketName, key, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, u, err := s.findUpload(bucketName, key, id)
	if err != nil {
		return err
	}
	for _, p := range u.parts {
		p.body.free(s.dataDir())
	}
	delete(b.uploads, id)
	return nil
}

// completion is the body of a CompleteMultipartUpload.
type completion struct {
	Parts []completedPart `xml:"Part"`
}

type completedPart struct {
	PartNumber        int
	ETag              string
	ChecksumCRC32     string
	ChecksumCRC32C    string
	ChecksumCRC64NVME string
	ChecksumSHA1      string
	ChecksumSHA256    string
	ChecksumSHA512    string
	ChecksumMD5       string
}

func (p completedPart) checksum(algorithm string) string {
	switch algorithm {
	case "CRC32":
		return p.ChecksumCRC32
	case "CRC32C":
		return p.ChecksumCRC32C
	case "CRC64NVME":
		return p.ChecksumCRC64NVME
	case "SHA1":
		return p.ChecksumSHA1
	case "SHA256":
		return p.ChecksumSHA256
	case "SHA512":
		return p.ChecksumSHA512
	case "MD5":
		return p.ChecksumMD5
	}
	return ""
}

func (s *s3Service) completeMultipartUpload(r *s3Request) error {
	var in completion
	if err := readXML(r, &in); err != nil {
		return err
	}
	cond, err := r.writeCondition()
	if err != nil {
		return err
	}
	v, err := s.store.complete(r.bucket, r.key, r.URL.Query().Get("uploadId"), in.Parts, cond, r.Header)
	if err != nil {
		return err
	}
	v.tellVersion(r.w.Header())
	writeXML(r.w, http.StatusOK, struct {
		XMLName  xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ CompleteMultipartUploadResult"`
		Location string
		Bucket   string
		Key      string
		ETag     string
	}{Location: "http://" + r.Host + r.URL.Path, Bucket: r.bucket, Key: r.key, ETag: quoted(v.ETag)})
	return nil
}

// complete makes the parts one object, all in one step.
func (s *objectStore) complete(bucketName, key, id string, list []completedPart, cond condition, h http.Header) (*version, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, u, err := s.findUpload(bucketName, key, id)
	if err != nil {
		return nil, err
	}
	parts, err := u.choose(list)
	if err != nil {
		return nil, err
	}
	if err := cond.check(b.current(key)); err != nil {
		return nil, err
	}
	v := *u.version
	etag := md5.New()
	for _, p := range parts {
		raw, _ := hex.DecodeString(p.etag) // made by us
		etag.Write(raw)
		v.Parts = append(v.Parts, p.body.size())
		v.Body = append(v.Body, p.body...)
	}
	v.ETag = fmt.Sprintf("%x-%d", etag.Sum(nil), len(parts))
	v.Size = v.Body.size()
	if v.Checksum, err = s.combine(u, parts, v.Body); err != nil {
		return nil, err
	}
	if claimed := h.Get(v.Checksum.header()); v.Checksum.Kind == fullObject && claimed != "" && claimed != v.Checksum.Value {
		return nil, s3Refusal("BadDigest", http.StatusBadRequest, "The %s you specified did not match the calculated checksum.", u.algorithm)
	}
	for _, p := range parts {
		delete(u.parts, p.number)
	}
	for _, unused := range u.parts {
		unused.body.free(s.dataDir())
	}
	delete(b.uploads, id)
	return &v, s.add(b, &v)
}

// choose finds the uploaded parts a completion lists.
func (u *upload) choose(list []completedPart) ([]*part, error) {
	if len(list) == 0 {
		return nil, s3Refusal("MalformedXML", http.StatusBadRequest, "The XML you provided was not well-formed or did not validate against our published schema")
	}
	if !slices.IsSortedFunc(list, func(a, b completedPart) int { return a.PartNumber - b.PartNumber }) {
		return nil, s3Refusal("InvalidPartOrder", http.StatusBadRequest, "The list of parts was not in ascending order. Parts must be ordered by part number.")
	}
	parts := make([]*part, 0, len(list))
	for i, in := range list {
		p := u.parts[in.PartNumber]
		switch {
		case i > 0 && in.PartNumber == list[i-1].PartNumber:
			return nil, s3Refusal("InvalidPartOrder", http.StatusBadRequest, "Part number %d is listed twice.", in.PartNumber)
		case p == nil || strings.Trim(in.ETag, `"`) != p.etag:
			return nil, s3Refusal("InvalidPart", http.StatusBadRequest, "One or more of the specified parts could not be found. The part may not have been uploaded, or the specified entity tag may not match the part's entity tag.")
		case in.checksum(p.checksum.Algorithm) != "" && in.checksum(p.checksum.Algorithm) != p.checksum.Value:
			return nil, s3Refusal("InvalidPart", http.StatusBadRequest, "The checksum of part %d does not match.", in.PartNumber)
		case i < len(list)-1 && p.body.size() < minPartSize:
			return nil, s3Refusal("EntityTooSmall", http.StatusBadRequest, "Your proposed upload is smaller than the minimum allowed size")
		}
		parts = append(parts, p)
	}
	return parts, nil
}

// combine makes the object's checksum: of the parts' checksums, or of it all.
func (s *objectStore) combine(u *upload, parts []*part, body blob) (checksum, error) {
	if u.algorithm == "" {
		return checksum{}, nil
	}
	c := checksum{Algorithm: u.algorithm, Kind: u.kind}
	h := newHash(u.algorithm)
	if u.kind == fullObject {
		in, err := body.open(s.dataDir(), 0, body.size())
		if err != nil {
			return c, err
		}
		defer in.Close()
		if _, err := io.Copy(h, in); err != nil {
			return c, fmt.Errorf("read parts: %w", err)
		}
		c.Value = sumOf(h)
		return c, nil
	}
	for _, p := range parts {
		raw, err := base64.StdEncoding.DecodeString(p.checksum.Value)
		if err != nil || p.checksum.Algorithm != u.algorithm {
			return c, s3Refusal("InvalidRequest", http.StatusBadRequest, "The upload was created using a %s checksum. The complete request must include the checksum for each part.", u.algorithm)
		}
		h.Write(raw)
	}
	c.Value = sumOf(h) + "-" + strconv.Itoa(len(parts))
	return c, nil
}
