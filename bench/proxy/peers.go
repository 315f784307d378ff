package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
)

// errAbsent: this peer is not on the machine.
var errAbsent = errors.New("not installed")

const nginxConf = `daemon off;
worker_processes auto;
pid %[1]s/nginx.pid;
error_log %[1]s/error.log;
events { worker_connections 1024; }
http {
  access_log %[1]s/access.log combined buffer=32k flush=1s;
  client_body_temp_path %[1]s/body; proxy_temp_path %[1]s/proxy; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
  upstream app { server %[2]s; keepalive 256; }
  server {
    listen %[3]s;
    location / {
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
      proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    }
  }
}
`

func startNginx(ctx context.Context, target, dir string) (candidate, error) {
	bin, err := exec.LookPath("nginx")
	if err != nil {
		return candidate{}, errAbsent
	}
	home := filepath.Join(dir, "nginx")
	addr, err := freeAddr()
	if err == nil {
		err = os.MkdirAll(home, 0o755)
	}
	conf := filepath.Join(home, "nginx.conf")
	if err == nil {
		err = os.WriteFile(conf, fmt.Appendf(nil, nginxConf, home, target, addr), 0o600)
	}
	if err != nil {
		return candidate{}, err
	}
	return startPeer(ctx, "nginx", addr, exec.CommandContext(ctx, bin, "-c", conf, "-p", home))
}

func startKamal(ctx context.Context, target, dir string) (candidate, error) {
	bin := os.Getenv("KAMAL_PROXY")
	if bin == "" {
		return candidate{}, errAbsent
	}
	home := filepath.Join(dir, "kamal")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return candidate{}, err
	}
	addr, err := freeAddr()
	if err != nil {
		return candidate{}, err
	}
	tls, err := freeAddr()
	if err != nil {
		return candidate{}, err
	}
	_, port, _ := net.SplitHostPort(addr)
	_, tlsPort, _ := net.SplitHostPort(tls)
	env := append(os.Environ(), "XDG_CONFIG_HOME="+home, "XDG_RUNTIME_DIR="+home, "HOME="+home)
	serve := exec.CommandContext(ctx, bin, "run", "--http-port", port, "--https-port", tlsPort)
	serve.Env = env
	c, err := startPeerWith(ctx, "kamal-proxy", addr, serve, func() error {
		deploy := exec.CommandContext(ctx, bin, "deploy", "app", "--target", target, "--health-check-path", "/")
		deploy.Env = env
		out, err := deploy.CombinedOutput()
		if err != nil {
			return fmt.Errorf("kamal-proxy deploy: %w: %s", err, out)
		}
		return nil
	})
	return c, err
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func startPeer(ctx context.Context, name, addr string, cmd *exec.Cmd) (candidate, error) {
	return startPeerWith(ctx, name, addr, cmd, func() error { return nil })
}

func startPeerWith(ctx context.Context, name, addr string, cmd *exec.Cmd, then func() error) (candidate, error) {
	if err := cmd.Start(); err != nil {
		return candidate{}, err
	}
	stop := func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
	}
	err := waitListening(ctx, addr)
	if err == nil {
		err = then()
	}
	if err == nil {
		err = waitServing(ctx, addr)
	}
	if err != nil {
		stop()
		return candidate{}, fmt.Errorf("start %s: %w", name, err)
	}
	return candidate{name: name, addr: addr, pid: cmd.Process.Pid, stop: stop}, nil
}
