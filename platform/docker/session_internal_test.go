package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
)

// builder is the other end of a transfer, in memory.
type builder struct {
	t    *testing.T
	call *rpc
	done chan error
}

func offered(t *testing.T, dir string, w wanted) *builder {
	t.Helper()
	tree, err := openContext(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.root.Close() })
	theirs, toUs := io.Pipe()
	ours, toThem := io.Pipe()
	nothing := func() error { return nil }
	b := &builder{t: t, call: &rpc{in: ours, out: toUs, flush: nothing}, done: make(chan error, 1)}
	go func() {
		b.done <- tree.offer(context.Background(), &rpc{in: theirs, out: toThem, flush: nothing}, w)
		_ = toThem.Close()
	}()
	t.Cleanup(func() { _ = ours.Close() })
	return b
}

type packet struct {
	kind, id uint32
	text     string
	stat     string // path, mode, size, link
	time     int64
}

func (b *builder) next() packet {
	b.t.Helper()
	message, err := b.call.receive()
	if err != nil {
		b.t.Fatal(err)
	}
	var p packet
	var text []byte
	if p.kind, p.id, text, err = parsePacket(message); err != nil {
		b.t.Fatal(err)
	}
	p.text = string(text)
	_ = eachField(message, func(f field) error {
		if f.number == packetBody {
			p.stat, p.time = readStat(f.bytes)
		}
		return nil
	})
	return p
}

func readStat(message []byte) (line string, at int64) {
	var name, link string
	var mode fs.FileMode
	var size uint64
	_ = eachField(message, func(f field) error {
		switch f.number {
		case statPath:
			name = string(f.bytes)
		case statMode:
			mode = fs.FileMode(uint32(f.varint))
		case statSize:
			size = f.varint
		case statTime:
			at = int64(f.varint)
		case statLink:
			link = string(f.bytes)
		}
		return nil
	})
	return strings.TrimSpace(fmt.Sprint(mode, " ", name, " ", size, " ", link)), at
}

func (b *builder) list() (lines []string) {
	b.t.Helper()
	for {
		p := b.next()
		if p.kind != packetStat || p.stat == "" {
			return lines
		}
		lines = append(lines, p.stat)
	}
}

func (b *builder) say(kind uint64, id uint32) {
	b.t.Helper()
	if err := b.call.send(protowire.AppendVarint(protowire.AppendTag(appendKind(nil, kind), packetID, protowire.VarintType), uint64(id))); err != nil {
		b.t.Fatal(err)
	}
}

func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOffer_TellsOfTheTreeAndSendsWhatIsAskedFor(t *testing.T) {
	large := strings.Repeat("0123456789", 3*packetBytes/10)
	dir := writeTree(t, map[string]string{
		"Dockerfile": "FROM scratch\n", ".dockerignore": "out\n!out/deep/kept\nsecret\n", "a.b": "1", "a/z": large, "empty": "", "out/gone": "g",
		"out/deep/kept": "k", "out/deeper/gone": "g", "secret": "s",
	})
	if err := os.Symlink("../b", filepath.Join(dir, "a", "link")); err != nil {
		t.Fatal(err)
	}
	b := offered(t, dir, wanted{})
	want := []string{ // folders come before what is in them, the ignored ones of what is not ignored too
		"-rw-r--r-- .dockerignore 26", "-rw-r--r-- Dockerfile 13", "drwxr-xr-x a 0", "Lrwxrwxrwx a/link 4 ../b", fmt.Sprint("-rw-r--r-- a/z ", len(large)),
		"-rw-r--r-- a.b 1", "-rw-r--r-- empty 0", "drwxr-xr-x out 0", "drwxr-xr-x out/deep 0", "-rw-r--r-- out/deep/kept 1",
	}
	got := b.list()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("entries (-want +got):\n%s", diff)
	}
	for name, content := range map[string]string{"a/z": large, "empty": "", "out/deep/kept": "k"} {
		id := uint32(slices.IndexFunc(got, func(line string) bool { return strings.Contains(line, " "+name+" ") }))
		b.say(packetReq, id)
		var data strings.Builder
		for {
			p := b.next()
			if p.kind != packetData || p.id != id {
				t.Fatalf("packet %+v instead of data of %d", p, id)
			}
			if p.text == "" {
				break
			}
			data.WriteString(p.text)
		}
		if data.String() != content {
			t.Errorf("%s came with %d bytes, want %d", name, data.Len(), len(content))
		}
	}
	b.say(packetFin, 0)
	if p := b.next(); p.kind != packetFin {
		t.Errorf("packet %+v, want the end", p)
	}
	if err := <-b.done; err != nil {
		t.Error(err)
	}
}

