// Package unixsock listens on and dials unix sockets at paths of any length. The kernel's address holds 107 bytes (unix(7)); a root folder
// deep in a tree is longer. Both ends reach the folder through /proc/self/fd, so only the socket's own name counts.
package unixsock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"hostmanager/internal/atomicfile"
)

// ErrInUse is returned by Listen when another process answers on the socket.
var ErrInUse = errors.New("another process listens on this socket")

// ErrNotSocket is returned by Listen when the path is taken by something that is no socket.
var ErrNotSocket = errors.New("path is taken by something that is not a socket")

// Listen makes the socket at path with mode 0600, in a folder of mode 0700 made when missing (those above it 0755). A socket that nobody listens on is replaced.
func Listen(path string) (net.Listener, error) {
	if err := atomicfile.MakeDir(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make folder of socket: %w", err)
	}
	if err := clear(path); err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("open folder of socket: %w", err)
	}
	// The listener must not unlink the short path at Close: the descriptor may be another file by then.
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", short(dir, path))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), dir.Close())
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict socket: %w", err), l.Close(), dir.Close())
	}
	made, err := os.Lstat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at own socket: %w", err), l.Close(), dir.Close())
	}
	return &listener{Listener: l, dir: dir, path: path, made: made}, nil
}

type listener struct {
	net.Listener
	dir  *os.File
	path string
	made fs.FileInfo
}

// Addr returns the path that was asked for, not the short way to it.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close removes the socket, unless another one stands in its place by now.
func (l *listener) Close() error {
	if err := l.Listener.Close(); err != nil {
		return err
	}
	err := l.dir.Close()
	if now, lerr := os.Lstat(l.path); lerr == nil && os.SameFile(now, l.made) {
		err = errors.Join(err, os.Remove(l.path))
	}
	return err
}

func clear(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at socket: %w", err)
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%w: %s; move it away", ErrNotSocket, path)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := Dial(ctx, path)
	if err == nil {
		_ = c.Close()
		return fmt.Errorf("%w: %s; stop it first", ErrInUse, path)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("probe old socket: %w", err)
	}
	return os.Remove(path)
}

// Dial connects to the socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("open folder of socket: %w", err)
	}
	defer dir.Close()
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", short(dir, path))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return c, nil
}

func short(dir *os.File, path string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
}
