package localaws_test

import (
	"bytes"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"hostmanager/aws/localaws"
)

// put stores an object and returns its ETag.
func put(t testing.TB, h http.Handler, path, body string, pairs ...string) string {
	t.Helper()
	r, answer := s3(t, h, "PUT", path, strings.NewReader(body), head(pairs...))
	if r.StatusCode != 200 {
		t.Fatalf("PUT %s: status %d, %s", path, r.StatusCode, answer)
	}
	return r.Header.Get("ETag")
}

// status insists on a status and, in an error, on a code.
func status(t testing.TB, what string, r *http.Response, body string, want int, code string) {
	t.Helper()
	if r.StatusCode != want || (code != "" && !contains(body, "<Code>"+code+"</Code>")) {
		t.Errorf("%s: status %d, %q; want %d %s", what, r.StatusCode, body, want, code)
	}
}

func bucketed(t testing.TB, o localaws.Options) *localaws.Server {
	t.Helper()
	s := direct(t, o)
	put(t, s, "/bucket", "")
	return s
}

// bothKinds runs a test on a store in memory and on one in a folder.
func bothKinds(t *testing.T, test func(t *testing.T, s *localaws.Server)) {
	t.Run("memory", func(t *testing.T) { test(t, bucketed(t, localaws.Options{})) })
	t.Run("folder", func(t *testing.T) { test(t, bucketed(t, localaws.Options{Dir: t.TempDir()})) })
}

func b64(sum []byte) string { return base64.StdEncoding.EncodeToString(sum) }

func sha(s string) []byte { sum := sha256.Sum256([]byte(s)); return sum[:] }

