package agent_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"hostmanager/agent"
	"hostmanager/internal/disk"
	"hostmanager/internal/disktest"
	"hostmanager/internal/layout"
	"hostmanager/protocol"
)

// onDisk puts the instance's root on a small disk of its own, whose free room a test can take away.
func (w *world) onDisk(o disktest.Options) {
	w.t.Helper()
	w.root = layout.Root(disktest.Mount(w.t, o))
}

func smallReserve(s *agentSetup) {
	s.Config.DiskReserve, s.LookEvery = 2<<20, 100*time.Millisecond
}

// reserved waits until the agent keeps room back.
func (w *world) reserved() {
	w.t.Helper()
	r := disk.NewReserve(w.root.DiskReserve(), 2<<20)
	eventually(w.t, "the reserve", r.Held)
}

func (w *world) ballast() string { return w.root.Join("ballast") }

// fill takes the room away but for so many bytes.
func (w *world) fill(left int64) { disktest.Fill(w.t, w.ballast(), left) }

func (w *world) free() {
	w.t.Helper()
	must(w.t, os.RemoveAll(w.ballast()))
	must(w.t, os.RemoveAll(w.ballast()+".d"))
}

// listing is every path below the root with its size, but for logs, journal, events and what a running agent holds.
func (w *world) listing() []string {
	w.t.Helper()
	var all []string
	must(w.t, filepath.WalkDir(string(w.root), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(string(w.root), path)
		for _, skip := range []string{"var/log", "run", "var/lib/hostmanager/agent/journal", "var/lib/hostmanager/agent/events", "var/lib/hostmanager/agent/reserve", "ballast"} {
			if strings.HasPrefix(rel, skip) {
				return nil
			}
		}
		info, err := d.Info()
		if err == nil {
			all = append(all, fmt.Sprint(rel, " ", info.Mode(), " ", info.Size()))
		}
		return err
	}))
	return all
}

func (w *world) deployNamed(label string, files map[string]string) received {
	w.t.Helper()
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version(label, nil, files), invocation: "inv-" + label})
	return w.one()
}

func wantStatus(t *testing.T, r received, want protocol.Status) {
	t.Helper()
	if r.inner == nil || r.inner.Status != want {
		t.Fatalf("result %+v: %+v, want %s", r.Result, r.inner, want)
	}
}

// wantRefusedForRoom checks a refusal that comes before anything else.
func wantRefusedForRoom(t *testing.T, r received, says string) {
	t.Helper()
	wantStatus(t, r, protocol.Failure)
	e := r.entry()
	if e.Cause != protocol.CauseNoRoom || !regexp.MustCompile(says).MatchString(e.Msg) {
		t.Errorf("cause %q, message %q, want %q", e.Cause, e.Msg, says)
	}
}

func TestDeploy_IsRefusedWithWhatIsMissingBeforeAnyChange(t *testing.T) {
	for name, c := range map[string]struct {
		options disktest.Options
		fill    func(w *world)
		says    string
	}{
		"bytes at 95 %": {
			disktest.Options{Bytes: 128 << 20},
			func(w *world) { w.fill(128 << 20 / 20) },
			`version v2 is not deployed, nothing was changed: no room on \S+: needs [\d.,]+ MB more there; has [\d.,]+ MB and [\d,]+ inodes of the [\d.,]+ MB and [\d,]+ inodes that are needed \(source bundle .*, logs and state .*, tree .*\); free some room and deploy again`,
		},
		"inodes at 99 %": {
			disktest.Options{Bytes: 128 << 20, Inodes: 4096},
			func(w *world) { disktest.FillInodes(w.t, w.ballast()+".d", 4096/100) },
			`no room on \S+: needs [\d,]+ inodes more there; has [\d.,]+ MB and \d+ inodes of the`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.onDisk(c.options)
			w.start(smallReserve)
			wantStatus(t, w.deployNamed("v1", nil), protocol.Success)
			w.reserved()
			served := w.serving()
			c.fill(w)
			before := w.listing()
			files := map[string]string{"Dockerfile": "FROM scratch\n"}
			for n := range 40 {
				files[fmt.Sprint("f", n)] = "x"
			}
			wantRefusedForRoom(t, w.deployNamed("v2", files), c.says)
			if after := w.listing(); !slices.Equal(after, before) {
				t.Errorf("the refusal changed\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
			if steps := w.journalled(w.identityOf("v2")).Steps; len(steps) > 0 {
				t.Errorf("steps were begun: %+v", steps)
			}
			if w.serving() != served {
				t.Error("another version serves")
			}
			w.free()
			wantStatus(t, w.deployNamed("v3", files), protocol.Success)
		})
	}
}

func (w *world) identityOf(label string) string {
	w.t.Helper()
	return w.command(order{name: protocol.CmdAppDeploy, invocation: "inv-" + label}).Identity()
}

// The reserve is there when a deployment begins, also one that does not wait for the next look at the disks.
func TestDeploy_BeginsWithTheReserve(t *testing.T) {
	w := newWorld(t)
	w.onDisk(disktest.Options{Bytes: 128 << 20})
	w.start(smallReserve, func(s *agentSetup) { s.LookEvery = time.Hour })
	w.hook("appdeploy/pre/00held", fmt.Sprintf("[ -e %s/blocks ]", w.root.DiskReserve()))
	wantStatus(t, w.deployNamed("v1", nil), protocol.Success)
}

// A hook of the deployment takes every block. What was done is undone, the result says why, and a restart still works; with room again all is well.
func TestDeploy_OnADiskThatFillsUpUnderWayIsUndoneAndSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.onDisk(disktest.Options{Bytes: 128 << 20})
	w.start(smallReserve)
	wantStatus(t, w.deployNamed("v1", nil), protocol.Success)
	w.reserved()
	served := w.serving()
	w.hook("appdeploy/enact/00fill", fmt.Sprintf(`[ -e %[1]s.not ] || for bs in 1M 64k 4k 512; do dd if=/dev/zero bs=$bs oflag=append conv=notrunc of=%[1]s 2>/dev/null; done; true`, w.ballast()))
	r := w.deployNamed("v2", nil)
	wantRefusedForRoom(t, r, `the disk is full \(\S+ has .* left, at least [\d.,]+ MB more are needed; free some room and try again\)`)
	if w.serving() != served {
		t.Errorf("serial %d serves, want %d", w.serving(), served)
	}
	w.send(order{name: protocol.CmdRestartAppServer, invocation: "inv-restart"})
	wantStatus(t, w.one(), protocol.Success)
	if status, err := agent.AskStatus(context.Background(), w.root); err != nil || status.Room == nil || !status.Room.Disks[0].Short || status.Room.Reserve != 0 {
		t.Errorf("status %+v, %v", status.Room, err)
	}
	must(t, os.WriteFile(w.ballast()+".not", nil, 0o600))
	must(t, os.Remove(w.ballast()))
	wantStatus(t, w.deployNamed("v3", nil), protocol.Success)
	w.reserved()
}

