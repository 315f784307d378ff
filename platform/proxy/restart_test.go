package proxy_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/internal/layout"
	"hostmanager/internal/steadystream"
	"hostmanager/platform/proxy"
)

// startProcess runs the proxy as a process of its own and waits until its socket answers.
func startProcess(t *testing.T, root layout.Root) (*exec.Cmd, proxy.State) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleRoot+"="+string(root))
	cmd.Stderr = os.Stderr
	return cmd, launch(t, cmd, root)
}

func launch(t *testing.T, cmd *exec.Cmd, root layout.Root) proxy.State {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	var st proxy.State
	eventually(t, "control socket answers", func() bool {
		var err error
		st, err = proxy.NewClient(root).State(testContext(t))
		return err == nil && st.PID == cmd.Process.Pid
	})
	return st
}

func kill(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

func TestRestart_Kill9ServesTheLastTargetAgain(t *testing.T) {
	root := layout.Root(t.TempDir())
	addrs := []string{startBackend(t, steadystream.Backend("a")), startBackend(t, steadystream.Backend("b"))}
	c := proxy.NewClient(root)
	for i := range 4 {
		cmd, st := startProcess(t, root)
		if st.Generation != uint64(i) {
			t.Fatalf("start %d: state %+v", i, st)
		}
		if i > 0 {
			if code, _ := get(t, "http://"+st.Listen[0]); code != 200 || st.Target.Addr != addrs[(i-1)%2] || st.Target.Deployment != int64(i) {
				t.Errorf("start %d: status %d, target %+v", i, code, st.Target)
			}
		}
		want := proxy.Target{Addr: addrs[i%2], ID: "id", Deployment: int64(i + 1), Serial: 7, VersionLabel: "v1", Checks: proxy.Checks{Path: "/", Interval: proxy.Duration(time.Second)}}
		if _, err := c.SetTarget(testContext(t), want, st.Generation); err != nil {
			t.Fatal(err)
		}
		kill(t, cmd)
		if _, err := c.State(testContext(t)); !errors.Is(err, proxy.ErrNotRunning) {
			t.Errorf("with nobody there: %v", err)
		}
	}
}

func TestClient_NobodyThere(t *testing.T) {
	if _, err := proxy.NewClient(layout.Root(t.TempDir())).State(testContext(t)); !errors.Is(err, proxy.ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}

func TestRestart_CorruptStateIsSetAside(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "half": `{"format":1,"generation":3,"target":{"ad`, "zeros": strings.Repeat("\x00", 300), "other format": `{"format":99,"generation":3}`,
		"bad target": `{"format":1,"generation":3,"target":{"addr":"nowhere","checks":{}}}`, "huge": strings.Repeat(" ", 70<<10),
	} {
		t.Run(name, func(t *testing.T) {
			root := layout.Root(t.TempDir())
			if err := os.MkdirAll(filepath.Dir(root.ProxyState()), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(root.ProxyState(), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			r := startProxy(t, proxy.Options{Root: root})
			st := r.state(t)
			if !strings.Contains(st.Notice, "was moved to") || st.Target != nil || st.Generation != 0 {
				t.Errorf("state %+v", st)
			}
			if code, _ := get(t, r.url()); code != 503 {
				t.Errorf("status %d", code)
			}
			aside, _ := filepath.Glob(root.ProxyState() + ".corrupt-*")
			if len(aside) != 1 {
				t.Fatalf("set aside: %v", aside)
			}
			if b, err := os.ReadFile(aside[0]); err != nil || string(b) != content {
				t.Errorf("evidence changed: %v", err)
			}
			r.to(t, startBackend(t, steadystream.Backend("a")))
			if code, _ := get(t, r.url()); code != 200 {
				t.Errorf("after a deployment: %d", code)
			}
		})
	}
}

func TestRun_RefusesASecondProxyOnTheRoot(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	err := proxy.New(proxy.Options{Root: r.root, Listen: "127.0.0.1:0"}).Run(testContext(t))
	if err == nil || !strings.Contains(err.Error(), "control socket") {
		t.Errorf("got %v", err)
	}
}

func TestSetTarget_DiskThatRefusesChangesNothing(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, "127.0.0.1:1001")
	dir := filepath.Dir(r.root.ProxyState())
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file where the folder must be
		t.Fatal(err)
	}
	if _, err := r.SetTarget(testContext(t), proxy.Target{Addr: "127.0.0.1:1002"}, 1); err == nil || errors.Is(err, proxy.ErrStale) {
		t.Errorf("got %v", err)
	}
	if st := r.state(t); st.Generation != 1 || st.Target.Addr != "127.0.0.1:1001" {
		t.Errorf("state %+v", st)
	}
}

func TestShutdown_LetsRequestsEnd(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	begun, release := make(chan struct{}), make(chan struct{})
	r.to(t, startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-release
		_, _ = io.WriteString(w, "whole")
	})))
	answer := make(chan string, 1)
	client := newClient(t)
	go func() {
		resp, err := client.Get(r.url())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			b = []byte(err.Error())
		}
		answer <- string(b)
	}()
	wait(t, "request", begun)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	eventually(t, "no new connections", func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(release)
	if got := wait(t, "answer", answer); got != "whole" {
		t.Errorf("got %q", got)
	}
	wait(t, "end", stopped)
}

func TestShutdown_AbortAndDeadlineCut(t *testing.T) {
	for _, name := range []string{"abort", "deadline"} {
		t.Run(name, func(t *testing.T) {
			o := proxy.Options{ShutdownTimeout: testTimeout}
			if name == "deadline" {
				o.ShutdownTimeout = 20 * time.Millisecond
			}
			r := startProxy(t, o)
			r.to(t, rawBackend(t, echoUpgrade))
			c := dialRaw(t, r.addr)
			c.send(t, upgradeRequest)
			c.head(t)
			if name == "abort" {
				r.p.Abort()
			}
			r.stop()
			if rest, _ := c.rest(t); strings.Contains(rest, "bye") {
				t.Errorf("not cut: %q", rest)
			}
		})
	}
}

// With a socket from systemd, connections made while no proxy runs wait in it and are served.
func TestActivation_SocketOutlivesTheProcess(t *testing.T) {
	root := layout.Root(t.TempDir())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	activated := func() *exec.Cmd {
		// LISTEN_PID must be the process's own id, which exec keeps.
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0])
		cmd.Env = append(os.Environ(), roleRoot+"="+string(root), "LISTEN_FDS=1")
		cmd.ExtraFiles = []*os.File{file}
		cmd.Stderr = os.Stderr
		launch(t, cmd, root)
		return cmd
	}
	first := activated()
	if _, err := proxy.NewClient(root).SetTarget(testContext(t), proxy.Target{Addr: startBackend(t, steadystream.Backend("a"))}, 0); err != nil {
		t.Fatal(err)
	}
	if code, _ := get(t, "http://"+l.Addr().String()); code != 200 {
		t.Errorf("status %d", code)
	}
	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		t.Errorf("SIGTERM: %v", err)
	}
	c := dialRaw(t, l.Addr().String())
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	activated()
	if h := c.head(t); !strings.HasPrefix(h, "HTTP/1.1 200 ") {
		t.Errorf("got %q", h)
	}
}