func crc(s string) string {
	sum := crc32.ChecksumIEEE([]byte(s))
	return b64([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// chunked frames a body as aws-chunked, in chunks of n bytes.
func chunked(body string, n int, trailers ...string) string {
	var out strings.Builder
	for len(body) > 0 {
		piece := body[:min(n, len(body))]
		fmt.Fprintf(&out, "%x;chunk-signature=0\r\n%s\r\n", len(piece), piece)
		body = body[len(piece):]
	}
	out.WriteString("0\r\n")
	for _, tr := range trailers {
		out.WriteString(tr + "\r\n")
	}
	return out.String() + "\r\n"
}

func trailing(size int, more ...string) []string {
	return append([]string{
		"X-Amz-Content-Sha256", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "Content-Encoding", "aws-chunked",
		"X-Amz-Decoded-Content-Length", fmt.Sprint(size),
	}, more...)
}

func TestPutObject_HoldsTheBodyAgainstEveryClaim(t *testing.T) {
	s := bucketed(t, localaws.Options{})
	sum := md5.Sum([]byte("hello"))
	good, bad := b64(sha("hello")), b64(sha("other"))
	for _, tc := range []struct {
		name, body string
		header     []string
		status     int
		code       string
	}{
		{"no claim", "hello", nil, 200, ""},
		{"MD5", "hello", []string{"Content-MD5", b64(sum[:])}, 200, ""},
		{"wrong MD5", "hullo", []string{"Content-MD5", b64(sum[:])}, 400, "BadDigest"},
		{"MD5 that is none", "hello", []string{"Content-MD5", "x"}, 400, "InvalidDigest"},
		{"SHA-256", "hello", []string{"x-amz-checksum-sha256", good}, 200, ""},
		{"wrong SHA-256", "hello", []string{"x-amz-checksum-sha256", bad}, 400, "BadDigest"},
		{"SHA-256 that is none", "hello", []string{"x-amz-checksum-sha256", "x"}, 400, "InvalidRequest"},
		{"wrong CRC32", "hello", []string{"x-amz-checksum-crc32", crc("other")}, 400, "BadDigest"},
		{"CRC64NVME", "123456789", []string{"x-amz-checksum-crc64nvme", "rosUhgp5mIg="}, 200, ""},
		{"two checksums", "hello", []string{"x-amz-checksum-crc32", crc("hello"), "x-amz-checksum-sha256", good}, 400, "InvalidRequest"},
		{"unknown checksum", "hello", []string{"x-amz-checksum-md99", good}, 501, "NotImplemented"},
		{"payload hash", "hello", []string{"x-amz-content-sha256", hex.EncodeToString(sha("hello"))}, 200, ""},
		{"wrong payload hash", "hullo", []string{"x-amz-content-sha256", hex.EncodeToString(sha("hello"))}, 400, "XAmzContentSHA256Mismatch"},
		{"trailer", chunked("hello", 2, "x-amz-checksum-crc32:"+crc("hello")), trailing(5, "X-Amz-Trailer", "x-amz-checksum-crc32"), 200, ""},
		{"wrong trailer", chunked("hello", 2, "x-amz-checksum-crc32:"+crc("other")), trailing(5, "X-Amz-Trailer", "x-amz-checksum-crc32"), 400, "BadDigest"},
		{"no trailer after all", chunked("hello", 2), trailing(5, "X-Amz-Trailer", "x-amz-checksum-crc32"), 400, "MalformedTrailerError"},
		{"chunks without trailer", chunked("hello", 3), trailing(5), 200, ""},
		{"fewer bytes than said", chunked("hell", 3), trailing(5), 400, "IncompleteBody"},
		{"more bytes than said", chunked("hello!", 3), trailing(5), 400, "IncompleteBody"},
		{"framing breaks off", "5\r\nhel", trailing(5), 400, "IncompleteBody"},
		{"framing is none", "hello", trailing(5), 400, ""},
		{"framed length missing", chunked("hello", 3), []string{"Content-Encoding", "aws-chunked"}, 411, "MissingContentLength"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, body := s3(t, s, "PUT", "/bucket/"+strings.ReplaceAll(tc.name, " ", "-"), strings.NewReader(tc.body), head(tc.header...))
			status(t, "PUT", r, body, tc.status, tc.code)
			r, body = s3(t, s, "GET", "/bucket/"+strings.ReplaceAll(tc.name, " ", "-"), nil, nil)
			want := 200
			if tc.status != 200 {
				want = 404 // refused means that nothing is stored
			}
			status(t, "GET", r, body, want, "")
			if want == 200 && body != "hello" && body != "123456789" {
				t.Errorf("stored %q", body)
			}
		})
	}
}

func TestPutObject_RefusesABodyThatBreaksOff(t *testing.T) {
	bothKinds(t, func(t *testing.T, s *localaws.Server) {
		broken := io.MultiReader(strings.NewReader("hel"), iotest.ErrReader(io.ErrUnexpectedEOF))
		r, body := s3(t, s, "PUT", "/bucket/k", broken, head("X-Amz-Decoded-Content-Length", "5", "Content-Encoding", "aws-chunked"))
		status(t, "PUT", r, body, 400, "")
		r, body = s3(t, s, "PUT", "/bucket/k", broken, nil)
		status(t, "PUT without length", r, body, 411, "MissingContentLength")
	})
}

func TestGetObject_TellsWhatWasStored(t *testing.T) {
	bothKinds(t, func(t *testing.T, s *localaws.Server) {
		put(t, s, "/bucket/k", "hello", "Content-Type", "application/zip", "Content-Encoding", "gzip", "X-Amz-Meta-Rev", "7",
			"X-Amz-Checksum-Sha256", b64(sha("hello")), "X-Amz-Tagging", "a=1&b=2")
		r, body := s3(t, s, "GET", "/bucket/k?response-content-type=text/x", nil, head("x-amz-checksum-mode", "ENABLED"))
		status(t, "GET", r, body, 200, "")
		for name, want := range map[string]string{
			"Content-Type": "text/x", "Content-Encoding": "gzip", "X-Amz-Meta-Rev": "7", "Content-Length": "5",
			"X-Amz-Checksum-Sha256": b64(sha("hello")), "X-Amz-Checksum-Type": "FULL_OBJECT", "X-Amz-Tagging-Count": "2",
			"ETag": `"5d41402abc4b2a76b9719d911017c592"`, "Accept-Ranges": "bytes",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s = %q, want %q", name, got, want)
			}
		}
		put(t, s, "/bucket/k", "other") // nothing of the old is left
		r, _ = s3(t, s, "HEAD", "/bucket/k", nil, head("x-amz-checksum-mode", "ENABLED"))
		if r.Header.Get("X-Amz-Checksum-Sha256") != "" || r.Header.Get("X-Amz-Meta-Rev") != "" || r.Header.Get("Content-Length") != "5" {
			t.Errorf("headers of the overwritten object: %v", r.Header)
		}
	})
}

func TestGetObject_Ranges(t *testing.T) {
	bothKinds(t, func(t *testing.T, s *localaws.Server) {
		etag := put(t, s, "/bucket/k", "0123456789")
		put(t, s, "/bucket/empty", "")
		for _, tc := range []struct {
			rng, want, content string
			status             int
		}{
			{"bytes=2-4", "234", "bytes 2-4/10", 206},
			{"bytes=7-", "789", "bytes 7-9/10", 206},
			{"bytes=-3", "789", "bytes 7-9/10", 206},
			{"bytes=-99", "0123456789", "bytes 0-9/10", 206},
			{"bytes=8-99", "89", "bytes 8-9/10", 206},
			{"bytes=10-", "", "", 416},
			{"bytes=-0", "", "", 416},
			{"bytes=4-2", "0123456789", "", 200},
			{"bytes=a-b", "0123456789", "", 200},
			{"lines=1-2", "0123456789", "", 200},
		} {
			r, body := s3(t, s, "GET", "/bucket/k", nil, head("Range", tc.rng, "If-Match", etag))
			if r.StatusCode != tc.status || (tc.status < 400 && body != tc.want) || r.Header.Get("Content-Range") != tc.content {
				t.Errorf("%s: status %d, %q, %q", tc.rng, r.StatusCode, body, r.Header.Get("Content-Range"))
			}
			r, _ = s3(t, s, "HEAD", "/bucket/k", nil, head("Range", tc.rng))
			if r.StatusCode != tc.status {
				t.Errorf("HEAD %s: status %d", tc.rng, r.StatusCode)
			}
		}
		r, body := s3(t, s, "GET", "/bucket/empty", nil, head("Range", "bytes=0-"))
		status(t, "range of nothing", r, body, 416, "InvalidRange")
		r, body = s3(t, s, "GET", "/bucket/k", nil, head("Range", "bytes=0-1", "If-Match", `"other"`))
		status(t, "range of another object", r, body, 412, "PreconditionFailed")
	})
}

func TestGetObject_Conditions(t *testing.T) {
	clock := localaws.NewFakeClock(noon)
	s := bucketed(t, localaws.Options{Clock: clock})
	etag := put(t, s, "/bucket/k", "x")
	before, at := noon.Add(-time.Hour).Format(http.TimeFormat), noon.Format(http.TimeFormat)
	for _, tc := range []struct {
		header []string
		want   int
	}{
		{[]string{"If-Match", etag}, 200},
		{[]string{"If-Match", `"a", ` + etag}, 200},
		{[]string{"If-Match", `*`}, 200},
		{[]string{"If-Match", `"a"`}, 412},
		{[]string{"If-None-Match", etag}, 304},
		{[]string{"If-None-Match", `"a"`}, 200},
		{[]string{"If-Modified-Since", at}, 304},
		{[]string{"If-Modified-Since", before}, 200},
		{[]string{"If-Unmodified-Since", before}, 412},
		{[]string{"If-Unmodified-Since", at}, 200},
		{[]string{"If-Match", etag, "If-Unmodified-Since", before}, 200},
		{[]string{"If-None-Match", `"a"`, "If-Modified-Since", at}, 200},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			if r, _ := s3(t, s, method, "/bucket/k", nil, head(tc.header...)); r.StatusCode != tc.want {
				t.Errorf("%s with %v: status %d, want %d", method, tc.header, r.StatusCode, tc.want)
			}
		}
	}
}