func TestOffer_EndsWithAReason(t *testing.T) {
	tests := []struct {
		name string
		do   func(b *builder, dir string)
		told bool // the tree is to blame, and the builder hears of it
		want string
	}{
		{"not a file", func(b *builder, _ string) { b.list(); b.say(packetReq, 1) }, false, errMessage.Error()},
		{"no such number", func(b *builder, _ string) { b.list(); b.say(packetReq, 77) }, false, errMessage.Error()},
		{"refused", func(b *builder, _ string) {
			b.list()
			_ = b.call.send(appendText(appendKind(nil, packetErr), "no room"))
		}, false, "no room"},
		{"hung up", func(b *builder, _ string) { b.list(); _ = b.call.out.(io.Closer).Close() }, false, "EOF"},
		{"file is gone", func(b *builder, dir string) {
			b.list()
			_ = os.Remove(filepath.Join(dir, "Dockerfile"))
			b.say(packetReq, 0)
		}, true, "Dockerfile"},
		{"file shrank", func(b *builder, dir string) {
			b.list()
			_ = os.Truncate(filepath.Join(dir, "Dockerfile"), 1)
			b.say(packetReq, 0)
		}, true, "changed while it was sent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := writeTree(t, map[string]string{"Dockerfile": "FROM scratch\n", "a/b": "1"})
			b := offered(t, dir, wanted{})
			tt.do(b, dir)
			if tt.told {
				if p := b.next(); p.kind != packetErr || !strings.Contains(p.text, tt.want) {
					t.Errorf("packet %+v", p)
				}
			}
			err := <-b.done
			var tree *treeError
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.As(err, &tree) != tt.told {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func TestOffer_TimeTellsContentsApart(t *testing.T) {
	times := map[int64]bool{}
	for _, content := range []string{"one", "two", "one"} {
		dir := writeTree(t, map[string]string{"Dockerfile": content})
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		at := info.ModTime().Truncate(3600e9)
		if err := os.Chtimes(filepath.Join(dir, "Dockerfile"), at, at); err != nil {
			t.Fatal(err)
		}
		b := offered(t, dir, wanted{})
		p := b.next()
		if p.time/1e9 != at.Unix() {
			t.Errorf("time %d is not within the file's own second %d", p.time, at.Unix())
		}
		times[p.time] = true
	}
	if len(times) != 2 {
		t.Errorf("three files with two contents, all of one time, have the times %v", times)
	}
}

func TestWanted_LimitsOnlyWhereItIsSure(t *testing.T) {
	dir := writeTree(t, map[string]string{"Dockerfile": "", "a/b/c": "", "a/d": "", "real/x": "", "ab": ""})
	if err := os.Symlink("real", filepath.Join(dir, "linked")); err != nil {
		t.Fatal(err)
	}
	all := "Dockerfile a a/b a/b/c a/d ab linked real real/x"
	tests := []struct {
		header http.Header
		want   string
	}{
		{http.Header{}, all},
		{http.Header{"Followpaths": {"Dockerfile", "Dockerfile.dockerignore"}}, "Dockerfile"},
		{http.Header{"Followpaths": {"/a/b/"}}, "a a/b a/b/c"},
		{http.Header{"Followpaths": {"a"}, "Include-Patterns": {"Dockerfile"}}, "Dockerfile a a/b a/b/c a/d"},
		{http.Header{"Followpaths": {"linked/x"}}, all},
		{http.Header{"Followpaths": {"a/*"}}, all},
		{http.Header{"Followpaths": {"."}}, all},
		{http.Header{"Followpaths": {"%C3%BC"}, "Followpaths-Encoded": {"1"}}, all},
	}
	for _, tt := range tests {
		b := offered(t, dir, wantedOf(tt.header))
		var names []string
		for _, line := range b.list() {
			names = append(names, strings.Fields(line)[1])
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.header, got, tt.want)
		}
		b.say(packetFin, 0)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, packetReq, 0, 0, 0, 0, 4, 8, packetReq, 24, 7})
	f.Add([]byte{1, 0, 0, 0, 0})
	f.Add([]byte{0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := &rpc{in: io.NopCloser(bytes.NewReader(data))}
		for {
			message, err := c.receive()
			if err != nil {
				return
			}
			if len(message) > maxRequest {
				t.Fatalf("%d bytes", len(message))
			}
			_, _, _, _ = parsePacket(message)
		}
	})
}
