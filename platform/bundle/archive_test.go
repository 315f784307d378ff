package bundle_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"hash/crc32"
	"io/fs"
	"testing"
	"time"
)

// zmember is a member of a zip as a test wants it, lies included.
type zmember struct {
	zip.FileHeader
	body string
	raw  bool // body is what stands in the archive; the header is written as it is
}

func zipFile(name, body string) zmember {
	return zipMode(name, body, 0o644)
}

func zipMode(name, body string, mode fs.FileMode) zmember {
	m := zmember{FileHeader: zip.FileHeader{Name: name, Method: zip.Deflate}, body: body}
	m.SetMode(mode)
	return m
}

// windowsFile is a member as an archiver on Windows makes it: no Unix mode.
func windowsFile(name, body string) zmember {
	return zmember{FileHeader: zip.FileHeader{Name: name, Method: zip.Deflate, CreatorVersion: 0x0014, ExternalAttrs: 0x20}, body: body}
}

func (m zmember) with(change func(*zmember)) zmember {
	change(&m)
	return m
}

func zipBytes(t testing.TB, members ...zmember) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for _, m := range members {
		create := w.CreateHeader
		if m.raw {
			create = w.CreateRaw
		}
		in, err := create(&m.FileHeader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write([]byte(m.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// storedLie is a stored member whose header tells another size or checksum.
func storedLie(name, body string, size uint64, crc uint32) zmember {
	m := zmember{body: body, raw: true, FileHeader: zip.FileHeader{
		Name: name, Method: zip.Store, CreatorVersion: 0x0314, CRC32: crc,
		CompressedSize64: uint64(len(body)), UncompressedSize64: size,
	}}
	m.SetMode(0o644)
	return m
}

func crcOf(body string) uint32 { return crc32.ChecksumIEEE([]byte(body)) }

func tarFile(name, body string) tmember {
	return tmember{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(1.6e9, 0)}, body: body}
}

func tarOf(kind byte, name, target string) tmember {
	return tmember{Header: tar.Header{Name: name, Typeflag: kind, Linkname: target, Mode: 0o755}}
}

type tmember struct {
	tar.Header
	body string
}

func (m tmember) with(change func(*tmember)) tmember {
	change(&m)
	return m
}

func tarBytes(t testing.TB, members ...tmember) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range members {
		if err := w.WriteHeader(&m.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(m.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipBytes(t testing.TB, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
