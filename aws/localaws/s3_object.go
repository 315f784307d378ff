package localaws

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// span is the part of an object a GET is answered with.
type span struct {
	off, n  int64
	partial bool
	parts   int // of the object, when one part was asked for
}

// getObject answers GET and HEAD.
func (s *s3Service) getObject(r *s3Request) error {
	var v *version
	var sp span
	body, err := s.store.open(r.bucket, r.key, r.version, func(found *version) (_ span, err error) {
		v = found
		if err = r.conditions(v); err == nil {
			sp, err = r.span(v)
		}
		return sp, err
	})
	if err != nil {
		return err
	}
	defer body.Close()
	h := r.w.Header()
	v.describe(h)
	r.overrideHeaders(h)
	h.Set("Content-Length", strconv.FormatInt(sp.n, 10))
	status := http.StatusOK
	switch {
	case sp.partial:
		status = http.StatusPartialContent
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", sp.off, sp.off+sp.n-1, v.Size))
		if sp.parts > 0 {
			h.Set("X-Amz-Mp-Parts-Count", strconv.Itoa(sp.parts))
		}
	case strings.EqualFold(r.Header.Get("X-Amz-Checksum-Mode"), "ENABLED"):
		v.Checksum.tell(h)
	}
	r.w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.Copy(r.w, body); err != nil {
		panic(http.ErrAbortHandler) // the status is out, only the cut tells
	}
	return nil
}

// open opens the part of a version's body that choose names, with choose under
// the lock, so that the body cannot be freed in between.
func (s *objectStore) open(bucketName, key, id string, choose func(*version) (span, error)) (io.ReadCloser, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	v, err := s.find(bucketName, key, id)
	if err != nil {
		return nil, err
	}
	if v.Marker {
		return nil, s3Refusal("MethodNotAllowed", http.StatusMethodNotAllowed, "The specified method is not allowed against this resource.")
	}
	sp, err := choose(v)
	if err != nil {
		return nil, err
	}
	return v.Body.open(s.dataDir(), sp.off, sp.n)
}

// describe puts what is known of a version into a response.
func (v *version) describe(h http.Header) {
	for name, value := range v.Headers {
		h.Set(name, value)
	}
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "binary/octet-stream")
	}
	h.Set("ETag", quoted(v.ETag))
	h.Set("Last-Modified", v.Modified.Format(http.TimeFormat))
	h.Set("Accept-Ranges", "bytes")
	if v.ID != nullVersion {
		h.Set("X-Amz-Version-Id", v.ID)
	}
	if len(v.Tags) > 0 {
		h.Set("X-Amz-Tagging-Count", strconv.Itoa(len(v.Tags)))
	}
}

// overrideHeaders does what the response-* parameters of a GET ask for.
func (r *s3Request) overrideHeaders(h http.Header) {
	query := r.URL.Query()
	for _, name := range []string{"Content-Type", "Content-Language", "Expires", "Cache-Control", "Content-Disposition", "Content-Encoding"} {
		if value := query.Get("response-" + strings.ToLower(name)); value != "" {
			h.Set(name, value)
		}
	}
}

// conditions judges the conditional headers of a GET, in the order of RFC 9110.
func (r *s3Request) conditions(v *version) error {
	modified := v.Modified.Truncate(time.Second)
	since := func(name string) (time.Time, bool) {
		t, err := http.ParseTime(r.Header.Get(name))
		return t, err == nil
	}
	if match := r.Header.Get("If-Match"); match != "" {
		if !etagIn(match, v.ETag) {
			return errPrecondition("If-Match")
		}
	} else if t, ok := since("If-Unmodified-Since"); ok && modified.After(t) {
		return errPrecondition("If-Unmodified-Since")
	}
	unchanged := false
	if none := r.Header.Get("If-None-Match"); none != "" {
		unchanged = etagIn(none, v.ETag)
	} else if t, ok := since("If-Modified-Since"); ok {
		unchanged = !modified.After(t)
	}
	if unchanged {
		r.w.Header().Set("ETag", quoted(v.ETag))
		return s3Refusal("NotModified", http.StatusNotModified, "Not Modified")
	}
	return nil
}