func TestConditionalPut(t *testing.T) {
	bothKinds(t, func(t *testing.T, s *localaws.Server) {
		do := func(body string, pairs ...string) (int, string, string) {
			r, answer := s3(t, s, "PUT", "/bucket/k", strings.NewReader(body), head(pairs...))
			return r.StatusCode, r.Header.Get("ETag"), answer
		}
		if code, _, answer := do("0", "If-Match", `"x"`); code != 404 || !contains(answer, "NoSuchKey") {
			t.Errorf("If-Match of nothing: %d %s", code, answer)
		}
		code, first, _ := do("1", "If-None-Match", "*")
		if code != 200 {
			t.Fatalf("first: %d", code)
		}
		if code, _, answer := do("2", "If-None-Match", "*"); code != 412 || !contains(answer, "PreconditionFailed") {
			t.Errorf("second: %d %s", code, answer)
		}
		if code, _, _ := do("2", "If-None-Match", `"a"`); code != 501 {
			t.Errorf("If-None-Match of an ETag: %d", code)
		}
		if code, _, _ := do("2", "If-Match", first); code != 200 {
			t.Errorf("match: %d", code)
		}
		if code, _, _ := do("3", "If-Match", first); code != 412 {
			t.Errorf("stale: %d", code)
		}
		if r, body := s3(t, s, "DELETE", "/bucket/k", nil, head("If-Match", first)); r.StatusCode != 412 {
			t.Errorf("stale delete: %d %s", r.StatusCode, body)
		}
	})
}

