package cgroup

import (
	"errors"
	"os"
	"slices"
	"strconv"
)

// Exits are the groups this process is in where a process can be frozen. Whoever is moved there runs again, wherever it was held.
type Exits []*os.Root

// OpenExits finds them, now, before anybody mounts something over them. Call it after Open, which may move this process: where it stood before then
// takes nobody. Where there are none, nobody can be frozen.
func OpenExits() Exits {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var all Exits
	for _, m := range parseMounts(string(mountinfo), string(self)) {
		if !m.unified && !slices.Contains(m.controllers, "freezer") {
			continue
		}
		if dir, err := os.OpenRoot(m.own); err == nil {
			all = append(all, dir)
		}
	}
	return all
}

// Take moves a process out of whatever froze it. What cannot be moved was not held there, or has ended.
func (e Exits) Take(pid int) {
	for _, dir := range e {
		_ = write(dir, "cgroup.procs", strconv.Itoa(pid))
	}
}

// Close lets go of the groups.
func (e Exits) Close() error {
	var errs []error
	for _, dir := range e {
		errs = append(errs, dir.Close())
	}
	return errors.Join(errs...)
}
