package bundle

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"hostmanager/aws/objects"
)

// rangeTries is how often a range is asked for in a row without one byte coming. The SDK's own retries are inside each.
const rangeTries = 6

var (
	errStalled = errors.New("no byte came for too long")
	errShort   = fmt.Errorf("the connection ended early: %w", io.ErrUnexpectedEOF)
)

// download is one bundle on its way into the cache.
type download struct {
	from  ObjectGetter
	stall time.Duration
	src   Source
	ref   objects.Ref
	size  int64
	chunk int64
	where string // the cache, for messages
	part  *os.File
	hash  *prefixHash
	whole map[int]bool

	mu   sync.Mutex
	side *os.File
}

// download fetches src into the cache and answers its size. What cannot become right is removed; a download that was merely cut off waits for the next try.
func (f *Fetcher) download(ctx context.Context, src Source) (int64, error) {
	ref := objects.Ref{Bucket: src.Bucket, Key: src.Key, VersionID: src.VersionID}
	head, err := f.Objects.HeadRef(ctx, ref)
	if err != nil {
		return 0, fmt.Errorf("look at source bundle %s: %w", src, err)
	}
	if err := src.checkSize(head.Size, f.Limits); err != nil {
		return 0, errors.Join(err, f.store.removePartial(src.SHA256))
	}
	ref.ETag = head.ETag
	part, err := openPart(f.store.part(src.SHA256))
	if err != nil {
		return 0, err
	}
	defer part.Close()
	d := &download{
		from: f.Objects, stall: f.Stall, src: src, ref: ref, size: head.Size, chunk: f.Chunk, where: f.store.dir, part: part, whole: map[int]bool{},
	}
	err = f.fill(ctx, d)
	var refused *Refused
	if errors.As(err, &refused) {
		return 0, errors.Join(err, f.store.removePartial(src.SHA256))
	}
	return head.Size, err
}

func (f *Fetcher) fill(ctx context.Context, d *download) error {
	if err := d.resume(f.store); err != nil {
		return err
	}
	defer d.side.Close()
	if err := f.store.makeRoom(d.missing(), f.CacheBytes, f.held); err != nil {
		return err
	}
	if err := d.run(ctx, f.Parallel); err != nil {
		return err
	}
	sum, err := d.hash.hex()
	if err != nil {
		return err
	}
	if sum != d.src.SHA256 {
		r := refuse("%s has SHA-256 %s, the manifest says %s: it is not the bundle that was uploaded for this version", d.src, sum, d.src.SHA256)
		r.Err = ErrDigest
		return r
	}
	return f.store.adopt(d.src.SHA256, d.part)
}

// resume takes over what an earlier try left, checked against its sidecar, or begins anew.
func (d *download) resume(s store) error {
	head := sidecarHead{
		Format: sidecarFormat, Boot: s.boot, Bucket: d.ref.Bucket, Key: d.ref.Key, VersionID: d.ref.VersionID,
		ETag: d.ref.ETag, Size: d.size, Chunk: d.chunk,
	}
	whole, err := readSidecar(s.ranges(d.src.SHA256), head, d.part)
	if err != nil {
		return err
	}
	if len(whole) == 0 {
		if err := d.part.Truncate(0); err != nil {
			return fmt.Errorf("begin download anew: %w", err)
		}
	}
	if err := d.part.Truncate(d.size); err != nil {
		return fmt.Errorf("size partial download: %w", diskFull(err, d.where))
	}
	d.hash = newPrefixHash(d.part, d.size, d.chunk)
	for _, r := range whole {
		d.whole[r.Chunk] = true
		d.hash.resume(r.Chunk)
	}
	d.side, err = writeSidecar(s.ranges(d.src.SHA256), head, whole)
	return diskFull(err, d.where)
}

// missing is how many bytes have to come.
func (d *download) missing() int64 {
	n := d.size
	for i := range d.whole {
		n -= min(d.chunk, d.size-int64(i)*d.chunk)
	}
	return n
}

