package bundle

import (
	"archive/zip"
	"context"
)

// Waiting says how many callers wait for the download of a digest.
func (f *Fetcher) Waiting(digest string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.flights[digest]; fl != nil {
		return fl.waiters
	}
	return 0
}

// UnpackAfter unpacks a zip with something happening between the look at the disk and the writing.
func UnpackAfter(ctx context.Context, archive, dest string, meanwhile func()) (Stats, error) {
	limits := Limits{}.orDefaults()
	f, size, err := openArchive(archive, limits)
	if err != nil {
		return Stats{}, err
	}
	defer f.Close()
	t, err := newTree(dest, size, limits)
	if err != nil {
		return Stats{}, err
	}
	defer t.discard()
	zr, err := zip.NewReader(f, size)
	if err != nil {
		return Stats{}, err
	}
	members, err := t.plan(ctx, zr)
	if err != nil {
		return Stats{}, err
	}
	meanwhile()
	return Stats{}, t.extract(ctx, f, members)
}
