package bundle

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errBusy tells that another process downloads the same bundle into the same cache.
var errBusy = errors.New("another process downloads this bundle into the same cache; wait for it")

// sidecarHead is the first line of a sidecar: what the part belongs to. When any of it differs the part is worth nothing.
type sidecarHead struct {
	Format    int    `json:"format"`
	Boot      string `json:"boot"`
	Bucket    string `json:"bucket"`
	Key       string `json:"key"`
	VersionID string `json:"version_id"`
	ETag      string `json:"etag"`
	Size      int64  `json:"size"`
	Chunk     int64  `json:"chunk"`
}

// sidecarRange is each further line: a chunk that is wholly in the part. It is appended, in one write, after the chunk's own bytes are written, and
// read back only when its CRC-32C matches the part.
type sidecarRange struct {
	Chunk int    `json:"chunk"`
	CRC   uint32 `json:"crc32c"`
}

const sidecarFormat = 1

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

func lockedElsewhere(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), syscall.EWOULDBLOCK)
}

// openPart opens and locks the part of a digest. The lock dies with the process.
func openPart(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open partial download: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = errBusy
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock partial download: %w", err)
	}
	return f, nil
}

// readSidecar answers the chunks of the part that are whole and as they were written; none where the sidecar is missing, torn or of another object.
func readSidecar(path string, want sidecarHead, part *os.File) ([]sidecarRange, error) {
	f, err := os.Open(path)
	if err != nil || want.Boot == "" {
		return nil, nil
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 64<<20))
	var head sidecarHead
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &head) != nil || head != want {
		return nil, nil
	}
	var whole []sidecarRange
	seen := map[int]bool{}
	buf := make([]byte, copyBytes)
	for lines.Scan() {
		var r sidecarRange
		if json.Unmarshal(lines.Bytes(), &r) != nil {
			continue // torn by a crash: the chunk is fetched again
		}
		if r.Chunk < 0 || int64(r.Chunk) > (want.Size-1)/want.Chunk || seen[r.Chunk] {
			continue
		}
		ok, err := chunkMatches(part, want, r, buf)
		if err != nil {
			return nil, err
		}
		if ok {
			seen[r.Chunk] = true
			whole = append(whole, r)
		}
	}
	return whole, nil
}

func chunkMatches(part *os.File, head sidecarHead, r sidecarRange, buf []byte) (bool, error) {
	off := int64(r.Chunk) * head.Chunk
	left := min(head.Chunk, head.Size-off)
	crc := uint32(0)
	for left > 0 {
		n, err := part.ReadAt(buf[:min(left, int64(len(buf)))], off)
		crc = crc32.Update(crc, castagnoli(), buf[:n])
		off, left = off+int64(n), left-int64(n)
		if errors.Is(err, io.EOF) && left > 0 {
			return false, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return false, fmt.Errorf("read partial download: %w", err)
		}
	}
	return crc == r.CRC, nil
}

// writeSidecar begins a sidecar anew with the chunks known to be whole, open for more.
func writeSidecar(path string, head sidecarHead, whole []sidecarRange) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("write record of partial download: %w", err)
	}
	lines := []any{head}
	for _, r := range whole {
		lines = append(lines, r)
	}
	for _, l := range lines {
		if err := appendLine(f, l); err != nil {
			_ = f.Close()
			return nil, err
		}
	}
	return f, nil
}

func appendLine(f *os.File, v any) error {
	line, err := json.Marshal(v)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write record of partial download: %w", err)
	}
	return nil
}
