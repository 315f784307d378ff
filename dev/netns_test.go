package dev_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// wire is a network between this machine and a listener in a network namespace of its own, whose packets can be lost, swallowed and answered with
// resets. Nothing of the machine's own network is changed but one link, which goes with the namespace.
type wire struct {
	t        *testing.T
	name     string // of the namespace
	listener net.Listener
	port     string
}

// newWire makes the namespace, or skips the test, where it may, on a machine that cannot.
func newWire(t *testing.T) *wire {
	t.Helper()
	if os.Getuid() != 0 {
		lacking(t, "a network namespace needs root")
	}
	for _, tool := range []string{"ip", "iptables"} {
		if _, err := exec.LookPath(tool); err != nil {
			lacking(t, "a network namespace needs %s (iproute2, iptables): %v", tool, err)
		}
	}
	id := rand.IntN(1 << 14)
	w := &wire{t: t, name: fmt.Sprintf("hm-test-%d", id)}
	// 198.18.0.0/15 is for tests of networks; a /30 of it for each.
	subnet := 198<<24 | 18<<16 | id<<2
	address := func(n int) string {
		a := subnet + n
		return fmt.Sprintf("%d.%d.%d.%d", a>>24&255, a>>16&255, a>>8&255, a&255)
	}
	here, there := fmt.Sprintf("hmt%da", id), fmt.Sprintf("hmt%db", id)
	w.must("ip", "netns", "add", w.name)
	t.Cleanup(func() { w.must("ip", "netns", "del", w.name) })
	w.must("ip", "link", "add", here, "type", "veth", "peer", "name", there, "netns", w.name)
	w.must("ip", "addr", "add", address(1)+"/30", "dev", here)
	w.must("ip", "link", "set", here, "up")
	w.inside("ip", "addr", "add", address(2)+"/30", "dev", there)
	w.inside("ip", "link", "set", there, "up")
	w.inside("ip", "link", "set", "lo", "up")
	var err error
	if w.listener, err = w.listen(address(2) + ":0"); err != nil {
		t.Fatal(err)
	}
	if _, w.port, err = net.SplitHostPort(w.listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	return w
}

// lacking fails the test in CI and skips it elsewhere.
func lacking(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

func (w *wire) must(tool string, args ...string) {
	w.t.Helper()
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
}

func (w *wire) inside(args ...string) {
	w.t.Helper()
	w.must("ip", append([]string{"netns", "exec", w.name}, args...)...)
}

// listen opens a listener of the namespace. A socket stays where it was made, and so do the connections it accepts.
func (w *wire) listen(addr string) (l net.Listener, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine, wherever it is
		var ns *os.File
		if ns, err = os.Open(filepath.Join("/run/netns", w.name)); err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			l, err = net.Listen("tcp", addr)
		}
	}()
	<-done
	return l, err
}

// A weather is what happens to packets, as iptables has it.
type weather [][]string

func (w *wire) rule(direction string, rest ...string) []string {
	port := "--dport"
	if direction == "OUTPUT" {
		port = "--sport"
	}
	return append([]string{"iptables", "-A", direction, "-p", "tcp", port, w.port}, rest...)
}

// loss loses packets of both directions with a probability.
func (w *wire) loss(p string) weather {
	lose := []string{"-m", "statistic", "--mode", "random", "--probability", p, "-j", "DROP"}
	return weather{w.rule("INPUT", lose...), w.rule("OUTPUT", lose...)}
}

// swallowed loses all packets: nothing is answered, nothing refused.
func (w *wire) swallowed() weather {
	return weather{w.rule("INPUT", "-j", "DROP"), w.rule("OUTPUT", "-j", "DROP")}
}

// resets answers packets of connections under way with a reset, with a probability: in the middle of whatever they carry.
func (w *wire) resets(p string) weather {
	return weather{w.rule("INPUT", "--tcp-flags", "SYN,ACK,RST", "ACK", "-m", "statistic", "--mode", "random", "--probability", p,
		"-j", "REJECT", "--reject-with", "tcp-reset")}
}

// set makes the weather what it is from now on.
func (w *wire) set(now weather) {
	w.t.Helper()
	w.inside("iptables", "-F")
	for _, rule := range now {
		w.inside(rule...)
	}
}