// etagIn tells whether a header names the ETag, or any with "*".
func etagIn(header, etag string) bool {
	for one := range strings.SplitSeq(header, ",") {
		if one = strings.Trim(strings.TrimSpace(one), `"`); one == "*" || one == etag {
			return true
		}
	}
	return false
}

func quoted(etag string) string { return `"` + etag + `"` }

// span works out which bytes were asked for, by Range or partNumber.
func (r *s3Request) span(v *version) (span, error) {
	if number := r.URL.Query().Get("partNumber"); number != "" {
		return v.part(number)
	}
	whole := span{n: v.Size}
	spec, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	if !ok || strings.Contains(spec, ",") {
		return whole, nil // S3 gives the whole for a range it does not know
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return whole, nil
	}
	unsatisfiable := s3Refusal("InvalidRange", http.StatusRequestedRangeNotSatisfiable, "The requested range is not satisfiable")
	if first == "" {
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n < 0 {
			return whole, nil
		}
		if n == 0 || v.Size == 0 {
			return span{}, unsatisfiable
		}
		n = min(n, v.Size)
		return span{off: v.Size - n, n: n, partial: true}, nil
	}
	from, err := strconv.ParseInt(first, 10, 64)
	if err != nil || from < 0 {
		return whole, nil
	}
	to := v.Size - 1
	if last != "" {
		if to, err = strconv.ParseInt(last, 10, 64); err != nil || to < from {
			return whole, nil
		}
	}
	if from >= v.Size {
		return span{}, unsatisfiable
	}
	return span{off: from, n: min(to, v.Size-1) - from + 1, partial: true}, nil
}

// part is the bytes one part of a multipart object was uploaded with.
func (v *version) part(number string) (span, error) {
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > max(len(v.Parts), 1) {
		return span{}, s3Refusal("InvalidPartNumber", http.StatusRequestedRangeNotSatisfiable, "The requested partnumber is not satisfiable")
	}
	if len(v.Parts) == 0 {
		return span{n: v.Size, partial: v.Size > 0}, nil
	}
	sp := span{n: v.Parts[n-1], partial: true, parts: len(v.Parts)}
	for _, size := range v.Parts[:n-1] {
		sp.off += size
	}
	return sp, nil
}

// putObject stores a body, if it is what the client says and the condition
// holds.
func (s *s3Service) putObject(r *s3Request) error {
	v, err := r.newVersion()
	if err != nil {
		return err
	}
	cond, err := r.writeCondition()
	if err != nil {
		return err
	}
	// A condition that fails already spares the body; commit judges again.
	if err := s.store.precheck(r.bucket, r.key, cond); err != nil {
		return err
	}
	body, err := newRequestBody(r.Request)
	if err != nil {
		return err
	}
	if v.Body, err = readBlob(body, s.store.dataDir()); err != nil {
		return err
	}
	v.Size = v.Body.size()
	v.ETag, v.Checksum = body.sums()
	if err := s.store.commit(v, cond); err != nil {
		return err
	}
	h := r.w.Header()
	h.Set("ETag", quoted(v.ETag))
	v.Checksum.tell(h)
	v.tellVersion(h)
	r.w.WriteHeader(http.StatusOK)
	return nil
}

func (v *version) tellVersion(h http.Header) {
	if v.ID != nullVersion {
		h.Set("X-Amz-Version-Id", v.ID)
	}
}

func (s *objectStore) precheck(bucketName, key string, cond condition) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.buckets[bucketName]
	if b == nil {
		return errNoSuchBucket()
	}
	return cond.check(b.current(key))
}

// newVersion is a version with what the request's headers say of it.
func (r *s3Request) newVersion() (*version, error) {
	tags, err := url.ParseQuery(r.Header.Get("X-Amz-Tagging"))
	if err != nil {
		return nil, s3Refusal("InvalidArgument", http.StatusBadRequest, "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters.")
	}
	v := &version{Bucket: r.bucket, Key: r.key, Headers: r.keptHeaders()}
	for name := range tags {
		if v.Tags == nil {
			v.Tags = map[string]string{}
		}
		v.Tags[name] = tags.Get(name)
	}
	size := 0
	for name, value := range v.Headers {
		if strings.HasPrefix(name, "X-Amz-Meta-") {
			size += len(name) - len("X-Amz-Meta-") + len(value)
		}
	}
	if size > 2<<10 {
		return nil, s3Refusal("MetadataTooLarge", http.StatusBadRequest, "Your metadata headers exceed the maximum allowed metadata size")
	}
	return v, nil
}

