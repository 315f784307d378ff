package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"hostmanager/platform/bundle"
)

// times is one column of the table.
type times struct {
	name string
	all  []time.Duration
}

func (t *times) add(d time.Duration) { t.all = append(t.all, d) }

func (t *times) median() time.Duration {
	all := slices.Sorted(slices.Values(t.all))
	return (all[(len(all)-1)/2] + all[len(all)/2]) / 2
}

func (t *times) print() {
	all := slices.Sorted(slices.Values(t.all))
	fmt.Printf("%-52s %6.0f ms   (%.0f to %.0f, n=%d)\n", t.name, ms(t.median()), ms(all[0]), ms(all[len(all)-1]), len(all))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func measure(ctx context.Context, s settings) error {
	if s.count < 1 || s.files < 1 || s.bytes < int64(s.files) {
		return errors.New("-count, -files and -bytes must be positive, with at least a byte per file")
	}
	bsdtar, err := exec.LookPath("bsdtar")
	if err != nil {
		return errors.New("bsdtar is not on the PATH: install libarchive-tools")
	}
	st, err := newStand(ctx, s)
	if err != nil {
		return err
	}
	defer st.stop()
	peer, download := st.downloader()
	fmt.Printf("bundle: zip, %d files, %.0f MB, packed %.0f MB; S3 endpoint: a local process\n", s.files, float64(s.bytes)/1e6, float64(st.source.Size)/1e6)
	ours := times{name: "fetch + SHA-256 + unpack + sync (verified)"}
	fetch, unpack, sync := times{name: "  of which fetch + SHA-256"}, times{name: "  of which unpack"}, times{name: "  of which sync"}
	theirs := times{name: peer + " + bsdtar -xf"}
	get, extract := times{name: "  of which " + peer}, times{name: "  of which bsdtar -xf"}
	for i := range s.count {
		sides := []func() error{
			func() error { return st.ours(ctx, &ours, &fetch, &unpack, &sync) },
			func() error { return st.theirs(ctx, download, bsdtar, &theirs, &get, &extract) },
		}
		if i%2 == 1 {
			slices.Reverse(sides)
		}
		for _, side := range sides {
			if err := side(); err != nil {
				return err
			}
		}
	}
	for _, t := range []*times{&ours, &fetch, &unpack, &sync, &theirs, &get, &extract} {
		t.print()
	}
	fmt.Printf("ratio of medians: %.2f (bar: at most 1.00)\n", float64(ours.median())/float64(theirs.median()))
	return nil
}

// fresh gives an empty folder on a disk that has nothing left to write. Nothing is removed before the end: ext4 makes new files slowly while it
// remembers inodes that were deleted in the last seconds, which would measure the removal and not the unpacking.
func (st *stand) fresh() (string, error) {
	dir, err := os.MkdirTemp(st.dir, "side-")
	if err != nil {
		return "", err
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer d.Close()
	return dir, unix.Syncfs(int(d.Fd()))
}

func (st *stand) ours(ctx context.Context, whole, fetch, unpack, sync *times) error {
	dir, err := st.fresh()
	if err != nil {
		return err
	}
	f := bundle.NewFetcher(st.client, filepath.Join(dir, "cache"))
	begin := time.Now()
	path, err := f.Fetch(ctx, st.source)
	if err != nil {
		return err
	}
	fetched := time.Now()
	stats, err := bundle.Unpack(ctx, path, filepath.Join(dir, "tree"), bundle.Limits{})
	if err != nil {
		return err
	}
	end := time.Now()
	whole.add(end.Sub(begin))
	fetch.add(fetched.Sub(begin))
	unpack.add(end.Sub(fetched) - stats.Sync)
	sync.add(stats.Sync)
	return nil
}

// downloader answers the peer's name and its command for a file.
func (st *stand) downloader() (string, func(file string) []string) {
	if s5cmd, err := exec.LookPath("s5cmd"); err == nil {
		return "s5cmd cp", func(file string) []string {
			return []string{s5cmd, "--endpoint-url", st.url, "cp", "s3://" + bucket + "/" + key, file}
		}
	}
	return "curl (s5cmd not found)", func(file string) []string {
		return []string{"curl", "-sSf", "-o", file, st.url + "/" + bucket + "/" + key}
	}
}

func (st *stand) theirs(ctx context.Context, download func(string) []string, bsdtar string, whole, get, extract *times) error {
	dir, err := st.fresh()
	if err != nil {
		return err
	}
	file, tree := filepath.Join(dir, "bundle.zip"), filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	begin := time.Now()
	if err := command(ctx, download(file)...); err != nil {
		return err
	}
	got := time.Now()
	if err := command(ctx, bsdtar, "-xf", file, "-C", tree); err != nil {
		return err
	}
	end := time.Now()
	whole.add(end.Sub(begin))
	get.add(got.Sub(begin))
	extract.add(end.Sub(got))
	return nil
}

func command(ctx context.Context, argv ...string) error {
	if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w: %s", strconv.Quote(argv[0]), err, out)
	}
	return nil
}
