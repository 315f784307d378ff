package bundle

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"
)

// Kind is what a source bundle is, judged by its first bytes and never by its name.
type Kind string

// The kinds Unpack takes.
const (
	KindZip        Kind = "zip"
	KindTar        Kind = "tar"
	KindTarGzip    Kind = "tar.gz"
	KindDockerrun  Kind = "Dockerrun.aws.json"
	KindDockerfile Kind = "Dockerfile"
)

// loneFileBytes bounds a bundle that is one text file.
const loneFileBytes = 1 << 20

const tarBlock = 512

// foreign are archives that are recognised only to be named in the refusal.
var foreign = []struct{ magic, name string }{
	{"BZh", "a bzip2 file"},
	{"\xfd7zXZ\x00", "an xz file"},
	{"\x28\xb5\x2f\xfd", "a zstd file"},
	{"7z\xbc\xaf\x27\x1c", "a 7z archive"},
	{"Rar!\x1a\x07", "a rar archive"},
	{"\x1f\x9d", "a compress (.Z) file"},
	{"PK\x07\x08", "a part of a split zip archive"},
	{"\x7fELF", "a program"},
}

// detect judges the bundle by magic, in the order of the original 01unzip: zip, JSON (Dockerrun.aws.json), else a lone Dockerfile, which must have
// a FROM; tar and tar.gz are ours.
func detect(f *os.File, size int64) (Kind, error) {
	if size == 0 {
		return "", refuse("it is empty")
	}
	head := make([]byte, min(size, tarBlock))
	if _, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read start of source bundle: %w", err)
	}
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		return KindZip, nil
	case bytes.HasPrefix(head, []byte("PK\x05\x06")):
		return "", refuse("the zip archive holds no files")
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		return KindTarGzip, nil
	case isTarHeader(head):
		return KindTar, nil
	}
	for _, f := range foreign {
		if bytes.HasPrefix(head, []byte(f.magic)) {
			return "", refuse("no archive that can be unpacked: it is %s; make it a zip, tar or tar.gz", f.name)
		}
	}
	return detectText(f, size)
}

func isTarHeader(block []byte) bool {
	if len(block) < tarBlock {
		return false
	}
	_, err := tar.NewReader(bytes.NewReader(block)).Next()
	return err == nil || !errors.Is(err, tar.ErrHeader) && bytes.HasPrefix(block[257:], []byte("ustar"))
}

func detectText(f *os.File, size int64) (Kind, error) {
	noArchive := refuse("no archive: it is neither a zip, a tar, a tar.gz, a Dockerrun.aws.json nor a Dockerfile")
	if size > loneFileBytes {
		return "", noArchive
	}
	text, err := io.ReadAll(io.NewSectionReader(f, 0, size))
	if err != nil {
		return "", fmt.Errorf("read source bundle: %w", err)
	}
	if !utf8.Valid(text) || bytes.IndexByte(text, 0) >= 0 {
		return "", noArchive
	}
	if json.Valid(text) {
		return KindDockerrun, nil
	}
	trimmed := bytes.TrimSpace(text)
	if bytes.HasPrefix(trimmed, []byte("{")) {
		return "", refuse("it begins like a Dockerrun.aws.json but is not valid JSON")
	}
	if len(trimmed) == 0 {
		return "", refuse("it is empty")
	}
	if !isDockerfile(string(text)) {
		return "", noArchive
	}
	return KindDockerfile, nil
}

// isDockerfile says whether the first instruction of the text, after comments and ARGs, is FROM: every Dockerfile begins so, and hardly any other text.
func isDockerfile(text string) bool {
	escape := "\\"
	continued := false
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		line = strings.TrimSpace(line)
		if comment, ok := strings.CutPrefix(line, "#"); ok {
			if name, value, ok := strings.Cut(comment, "="); ok && strings.EqualFold(strings.TrimSpace(name), "escape") {
				escape = strings.TrimSpace(value)
			}
			continue // also inside a continued instruction
		}
		if line == "" {
			continue
		}
		if !continued {
			words := strings.Fields(line)
			switch strings.ToUpper(words[0]) {
			case "FROM":
				return len(words) > 1
			case "ARG":
			default:
				return false
			}
		}
		continued = escape != "" && strings.HasSuffix(line, escape)
	}
	return false
}
