package bundle

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// maxPeeked bounds each file that Peek writes, in bytes; of a longer one it writes one byte more, so that readers with this bound refuse it.
const maxPeeked = 1 << 20

// Peek judges what kind of bundle an archive is and writes the named files of its root, where it has them, into dest. Nothing else is unpacked, so
// it is quick and takes no room; what only unpacking shows it does not judge. What is no bundle is *Refused, as Unpack refuses it.
//
// whole is false where the archive holds one of the files as something else than a regular file (a link): dest then lacks it.
func Peek(ctx context.Context, archive, dest string, names ...string) (whole bool, err error) {
	limits := Limits{}.orDefaults()
	f, size, err := openArchive(archive, limits)
	if err != nil {
		return false, err
	}
	defer f.Close()
	kind, err := detect(f, size)
	if err != nil {
		return false, err
	}
	p := peeker{dest: dest, names: names, whole: true}
	switch kind {
	case KindZip:
		err = p.zip(f, size, limits)
	case KindTar, KindTarGzip:
		t := tree{archive: size, names: newNames(limits)}
		err = t.eachTar(ctx, f, kind == KindTarGzip, func(h *tar.Header, content io.Reader) error {
			mode := h.FileInfo().Mode()
			if h.Typeflag == tar.TypeLink { // its content stands under another name
				mode |= fs.ModeIrregular
			}
			return p.take(h.Name, mode, func() (io.ReadCloser, error) { return io.NopCloser(content), nil })
		})
	default: // one text file
		if slices.Contains(names, string(kind)) {
			err = p.write(string(kind), io.NewSectionReader(f, 0, size))
		}
	}
	return p.whole, err
}

type peeker struct {
	dest  string
	names []string
	whole bool
}

func (p *peeker) zip(f *os.File, size int64, limits Limits) error {
	in := io.NewSectionReader(f, 0, size)
	budget, err := checkDirectory(in, size, limits)
	if err != nil {
		return err
	}
	guarded := &budgetReader{in: in, left: budget}
	zr, err := zip.NewReader(guarded, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return damaged("", err)
	}
	guarded.opened = true
	for _, m := range zr.File {
		name := m.Name
		if windowsMade(&m.FileHeader) {
			name = strings.ReplaceAll(name, `\`, "/")
		}
		if err := p.take(name, m.Mode(), m.Open); err != nil {
			return err
		}
	}
	return nil
}

// take writes a member if it is one of the files asked for.
func (p *peeker) take(name string, mode fs.FileMode, open func() (io.ReadCloser, error)) error {
	name = path.Clean(name)
	if !slices.Contains(p.names, name) {
		return nil
	}
	if !mode.IsRegular() {
		p.whole = false
		return nil
	}
	content, err := open()
	if err != nil {
		return damaged(name, err)
	}
	defer content.Close()
	return p.write(name, content)
}

func (p *peeker) write(name string, content io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(content, maxPeeked+1))
	if err != nil {
		return damaged(name, err)
	}
	if err := os.WriteFile(filepath.Join(p.dest, name), text, 0o600); err != nil {
		return fmt.Errorf("look into the source bundle: %w", err)
	}
	return nil
}
