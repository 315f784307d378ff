package environment_test

import (
	"errors"
	"sync"
	"testing"

	"hostmanager/environment"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

func opsKey() signing.Key { return signing.FromSeed([32]byte{'o', 'p', 's'}) }

func trusting(r *environment.Record, keys ...signing.Key) *environment.Record {
	var all []signature.Key
	for _, k := range keys {
		all = append(all, k.Public(""))
	}
	return r.Secured(nil, signature.NewKeys(all...))
}

func TestSecured_ManifestsAreBoundToEnvironmentAndName(t *testing.T) {
	b := newBucket()
	ops := open(t, b).Secured(opsKey(), signature.Keys{})
	name, digest, err := ops.PutManifest(t.Context(), manifest(1))
	if err != nil {
		t.Fatal(err)
	}
	reader := trusting(ops, opsKey())
	if _, _, err := reader.GetManifest(t.Context(), name, digest); err != nil {
		t.Fatalf("as it was signed: %v", err)
	}
	if _, _, err := trusting(ops, signing.FromSeed([32]byte{1})).GetManifest(t.Context(), name, digest); !errors.Is(err, signature.ErrUnknownKey) {
		t.Errorf("for those who trust another key: %v", err)
	}
	key := protocol.ManifestKey("e-test", name)
	other := protocol.ManifestKey("e-test", "manifest_other")
	b.set(other, b.body(key))
	if _, _, err := reader.GetManifest(t.Context(), "manifest_other", digest); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("under another name: %v", err)
	}
	b.set(protocol.SignaturesKey(other), b.body(protocol.SignaturesKey(key)))
	if _, _, err := reader.GetManifest(t.Context(), "manifest_other", digest); !errors.Is(err, signature.ErrBad) {
		t.Errorf("under another name, with its signature: %v", err)
	}
	elsewhere, err := environment.Open(b, "e-2", environment.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b.set(protocol.ManifestKey("e-2", name), b.body(key))
	b.set(protocol.SignaturesKey(protocol.ManifestKey("e-2", name)), b.body(protocol.SignaturesKey(key)))
	if _, _, err := trusting(elsewhere, opsKey()).GetManifest(t.Context(), name, digest); !errors.Is(err, signature.ErrBad) {
		t.Errorf("in another environment: %v", err)
	}
	b.set(protocol.SignaturesKey(key), "rubbish")
	if _, _, err := reader.GetManifest(t.Context(), name, digest); !errors.Is(err, signature.ErrUnsigned) {
		t.Errorf("with rubbish beside it: %v", err)
	}
}

// Whoever reads the desired state while it moves finds one that is signed: the signature is there first, and the last one stays.
func TestSecured_CurrentIsSignedAtEveryMoment(t *testing.T) {
	b := newBucket()
	ops := open(t, b).Secured(opsKey(), signature.NewKeys(opsKey().Public("")))
	move := func(serial int64) {
		t.Helper()
		if err := ops.MoveCurrent(t.Context(), protocol.Current{Manifest: "manifest_1", SHA256: "aa", Serial: serial}); err != nil {
			t.Fatal(err)
		}
	}
	move(1)
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		reader := trusting(ops, opsKey())
		readers.Go(func() {
			for last := int64(0); ; {
				c, err := reader.Current(t.Context())
				if err != nil || c.Serial < last {
					t.Errorf("after %d: %+v, %v", last, c, err)
					return
				}
				last = c.Serial
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	for serial := range int64(200) {
		move(serial + 2)
	}
	close(done)
	readers.Wait()
	if list, err := protocol.DecodeSignatures([]byte(b.body(protocol.SignaturesKey(protocol.CurrentKey("e-test"))))); err != nil || len(list) > 4 {
		t.Errorf("%d signatures are kept, %v", len(list), err)
	}
}

func TestSecured_ADesiredStateOfAStrangerIsNotBuiltOn(t *testing.T) {
	b := newBucket()
	ops := open(t, b).Secured(opsKey(), signature.NewKeys(opsKey().Public("")))
	eve := open(t, b).Secured(signing.FromSeed([32]byte{'e'}), signature.Keys{})
	c := protocol.Current{Manifest: "manifest_1", SHA256: "aa", Serial: 1}
	if err := eve.MoveCurrent(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	c.Serial = 2
	if err := ops.MoveCurrent(t.Context(), c); !errors.Is(err, signature.ErrUnknownKey) {
		t.Errorf("moved: %v", err)
	}
	if err := ops.JudgeCurrent(t.Context(), 5); !errors.Is(err, signature.ErrUnknownKey) {
		t.Errorf("judged: %v", err)
	}
	if _, _, err := ops.CurrentManifest(t.Context()); !errors.Is(err, signature.ErrUnknownKey) {
		t.Errorf("read: %v", err)
	}
}

func TestJudgeCurrent_OnlyTakesAccountOfMore(t *testing.T) {
	r := open(t, newBucket()).Secured(opsKey(), signature.NewKeys(opsKey().Public("")))
	if err := r.JudgeCurrent(t.Context(), 3); err != nil {
		t.Fatalf("with nothing deployed: %v", err)
	}
	if _, err := r.Current(t.Context()); !errors.Is(err, environment.ErrNoCurrent) {
		t.Errorf("judging made a desired state: %v", err)
	}
	c := protocol.Current{Manifest: "manifest_1", SHA256: "aa", Serial: 4}
	for _, step := range []struct {
		do   func() error
		asOf int64
	}{
		{func() error { return r.MoveCurrent(t.Context(), c) }, 4},
		{func() error { return r.JudgeCurrent(t.Context(), 3) }, 4},
		{func() error { return r.JudgeCurrent(t.Context(), 6) }, 6},
		{func() error { return r.JudgeCurrent(t.Context(), 5) }, 6},
		{func() error { return r.MoveCurrent(t.Context(), c) }, 6}, // it is there already
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Current(t.Context()); err != nil || got.AsOf() != step.asOf || got.Serial != 4 {
			t.Errorf("%+v, %v, want as of %d", got, err, step.asOf)
		}
	}
	c.Serial = 3
	if err := r.MoveCurrent(t.Context(), c); !errors.Is(err, environment.ErrStale) {
		t.Errorf("backwards: %v", err)
	}
	c.Serial = 7
	if err := r.MoveCurrent(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if got, err := r.Current(t.Context()); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
}

// body is what lies under a key.
func (b *bucket) body(key string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.objects[key].body)
}

// TestSecured_NamesTheKeyThatSignedLast: after a change of keys, whoever still has the old one is told which key is missing, and not that something was
// altered.
func TestSecured_NamesTheKeyThatSignedLast(t *testing.T) {
	b := newBucket()
	next := signing.FromSeed([32]byte{'n'})
	before := open(t, b).Secured(opsKey(), signature.NewKeys(opsKey().Public("")))
	after := open(t, b).Secured(next, signature.NewKeys(opsKey().Public(""), next.Public("")))
	for n, r := range []*environment.Record{before, after} {
		if err := r.MoveCurrent(t.Context(), protocol.Current{Manifest: "manifest_1", SHA256: "aa", Serial: int64(n + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := before.Current(t.Context()); !errors.Is(err, signature.ErrUnknownKey) {
		t.Errorf("got %v", err)
	}
}
