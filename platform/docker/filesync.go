package docker

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/encoding/protowire"
)

// The packets of BuildKit's file transfer (fsutil.types.Packet and Stat, github.com/tonistiigi/fsutil types/*.proto): we tell of every entry in
// the order of a walk, numbered from 0, then of nothing; the builder asks for the content of those it has no copy of, and ends with FIN.
const (
	packetStat = 0
	packetReq  = 1
	packetData = 2
	packetFin  = 3
	packetErr  = 4

	packetType = 1 // fields of a packet
	packetBody = 2
	packetID   = 3
	packetText = 4

	statPath = 1 // fields of a stat
	statMode = 2
	statSize = 5
	statTime = 6
	statLink = 7
)

// packetBytes is how much content goes into one packet.
const packetBytes = 32 << 10

// wanted is which part of the tree a call asks for. The zero value is all of it.
type wanted struct{ paths []string }

// wantedOf reads the paths a call is limited to. They save work only, so whatever is not plain, where our reading could differ from the builder's,
// gets the whole tree. The ignore file's patterns come too; they are those of the tree itself.
func wantedOf(h http.Header) wanted {
	var w wanted
	for _, key := range []string{"Followpaths", "Include-Patterns"} {
		if h.Get(key+"-Encoded") != "" {
			return wanted{}
		}
		for _, p := range h.Values(key) {
			p = strings.TrimPrefix(path.Clean(p), "/")
			if p == "." || p == "" || strings.ContainsAny(p, `*?[]\!`) {
				return wanted{}
			}
			w.paths = append(w.paths, p)
		}
	}
	return w
}

// plain returns w, or all of the tree where a link lies on the way to a path: what it leads to is wanted as well.
func (w wanted) plain(root interface {
	Lstat(name string) (fs.FileInfo, error)
},
) wanted {
	for _, p := range w.paths {
		for ; p != "."; p = path.Dir(p) {
			if info, err := root.Lstat(p); err == nil && info.Mode()&fs.ModeSymlink != 0 {
				return wanted{}
			}
		}
	}
	return w
}

// has tells whether an entry is wanted, lies on the way to one, or within one.
func (w wanted) has(name string) bool {
	return len(w.paths) == 0 || slices.ContainsFunc(w.paths, func(p string) bool {
		return p == name || strings.HasPrefix(p, name+"/") || strings.HasPrefix(name, p+"/")
	})
}

// transfer is one call of a builder for the tree.
type transfer struct {
	tree *buildContext
	call *rpc

	mu    sync.Mutex
	names map[uint32]entry // of files that may be asked for
	asked []uint32
	more  chan struct{} // something was asked for
}

// offer serves one call: it returns when the builder has all it wants.
func (b *buildContext) offer(ctx context.Context, call *rpc, w wanted) error {
	t := &transfer{tree: b, call: call, names: map[uint32]entry{}, more: make(chan struct{}, 1)}
	g, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, call.hangUp)() // hear would wait for a builder that waits for us
	finished := make(chan struct{})
	g.Go(func() error { return t.tell(t.list(ctx, w.plain(b.root))) })
	g.Go(func() error {
		err := t.hear()
		if err == nil {
			close(finished)
		}
		return err
	})
	g.Go(func() error { return t.tell(t.serve(ctx, finished)) })
	return g.Wait()
}

// tell makes a failure to read the tree known to the builder, which is waiting.
func (t *transfer) tell(err error) error {
	var unread *treeError
	if errors.As(err, &unread) {
		_ = t.call.send(appendText(appendKind(nil, packetErr), unread.Error()))
		_ = t.call.push()
	}
	return err
}

// list tells of every entry.
func (t *transfer) list(ctx context.Context, w wanted) error {
	id := uint32(0)
	err := t.tree.each(ctx, func(e entry) error {
		if !w.has(e.name) {
			return nil
		}
		stat, err := t.tree.stat(e)
		if err != nil {
			return &treeError{err}
		}
		if e.info.Mode().IsRegular() {
			t.mu.Lock()
			t.names[id] = e
			t.mu.Unlock()
		}
		id++
		packet := protowire.AppendTag(nil, packetBody, protowire.BytesType)
		return t.call.send(protowire.AppendBytes(packet, stat))
	})
	if err != nil {
		return err
	}
	if err := t.call.send(); err != nil { // a stat of nothing: that was all
		return err
	}
	return t.call.push()
}