// keptHeaders are the headers an object is told with at each GET.
func (r *s3Request) keptHeaders() map[string]string {
	kept := map[string]string{}
	for name, values := range r.Header {
		switch name {
		case "Content-Type", "Content-Disposition", "Content-Language", "Cache-Control", "Expires", "X-Amz-Website-Redirect-Location":
			kept[name] = values[0]
		case "Content-Encoding":
			// The framing is not the object's.
			encoding := strings.Trim(strings.ReplaceAll(values[0], "aws-chunked", ""), " ,")
			if encoding != "" {
				kept[name] = encoding
			}
		default:
			if strings.HasPrefix(name, "X-Amz-Meta-") {
				kept[name] = strings.Join(values, ",")
			}
		}
	}
	return kept
}

// writeCondition reads the condition of a write.
func (r *s3Request) writeCondition() (condition, error) {
	c := condition{ifMatch: r.Header.Get("If-Match"), ifNoMatch: r.Header.Get("If-None-Match")}
	if c.ifNoMatch != "" && (c.ifNoMatch != "*" || c.ifMatch != "") {
		return c, s3Refusal("NotImplemented", http.StatusNotImplemented, "A header you provided implies functionality that is not implemented: If-None-Match takes * alone")
	}
	return c, nil
}

func (s *s3Service) deleteObject(r *s3Request) error {
	cond, err := r.writeCondition()
	if err != nil {
		return err
	}
	gone, err := s.store.delete(r.bucket, r.key, r.version, cond)
	if err != nil {
		return err
	}
	if gone != nil {
		gone.tellVersion(r.w.Header())
		if gone.Marker {
			r.w.Header().Set("X-Amz-Delete-Marker", "true")
		}
	}
	r.w.WriteHeader(http.StatusNoContent)
	return nil
}

// copyObject stores a copy of another object, with its metadata unless told
// otherwise.
func (s *s3Service) copyObject(r *s3Request) error {
	bucketName, key, id, err := r.copySource()
	if err != nil {
		return err
	}
	cond, err := r.writeCondition()
	if err != nil {
		return err
	}
	v, err := r.newVersion()
	if err != nil {
		return err
	}
	replaced := strings.EqualFold(r.Header.Get("X-Amz-Metadata-Directive"), "REPLACE")
	if err := s.store.clone(v, bucketName, key, id, replaced); err != nil {
		return err
	}
	if err := s.store.commit(v, cond); err != nil {
		return err
	}
	v.tellVersion(r.w.Header())
	writeXML(r.w, http.StatusOK, struct {
		XMLName      xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ CopyObjectResult"`
		ETag         string
		LastModified string
	}{ETag: quoted(v.ETag), LastModified: v.Modified.Format("2006-01-02T15:04:05.000Z")})
	return nil
}

func (r *s3Request) copySource() (bucketName, key, id string, err error) {
	raw, query, _ := strings.Cut(r.Header.Get("X-Amz-Copy-Source"), "?")
	source, err := url.PathUnescape(raw)
	bucketName, key, ok := strings.Cut(strings.TrimPrefix(source, "/"), "/")
	if err != nil || !ok || key == "" {
		return "", "", "", s3Refusal("InvalidArgument", http.StatusBadRequest, "Copy Source must mention the source bucket and key: sourcebucket/sourcekey")
	}
	id = strings.TrimPrefix(query, "versionId=")
	return bucketName, key, id, nil
}

// clone gives v the content of another object, and its headers and tags unless
// they were replaced.
func (s *objectStore) clone(v *version, bucketName, key, id string, replaced bool) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	source, err := s.find(bucketName, key, id)
	if err != nil {
		return err
	}
	if v.Body, err = source.Body.clone(s.dataDir()); err != nil {
		return err
	}
	v.ETag, v.Size, v.Checksum, v.Parts = source.ETag, source.Size, source.Checksum, source.Parts
	if !replaced {
		v.Headers, v.Tags = source.Headers, source.Tags
	}
	return nil
}
