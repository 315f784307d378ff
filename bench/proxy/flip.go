package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"hostmanager/internal/layout"
	"hostmanager/internal/steadystream"
	"hostmanager/platform/proxy"
)

// flipper points a proxy at a backend. It reports the requests in flight on the old one at the swap, or -1 where the proxy does not tell.
type flipper interface {
	flip(ctx context.Context, addr string) (inFlight int, err error)
}

// flip drives a steady stream through each proxy while it is flipped between two backends.
func flip(ctx context.Context, s settings, dir string) error {
	var addrs [2]string
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		addrs[i] = l.Addr().String()
		srv := &http.Server{Handler: steadystream.Backend(fmt.Sprint("backend-", i))}
		defer srv.Close()
		go func() { _ = srv.Serve(l) }()
	}
	c, err := child(ctx, "valve", addrs[0], filepath.Join(dir, "flip"))
	if err != nil {
		return err
	}
	defer c.stop()
	f := valveFlipper{proxy.NewClient(layout.Root(filepath.Join(dir, "flip")))}
	if err := flipOne(ctx, s, "valve", c.addr, addrs, f); err != nil {
		return err
	}
	k, err := startKamal(ctx, addrs[0], filepath.Join(dir, "flip-kamal"))
	if errors.Is(err, errAbsent) {
		return nil
	}
	if err != nil {
		return err
	}
	defer k.stop()
	return flipOne(ctx, s, "kamal-proxy", k.addr, addrs, kamalFlipper{filepath.Join(dir, "flip-kamal", "kamal")})
}

func flipOne(ctx context.Context, s settings, name, addr string, backends [2]string, f flipper) error {
	stream, err := steadystream.Start(ctx, steadystream.Options{URL: "http://" + addr + "/", Concurrency: s.concurrency, Check: steadystream.CheckBackend})
	if err != nil {
		return err
	}
	defer stream.Stop()
	var inFlight []int
	for i := range s.flips {
		n, err := f.flip(ctx, backends[(i+1)%2])
		if err != nil {
			return fmt.Errorf("flip %d: %w", i, err)
		}
		inFlight = append(inFlight, n)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	r := stream.Stop()
	slices.Sort(inFlight)
	fmt.Printf("flip, %s: %d swaps at concurrency %d: %v\n", name, s.flips, s.concurrency, r)
	if inFlight[len(inFlight)-1] >= 0 {
		fmt.Printf("  in flight at the swaps: min %d, median %d, max %d; answers %v\n", inFlight[0], inFlight[len(inFlight)/2], inFlight[len(inFlight)-1], r.By)
	}
	return nil
}

type valveFlipper struct{ c *proxy.Client }

// flip swaps and drains, as a deployment does.
func (v valveFlipper) flip(ctx context.Context, addr string) (int, error) {
	st, err := v.c.State(ctx)
	if err != nil {
		return 0, err
	}
	s, err := v.c.SetTarget(ctx, proxy.Target{Addr: addr, Checks: proxy.Checks{Disabled: true}}, st.Generation)
	if err != nil {
		return 0, err
	}
	d, err := v.c.Drain(ctx, s.Previous.Addr, 10*time.Second)
	if err == nil && d.Cancelled > 0 {
		err = fmt.Errorf("drain cut %d requests", d.Cancelled)
	}
	return s.InFlight, err
}

type kamalFlipper struct{ home string }

func (k kamalFlipper) flip(ctx context.Context, addr string) (int, error) {
	deploy := exec.CommandContext(ctx, os.Getenv("KAMAL_PROXY"), "deploy", "app", "--target", addr, "--health-check-path", "/")
	deploy.Env = append(os.Environ(), "XDG_CONFIG_HOME="+k.home, "XDG_RUNTIME_DIR="+k.home, "HOME="+k.home)
	out, err := deploy.CombinedOutput()
	if err != nil {
		return -1, fmt.Errorf("kamal-proxy deploy: %w: %s", err, out)
	}
	return -1, nil
}
