package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseMounts(t *testing.T) {
	tests := []struct {
		name, mountinfo, self string
		want                  []mount
	}{
		{
			"unified, under systemd", "31 23 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
			"0::/system.slice/hostmanager.service\n",
			[]mount{{unified: true, own: "/sys/fs/cgroup/system.slice/hostmanager.service"}},
		},
		{
			"hybrid", "40 39 0:33 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n41 39 0:34 / /sys/fs/cgroup/freezer rw shared:1 - cgroup cgroup rw,freezer\n" +
				"42 39 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n43 39 0:36 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n",
			"4:cpu,cpuacct:/a\n3:freezer:/\n1:name=systemd:/b\n0::/\n",
			[]mount{
				{controllers: []string{"cpu", "cpuacct"}, own: "/sys/fs/cgroup/cpu,cpuacct/a"},
				{controllers: []string{"freezer"}, own: "/sys/fs/cgroup/freezer", top: true},
				{unified: true, own: "/sys/fs/cgroup/unified", top: true},
				{controllers: []string{"name=systemd"}, own: "/sys/fs/cgroup/systemd/b"},
			},
		},
		{
			"in a container without a namespace", "41 39 0:34 /docker/abc /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer\n", "3:freezer:/docker/abc/deep\n",
			[]mount{{controllers: []string{"freezer"}, own: "/sys/fs/cgroup/freezer/deep"}},
		},
		{"its root is elsewhere", "41 39 0:34 /docker/abc /cg rw - cgroup cgroup rw,freezer\n", "3:freezer:/other\n", []mount{{controllers: []string{"freezer"}, own: "/cg"}}},
		{"above its namespace", "31 23 0:27 / /cg rw - cgroup2 cgroup2 rw\n", "0::/../x\n", []mount{{unified: true, own: "/cg"}}},
		{"a blank in the path", "31 23 0:27 / /my\\040groups rw - cgroup2 none rw\n", "0::/x\n", []mount{{unified: true, own: "/my groups/x"}}},
		{"read only", "31 23 0:27 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup2 rw\n", "0::/\n", nil},
		{"nonsense", "31 23\n - \n - cgroup2\n", ":::\n\n0", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, parseMounts(tt.mountinfo, tt.self), cmp.AllowUnexported(mount{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParseMounts(f *testing.F) {
	f.Add("31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/x\n")
	f.Add("41 39 0:34 /docker /cg\\040 rw - cgroup cgroup rw,freezer\n", "3:freezer:/docker/a\n")
	f.Fuzz(func(_ *testing.T, mountinfo, self string) { parseMounts(mountinfo, self) })
}

// The files of v2's limits. This machine's controllers may be those of v1, so the folder stands in for a group; the names are the kernel's documents'.
func TestLimit_WritesWhatTheKernelReads(t *testing.T) {
	for _, tt := range []struct {
		h     hierarchy
		files []string
		want  map[string]string
	}{
		{
			hierarchy{unified: true, limits: []string{"memory", "cpu", "pids"}},
			[]string{"memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max"},
			map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "memory.oom.group": "1", "cpu.max": "150000 100000", "pids.max": "40"},
		},
		{hierarchy{unified: true, limits: []string{"pids"}}, []string{"pids.max"}, map[string]string{"pids.max": "40"}},
		{hierarchy{unified: true, limits: []string{"memory"}}, []string{"memory.max"}, map[string]string{"memory.max": "67108864"}}, // a kernel without swap accounting
		{
			hierarchy{limits: []string{"cpu", "cpuacct"}},
			[]string{"cpu.cfs_quota_us", "cpu.cfs_period_us"},
			map[string]string{"cpu.cfs_quota_us": "150000", "cpu.cfs_period_us": "100000"},
		},
	} {
		dir := t.TempDir()
		for _, f := range tt.files {
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := tt.h.limit(root, Limits{Memory: 64 << 20, CPU: 1.5, PIDs: 40}); err != nil {
			t.Error(err)
		}
		got := map[string]string{}
		for _, f := range tt.files {
			b, err := os.ReadFile(filepath.Join(dir, f))
			if err != nil {
				t.Fatal(err)
			}
			got[f] = string(b)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Error(diff)
		}
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCounter(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"memory.events": "low 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 1\n", "pids.events": "max 5\n", "memory.peak": "1234\n", "bad": "oom_kill x\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[[2]string]int64{{"memory.events", "oom_kill"}: 3, {"pids.events", "max"}: 5, {"memory.peak", ""}: 1234, {"bad", "oom_kill"}: 0, {"none", "x"}: 0} {
		if got := counter(root, name[0], name[1]); got != want {
			t.Errorf("%v: %d, want %d", name, got, want)
		}
	}
}

// trees are those this machine offers, each also without the kernel's own way to kill a group: then freezing has to do.
func trees(t *testing.T) map[string]*Tree {
	t.Helper()
	all := map[string]*Tree{}
	for _, version := range []string{V1, V2} {
		for _, way := range []string{"", " by freezing"} {
			tree, err := Open(Options{Version: version, Name: fmt.Sprintf("test%d%s", os.Getpid(), strings.TrimSpace(strings.ReplaceAll(way, " ", "")))})
			if errors.Is(err, ErrUnusable) {
				t.Logf("not here: %v", err)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if way != "" {
				for _, h := range tree.places {
					h.kill = false
				}
			}
			t.Cleanup(func() {
				if err := tree.Close(); err != nil {
					t.Error(err)
				}
				for _, base := range tree.Bases() {
					if _, err := os.Stat(base); err == nil {
						t.Errorf("%s is still there", base)
					}
				}
			})
			all[version+way] = tree
		}
	}
	return all
}

func TestLeaf_KillEndsAllOfIt(t *testing.T) {
	for name, tree := range trees(t) {
		t.Run(name, func(t *testing.T) {
			leaf, err := tree.Leaf("one", Limits{})
			if err != nil {
				t.Fatal(err)
			}
			// Each forks on as long as it lives; the deaf parents of many children are what signals one by one can miss.
			cmd := exec.Command("/bin/sh", "-c", "read x; for i in 1 2 3 4; do setsid sh -c 'trap \"\" TERM; while :; do sleep 0.01; done' & done; wait")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if err := leaf.Join(cmd.Process.Pid); err != nil {
				t.Fatal(err)
			}
			if _, err := in.Write([]byte("go\n")); err != nil {
				t.Fatal(err)
			}
			deadline := time.Now().Add(10 * time.Second)
			for len(leaf.PIDs()) < 5 && time.Now().Before(deadline) {
				time.Sleep(5 * time.Millisecond)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := leaf.Kill(ctx); err != nil || len(leaf.PIDs()) > 0 {
				t.Errorf("%v, %v left", err, leaf.PIDs())
			}
			_ = cmd.Wait()
			if err := leaf.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTree_SweepLeavesWhatIsKept(t *testing.T) {
	for name, tree := range trees(t) {
		t.Run(name, func(t *testing.T) {
			start := func(leaf string, keep bool) *exec.Cmd {
				l, err := tree.Leaf(leaf, Limits{})
				if err != nil {
					t.Fatal(err)
				}
				defer l.Release()
				cmd := exec.Command("/bin/sleep", "300")
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if err := l.Join(cmd.Process.Pid); err != nil {
					t.Fatal(err)
				}
				if keep {
					if err := l.Keep(); err != nil {
						t.Fatal(err)
					}
				}
				return cmd
			}
			ends, lives := start("ends", false), start("lives", true)
			s, err := tree.Sweep(t.Context(), append(tree.Bases(), "/sys/fs/cgroup", "/", "/nowhere"))
			if err != nil || s.Kept != 1 || s.Removed != 1 || s.Ended != 1 {
				t.Errorf("%+v, %v", s, err)
			}
			_ = ends.Wait()
			if err := lives.Process.Signal(syscall.Signal(0)); err != nil {
				t.Errorf("what was kept is gone: %v", err)
			}
			_ = lives.Process.Kill()
			_ = lives.Wait()
			if s, err := tree.Sweep(t.Context(), nil); err != nil || s.Removed != 1 || s.Kept != 0 {
				t.Errorf("%+v, %v", s, err)
			}
		})
	}
}

// The base goes with its last leaf and is made anew with the next, beside others who ask what limits there are: a kernel that refuses then must fail
// the leaf, not take its limits away for good without a word.
func TestHierarchy_LimitsOutliveTheBase(t *testing.T) {
	parent, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	h := &hierarchy{unified: true, limits: []string{"memory", "pids"}, parent: parent, name: "base"}
	var wg sync.WaitGroup
	wg.Go(func() { h.has("pids") })
	dir, err := h.base() // there is no cgroup.subtree_control in it
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if !h.has("memory") || !h.has("pids") {
		t.Errorf("limits are %v", h.limits)
	}
	if err := h.limit(dir, Limits{Memory: 1 << 20}); err == nil {
		t.Error("a limit that cannot be written was passed over")
	}
}

// ownUnified is the process's own group of a unified hierarchy with all controllers, from which it can be moved; path begins at the hierarchy's root.
func ownUnified(t *testing.T) (dir, path string) {
	t.Helper()
	tree, err := Open(Options{Version: V2, Name: fmt.Sprintf("own%d", os.Getpid())})
	if errors.Is(err, ErrUnusable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	dir = filepath.Dir(tree.Bases()[0])
	if missing := tree.Missing(Limits{Memory: 1, CPU: 1, PIDs: 1}); len(missing) > 0 {
		t.Skipf("%s has no controllers for %v", dir, missing)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, path, _ = strings.Cut(strings.TrimSpace(string(self)), "0::")
	if filepath.Base(path) != agentGroup {
		t.Errorf("limits reach the leaves with this process in %s", path)
	}
	return dir, filepath.Dir(path)
}

// put writes to a group's file.
func put(t *testing.T, text string, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// limited checks that leaves of a tree get limits and take processes.
func limited(t *testing.T, tree *Tree) {
	t.Helper()
	leaf, err := tree.Leaf("limited", Limits{Memory: 64 << 20, CPU: 1.5, PIDs: 40})
	if err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"memory.max": "67108864", "memory.swap.max": "0", "memory.oom.group": "1", "cpu.max": "150000 100000", "pids.max": "40"} {
		b, err := os.ReadFile(filepath.Join(leaf.Path(), file))
		if errors.Is(err, os.ErrNotExist) && file == "memory.swap.max" { // a kernel without swap accounting
			continue
		}
		if got := strings.TrimSpace(string(b)); got != want {
			t.Errorf("%s is %q, %v, want %q", file, got, err, want)
		}
	}
	cmd := exec.Command("/bin/sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := leaf.Join(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	if err := leaf.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	_ = cmd.Process.Kill() // had it not joined
	_ = cmd.Wait()
	if err := leaf.Remove(); err != nil {
		t.Error(err)
	}
	if err := tree.Close(); err != nil {
		t.Error(err)
	}
}

// A group with this process in it takes cpu and pids, and then none below it takes a process: so an agent that died between two writes left it.
func TestOpen_MovesAwayAlsoWithControllersOn(t *testing.T) {
	dir, _ := ownUnified(t)
	put(t, "-memory -cpu -pids", dir, "cgroup.subtree_control")
	put(t, fmt.Sprint(os.Getpid()), dir, "cgroup.procs")
	put(t, "+cpu +pids", dir, "cgroup.subtree_control")
	tree, err := Open(Options{Version: V2, Name: fmt.Sprintf("half%d", os.Getpid())})
	if err != nil {
		t.Fatal(err)
	}
	limited(t, tree)
}

func TestOpen_LimitsReachAGivenGroup(t *testing.T) {
	dir, path := ownUnified(t)
	name := fmt.Sprintf("given%d", os.Getpid())
	for _, deep := range []string{"", "deep", "deep"} { // one that is there without controllers, one that is made, and again
		if deep == "" {
			if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		tree, err := Open(Options{Version: V2, Name: "x", Parent: filepath.Join(path, name, deep)})
		if err != nil {
			t.Fatal(err)
		}
		limited(t, tree)
	}
	for _, group := range []string{"deep", ""} {
		if err := os.Remove(filepath.Join(dir, name, group)); err != nil {
			t.Error(err)
		}
	}
}

func TestOpen_GivenGroupThatHoldsProcessesIsLeftAlone(t *testing.T) {
	dir, path := ownUnified(t)
	name := fmt.Sprintf("held%d", os.Getpid())
	group := filepath.Join(dir, name)
	_, leave := held(t, group)
	tree, err := Open(Options{Version: V2, Name: "x", Parent: filepath.Join(path, name)})
	if err != nil {
		t.Fatal(err)
	}
	if got, on := tree.Missing(Limits{Memory: 1, CPU: 1, PIDs: 1}), get(t, group, "cgroup.subtree_control"); len(got) != 3 || on != "" {
		t.Errorf("missing %v, on are %q", got, on)
	}
	if err := errors.Join(tree.Close(), leave()); err != nil {
		t.Error(err)
	}
}

// held makes a group with a process in it; leave ends and removes both.
func held(t *testing.T, group string) (pid int, leave func() error) {
	t.Helper()
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	put(t, fmt.Sprint(cmd.Process.Pid), group, "cgroup.procs")
	return cmd.Process.Pid, func() error {
		err := cmd.Process.Kill()
		_ = cmd.Wait() // killed, so not well
		return errors.Join(err, os.Remove(group))
	}
}

func TestExits_TakeWhereControllersAreOn(t *testing.T) {
	dir, _ := ownUnified(t)
	exits := OpenExits()
	group := filepath.Join(dir, fmt.Sprintf("cold%d", os.Getpid()))
	pid, leave := held(t, group)
	put(t, "1", group, "cgroup.freeze")
	exits.Take(pid)
	if got := get(t, fmt.Sprintf("/proc/%d/cgroup", pid)); !strings.HasSuffix(got, "/"+agentGroup) {
		t.Errorf("it is still in %s", got)
	}
	if err := errors.Join(exits.Close(), leave()); err != nil {
		t.Error(err)
	}
}
