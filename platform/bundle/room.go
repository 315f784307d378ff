package bundle

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// need is what a tree or a download will take on the disk.
type need struct {
	bytes  int64
	inodes int64
	block  int64
}

// newNeed rounds to the blocks of the file system dir is on.
func newNeed(dir string) (need, error) {
	st, err := statfs(dir)
	if err != nil {
		return need{}, err
	}
	return need{block: max(st.Bsize, 1)}, nil
}

func (n *need) addEntry(kind nodeKind, size int64) {
	n.inodes++
	if kind == folder {
		size = n.block
	}
	n.bytes += (size + n.block - 1) / n.block * n.block
}

func statfs(dir string) (unix.Statfs_t, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return st, fmt.Errorf("ask for free room in %s: %w", dir, err)
		}
		return st, nil
	}
}

// free answers the bytes and inodes an ordinary user could still take; inodes is -1 where the file system does not count them.
func free(dir string) (bytes, inodes int64, err error) {
	st, err := statfs(dir)
	if err != nil {
		return 0, 0, err
	}
	bytes, inodes = int64(st.Bavail)*st.Bsize, int64(st.Ffree)
	if st.Files == 0 {
		inodes = -1
	}
	return bytes, inodes, nil
}

// sameDisk says whether two folders share their free room. Where that cannot be told they do not.
func sameDisk(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a, &sa) == nil && unix.Stat(b, &sb) == nil && sa.Dev == sb.Dev
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