func TestConditionalPut_OneOfManyWins(t *testing.T) {
	bothKinds(t, func(t *testing.T, s *localaws.Server) {
		put(t, s, "/bucket/counter", "0")
		var wins, fresh int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				r, _ := s3(t, s, "PUT", "/bucket/once", strings.NewReader(fmt.Sprint(w)), head("If-None-Match", "*"))
				mu.Lock()
				if r.StatusCode == 200 {
					fresh++
				}
				mu.Unlock()
				for done := 0; done < 5; { // count up by compare-and-swap
					r, n := s3(t, s, "GET", "/bucket/counter", nil, nil)
					var value int
					_, _ = fmt.Sscan(n, &value)
					r, _ = s3(t, s, "PUT", "/bucket/counter", strings.NewReader(fmt.Sprint(value+1)), head("If-Match", r.Header.Get("ETag")))
					if r.StatusCode == 200 {
						done++
						mu.Lock()
						wins++
						mu.Unlock()
					}
				}
			})
		}
		wg.Wait()
		if _, n := s3(t, s, "GET", "/bucket/counter", nil, nil); n != "80" || wins != 80 || fresh != 1 {
			t.Errorf("counter %s after %d swaps, %d first writers", n, wins, fresh)
		}
	})
}

func TestVersions(t *testing.T) {
	bothKinds(t, func(t *testing.T, s *localaws.Server) {
		put(t, s, "/bucket/k", "zero")
		put(t, s, "/bucket?versioning", `<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>`)
		r, _ := s3(t, s, "PUT", "/bucket/k", strings.NewReader("one"), nil)
		one := r.Header.Get("X-Amz-Version-Id")
		put(t, s, "/bucket/k", "two")
		r, _ = s3(t, s, "DELETE", "/bucket/k", nil, nil)
		marker := r.Header.Get("X-Amz-Version-Id")
		if r.StatusCode != 204 || r.Header.Get("X-Amz-Delete-Marker") != "true" || marker == "" {
			t.Errorf("delete: %d %v", r.StatusCode, r.Header)
		}
		for path, want := range map[string]string{"?versionId=null": "zero", "?versionId=" + one: "one"} {
			if _, body := s3(t, s, "GET", "/bucket/k"+path, nil, nil); body != want {
				t.Errorf("%s: %q, want %q", path, body, want)
			}
			if r, _ := s3(t, s, "HEAD", "/bucket/k"+path, nil, nil); r.Header.Get("Content-Length") != fmt.Sprint(len(want)) {
				t.Errorf("HEAD %s: %v", path, r.Header)
			}
		}
		r, body := s3(t, s, "GET", "/bucket/k", nil, nil)
		status(t, "deleted", r, body, 404, "NoSuchKey")
		r, body = s3(t, s, "GET", "/bucket/k?versionId="+marker, nil, nil)
		status(t, "the marker", r, body, 405, "MethodNotAllowed")
		r, body = s3(t, s, "GET", "/bucket/k?versionId=v0", nil, nil)
		status(t, "no such version", r, body, 404, "NoSuchVersion")
		_, body = s3(t, s, "GET", "/bucket?versions&max-keys=2", nil, nil)
		if strings.Count(body, "<Version>") != 1 || strings.Count(body, "<DeleteMarker>") != 1 || !contains(body, "<IsTruncated>true") {
			t.Errorf("first page of versions: %s", body)
		}
		s3(t, s, "DELETE", "/bucket/k?versionId="+marker, nil, nil)
		if _, body = s3(t, s, "GET", "/bucket/k", nil, nil); body != "two" {
			t.Errorf("without the marker: %q", body)
		}
	})
}