// With the reserve, commands that bring no bundle work though every block is taken, also those that come to an agent that starts then.
func TestRestart_WorksWithNoBlockFree(t *testing.T) {
	w := newWorld(t)
	w.onDisk(disktest.Options{Bytes: 128 << 20})
	first := w.start(smallReserve)
	wantStatus(t, w.deployNamed("v1", nil), protocol.Success)
	w.reserved()
	w.fill(0)
	w.send(order{name: protocol.CmdRestartAppServer, invocation: "inv-restart"})
	wantStatus(t, w.one(), protocol.Success)
	w.free()
	w.reserved()
	must(t, first.stop())
	w.fill(0)
	w.start(smallReserve)
	w.send(order{name: protocol.CmdRestartAppServer, invocation: "inv-again"})
	wantStatus(t, w.one(), protocol.Success)
}

// With the reserve gone too, a command stays in its queue and is taken when there is room; that is said once, and nothing that serves is touched.
func TestCommand_WaitsInItsQueueWhileTheJournalHasNoRoom(t *testing.T) {
	w := newWorld(t)
	w.onDisk(disktest.Options{Bytes: 128 << 20})
	_, err := w.queue.Create(t.Context(), "hostmanager-brief", map[string]string{"VisibilityTimeout": "1"})
	must(t, err)
	url, err := w.queue.URL(t.Context(), "hostmanager-brief")
	must(t, err)
	setup := func(s *agentSetup) {
		s.Config.DiskReserve, s.Config.CommandQueueURL, s.LookEvery = 0, url, 100*time.Millisecond
	}
	r := w.start(setup)
	c := w.command(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), invocation: "inv-v1"})
	send := func(c protocol.Command) {
		t.Helper()
		body, err := c.Encode()
		must(t, err)
		must(t, w.queue.Send(t.Context(), url, string(body)))
	}
	send(c)
	wantStatus(t, w.one(), protocol.Success)
	must(t, r.stop())
	st, err := os.Stat(w.root.Journal())
	must(t, err)
	must(t, os.Truncate(w.root.Journal(), st.Size())) // gives back what it kept ahead
	w.fill(0)
	w.start(setup)
	served := w.serving()
	again := w.command(order{name: protocol.CmdRestartAppServer, invocation: "inv-restart", execution: strings.Repeat("x", 100<<10)})
	send(again)
	eventually(t, "the message comes again and again", func() bool {
		status, err := agent.AskStatus(context.Background(), w.root)
		return err == nil && status.Room != nil && status.Room.LogsLost > 20
	})
	if c := w.journalled(again.Identity()); c.Identity != "" || w.serving() != served {
		t.Errorf("taken without room: %+v", c)
	}
	w.free()
	wantStatus(t, w.one(), protocol.Success)
	eventually(t, "it is said that commands are taken again", func() bool { return strings.Contains(w.events(), "Commands are taken again") })
	if events := w.events(); strings.Count(events, "Commands are taken again") != 1 || !strings.Contains(events, "lines of log could not be written") {
		t.Errorf("events\n%s", events)
	}
}
