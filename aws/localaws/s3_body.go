package localaws

import (
	"bufio"
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// checksum is an object's or part's checksum as clients see it.
type checksum struct {
	Algorithm string `json:",omitempty"` // in capitals, as in ChecksumAlgorithm
	Value     string `json:",omitempty"` // base64, with "-<parts>" when composite
	Kind      string `json:",omitempty"` // FULL_OBJECT or COMPOSITE
}

const (
	fullObject = "FULL_OBJECT"
	composite  = "COMPOSITE"
)

func (c checksum) header() string { return "X-Amz-Checksum-" + strings.ToLower(c.Algorithm) }

// tell puts the checksum into a response.
func (c checksum) tell(h http.Header) {
	if c.Value != "" {
		h.Set(c.header(), c.Value)
		h.Set("X-Amz-Checksum-Type", c.Kind)
	}
}

// algorithms lists the checksums that are verified.
func algorithms() []string {
	return []string{"CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256", "SHA512", "MD5"}
}

func newHash(algorithm string) hash.Hash {
	switch algorithm {
	case "CRC32":
		return crc32.NewIEEE()
	case "CRC32C":
		return crc32.New(crc32.MakeTable(crc32.Castagnoli))
	case "CRC64NVME":
		return crc64.New(crc64.MakeTable(0x9a6c9329ac4bc9b5))
	case "SHA1":
		return sha1.New()
	case "SHA256":
		return sha256.New()
	case "SHA512":
		return sha512.New()
	case "MD5":
		return md5.New()
	}
	return nil
}

func sumOf(h hash.Hash) string { return base64.StdEncoding.EncodeToString(h.Sum(nil)) }

// requestBody reads a request's payload, out of aws-chunked framing where it
// is in one, and at its end holds it against everything the client claims of
// it: length, Content-MD5, x-amz-content-sha256 and x-amz-checksum-*, which
// may come in a trailer.
type requestBody struct {
	in        io.Reader
	chunked   *chunkedReader // nil without framing
	header    http.Header
	length    int64
	read      int64
	md5       hash.Hash
	payload   hash.Hash // for a hashed payload
	algorithm string
	hash      hash.Hash // of algorithm, nil without one
}

func newRequestBody(r *http.Request) (*requestBody, error) {
	b := &requestBody{in: r.Body, header: r.Header, length: r.ContentLength, md5: md5.New()}
	content := r.Header.Get("X-Amz-Content-Sha256")
	if strings.HasPrefix(content, "STREAMING-") || strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") {
		n, err := strconv.ParseInt(r.Header.Get("X-Amz-Decoded-Content-Length"), 10, 64)
		if err != nil {
			return nil, s3Refusal("MissingContentLength", http.StatusLengthRequired, "You must provide the x-amz-decoded-content-length HTTP header.")
		}
		b.length, b.chunked = n, newChunkedReader(r.Body)
		b.in = b.chunked
	} else if len(content) == hex.EncodedLen(sha256.Size) {
		b.payload = sha256.New()
	}
	switch {
	case b.length < 0:
		return nil, s3Refusal("MissingContentLength", http.StatusLengthRequired, "You must provide the Content-Length HTTP header.")
	case b.length > maxS3Object:
		return nil, s3Refusal("EntityTooLarge", http.StatusBadRequest, "Your proposed upload exceeds the maximum allowed size")
	}
	return b, b.chooseAlgorithm()
}

// chooseAlgorithm finds out which checksum the client sends, or will send.
func (b *requestBody) chooseAlgorithm() error {
	announced := strings.ToLower(b.header.Get("X-Amz-Trailer"))
	for name := range b.header {
		if rest, ok := strings.CutPrefix(name, "X-Amz-Checksum-"); ok && rest != "Algorithm" && rest != "Type" && rest != "Mode" {
			if err := b.use(strings.ToUpper(rest)); err != nil {
				return err
			}
		}
	}
	if rest, ok := strings.CutPrefix(announced, "x-amz-checksum-"); ok {
		if err := b.use(strings.ToUpper(rest)); err != nil {
			return err
		}
	}
	if b.hash == nil {
		// Named without a value: computed and kept all the same.
		if named := b.header.Get("X-Amz-Sdk-Checksum-Algorithm"); named != "" {
			return b.use(strings.ToUpper(named))
		}
	}
	return nil
}

func (b *requestBody) use(algorithm string) error {
	if b.hash != nil && b.algorithm != algorithm {
		return s3Refusal("InvalidRequest", http.StatusBadRequest, "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.")
	}
	b.algorithm, b.hash = algorithm, newHash(algorithm)
	if b.hash == nil {
		return s3Refusal("NotImplemented", http.StatusNotImplemented, "Checksum algorithm %s is not implemented, there are %s.", algorithm, strings.Join(algorithms(), ", "))
	}
	return nil
}

// Read gives the payload; in place of io.EOF comes the verdict when it is bad.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	b.read += int64(n)
	b.md5.Write(p[:n])
	if b.payload != nil {
		b.payload.Write(p[:n])
	}
	if b.hash != nil {
		b.hash.Write(p[:n])
	}
	switch {
	case b.read > b.length:
		return n, s3Refusal("IncompleteBody", http.StatusBadRequest, "The request body is longer than it was said to be")
	case err == io.EOF:
		if verdict := b.verify(); verdict != nil {
			return n, verdict
		}
	case err != nil:
		var refused *s3Error
		if !errors.As(err, &refused) {
			err = s3Refusal("IncompleteBody", http.StatusBadRequest, "The request body ended early: %v", err)
		}
	}
	return n, err
}