func TestList_FoldsAndPages(t *testing.T) {
	s := bucketed(t, localaws.Options{})
	for _, key := range []string{"a", "logs/1/x", "logs/1/y", "logs/2/x", "logs/3", "z"} {
		put(t, s, "/bucket/"+key, key)
	}
	_, body := s3(t, s, "GET", "/bucket?list-type=2&prefix=logs/&delimiter=/", nil, nil)
	if !contains(body, "<Prefix>logs/1/</Prefix>") || !contains(body, "<Prefix>logs/2/</Prefix>") || !contains(body, "<Key>logs/3</Key>") || contains(body, "<Key>z") {
		t.Errorf("folded: %s", body)
	}
	var keys []string
	token := ""
	for page := 0; page == 0 || token != ""; page++ {
		_, body = s3(t, s, "GET", "/bucket?list-type=2&delimiter=/&max-keys=1&continuation-token="+token, nil, nil)
		if page == 0 {
			_, body = s3(t, s, "GET", "/bucket?list-type=2&delimiter=/&max-keys=1", nil, nil)
		}
		for _, tag := range []string{"Key", "CommonPrefixes>\n    <Prefix"} {
			if _, rest, ok := strings.Cut(body, "<"+tag+">"); ok {
				key, _, _ := strings.Cut(rest, "<")
				keys = append(keys, key)
			}
		}
		_, rest, _ := strings.Cut(body, "<NextContinuationToken>")
		token, _, _ = strings.Cut(rest, "<")
		if page > 10 {
			t.Fatal("pages without end")
		}
	}
	if got := strings.Join(keys, " "); got != "a logs/ z" {
		t.Errorf("paged: %s", got)
	}
}

func TestMultipart_MakesOneObject(t *testing.T) {
	bothKinds(t, func(t *testing.T, s *localaws.Server) {
		big := strings.Repeat("0123456789abcdef", 5<<16)
		_, body := s3(t, s, "POST", "/bucket/mp?uploads", nil, head("x-amz-checksum-algorithm", "SHA256", "Content-Type", "application/zip"))
		_, rest, _ := strings.Cut(body, "<UploadId>")
		id, _, _ := strings.Cut(rest, "<")
		var parts string
		for n, content := range []string{big, "tail"} {
			r, answer := s3(t, s, "PUT", fmt.Sprintf("/bucket/mp?partNumber=%d&uploadId=%s", n+1, id), strings.NewReader(content), head("x-amz-checksum-sha256", b64(sha(content))))
			status(t, "part", r, answer, 200, "")
			parts += fmt.Sprintf("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", n+1, r.Header.Get("ETag"))
		}
		r, answer := s3(t, s, "PUT", "/bucket/mp?partNumber=3&uploadId="+id, strings.NewReader("x"), head("x-amz-checksum-sha256", b64(sha("y"))))
		status(t, "bad part", r, answer, 400, "BadDigest")
		_, list := s3(t, s, "GET", "/bucket/mp?uploadId="+id, nil, nil)
		if strings.Count(list, "<Part>") != 2 {
			t.Errorf("parts: %s", list)
		}
		complete := "<CompleteMultipartUpload>" + parts + "</CompleteMultipartUpload>"
		put(t, s, "/bucket/mp", "in the way")
		r, answer = s3(t, s, "POST", "/bucket/mp?uploadId="+id, strings.NewReader(complete), head("If-None-Match", "*"))
		status(t, "complete over another", r, answer, 412, "PreconditionFailed")
		r, answer = s3(t, s, "POST", "/bucket/mp?uploadId="+id, strings.NewReader(complete), nil)
		status(t, "complete", r, answer, 200, "")
		both := append(sha(big), sha("tail")...)
		want := b64(sha(string(both))) + "-2"
		r, got := s3(t, s, "GET", "/bucket/mp", nil, head("x-amz-checksum-mode", "ENABLED"))
		if got != big+"tail" || r.Header.Get("X-Amz-Checksum-Sha256") != want || !strings.HasSuffix(r.Header.Get("ETag"), `-2"`) || r.Header.Get("Content-Type") != "application/zip" {
			t.Errorf("object of %d bytes, headers %v, want checksum %s", len(got), r.Header, want)
		}
		r, got = s3(t, s, "GET", "/bucket/mp?partNumber=2", nil, nil)
		if got != "tail" || r.StatusCode != 206 || r.Header.Get("X-Amz-Mp-Parts-Count") != "2" {
			t.Errorf("part 2: %d %q %v", r.StatusCode, got, r.Header)
		}
		if _, got = s3(t, s, "GET", "/bucket/mp", nil, head("Range", fmt.Sprintf("bytes=%d-%d", len(big)-2, len(big)+1))); got != "efta" {
			t.Errorf("range across parts: %q", got)
		}
		r, answer = s3(t, s, "POST", "/bucket/mp?uploadId="+id, strings.NewReader(complete), nil)
		status(t, "complete again", r, answer, 404, "NoSuchUpload")
	})
}

