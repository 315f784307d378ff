package source

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Bounds of looking into an archive.
const (
	maxUnpacked    = 4 << 30  // of a tar stream, bytes
	maxConfigBytes = 1 << 20  // of one .config file
	maxConfigs     = 1000     // .config files
	maxConfigsSum  = 16 << 20 // of them together, bytes
)

const ebextensions = ".ebextensions/"

// config is a configuration file of a bundle.
type config struct {
	name string // within the bundle
	text []byte
}

// gathered is what an archive has in .ebextensions.
type gathered struct {
	any     bool // a file at any depth
	configs []config
	size    int64
}

// gather looks into a bundle; what is no archive (a lone Dockerfile or Dockerrun.aws.json) has no .ebextensions.
func gather(archive string) (gathered, error) {
	f, err := os.Open(archive)
	if err != nil {
		return gathered{}, fmt.Errorf("open source bundle: %w", err)
	}
	defer f.Close()
	var g gathered
	in := bufio.NewReaderSize(f, packBuffer)
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return gathered{}, fmt.Errorf("read source bundle: %w", err)
	}
	err = nil
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		err = g.zip(f)
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, zerr := gzip.NewReader(in)
		if zerr != nil {
			return gathered{}, fmt.Errorf("look into source bundle: %w", zerr)
		}
		defer z.Close()
		err = g.tar(z)
	case isTar(head):
		err = g.tar(in)
	}
	if err != nil {
		return gathered{}, fmt.Errorf("look into source bundle: %w", err)
	}
	// Of a name that comes twice the last counts, as when unpacking over it.
	slices.SortStableFunc(g.configs, func(a, b config) int { return strings.Compare(a.name, b.name) })
	return g, nil
}

func isTar(head []byte) bool {
	_, err := tar.NewReader(bytes.NewReader(head)).Next()
	return err == nil || !errors.Is(err, tar.ErrHeader) && len(head) == 512 && bytes.HasPrefix(head[257:], []byte("ustar"))
}

func (g *gathered) zip(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	zr, err := zip.NewReader(f, fi.Size())
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // nothing is written by its name here
		return err
	}
	for _, m := range zr.File {
		name := m.Name
		if !strings.Contains(name, "/") { // made on Windows
			name = strings.ReplaceAll(name, `\`, "/")
		}
		wanted := g.wanted(name, !m.Mode().IsDir())
		if !wanted || !m.Mode().IsRegular() {
			continue
		}
		if err := g.readMember(path.Clean(name), m); err != nil {
			return err
		}
	}
	return nil
}

func (g *gathered) readMember(name string, m *zip.File) error {
	r, err := m.Open()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer r.Close()
	return g.read(name, r)
}

func (g *gathered) tar(r io.Reader) error {
	bounded := &io.LimitedReader{R: r, N: maxUnpacked}
	tr := tar.NewReader(bounded)
	for {
		h, err := tr.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case bounded.N <= 0:
			return fmt.Errorf("it unpacks to more than %d bytes", int64(maxUnpacked))
		case err != nil && !errors.Is(err, tar.ErrInsecurePath):
			return err
		}
		wanted := g.wanted(h.Name, h.Typeflag != tar.TypeDir)
		if !wanted || h.Typeflag != tar.TypeReg {
			continue
		}
		if err := g.read(path.Clean(h.Name), tr); err != nil {
			return err
		}
	}
}

// wanted says whether the member is a configuration file, and notes that there is something in .ebextensions at all.
func (g *gathered) wanted(name string, isFile bool) bool {
	rest, ok := strings.CutPrefix(path.Clean(name), ebextensions)
	g.any = g.any || ok && isFile
	return ok && isFile && !strings.Contains(rest, "/") && strings.HasSuffix(rest, ".config")
}

func (g *gathered) read(name string, r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxConfigBytes+1))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	g.size += int64(len(text))
	switch {
	case len(text) > maxConfigBytes:
		return fmt.Errorf("%s is larger than %d bytes", name, maxConfigBytes)
	case len(g.configs) >= maxConfigs:
		return fmt.Errorf("%s holds more than %d .config files", ebextensions, maxConfigs)
	case g.size > maxConfigsSum:
		return fmt.Errorf("the .config files in %s have more than %d bytes together", ebextensions, maxConfigsSum)
	}
	g.configs = append(g.configs, config{name: name, text: text})
	return nil
}

// HasEbextensions says whether a bundle brings anything in .ebextensions.
func HasEbextensions(archive string) (bool, error) {
	g, err := gather(archive)
	return g.any, err
}
