package dockertest

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/client"
)

// Cut is a way to the Engine that can be cut: an outage of the Engine for one client, while it goes on for all others. Its methods are safe for
// concurrent use.
type Cut struct {
	engine string
	path   string

	mu       sync.Mutex
	listener net.Listener
	conns    map[net.Conn]struct{}
	hanging  bool
	wg       sync.WaitGroup
}

// NewCut returns a way that is whole; it ends with the test.
func NewCut(t testing.TB) *Cut {
	t.Helper()
	c := &Cut{engine: strings.TrimPrefix(client.DefaultDockerHost, "unix://"), path: filepath.Join(t.TempDir(), "engine.sock"), conns: map[net.Conn]struct{}{}}
	if err := c.Mend(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Gone(); c.wg.Wait() })
	return c
}

// Host is what to give to a client in place of DOCKER_HOST.
func (c *Cut) Host() string { return "unix://" + c.path }

// Mend makes the way whole: whoever connects from now on reaches the Engine.
func (c *Cut) Mend() error {
	c.end()
	l, err := net.Listen("unix", c.path)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listener, c.hanging = l, false
	c.wg.Go(func() { c.accept(l) })
	return nil
}

// Gone ends every connection and takes the socket away, as an Engine that was stopped does.
func (c *Cut) Gone() { c.end() }

// Hang ends every connection and takes new ones without ever answering.
func (c *Cut) Hang() error {
	if err := c.Mend(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hanging = true
	return nil
}

func (c *Cut) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listener != nil {
		_ = c.listener.Close() // which removes the socket
		c.listener = nil
	}
	for conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *Cut) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		c.wg.Go(func() { c.serve(conn) })
	}
}

func (c *Cut) serve(conn net.Conn) {
	if !c.keep(conn) {
		return
	}
	defer c.drop(conn)
	c.mu.Lock()
	hanging := c.hanging
	c.mu.Unlock()
	if hanging {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	engine, err := net.Dial("unix", c.engine)
	if err != nil || !c.keep(engine) {
		return
	}
	defer c.drop(engine)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{engine, conn}, {conn, engine}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			if half, ok := way[0].(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite()
			}
		})
	}
	both.Wait()
}

// keep remembers a connection that is to end with the way, unless that is cut already.
func (c *Cut) keep(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.listener == nil {
		_ = conn.Close()
		return false
	}
	c.conns[conn] = struct{}{}
	return true
}

func (c *Cut) drop(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, conn)
	_ = conn.Close()
}
