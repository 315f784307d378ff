package unixsock_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/internal/unixsock"
)

// deep is a path no socket address holds.
func deep(t *testing.T) string {
	return filepath.Join(t.TempDir(), strings.Repeat("deep/", 40), "control.sock")
}

func TestListen_ServesAtAnyDepth(t *testing.T) {
	path := deep(t)
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Addr().String() != path || l.Addr().Network() != "unix" {
		t.Errorf("address %s", l.Addr())
	}
	st, err := os.Stat(path)
	dir, derr := os.Stat(filepath.Dir(path))
	if err != nil || derr != nil || st.Mode().Perm() != 0o600 || dir.Mode().Perm() != 0o700 {
		t.Errorf("socket %v, folder %v, %v, %v", st.Mode(), dir.Mode(), err, derr)
	}
	if above, err := os.Stat(filepath.Dir(filepath.Dir(path))); err != nil || above.Mode().Perm() != 0o755 {
		t.Errorf("folder above: %v, %v", above.Mode(), err) // others' files lie below it as well
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return unixsock.Dial(ctx, path) },
	}}
	resp, err := client.Get("http://agent/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "hello" {
		t.Errorf("%q, %v", body, err)
	}
}

func TestListen_RefusesWhatIsTaken(t *testing.T) {
	path := deep(t)
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unixsock.Listen(path); !errors.Is(err, unixsock.ErrInUse) {
		t.Errorf("second listener: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket stays: %v", err)
	}
	for name, make := range map[string]func() error{
		"file":   func() error { return os.WriteFile(path, []byte("keep me"), 0o600) },
		"folder": func() error { return os.Mkdir(path, 0o700) },
		"link":   func() error { return os.Symlink("/dev/null", path) },
		"fifo":   func() error { return syscall.Mkfifo(path, 0o600) },
	} {
		if err := make(); err != nil {
			t.Fatal(err)
		}
		if _, err := unixsock.Listen(path); !errors.Is(err, unixsock.ErrNotSocket) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Errorf("%s is gone: %v", name, err)
		}
	}
}

func TestListen_ReplacesASocketNobodyServes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := unixsock.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestClose_LeavesASuccessorAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	first, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil { // by an operator, say
		t.Fatal(err)
	}
	second, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	c, err := unixsock.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	if err := first.Close(); err == nil {
		t.Error("closed twice without an error")
	}
}

func TestClose_EndsAccept(t *testing.T) {
	l, err := unixsock.Listen(deep(t))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := l.Accept()
		ended <- err
	}()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestDial_ErrorsNameThePath(t *testing.T) {
	path := deep(t)
	if _, err := unixsock.Dial(t.Context(), path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "control.sock") && !strings.Contains(err.Error(), filepath.Dir(path)) {
		t.Errorf("no folder: %v", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := unixsock.Dial(t.Context(), path); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("no socket: %v", err)
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	l, err := unixsock.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := unixsock.Dial(ctx, path); err == nil {
		t.Error("dialled after the deadline")
	}
}