// hear takes what the builder asks for, at once: it must never wait with asking for us while we wait for it to take what it asked for.
func (t *transfer) hear() error {
	for {
		message, err := t.call.receive()
		if err != nil {
			return fmt.Errorf("hear the builder: %w", err)
		}
		kind, id, text, err := parsePacket(message)
		switch {
		case err != nil:
			return err
		case kind == packetFin:
			return nil
		case kind == packetErr:
			return fmt.Errorf("the builder refuses the tree: %.200s", text)
		case kind == packetReq:
			t.mu.Lock()
			t.asked = append(t.asked, id)
			t.mu.Unlock()
			select {
			case t.more <- struct{}{}:
			default:
			}
		}
	}
}

// serve sends what is asked for.
func (t *transfer) serve(ctx context.Context, finished <-chan struct{}) error {
	buf := make([]byte, packetBytes)
	for {
		select {
		case <-t.more:
		case <-finished:
			return t.call.send(appendKind(nil, packetFin)) // pushed with the end of the call
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		t.mu.Lock()
		asked := t.asked
		t.asked = nil
		t.mu.Unlock()
		for _, id := range asked {
			if err := t.file(id, buf); err != nil {
				return err
			}
		}
		if err := t.call.push(); err != nil {
			return err
		}
	}
}

func (t *transfer) file(id uint32, buf []byte) error {
	t.mu.Lock()
	e, known := t.names[id]
	delete(t.names, id)
	t.mu.Unlock()
	if !known {
		return errMessage
	}
	head := protowire.AppendTag(appendKind(nil, packetData), packetID, protowire.VarintType)
	head = protowire.AppendVarint(head, uint64(id))
	in, err := t.tree.root.Open(e.name)
	if err != nil {
		return &treeError{err}
	}
	defer in.Close()
	left := e.info.Size()
	for left > 0 {
		n, err := io.ReadFull(in, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return &treeError{fmt.Errorf("%s changed while it was sent: %w", e.name, err)}
		}
		left -= int64(n)
		data := protowire.AppendVarint(protowire.AppendTag(head, packetText, protowire.BytesType), uint64(n))
		if err := t.call.send(data, buf[:n]); err != nil {
			return err
		}
	}
	return t.call.send(head) // the end of the file
}

// stat describes an entry as the image will hold it. What a build before left at the builder is used again where mode, size and time agree, so the
// time must tell contents apart: archives made by machines often give every file of every version the same. The seconds are the file's own, as
// in plainHeader; the part below a second is a checksum of the content.
func (b *buildContext) stat(e entry) ([]byte, error) {
	at := e.info.ModTime().Truncate(time.Second)
	var size int64
	switch {
	case e.info.Mode().IsRegular():
		sum, err := b.checksum(e)
		if err != nil {
			return nil, err
		}
		at, size = at.Add(time.Duration(sum%uint32(time.Second))), e.info.Size()
	case e.link != "":
		size = int64(len(e.link))
	}
	var out []byte
	out = protowire.AppendString(protowire.AppendTag(out, statPath, protowire.BytesType), e.name)
	out = protowire.AppendVarint(protowire.AppendTag(out, statMode, protowire.VarintType), uint64(uint32(e.info.Mode())))
	out = protowire.AppendVarint(protowire.AppendTag(out, statSize, protowire.VarintType), uint64(size))
	out = protowire.AppendVarint(protowire.AppendTag(out, statTime, protowire.VarintType), uint64(at.UnixNano()))
	if e.link != "" {
		out = protowire.AppendString(protowire.AppendTag(out, statLink, protowire.BytesType), e.link)
	}
	return out, nil
}

func (b *buildContext) checksum(e entry) (uint32, error) {
	in, err := b.root.Open(e.name)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	_, err = io.Copy(sum, in)
	return sum.Sum32(), err
}

func appendKind(packet []byte, kind uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(packet, packetType, protowire.VarintType), kind)
}

func appendText(packet []byte, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(packet, packetText, protowire.BytesType), text)
}

func parsePacket(message []byte) (kind, id uint32, text []byte, err error) {
	err = eachField(message, func(f field) error {
		switch f.number {
		case packetType:
			kind = uint32(f.varint)
		case packetID:
			id = uint32(f.varint)
		case packetText:
			text = f.bytes
		}
		return nil
	})
	return kind, id, text, err
}
