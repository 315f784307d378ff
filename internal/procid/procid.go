// Package procid names one process of one machine for good, so that a later look can prove it dead: a pid alone comes back, and is another's in
// another container or after a boot.
//
// Dead only ever answers yes where that is certain: the looker must be on the same boot of the same kernel and in the same pid namespace.
// Everything it cannot find out counts as alive. Gone is for what only one machine can have written.
package procid

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// ID is one process. The zero value is no process, of which nothing can be proven.
type ID struct {
	Host         string `json:"host"` // for people; proves nothing where two machines may have one name
	BootID       string `json:"boot_id"`
	PIDNamespace string `json:"pid_namespace"`
	PID          int    `json:"pid"`
	Start        uint64 `json:"start"` // clock ticks after the boot: field 22 of /proc/<pid>/stat (proc(5))
}

// Self names the running process; the zero ID where the kernel does not tell.
func Self() ID {
	here, ok := where()
	if !ok {
		return ID{}
	}
	here.PID = os.Getpid()
	_, here.Start, ok = look(here.PID)
	if !ok {
		return ID{}
	}
	here.Host, _ = os.Hostname()
	return here
}

// where fills what a pid means something in.
func where() (ID, bool) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ID{}, false
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	return ID{BootID: strings.TrimSpace(string(boot)), PIDNamespace: namespace}, err == nil
}

// Dead tells whether the process is proven to have ended: it was one of this boot and pid namespace, and is not there any more.
func (i ID) Dead() bool {
	here, ok := where()
	if !ok || i.PID <= 0 || i.BootID != here.BootID || i.PIDNamespace != here.PIDNamespace {
		return false
	}
	if err := syscall.Kill(i.PID, 0); errors.Is(err, syscall.ESRCH) {
		return true
	}
	state, start, ok := look(i.PID)
	return ok && (start != i.Start || state == 'Z' || state == 'X')
}

// Gone tells whether the process is dead or was one of an earlier boot of the machine that has this name: for IDs that lie on a file system of this
// machine alone.
func (i ID) Gone() bool {
	if i.Dead() {
		return true
	}
	here, ok := where()
	host, err := os.Hostname()
	return ok && err == nil && i.PID > 0 && i.Host == host && i.BootID != "" && i.BootID != here.BootID
}

// look reads the state and the start time of a process.
func look(pid int) (state byte, start uint64, ok bool) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, false
	}
	// The name of the program, in brackets, may hold anything.
	rest := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	const startField = 22 - 3 // rest begins with field 3, the state
	if len(rest) <= startField || len(rest[0]) != 1 {
		return 0, 0, false
	}
	start, err = strconv.ParseUint(string(rest[startField]), 10, 64)
	return rest[0][0], start, err == nil
}