// run hashes what is there and fetches what is not, lowest chunk first, so that the hash can follow.
func (d *download) run(ctx context.Context, parallel int) error {
	g, ctx := errgroup.WithContext(ctx)
	todo := make(chan int)
	g.Go(func() error {
		defer close(todo)
		for i := range d.hash.ends {
			if d.whole[i] {
				continue
			}
			select {
			case todo <- i:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	g.Go(d.hash.start)
	for range parallel {
		g.Go(func() error {
			buf := make([]byte, copyBytes)
			for i := range todo {
				if err := d.fetchChunk(ctx, i, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		var refused *Refused
		if errors.As(err, &refused) {
			return err
		}
		return fmt.Errorf("download source bundle %s: %w", d.src, err)
	}
	return nil
}

// fetchChunk brings one chunk, going on after a cut where it was.
func (d *download) fetchChunk(ctx context.Context, i int, buf []byte) error {
	off := int64(i) * d.chunk
	end := min(off+d.chunk, d.size)
	crc, tries := uint32(0), 0
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 100*time.Millisecond, 5*time.Second
	for {
		n, err := d.fetchRange(ctx, off, end-off, buf, &crc)
		off += n
		if err == nil {
			break
		}
		if n > 0 {
			tries = 0
			pause.Reset()
		}
		if tries++; ctx.Err() != nil || tries >= rangeTries || !d.passing(err) {
			return d.explain(ctx, err)
		}
		if err := wait(ctx, pause.NextBackOff()); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return diskFull(appendLine(d.side, sidecarRange{Chunk: i, CRC: crc}), d.where)
}

// passing says whether asking again can help: not for a refusal, not for what the machine itself could not do.
func (d *download) passing(err error) bool {
	var refused *Refused
	var local *os.PathError
	return !errors.As(err, &refused) && !errors.As(err, &local) && !objects.Permanent(err)
}

func (d *download) explain(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, objects.ErrPrecondition):
		return &Refused{
			Reason: fmt.Sprintf("%s changed while it was downloaded (it is no longer %s); deploy again", d.src, d.ref.ETag),
			Err:    errors.Join(ErrDigest, err),
		}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case d.passing(err) && !errors.Is(err, objects.ErrUnavailable) && !errors.Is(err, objects.ErrThrottled): // a body that ended early, or stood still
		return fmt.Errorf("%w: %w", objects.ErrUnavailable, err)
	}
	return err
}

func wait(ctx context.Context, pause time.Duration) error {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fetchRange brings up to n bytes from off and answers how many were written; fewer come with an error.
func (d *download) fetchRange(ctx context.Context, off, n int64, buf []byte, crc *uint32) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(d.stall, func() { cancel(errStalled) })
	defer watch.Stop()
	body, err := d.from.GetRangeRef(ctx, d.ref, off, n)
	if err != nil {
		return 0, stalled(ctx, err)
	}
	defer body.Close()
	in := watched{in: body, watch: watch, stall: d.stall}
	var got int64
	for got < n {
		m, err := io.ReadFull(in, buf[:min(int64(len(buf)), n-got)])
		if m > 0 {
			*crc = crc32.Update(*crc, castagnoli(), buf[:m])
			if werr := d.store(off+got, buf[:m]); werr != nil {
				return got, werr
			}
			got += int64(m)
		}
		if err != nil && got < n {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = errShort
			}
			return got, stalled(ctx, err)
		}
	}
	return got, nil
}

// watched winds the watch up with every byte that comes.
type watched struct {
	in    io.Reader
	watch *time.Timer
	stall time.Duration
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	if n > 0 {
		w.watch.Reset(w.stall)
	}
	return n, err
}

func (d *download) store(off int64, p []byte) error {
	if _, err := d.part.WriteAt(p, off); err != nil {
		return fmt.Errorf("write source bundle: %w", diskFull(err, d.where))
	}
	return d.hash.add(off, p)
}

// stalled names the watch's cancellation; to the client below it looked like the caller's.
func stalled(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("%w (%w)", errStalled, err)
	}
	return err
}
