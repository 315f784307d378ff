package record_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/environment"
	"hostmanager/environment/locktest"
	"hostmanager/fleet/record"
	"hostmanager/protocol"
)

func open(t *testing.T) (*environment.Record, *localaws.Server) {
	t.Helper()
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	server, err := localaws.New(localaws.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	client, err := objects.New(t.Context(), objects.Options{Region: "us-east-1", Endpoint: server.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.CreateBucket(t.Context(), "bucket"); err != nil {
		t.Fatal(err)
	}
	r, err := record.Open(client, "bucket", "e-test")
	if err != nil {
		t.Fatal(err)
	}
	return r, server
}

func TestNextSerial_FiftyAtOnceGetFiftyNumbers(t *testing.T) {
	r, _ := open(t)
	var mu sync.Mutex
	var got []int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			s, err := r.NextSerial(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			got = append(got, s.Serial)
		})
	}
	wg.Wait()
	slices.Sort(got)
	if len(slices.Compact(got)) != 50 {
		t.Errorf("got %v", got)
	}
	if last, err := r.LastSerial(t.Context()); err != nil || last.Serial != 50 || last.DeploymentID != 50 {
		t.Errorf("the counter is %+v, %v", last, err)
	}
}

func TestLock_HasOneHolderOverTheWire(t *testing.T) {
	r, _ := open(t)
	locktest.OneHolder(t, r, 20)
}

// TestLock_OutlivesLostAnswers cuts the answers of writes that were carried out: the holder knows its own writes again.
func TestLock_OutlivesLostAnswers(t *testing.T) {
	r, server := open(t)
	h, err := r.Lock(t.Context(), environment.LockRequest{Holder: "anna", TTL: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var puts atomic.Int64
	enough := make(chan struct{})
	remove, err := server.Inject(localaws.Fault{Op: "S3.PutObject", HangUp: localaws.HangUpResponse, When: func(localaws.Call) bool {
		n := puts.Add(1)
		if n == 4 { // two heartbeats that were cut off, and two after them
			close(enough)
		}
		return n <= 2
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer remove()
	select {
	case <-enough:
	case <-h.Context().Done():
	}
	if err := context.Cause(h.Context()); err != nil {
		t.Errorf("the lock was lost: %v", err)
	}
	if err := h.Unlock(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRecord_ReadsBackWhatItWrote(t *testing.T) {
	r, _ := open(t)
	if _, err := r.Current(t.Context()); !errors.Is(err, environment.ErrNoCurrent) {
		t.Errorf("current of an empty environment: %v", err)
	}
	serial, err := r.NextSerial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := protocol.Manifest{
		RuntimeSources: map[string]map[string]protocol.RuntimeSource{"app": {"v1": {Bucket: "b", Key: "k", SHA256: strings.Repeat("a", 64), Size: 1}}},
		VersionLabel:   "v1", DeploymentID: serial.DeploymentID, Serial: serial.Serial,
	}
	name, digest, err := r.PutManifest(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.MoveCurrent(t.Context(), protocol.Current{Manifest: name, SHA256: digest, Serial: serial.Serial}); err != nil {
		t.Fatal(err)
	}
	if err := r.MoveCurrent(t.Context(), protocol.Current{Manifest: name, SHA256: digest, Serial: 0}); !errors.Is(err, environment.ErrStale) {
		t.Errorf("moved back: %v", err)
	}
	if c, got, err := r.CurrentManifest(t.Context()); err != nil || c.Manifest != name || got.VersionLabel != "v1" {
		t.Errorf("current %+v, %+v, %v", c, got, err)
	}
	if err := r.Register(t.Context(), environment.Instance{InstanceID: "i-1", Queue: "q", State: "ready"}); err != nil {
		t.Fatal(err)
	}
	good, bad, err := r.Instances(t.Context())
	if err != nil || len(good) != 1 || len(bad) != 0 || good[0].State != "ready" {
		t.Errorf("instances %+v, %+v, %v", good, bad, err)
	}
	if _, err := r.Forget(t.Context(), "i-1", true); err != nil {
		t.Error(err)
	}
	if good, _, err := r.Instances(t.Context()); err != nil || len(good) != 0 {
		t.Errorf("instances %+v, %v after the only one was forgotten", good, err)
	}
}
