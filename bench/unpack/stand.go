package main

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/objects/upload"
	"hostmanager/platform/bundle"
)

const (
	bucket = "bench"
	key    = "bundle.zip"
	region = "us-east-1"
)

// serve is the endpoint, until its stdin ends.
func serve(ctx context.Context, _ settings) error {
	server, err := localaws.New(localaws.Options{})
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer server.Close()
	fmt.Println(server.URL())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	}
	return nil
}

// stand is the endpoint with the object in it.
type stand struct {
	dir    string
	url    string
	client *objects.Client
	source bundle.Source
	stop   func()
}

func newStand(ctx context.Context, s settings) (*stand, error) {
	dir, err := os.MkdirTemp(s.dir, "bench-unpack-")
	if err != nil {
		return nil, err
	}
	st := &stand{dir: dir, stop: func() { _ = os.RemoveAll(dir) }}
	if err := st.start(ctx); err != nil {
		st.stop()
		return nil, err
	}
	if err := st.fill(ctx, s); err != nil {
		st.stop()
		return nil, err
	}
	return st, nil
}

func (st *stand) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.CommandContext(ctx, self, "-serve")
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := child.StdinPipe()
	if err != nil {
		return err
	}
	out, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return fmt.Errorf("start endpoint: %w", err)
	}
	remove := st.stop
	st.stop = func() {
		_ = in.Close()
		_ = child.Wait()
		remove()
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("start endpoint: %w", err)
	}
	st.url = strings.TrimSpace(url)
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local", "AWS_REGION": region} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	st.client, err = objects.New(ctx, objects.Options{Region: region, Endpoint: st.url})
	return err
}

func (st *stand) fill(ctx context.Context, s settings) error {
	archive := filepath.Join(st.dir, key)
	if err := makeBundle(archive, s.files, s.bytes); err != nil {
		return err
	}
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, f)
	if err != nil {
		return err
	}
	st.source = bundle.Source{Bucket: bucket, Key: key, SHA256: hex.EncodeToString(sum.Sum(nil)), Size: size}
	if err := st.client.CreateBucket(ctx, bucket); err != nil {
		return err
	}
	return errors.Join(upload.Object(ctx, st.client, bucket, key, f, size, nil), os.Remove(archive))
}

// makeBundle writes a zip half of whose content is noise and half text, in a tree of folders, as a bundle with its libraries is.
func makeBundle(name string, files int, total int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	w := zip.NewWriter(f)
	noise := rand.New(rand.NewPCG(1, 2))
	size := int(total / int64(files))
	for i := range files {
		out, err := w.Create(fmt.Sprintf("lib/d%02d/e%d/file%04d.txt", i/100, i%10, i))
		if err != nil {
			return err
		}
		if _, err := out.Write(content(noise, size)); err != nil {
			return err
		}
	}
	return errors.Join(w.Close(), f.Sync())
}

func content(noise *rand.Rand, size int) []byte {
	p := make([]byte, 0, size+2048)
	for len(p) < size {
		for range 128 {
			v := noise.Uint64()
			p = append(p, byte(v), byte(v>>8), byte(v>>16), byte(v>>24), byte(v>>32), byte(v>>40), byte(v>>48), byte(v>>56))
		}
		for end := len(p) + 1024; len(p) < end; {
			p = fmt.Appendf(p, "GET /item/%d HTTP/1.1\n", noise.IntN(50))
		}
	}
	return p[:size]
}
