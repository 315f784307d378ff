package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// withoutCoreDump keeps what this process holds in memory out of core files: the kernel writes none of it, also where core files go through a
// program. What it starts writes none by default either (ulimit -c raises that again).
func withoutCoreDump() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("turn core dumps off: %w", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("read limit of core dumps: %w", err)
	}
	limit.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("turn core dumps of programs off: %w", err)
	}
	return nil
}
