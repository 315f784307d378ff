package docker_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/internal/layout"
	"hostmanager/platform/docker"
	"hostmanager/platform/proxy"
)

// valve is the real proxy behind the interface of this package, as the agent wires it.
type valve struct {
	url        string
	client     *proxy.Client
	swaps      atomic.Int64
	loseAnswer atomic.Bool // the next swap takes effect, and its answer is lost
}

var _ docker.Valve = (*valve)(nil)

func newValve(t *testing.T, root layout.Root) *valve {
	t.Helper()
	p := proxy.New(proxy.Options{Root: root, Listen: "127.0.0.1:0", NoAccessLog: true, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	select {
	case <-p.Ready():
	case err := <-ended:
		ended <- err
		t.Fatalf("proxy: %v", err)
	}
	return &valve{url: "http://" + p.Addrs()[0], client: proxy.NewClient(root)}
}

func (v *valve) State(ctx context.Context) (uint64, string, string, error) {
	s, err := v.client.State(ctx)
	if s.Target == nil {
		return s.Generation, "", "", err
	}
	return s.Generation, s.Target.Addr, s.Target.ID, err
}

func (v *valve) SetTarget(ctx context.Context, t docker.Target, expect uint64) (uint64, error) {
	target := proxy.Target{
		Addr: t.Addr, ID: t.ID, Deployment: t.DeploymentID, Serial: t.Serial, VersionLabel: t.VersionLabel,
		Checks: proxy.Checks{Path: t.Check.Path, Codes: t.Check.Codes.String()},
	}
	s, err := v.client.SetTarget(ctx, target, expect)
	v.swaps.Add(1)
	if err == nil && v.loseAnswer.CompareAndSwap(true, false) {
		return 0, errors.New("connection reset by peer")
	}
	return s.Generation, err
}

func (v *valve) Drain(ctx context.Context, addr string, timeout time.Duration) error {
	_, err := v.client.Drain(ctx, addr, timeout)
	return err
}

// addr is the address of the target now.
func (v *valve) addr(t *testing.T) string {
	t.Helper()
	_, addr, _, err := v.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return addr
}