func TestMultipart_RefusesAWrongList(t *testing.T) {
	s := bucketed(t, localaws.Options{})
	_, body := s3(t, s, "POST", "/bucket/mp?uploads", nil, nil)
	_, rest, _ := strings.Cut(body, "<UploadId>")
	id, _, _ := strings.Cut(rest, "<")
	etags := map[int]string{}
	for n := range 3 {
		r, _ := s3(t, s, "PUT", fmt.Sprintf("/bucket/mp?partNumber=%d&uploadId=%s", n, id), strings.NewReader("small"), nil)
		etags[n] = r.Header.Get("ETag")
	}
	item := func(n int, etag string) string {
		return fmt.Sprintf("<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", n, etag)
	}
	for code, list := range map[string]string{
		"MalformedXML": "", "InvalidPart": item(1, `"x"`), "InvalidPartOrder": item(2, etags[2]) + item(1, etags[1]),
		"EntityTooSmall": item(1, etags[1]) + item(2, etags[2]),
	} {
		r, answer := s3(t, s, "POST", "/bucket/mp?uploadId="+id, strings.NewReader("<C>"+list+"</C>"), nil)
		status(t, code, r, answer, 400, code)
	}
	if r, _ := s3(t, s, "DELETE", "/bucket/mp?uploadId="+id, nil, nil); r.StatusCode != 204 {
		t.Errorf("abort: %d", r.StatusCode)
	}
	r, answer := s3(t, s, "PUT", "/bucket/mp?partNumber=1&uploadId="+id, strings.NewReader("x"), nil)
	status(t, "part of an aborted upload", r, answer, 404, "NoSuchUpload")
}

func TestCopyTagsAndAttributes(t *testing.T) {
	bothKinds(t, func(t *testing.T, s *localaws.Server) {
		etag := put(t, s, "/bucket/a", "hello", "X-Amz-Meta-Rev", "7", "x-amz-checksum-sha256", b64(sha("hello")))
		r, body := s3(t, s, "PUT", "/bucket/dir/b", nil, head("x-amz-copy-source", "/bucket/a"))
		if r.StatusCode != 200 || !contains(body, strings.Trim(etag, `"`)) {
			t.Fatalf("copy: %d %s", r.StatusCode, body)
		}
		s3(t, s, "DELETE", "/bucket/a", nil, nil)
		r, body = s3(t, s, "GET", "/bucket/dir/b", nil, nil)
		if body != "hello" || r.Header.Get("X-Amz-Meta-Rev") != "7" {
			t.Errorf("copied: %q %v", body, r.Header)
		}
		r, body = s3(t, s, "PUT", "/bucket/c", nil, head("x-amz-copy-source", "bucket/nothing"))
		status(t, "copy of nothing", r, body, 404, "NoSuchKey")

		put(t, s, "/bucket/dir/b?tagging", `<Tagging><TagSet><Tag><Key>k</Key><Value>v</Value></Tag></TagSet></Tagging>`)
		if _, body = s3(t, s, "GET", "/bucket/dir/b?tagging", nil, nil); !contains(body, "<Key>k</Key><Value>v</Value>") {
			t.Errorf("tags: %s", body)
		}
		s3(t, s, "DELETE", "/bucket/dir/b?tagging", nil, nil)
		if _, body = s3(t, s, "GET", "/bucket/dir/b?tagging", nil, nil); contains(body, "<Key>") {
			t.Errorf("tags are left: %s", body)
		}
		_, body = s3(t, s, "GET", "/bucket/dir/b?attributes", nil, head("x-amz-object-attributes", "ETag,ObjectSize", "x-amz-object-attributes", "Checksum"))
		for _, part := range []string{"<ObjectSize>5</ObjectSize>", strings.Trim(etag, `"`), "<ChecksumSHA256>" + b64(sha("hello"))} {
			if !contains(body, part) {
				t.Errorf("attributes %s have no %s", body, part)
			}
		}
	})
}

