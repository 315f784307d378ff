package localaws

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/johannesboyne/gofakes3"
)

const (
	maxS3Document = 4 << 20 // XML bodies: 10,000 parts, 1,000 deletions
	maxS3Object   = 5 << 30
	maxS3Key      = 1024
	s3Namespace   = "http://s3.amazonaws.com/doc/2006-03-01/"
)

// s3Service answers S3 addressed by path.
type s3Service struct {
	region  string
	store   *objectStore
	buckets http.Handler // gofakes3, for requests about a bucket
}

func newS3(clock Clock, region, dir string) (*s3Service, error) {
	store, err := openStore(clock, dir)
	if err != nil {
		return nil, err
	}
	fake := gofakes3.New(&bucketBackend{store},
		gofakes3.WithTimeSource(timeSource{clock}),
		gofakes3.WithTimeSkewLimit(0), // the server's clock need not be the client's
		gofakes3.WithUnimplementedPageError())
	return &s3Service{region: region, store: store, buckets: fake.Server()}, nil
}

// timeSource is a Clock as gofakes3 wants it.
type timeSource struct{ Clock }

func (t timeSource) Since(at time.Time) time.Duration { return t.Now().Sub(at) }

// s3Request is one request about an object.
type s3Request struct {
	*http.Request
	w       http.ResponseWriter
	bucket  string
	key     string
	version string // from versionId
}

// ServeHTTP answers one request.
func (s *s3Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "AmazonS3")
	w.Header().Set("x-amz-request-id", newUUID())
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	req := &s3Request{Request: r, w: w, bucket: bucket, key: key, version: r.URL.Query().Get("versionId")}
	if err := s.serve(req); err != nil {
		if r.Context().Err() != nil {
			panic(http.ErrAbortHandler) // nobody is left to tell
		}
		var refused *s3Error
		if !errors.As(err, &refused) {
			refused = s3Refusal("InternalError", http.StatusInternalServerError, "%v", err)
		}
		writeS3Error(w, r, refused)
	}
}

func (s *s3Service) serve(r *s3Request) error {
	if len(r.key) > maxS3Key {
		return s3Refusal("KeyTooLongError", http.StatusBadRequest, "Your key is too long")
	}
	switch s3Operation(r.Request) {
	case "GetObject", "HeadObject":
		return s.getObject(r)
	case "PutObject":
		return s.putObject(r)
	case "CopyObject":
		return s.copyObject(r)
	case "DeleteObject":
		return s.deleteObject(r)
	case "GetObjectAttributes":
		return s.getObjectAttributes(r)
	case "GetObjectTagging", "PutObjectTagging", "DeleteObjectTagging":
		return s.objectTagging(r)
	case "CreateMultipartUpload":
		return s.createMultipartUpload(r)
	case "UploadPart":
		return s.uploadPart(r)
	case "CompleteMultipartUpload":
		return s.completeMultipartUpload(r)
	case "CreateBucket":
		if s.store.hasBucket(r.bucket) {
			return s.bucketAgain(r)
		}
	case "NotImplemented":
		return s3Refusal("NotImplemented", http.StatusNotImplemented, "A header or query you provided implies functionality that is not implemented.")
	}
	r.Body = http.MaxBytesReader(r.w, r.Body, maxS3Document)
	s.buckets.ServeHTTP(r.w, r.Request)
	return nil
}

// bucketAgain answers who makes a bucket that is already theirs, which the
// oldest region alone takes well.
func (s *s3Service) bucketAgain(r *s3Request) error {
	if signedRegion(r.Header.Get("Authorization"), s.region) == "us-east-1" {
		r.w.Header().Set("Location", "/"+r.bucket)
		r.w.WriteHeader(http.StatusOK)
		return nil
	}
	return s3Refusal("BucketAlreadyOwnedByYou", http.StatusConflict, "Your previous request to create the named bucket succeeded and you already own it.")
}

// s3Operation names the operation of a request, "NotImplemented" for those
// there is no answer to.
func s3Operation(r *http.Request) string {
	query := r.URL.Query()
	for name := range query {
		if !knownSubresource(name) {
			return "NotImplemented"
		}
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case bucket == "":
		return "ListBuckets"
	case key == "":
		return bucketOperation(r.Method, query.Has, query.Get("list-type"))
	}
	return objectOperation(r.Method, query.Has, r.Header.Get("X-Amz-Copy-Source") != "")
}

// knownSubresource tells whether a query parameter is one that is understood,
// or one that changes nothing here.
func knownSubresource(name string) bool {
	switch name {
	case "list-type", "prefix", "delimiter", "max-keys", "marker", "continuation-token", "start-after",
		"fetch-owner", "encoding-type", "versions", "key-marker", "version-id-marker", "versioning", "versionId",
		"uploads", "uploadId", "upload-id-marker", "max-uploads", "partNumber", "part-number-marker", "max-parts",
		"location", "delete", "tagging", "attributes", "x-id":
		return true
	}
	return strings.HasPrefix(name, "response-") || strings.HasPrefix(strings.ToLower(name), "x-amz-")
}

