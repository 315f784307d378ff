package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
)

// Bundle is a source bundle on disk.
type Bundle struct {
	Path   string
	SHA256 string // hex
	Size   int64
	Policy string // the DeploymentPolicy its .ebextensions set, if any
}

// OpenBundle measures the archive at path. The file must stay as it is until the deployment is over.
func OpenBundle(ctx context.Context, path string) (Bundle, error) {
	f, err := os.Open(path)
	if err != nil {
		return Bundle{}, fmt.Errorf("open the bundle: %w", err)
	}
	defer f.Close()
	hash := sha256.New()
	n, err := io.Copy(hash, readerUntil{ctx, f})
	if err != nil {
		return Bundle{}, fmt.Errorf("read the bundle: %w", err)
	}
	if n == 0 {
		return Bundle{}, fmt.Errorf("%w: %s is empty", ErrRefused, path)
	}
	return Bundle{Path: path, SHA256: hex.EncodeToString(hash.Sum(nil)), Size: n}, nil
}

// readerUntil reads until its context ends.
type readerUntil struct {
	ctx context.Context
	r   io.Reader
}

func (r readerUntil) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
