package cgroup

import (
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one hierarchy of control groups and where this process stands in it.
type mount struct {
	unified     bool
	controllers []string // of a v1 hierarchy
	own         string   // folder of the process's own group
	top         bool     // that group is the hierarchy's root
}

// parseMounts reads /proc/self/mountinfo and /proc/self/cgroup. What it does not understand it leaves out.
func parseMounts(mountinfo, self string) []mount {
	groups := map[string]string{} // controllers as the file writes them, "" for the unified hierarchy
	for line := range strings.Lines(self) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			groups[f[1]] = f[2]
		}
	}
	var all []mount
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(line, " - ")
		h, f := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 6 || len(f) < 3 || !slices.Contains(strings.Split(h[5], ","), "rw") {
			continue
		}
		root, point := unescape(h[3]), unescape(h[4])
		switch f[0] {
		case "cgroup2":
			if group, ok := groups[""]; ok {
				all = append(all, place(mount{unified: true}, root, point, group))
			}
		case "cgroup":
			options := strings.Split(f[2], ",")
			for key, group := range groups {
				names := strings.Split(key, ",")
				if key != "" && !slices.ContainsFunc(names, func(n string) bool { return !slices.Contains(options, n) }) {
					all = append(all, place(mount{controllers: names}, root, point, group))
				}
			}
		}
	}
	return all
}

// place finds the folder of a group below a mount point that shows the hierarchy from root on.
func place(m mount, root, point, group string) mount {
	below := strings.TrimPrefix(group, strings.TrimSuffix(root, "/"))
	if strings.HasPrefix(group, "/..") || root != "/" && !strings.HasPrefix(group, root) {
		below = "/" // seen from a namespace of its own: its root is what is mounted
	}
	m.own = filepath.Join(point, below)
	m.top = root == "/" && group == "/"
	return m
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// sameDevice tells whether two folders lie on one file system.
func sameDevice(a, b string) (bool, error) {
	var one, other unix.Stat_t
	if err := errors.Join(unix.Stat(a, &one), unix.Stat(b, &other)); err != nil {
		return false, err
	}
	return one.Dev == other.Dev, nil
}