func (b *requestBody) verify() error {
	if b.read != b.length {
		return s3Refusal("IncompleteBody", http.StatusBadRequest, "You did not provide the number of bytes specified by the Content-Length HTTP header")
	}
	if claimed, ok := b.header["Content-Md5"]; ok {
		raw, err := base64.StdEncoding.DecodeString(claimed[0])
		if err != nil || len(raw) != md5.Size {
			return s3Refusal("InvalidDigest", http.StatusBadRequest, "The Content-MD5 you specified was invalid.")
		}
		if !bytes.Equal(raw, b.md5.Sum(nil)) {
			return s3Refusal("BadDigest", http.StatusBadRequest, "The Content-MD5 you specified did not match what we received.")
		}
	}
	if b.payload != nil && !strings.EqualFold(b.header.Get("X-Amz-Content-Sha256"), hex.EncodeToString(b.payload.Sum(nil))) {
		return s3Refusal("XAmzContentSHA256Mismatch", http.StatusBadRequest, "The provided 'x-amz-content-sha256' header does not match what was computed.")
	}
	return b.verifyChecksum()
}

func (b *requestBody) verifyChecksum() error {
	if b.hash == nil {
		return nil
	}
	name := "X-Amz-Checksum-" + b.algorithm
	claimed := b.header.Get(name)
	if claimed == "" && b.chunked != nil {
		claimed = b.chunked.trailer.Get(name)
		if claimed == "" && b.header.Get("X-Amz-Trailer") != "" {
			return s3Refusal("MalformedTrailerError", http.StatusBadRequest, "The request contained trailing data that was not well-formed or did not conform to our published schema.")
		}
	}
	if claimed == "" || claimed == sumOf(b.hash) {
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(claimed)
	if err != nil || len(raw) != b.hash.Size() {
		return s3Refusal("InvalidRequest", http.StatusBadRequest, "Value for x-amz-checksum-%s header is invalid.", strings.ToLower(b.algorithm))
	}
	return s3Refusal("BadDigest", http.StatusBadRequest, "The %s you specified did not match the calculated checksum.", b.algorithm)
}

// sums returns the ETag and the checksum of what was read.
func (b *requestBody) sums() (etag string, c checksum) {
	if b.hash != nil {
		c = checksum{Algorithm: b.algorithm, Value: sumOf(b.hash), Kind: fullObject}
	}
	return hex.EncodeToString(b.md5.Sum(nil)), c
}

const (
	chunkLine   = 4096 // bytes of a chunk's header or of a trailer
	maxTrailers = 16
)

// chunkedReader reads aws-chunked framing: chunks with a hexadecimal size and
// perhaps a signature before them, then trailers. Signatures are not checked.
type chunkedReader struct {
	in      *bufio.Reader
	left    int64 // of the chunk being read
	started bool
	over    bool
	trailer http.Header
}

func newChunkedReader(in io.Reader) *chunkedReader {
	return &chunkedReader{in: bufio.NewReaderSize(in, chunkLine), trailer: http.Header{}}
}

// Read gives the payload; after io.EOF the trailers are there.
func (c *chunkedReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.over {
		return 0, io.EOF
	}
	if c.left == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
		if c.over {
			return 0, io.EOF
		}
	}
	n, err := c.in.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// next reads the header of the next chunk, and the trailers after the last.
func (c *chunkedReader) next() error {
	if c.started {
		if rest, err := c.line(); err != nil || rest != "" {
			return badChunk("a chunk is not followed by a line's end")
		}
	}
	c.started = true
	line, err := c.line()
	if err != nil {
		return err
	}
	size, _, _ := strings.Cut(line, ";")
	n, err := strconv.ParseInt(size, 16, 64)
	if err != nil || n < 0 || n > maxS3Object {
		return badChunk("a chunk's size is not a number")
	}
	if c.left = n; n > 0 {
		return nil
	}
	c.over = true
	return c.trailers()
}

func (c *chunkedReader) trailers() error {
	for range maxTrailers {
		line, err := c.line()
		if err != nil || line == "" {
			// Without trailers some clients leave the last empty line out.
			return nil
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			return badChunk("a trailer is not of the form name:value")
		}
		c.trailer.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return badChunk("there are too many trailers")
}

// line reads one line without its end.
func (c *chunkedReader) line() (string, error) {
	raw, err := c.in.ReadSlice('\n')
	switch {
	case errors.Is(err, bufio.ErrBufferFull):
		return "", badChunk("a line is too long")
	case err != nil:
		return "", fmt.Errorf("read aws-chunked framing: %w", io.ErrUnexpectedEOF)
	}
	return strings.TrimRight(string(raw), "\r\n"), nil
}

func badChunk(why string) *s3Error {
	return s3Refusal("InvalidChunkSizeError", http.StatusBadRequest, "The aws-chunked body is not well-formed: %s", why)
}