func TestS3_RefusesWhatItDoesNotDo(t *testing.T) {
	s := bucketed(t, localaws.Options{})
	put(t, s, "/bucket/k", "precious")
	for _, tc := range []struct{ method, path string }{
		{"PUT", "/bucket?lifecycle"},
		{"PUT", "/bucket?policy"},
		{"PUT", "/bucket/k?acl"},
		{"PUT", "/bucket/k?retention"},
		{"POST", "/bucket/k?restore"},
		{"DELETE", "/bucket?cors"},
		{"PUT", "/bucket?tagging"},
	} {
		r, body := s3(t, s, tc.method, tc.path, strings.NewReader("<x/>"), nil)
		status(t, tc.method+" "+tc.path, r, body, 501, "NotImplemented")
	}
	if _, body := s3(t, s, "GET", "/bucket/k", nil, nil); body != "precious" {
		t.Errorf("object is now %q", body)
	}
	for path, code := range map[string]string{"/nobucket/k": "NoSuchBucket", "/bucket/nokey": "NoSuchKey"} {
		r, body := s3(t, s, "GET", path, nil, nil)
		status(t, path, r, body, 404, code)
	}
	r, body := s3(t, s, "DELETE", "/bucket", nil, nil)
	status(t, "bucket with objects", r, body, 409, "BucketNotEmpty")
	r, body = s3(t, s, "PUT", "/bucket", nil, head("Authorization", "x Credential=a/b/eu-west-1/s3/aws4_request,"))
	status(t, "bucket again elsewhere", r, body, 409, "BucketAlreadyOwnedByYou")
	r, body = s3(t, s, "GET", "/bucket/"+strings.Repeat("k", 1025), nil, nil)
	status(t, "long key", r, body, 400, "KeyTooLongError")
}

func TestChunkedBody_IsReadWhateverItsFraming(t *testing.T) {
	s := bucketed(t, localaws.Options{})
	rapid.Check(t, func(rt *rapid.T) {
		body := string(rapid.SliceOfN(rapid.Byte(), 0, 20_000).Draw(rt, "body"))
		size := rapid.IntRange(1, 9000).Draw(rt, "chunk")
		put(t, s, "/bucket/k", chunked(body, size, "x-amz-checksum-crc32:"+crc(body)), trailing(len(body), "X-Amz-Trailer", "x-amz-checksum-crc32")...)
		if _, got := s3(t, s, "GET", "/bucket/k", nil, nil); got != body {
			rt.Fatalf("stored %d bytes of %d", len(got), len(body))
		}
	})
}

// FuzzChunkedBody holds the framing's parser to: no panic, no 5xx, and what
// is stored is as long as was said.
func FuzzChunkedBody(f *testing.F) {
	for _, seed := range []string{
		chunked("hello", 2), chunked("", 1), "5\r\nhello\r\n0\r\n\r\n", "0\r\na:b\r\n\r\n",
		"ffffffffffffffff\r\n", "-5\r\n", "5;x\nhello\n0\n", strings.Repeat("a", 5000),
	} {
		f.Add([]byte(seed), 5)
	}
	f.Fuzz(func(t *testing.T, framed []byte, size int) {
		s := bucketed(t, localaws.Options{})
		r, _ := s3(t, s, "PUT", "/bucket/k", bytes.NewReader(framed), head(trailing(size)...))
		if r.StatusCode >= 500 {
			t.Fatalf("status %d", r.StatusCode)
		}
		if got, _ := s3(t, s, "HEAD", "/bucket/k", nil, nil); r.StatusCode == 200 && got.Header.Get("Content-Length") != fmt.Sprint(size) {
			t.Fatalf("stored %s bytes, said %d", got.Header.Get("Content-Length"), size)
		}
	})
}
