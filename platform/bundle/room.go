package bundle

import (
	"fmt"

	"hostmanager/internal/disk"
)

// need is what a tree or a download will take on the disk.
type need struct {
	bytes  int64
	inodes int64
	block  int64
}

// newNeed rounds to the blocks of the file system dir is on.
func newNeed(dir string) (need, error) {
	s, err := disk.Of(dir)
	return need{block: max(s.Block, 1)}, err
}

func (n *need) addEntry(kind nodeKind, size int64) {
	n.inodes++
	if kind == folder {
		size = n.block
	}
	n.bytes += (size + n.block - 1) / n.block * n.block
}

// free answers the bytes and inodes an ordinary user could still take; inodes is -1 where the file system does not count them.
func free(dir string) (bytes, inodes int64, err error) {
	s, err := disk.Of(dir)
	return s.Bytes, s.Inodes, err
}

// sameDisk says whether two folders share their free room. Where that cannot be told they do not.
func sameDisk(a, b string) bool {
	sa, errA := disk.Of(a)
	sb, errB := disk.Of(b)
	return errA == nil && errB == nil && sa.Dev == sb.Dev
}

// checkRoom refuses with the missing number when the file system of dir cannot take n.
func checkRoom(dir string, n need) error {
	bytes, inodes, err := free(dir)
	if err != nil {
		return err
	}
	var reason string
	switch {
	case bytes < n.bytes:
		reason = fmt.Sprintf("no room in %s: %d bytes are needed, %d are free, %d are missing; free them and deploy again", dir, n.bytes, bytes, n.bytes-bytes)
	case inodes >= 0 && inodes < n.inodes:
		reason = fmt.Sprintf("no room in %s: %d inodes are needed, %d are free, %d are missing; remove some files and deploy again", dir, n.inodes, inodes, n.inodes-inodes)
	default:
		return nil
	}
	return &Refused{Reason: reason, Err: ErrNoRoom}
}
