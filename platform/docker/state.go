package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hostmanager/hooks"
	"hostmanager/internal/atomicfile"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// maxStateFile bounds a state file: one id.
const maxStateFile = 1 << 10

// readState returns the line a state file holds, "" where the file is missing.
func readState(path string) (string, error) {
	data, err := atomicfile.ReadFileLimit(path, maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read state: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// writeState writes the line, or removes the file where there is nothing to say. A file that says it already is left as it is.
func writeState(path, line string) error {
	if line == "" {
		return atomicfile.Remove(path)
	}
	if old, err := atomicfile.ReadFileLimit(path, maxStateFile); err == nil && string(old) == line+"\n" {
		return nil
	}
	return atomicfile.WriteFile(path, []byte(line+"\n"), 0o644)
}

// readLink returns where a link leads, "" where there is none, also where a hook put something else in its place.
func readLink(path string) (string, error) {
	target, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return "", nil
	}
	return target, err
}

// writeLink points the link at target, or removes it where target is empty. What a hook put in its place is moved aside: neither a flip nor its
// undoing may fail on that.
func writeLink(target, path string) error {
	if _, err := moveAside(path); err != nil {
		return err
	}
	if target == "" {
		return atomicfile.Remove(path)
	}
	return atomicfile.Symlink(target, path)
}

// moveAside makes way for a link where something else stands, and returns where that is now, "" where nothing was in the way. Only the latest is kept.
func moveAside(path string) (string, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look at %s: %w", path, err)
	}
	aside := path + ".aside"
	if err := os.RemoveAll(aside); err != nil {
		return "", fmt.Errorf("remove what was moved aside before: %w", err)
	}
	if err := os.Rename(path, aside); err != nil {
		return "", fmt.Errorf("%s is no link, and cannot be moved away: %w", path, err)
	}
	return aside, nil
}

// mendCurrent has current lead to the tree of the container that serves again, where a hook removed the link or put something else in its place.
func (p *Platform) mendCurrent(ctx context.Context, c *hooks.Call) error {
	if link, err := readLink(p.root.Current()); link != "" || err != nil {
		return err
	}
	id, err := readState(p.root.CurrentContainerID())
	if err != nil {
		return err
	}
	in, ok, err := p.find(ctx, id)
	if errors.Is(err, errNotOurs) || err == nil && (!ok || in.release == "") {
		return nil
	}
	if err != nil {
		return err
	}
	return p.lead(c, p.root.Current(), filepath.Join(p.root.Releases(), in.release))
}

// lead points the link at a tree, and says so where something else than a link stood in its place.
func (p *Platform) lead(c *hooks.Call, link, tree string) error {
	// Relative, so that the link holds when the root is looked at from elsewhere.
	target, err := filepath.Rel(filepath.Dir(link), tree)
	if err != nil {
		return fmt.Errorf("find way to application tree: %w", err)
	}
	aside, err := moveAside(link)
	if err != nil {
		return err
	}
	if aside != "" {
		report(c, protocol.Warn, "%s was no link of the host manager's any more; what stood there is now %s. Hooks must leave the link alone.", link, aside)
	}
	return writeLink(target, link)
}

// releaseName is the name below Releases of the tree a link leads to, "" where there is no link.
func releaseName(link string) (string, error) {
	target, err := readLink(link)
	if target == "" || err != nil {
		return "", err
	}
	return filepath.Base(target), nil
}

// deployment fills what a command that brings no manifest does not know from the configuration that is in force.
func deployment(c *hooks.Call, conf settings.ContainerConfiguration) hooks.Deployment {
	d := c.Deployment
	if d.ID == 0 {
		d.ID, d.VersionLabel, d.Serial = conf.Deployment.ID, conf.Deployment.VersionLabel, conf.Deployment.Serial
	}
	return d
}

// release is the name of the tree that the call's deployment was unpacked into.
func (p *Platform) release(d hooks.Deployment) (string, error) {
	tree := p.root.Release(strconv.FormatInt(d.ID, 10), d.InvocationID)
	if filepath.Dir(tree) != p.root.Releases() {
		return "", fmt.Errorf("invocation id %.40q does not fit into a file name", d.InvocationID)
	}
	return filepath.Base(tree), nil
}

func report(c *hooks.Call, severity protocol.Severity, format string, args ...any) {
	c.Event(protocol.Event{Severity: severity, Msg: fmt.Sprintf(format, args...)})
}

// fail reports a sentence as an ERROR event and returns it as the step's error.
func fail(c *hooks.Call, f *Failure) error {
	report(c, protocol.Error, "%s", f.Sentence)
	return f
}

// tail keeps the last bytes of what is written to it.
type tail struct {
	limit int
	data  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	n := len(b)
	if n > t.limit {
		b = b[n-t.limit:]
	}
	if over := len(t.data) + len(b) - t.limit; over > 0 {
		t.data = append(t.data[:0], t.data[over:]...)
	}
	t.data = append(t.data, b...)
	return n, nil
}

// last returns at most the last n bytes, trimmed to whole characters.
func (t *tail) last(n int) string {
	data := t.data
	if len(data) > n {
		data = data[len(data)-n:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(data), ""))
}

// maxTail is how much of a failing program's output an error carries.
const maxTail = 2 << 10