func bucketOperation(method string, has func(string) bool, listType string) string {
	switch {
	case has("tagging"):
		return "NotImplemented"
	case has("versioning"):
		return map[string]string{"GET": "GetBucketVersioning", "PUT": "PutBucketVersioning"}[method]
	case method == "GET" && has("versions"):
		return "ListObjectVersions"
	case method == "GET" && has("uploads"):
		return "ListMultipartUploads"
	case method == "GET" && has("location"):
		return "GetBucketLocation"
	case method == "GET" && listType == "2":
		return "ListObjectsV2"
	case method == "GET":
		return "ListObjects"
	case method == "HEAD":
		return "HeadBucket"
	case method == "PUT":
		return "CreateBucket"
	case method == "DELETE":
		return "DeleteBucket"
	case method == "POST" && has("delete"):
		return "DeleteObjects"
	}
	return "NotImplemented"
}

func objectOperation(method string, has func(string) bool, isCopy bool) string {
	switch {
	case has("tagging"):
		return map[string]string{
			"GET": "GetObjectTagging", "PUT": "PutObjectTagging", "DELETE": "DeleteObjectTagging",
		}[method]
	case method == "GET" && has("attributes"):
		return "GetObjectAttributes"
	case method == "GET" && has("uploadId"):
		return "ListParts"
	case method == "GET":
		return "GetObject"
	case method == "HEAD":
		return "HeadObject"
	case method == "PUT" && has("uploadId") && isCopy:
		return "NotImplemented"
	case method == "PUT" && has("uploadId"):
		return "UploadPart"
	case method == "PUT" && isCopy:
		return "CopyObject"
	case method == "PUT":
		return "PutObject"
	case method == "DELETE" && has("uploadId"):
		return "AbortMultipartUpload"
	case method == "DELETE":
		return "DeleteObject"
	case method == "POST" && has("uploads"):
		return "CreateMultipartUpload"
	case method == "POST" && has("uploadId"):
		return "CompleteMultipartUpload"
	}
	return "NotImplemented"
}

// s3Error is a refusal as S3 gives it.
type s3Error struct {
	Code    string
	Status  int
	Message string
}

func (e *s3Error) Error() string { return e.Code + ": " + e.Message }

func s3Refusal(code string, status int, message string, a ...any) *s3Error {
	return &s3Error{Code: code, Status: status, Message: fmt.Sprintf(message, a...)}
}

func errNoSuchKey() *s3Error {
	return s3Refusal("NoSuchKey", http.StatusNotFound, "The specified key does not exist.")
}

func errNoSuchBucket() *s3Error {
	return s3Refusal("NoSuchBucket", http.StatusNotFound, "The specified bucket does not exist")
}

func errNoSuchUpload() *s3Error {
	return s3Refusal("NoSuchUpload", http.StatusNotFound, "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed.")
}

func errPrecondition(condition string) *s3Error {
	return s3Refusal("PreconditionFailed", http.StatusPreconditionFailed, "At least one of the pre-conditions you specified did not hold: %s", condition)
}

func errMalformed(err error) *s3Error {
	return s3Refusal("MalformedXML", http.StatusBadRequest, "The XML you provided was not well-formed or did not validate against our published schema: %v", err)
}

// drainLimit is how much of a refused body is still read, so that the client
// is there to read the refusal. Clients that send "Expect: 100-continue" do not
// all hold their body back.
const drainLimit = 16 << 20

// writeS3Error answers with an error.
func writeS3Error(w http.ResponseWriter, r *http.Request, e *s3Error) {
	_, _ = io.CopyN(io.Discard, r.Body, drainLimit)
	h := w.Header()
	for _, name := range []string{"Content-Length", "Content-Range", "Content-Encoding", "Last-Modified"} {
		h.Del(name)
	}
	if e.Status == http.StatusNotModified || r.Method == http.MethodHead {
		w.WriteHeader(e.Status)
		return
	}
	writeXML(w, e.Status, struct {
		XMLName   xml.Name `xml:"Error"`
		Code      string
		Message   string
		RequestID string `xml:"RequestId"`
	}{Code: e.Code, Message: e.Message, RequestID: h.Get("x-amz-request-id")})
}

func writeXML(w http.ResponseWriter, status int, v any) {
	data, err := xml.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, nil
	}
	data = append([]byte(xml.Header), data...)
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(status)
	_, _ = w.Write(data)
}

// readXML reads a bounded XML body.
func readXML(r *s3Request, v any) error {
	data, err := io.ReadAll(http.MaxBytesReader(r.w, r.Body, maxS3Document))
	if err != nil {
		return errMalformed(err)
	}
	if err := xml.Unmarshal(data, v); err != nil {
		return errMalformed(err)
	}
	return nil
}
