package bundle

import (
	"io/fs"
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

type nodeKind uint8

const (
	folder nodeKind = iota
	file
	link
)

// entry is one member of an archive, judged and ready to be made.
type entry struct {
	path   string // cleaned, slash separated, relative
	kind   nodeKind
	mode   fs.FileMode // permission bits
	mtime  time.Time   // zero: not told
	size   int64
	target string // of a symbolic link
}

type node struct {
	kind   nodeKind
	target string
}

// names is the tree as it will be. Every path is entered before anything is written, so that no entry can change what an earlier one meant.
type names struct {
	limits Limits
	nodes  map[string]node
	links  []entry
	dirs   []entry // in the order they must be made: a parent before its children
	chosen map[string]int
}

func newNames(l Limits) *names {
	return &names{limits: l, nodes: map[string]node{}, chosen: map[string]int{}}
}

// cleanPath turns a member's name into a relative slash path, or refuses it. "" is the root of the tree.
// With backslashes set (an archive made on Windows) `\` separates, too; elsewhere it is a letter like any other, as Linux has it.
func (n *names) cleanPath(raw string, backslashes bool) (string, error) {
	l := n.limits
	switch {
	case strings.IndexByte(raw, 0) >= 0:
		return "", refuseEntry(raw, "the name holds a NUL byte")
	case !utf8.ValidString(raw):
		return "", refuseEntry(raw, "the name is not valid UTF-8; make the archive with UTF-8 names")
	}
	slashed := strings.ReplaceAll(raw, `\`, "/")
	for part := range strings.SplitSeq(slashed, "/") {
		if part == ".." {
			return "", refuseEntry(raw, "the path leads out of the bundle (..)")
		}
	}
	if strings.HasPrefix(slashed, "/") || backslashes && len(raw) > 1 && raw[1] == ':' {
		return "", refuseEntry(raw, "the path is absolute; paths in a bundle are relative to its root")
	}
	name := raw
	if backslashes {
		name = slashed
	}
	name = path.Clean(name)
	if name == "." {
		return "", nil
	}
	if len(name) > l.PathBytes {
		return "", refuseEntry(raw, "the path has %d bytes; the limit is %d", len(name), l.PathBytes)
	}
	parts := strings.Split(name, "/")
	if len(parts) > l.Depth {
		return "", refuseEntry(raw, "the path is %d folders deep; the limit is %d", len(parts), l.Depth)
	}
	for _, part := range parts {
		if len(part) > l.NameBytes {
			return "", refuseEntry(raw, "a name in the path has %d bytes; the limit is %d", len(part), l.NameBytes)
		}
	}
	return name, nil
}

// add enters e and the folders above it. It answers the folders that are new and must be made before e.
func (n *names) add(e entry) ([]entry, error) {
	before := len(n.dirs)
	for i := 0; i < len(e.path); i++ {
		if e.path[i] != '/' {
			continue
		}
		if err := n.addFolder(entry{path: e.path[:i], kind: folder, mode: 0o755}, false, e.path); err != nil {
			return nil, err
		}
	}
	if e.kind == folder {
		err := n.addFolder(e, true, e.path)
		return n.dirs[before:], err
	}
	if was, ok := n.nodes[e.path]; ok {
		if was.kind == folder {
			return nil, refuseEntry(e.path, "it is both a file and a folder in the archive")
		}
		return nil, refuseEntry(e.path, "the archive holds this path twice")
	}
	if e.kind == link {
		n.links = append(n.links, e)
	}
	return n.dirs[before:], n.put(e)
}

func (n *names) addFolder(e entry, explicit bool, blamed string) error {
	was, ok := n.nodes[e.path]
	switch {
	case ok && was.kind == link:
		return refuseEntry(blamed, "the path goes through the symbolic link %q", e.path)
	case ok && was.kind == file:
		return refuseEntry(e.path, "it is both a file and a folder in the archive")
	case !ok:
		n.chosen[e.path] = len(n.dirs)
		n.dirs = append(n.dirs, e)
		return n.put(e)
	case explicit:
		n.dirs[n.chosen[e.path]] = e
	}
	return nil
}

func (n *names) put(e entry) error {
	if len(n.nodes) >= n.limits.Files {
		return refuse("it holds more than %d files, folders and links; that is the limit", n.limits.Files)
	}
	n.nodes[e.path] = node{kind: e.kind, target: e.target}
	return nil
}

// checkTarget refuses a link's target that cannot be right, whatever the rest of the archive holds.
func (n *names) checkTarget(entry, target string) error {
	switch {
	case target == "":
		return refuseEntry(entry, "the link has no target")
	case len(target) > n.limits.PathBytes:
		return refuseEntry(entry, "the link's target has %d bytes; the limit is %d", len(target), n.limits.PathBytes)
	case strings.IndexByte(target, 0) >= 0 || !utf8.ValidString(target):
		return refuseEntry(entry, "the link's target is not a valid path")
	case strings.HasPrefix(target, "/"):
		return refuseEntry(entry, "the link leads out of the bundle: its target %q is absolute", target)
	}
	return nil
}

// checkLinks walks every link as the kernel would, other links of the archive included: reading a target as mere text would miss
// links that leave the tree only by way of another one.
func (n *names) checkLinks() error {
	left := max(minWalked, walkedPerLink*len(n.links))
	for _, e := range n.links {
		if err := n.walkLink(e, &left); err != nil {
			return err
		}
	}
	return nil
}

// Bounds of the work of walking all links of an archive, bytes of paths: so much for each that it may hold, and in any case this much.
const (
	walkedPerLink = 4 << 10
	minWalked     = 64 << 20
)

// maxHops is the kernel's own bound on links in one path.
const maxHops = 40

func (n *names) walkLink(e entry, left *int) error {
	at := splitDir(e.path)
	rest := strings.Split(e.target, "/")
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 0 {
				return refuseEntry(e.path, "the link leads out of the bundle: its target is %q", e.target)
			}
			at = at[:len(at)-1]
			continue
		}
		here := append(at[:len(at):len(at)], part)
		whole := strings.Join(here, "/")
		if len(whole) > n.limits.PathBytes { // nothing of the archive lies there
			return refuseEntry(e.path, "the link's path is too long")
		}
		if *left -= len(whole); *left < 0 {
			return refuseEntry(e.path, "the links of the bundle lead through one another too often to be checked")
		}
		to, ok := n.nodes[whole]
		if !ok || to.kind != link {
			at = here
			continue
		}
		if hops++; hops > maxHops {
			return refuseEntry(e.path, "the link goes in a circle")
		}
		rest = append(strings.Split(to.target, "/"), rest...)
		*left -= 16 * len(rest)
		if len(rest) > maxHops*n.limits.PathBytes {
			return refuseEntry(e.path, "the link's path is too long")
		}
	}
	return nil
}

func splitDir(p string) []string {
	dir := path.Dir(p)
	if dir == "." {
		return nil
	}
	return strings.Split(dir, "/")
}
