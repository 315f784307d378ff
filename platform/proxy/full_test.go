package proxy_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hostmanager/internal/disktest"
	"hostmanager/internal/layout"
	"hostmanager/internal/steadystream"
	"hostmanager/platform/proxy"
)

// On a full disk requests go on, the target cannot be changed and stays what it was, and all that writes nothing works; with room again a swap does. A proxy
// that starts on the full disk serves what the last one did.
func TestProxy_OnAFullDisk(t *testing.T) {
	dir := disktest.Mount(t, disktest.Options{Bytes: 16 << 20})
	opts := proxy.Options{Root: layout.Root(filepath.Join(dir, "root"))}
	r := startProxy(t, opts)
	a, b := startBackend(t, steadystream.Backend("a")), startBackend(t, steadystream.Backend("b"))
	r.to(t, a)
	ballast := filepath.Join(dir, "ballast")
	disktest.Fill(t, ballast, 0)
	stream, err := steadystream.Start(t.Context(), steadystream.Options{URL: r.url(), Check: steadystream.CheckBackend})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Stop()
	before := r.state(t)
	for range 3 {
		if _, err := r.SetTarget(testContext(t), proxy.Target{Addr: b, ID: "b"}, before.Generation); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("swapped without room: %v", err)
		}
	}
	if s := r.state(t); s.Generation != before.Generation || s.Target == nil || s.Target.Addr != a {
		t.Errorf("state %+v, want %+v", s, before)
	}
	if _, err := r.Pause(testContext(t), testTimeout); err != nil {
		t.Errorf("pause: %v", err)
	}
	if _, err := r.Resume(testContext(t)); err != nil {
		t.Errorf("resume: %v", err)
	}
	if _, err := r.Drain(testContext(t), b, testTimeout); err != nil {
		t.Errorf("drain: %v", err)
	}
	mark := stream.Requests() // several flushes of the access log, which has no room either
	eventually(t, "requests", func() bool { return stream.Requests() > mark+3000 })
	if report := stream.Stop(); report.Failed != 0 || report.By["a"] == 0 || report.By["b"] != 0 {
		t.Errorf("report %v, %v", report, report.By)
	}
	r.stop()
	r = startProxy(t, opts)
	if answer, err := http.Get(r.url()); err != nil || answer.StatusCode != http.StatusOK {
		t.Errorf("started on the full disk: %+v, %v", answer, err)
	} else {
		_ = answer.Body.Close()
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	s, err := r.SetTarget(testContext(t), proxy.Target{Addr: b, ID: "b"}, before.Generation)
	if err != nil || s.Generation != before.Generation+1 {
		t.Errorf("with room again: %+v, %v", s, err)
	}
}
