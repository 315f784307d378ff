package environment_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hostmanager/environment"
	"hostmanager/protocol"
)

func TestOpen_RefusesIDThatCannotStandInKeys(t *testing.T) {
	for _, id := range []string{"", "a/b", "../x", strings.Repeat("x", 65), "e\x00"} {
		if _, err := environment.Open(newBucket(), id, environment.Options{}); err == nil {
			t.Errorf("Open(%q) was accepted", id)
		}
	}
}

func TestPutManifest_NeverOverwrites(t *testing.T) {
	at := time.UnixMilli(1_500_000_000_000)
	b := newBucket()
	r := openAt(t, b, func() time.Time { return at })
	names := map[string]bool{}
	for serial := range int64(5) {
		name, digest, err := r.PutManifest(t.Context(), manifest(serial+1))
		if err != nil {
			t.Fatal(err)
		}
		names[name] = true
		got, data, err := r.GetManifest(t.Context(), name, digest)
		if err != nil || got.Serial != serial+1 || protocol.Digest(data) != digest {
			t.Errorf("read back %+v, %v", got, err)
		}
	}
	if len(names) != 5 || !names["manifest_1500000000000"] {
		t.Errorf("five manifests of one millisecond got the names %v", names)
	}
}

func TestGetManifest_RefusesWhatIsNotTheManifest(t *testing.T) {
	b := newBucket()
	r := open(t, b)
	name, digest, err := r.PutManifest(t.Context(), manifest(1))
	if err != nil {
		t.Fatal(err)
	}
	b.set(protocol.ManifestKey("e-test", "manifest_bad"), "{")
	for _, c := range []struct {
		name, digest string
		want         error
	}{
		{name, strings.Repeat("0", 64), environment.ErrDigest},
		{"manifest_bad", "", protocol.ErrBadManifest},
		{"manifest_none", digest, environment.ErrNotFound},
	} {
		if _, _, err := r.GetManifest(t.Context(), c.name, c.digest); !errors.Is(err, c.want) {
			t.Errorf("GetManifest(%s): %v, want %v", c.name, err, c.want)
		}
	}
	if _, _, err := r.GetManifest(t.Context(), "../../etc/passwd", ""); err == nil {
		t.Error("a name with a path was accepted")
	}
}

// TestCurrent_Model: against any row of moves the desired state is that of the highest serial moved to, and never goes back.
func TestCurrent_Model(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := open(t, newBucket())
		var model protocol.Current
		rt.Repeat(map[string]func(*rapid.T){
			"move": func(rt *rapid.T) {
				c := protocol.Current{
					Serial: rapid.Int64Range(1, 8).Draw(rt, "serial"), SHA256: "x",
					Manifest: rapid.SampledFrom([]string{"manifest_1", "manifest_2"}).Draw(rt, "manifest"),
				}
				err := r.MoveCurrent(t.Context(), c)
				switch allowed := c.Serial > model.Serial || c == model; {
				case allowed && err != nil:
					rt.Fatalf("move to %+v from %+v: %v", c, model, err)
				case !allowed && !errors.Is(err, environment.ErrStale):
					rt.Fatalf("move back to %+v from %+v: %v, want ErrStale", c, model, err)
				case allowed:
					model = c
				}
			},
			"": func(rt *rapid.T) {
				got, err := r.Current(t.Context())
				if model.Serial == 0 {
					if !errors.Is(err, environment.ErrNoCurrent) {
						rt.Fatalf("current of an empty environment: %v", err)
					}
					return
				}
				if err != nil || got != model {
					rt.Fatalf("current is %+v, %v; want %+v", got, err, model)
				}
			},
		})
	})
}

// TestNextSerial_SurvivesLostAnswers: whatever answers get lost, no number is given out twice.
func TestNextSerial_SurvivesLostAnswers(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBucket()
		r := open(t, b)
		var last int64
		for range rapid.IntRange(1, 20).Draw(rt, "calls") {
			lost := rapid.Bool().Draw(rt, "lost")
			b.inject(func(op, _ string) (bool, error) {
				if op == "put" && lost {
					return true, errors.New("no answer")
				}
				return false, nil
			})
			s, err := r.NextSerial(t.Context())
			if lost {
				if err == nil {
					rt.Fatal("an unanswered write counted as done")
				}
				continue
			}
			if err != nil || s.Serial <= last || s.DeploymentID != s.Serial {
				rt.Fatalf("got %+v, %v after %d", s, err, last)
			}
			last = s.Serial
		}
	})
}

func TestRecord_NamesDamagedObjects(t *testing.T) {
	b := newBucket()
	r := open(t, b)
	for _, key := range []string{protocol.SerialKey("e-test"), protocol.CurrentKey("e-test"), protocol.LockKey("e-test"), protocol.DeploymentKey("e-test", 3)} {
		b.set(key, `{"half":`)
	}
	_, errSerial := r.NextSerial(t.Context())
	_, errCurrent := r.Current(t.Context())
	_, errLock := r.LockState(t.Context())
	_, _, errDeployment := r.Deployment(t.Context(), 3)
	errMove := r.MoveCurrent(t.Context(), protocol.Current{Manifest: "manifest_1", SHA256: "x", Serial: 9})
	for _, err := range []error{errSerial, errCurrent, errLock, errDeployment, errMove} {
		if !errors.Is(err, environment.ErrCorrupt) {
			t.Errorf("%v, want ErrCorrupt", err)
		}
	}
}

func TestDeployment_OneWriterAtATime(t *testing.T) {
	r := open(t, newBucket())
	d := environment.Deployment{ID: 1, Serial: 1, RequestID: "r", State: environment.Running}
	first, err := r.PutDeployment(t.Context(), &d, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.PutDeployment(t.Context(), &d, ""); !errors.Is(err, environment.ErrChanged) {
		t.Errorf("a second first write: %v", err)
	}
	d.State = environment.Succeeded
	if _, err := r.PutDeployment(t.Context(), &d, first); err != nil {
		t.Fatal(err)
	}
	if _, err := r.PutDeployment(t.Context(), &d, first); !errors.Is(err, environment.ErrChanged) {
		t.Errorf("a write over a newer one: %v", err)
	}
	got, _, err := r.Deployment(t.Context(), 1)
	if err != nil || got.State != environment.Succeeded || !got.State.Terminal() {
		t.Errorf("read back %+v, %v", got, err)
	}
}

func TestLastDeployment_PassesOverIDsWithoutRecord(t *testing.T) {
	r := open(t, newBucket())
	if _, _, err := r.LastDeployment(t.Context()); !errors.Is(err, environment.ErrNotFound) {
		t.Errorf("of an empty environment: %v", err)
	}
	for range 3 {
		if _, err := r.NextSerial(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.PutDeployment(t.Context(), &environment.Deployment{ID: 1, RequestID: "r"}, ""); err != nil {
		t.Fatal(err)
	}
	d, _, err := r.LastDeployment(t.Context())
	if err != nil || d.ID != 1 {
		t.Errorf("got deployment %d, %v", d.ID, err)
	}
}

func TestInstances_ReportsWhatIsNoRegistration(t *testing.T) {
	b := newBucket()
	r := open(t, b)
	for _, id := range []string{"i-b", "i-a"} {
		if err := r.Register(t.Context(), environment.Instance{InstanceID: id, Queue: "http://q/" + id}); err != nil {
			t.Fatal(err)
		}
	}
	prefix := protocol.InstancesPrefix("e-test")
	b.set(prefix+"i-torn.json", `{"instance_id":"i-to`)
	b.set(prefix+"i-liar.json", `{"instance_id":"i-a","queue":"http://q"}`)
	b.set(prefix+"notes.txt", "hello")
	b.set(prefix+"i-huge.json", strings.Repeat(" ", 1<<20))
	good, bad, err := r.Instances(t.Context())
	if err != nil || len(good) != 2 || good[0].InstanceID != "i-a" || good[1].InstanceID != "i-b" || good[0].Seen.IsZero() {
		t.Fatalf("instances %+v, %v", good, err)
	}
	var keys []string
	for _, u := range bad {
		keys = append(keys, strings.TrimPrefix(u.Key, prefix))
	}
	if want := []string{"i-huge.json", "i-liar.json", "i-torn.json", "notes.txt"}; !slices.Equal(keys, want) {
		t.Errorf("unreadable %v, want %v", keys, want)
	}
	b.inject(func(op, key string) (bool, error) {
		if op == "get" && strings.HasSuffix(key, "i-a.json") {
			return false, errors.New("no answer")
		}
		return false, nil
	})
	if _, _, err := r.Instances(t.Context()); err == nil {
		t.Error("an instance that could not be read was passed over")
	}
}

func TestInstances_IsBounded(t *testing.T) {
	b := newBucket()
	for n := range 10_001 {
		b.set(fmt.Sprintf("%si-%d.json", protocol.InstancesPrefix("e-test"), n), "{}")
	}
	if _, _, err := open(t, b).Instances(t.Context()); !errors.Is(err, environment.ErrTooManyInstances) {
		t.Errorf("got %v", err)
	}
}

func TestRegister_RefusesIDThatCannotStandInKeys(t *testing.T) {
	if err := open(t, newBucket()).Register(t.Context(), environment.Instance{InstanceID: "../x", Queue: "q"}); err == nil {
		t.Error("accepted")
	}
}

func TestForget_OnlyWhoIsSilentUnlessForced(t *testing.T) {
	b := newBucket()
	now := time.Now()
	r := openAt(t, b, func() time.Time { return now })
	for _, id := range []string{"i-a", "i-b"} {
		if err := r.Register(t.Context(), environment.Instance{InstanceID: id, Queue: "http://q/" + id}); err != nil {
			t.Fatal(err)
		}
	}
	torn := protocol.InstanceKey("e-test", "i-torn")
	b.set(torn, "{")
	for _, c := range []struct {
		id    string
		after time.Duration
		force bool
		want  error
	}{
		{"i-a", environment.SilentAfter, false, environment.ErrAlive},
		{"i-a", environment.SilentAfter + time.Second, false, nil},
		{"i-a", environment.SilentAfter, true, environment.ErrNotFound},
		{"i-b", 0, true, nil},
		{"i-torn", time.Hour, false, environment.ErrCorrupt},
		{"i-torn", 0, true, nil},
		{"../lock", 0, true, environment.ErrNotFound},
	} {
		at := openAt(t, b, func() time.Time { return now.Add(c.after) })
		i, err := at.Forget(t.Context(), c.id, c.force)
		if !errors.Is(err, c.want) || (err == nil && i.InstanceID != c.id) {
			t.Errorf("%s after %s, forced %v: %+v, %v, want %v", c.id, c.after, c.force, i, err, c.want)
		}
	}
	if good, bad, err := r.Instances(t.Context()); err != nil || len(good)+len(bad) > 0 {
		t.Errorf("left %v, %v, %v", good, bad, err)
	}
}

func TestInstance_SilentAfterItsTime(t *testing.T) {
	now := time.Now()
	for age, want := range map[time.Duration]bool{0: false, environment.SilentAfter: false, environment.SilentAfter + time.Second: true} {
		if got := (environment.Instance{Seen: now.Add(-age)}).Silent(now); got != want {
			t.Errorf("seen %s ago: silent %v", age, got)
		}
	}
}

func FuzzRecord_ReadsAnyObject(f *testing.F) {
	f.Add([]byte(`{"deployment_id":1,"serial":1,"writer":"x"}`))
	f.Add([]byte(`{"id":"x","expires":"2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"instance_id":"i-1","queue":"q","seen":"x"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b := newBucket()
		r := open(t, b)
		for _, key := range []string{
			protocol.SerialKey("e-test"), protocol.CurrentKey("e-test"), protocol.LockKey("e-test"), protocol.DeploymentKey("e-test", 1),
			protocol.InstanceKey("e-test", "i-1"), protocol.ManifestKey("e-test", "manifest_1"),
		} {
			b.set(key, string(data))
		}
		_, _ = r.NextSerial(t.Context())
		_, _ = r.Current(t.Context())
		_, _, _ = r.Deployment(t.Context(), 1)
		_, _, _ = r.GetManifest(t.Context(), "manifest_1", "")
		if good, bad, err := r.Instances(t.Context()); err != nil || len(good)+len(bad) != 1 {
			t.Errorf("one object gave %d registrations, %d unreadable, %v", len(good), len(bad), err)
		}
		if held, err := r.Lock(t.Context(), environment.LockRequest{}); err == nil {
			_ = held.Unlock(t.Context())
		}
	})
}

func TestRegister_CarriesTheApplicationsState(t *testing.T) {
	r := open(t, newBucket())
	for want, a := range map[string]environment.Application{
		"":                                      {Running: true, Healthy: true},
		"application not healthy: answered 500": {Running: true, Reason: "answered 500"},
		"application not running: it is gone":   {Reason: "it is gone"},
		"application state unknown: no Engine up": {Unknown: true, Reason: "no Engine up"},
	} {
		if err := r.Register(t.Context(), environment.Instance{InstanceID: "i-1", Queue: "q", Application: a}); err != nil {
			t.Fatal(err)
		}
		all, _, err := r.Instances(t.Context())
		if err != nil || len(all) != 1 || all[0].Application != a || all[0].Application.Trouble() != want {
			t.Errorf("%+v: read back %+v, %v", a, all, err)
		}
	}
	if trouble := (environment.Application{}).Trouble(); trouble != "" {
		t.Errorf("where nothing is deployed: %q", trouble)
	}
}

// TestRestored_FollowsWhatWasBroughtBack: over several aborts, and no further than the records reach.
func TestRestored_FollowsWhatWasBroughtBack(t *testing.T) {
	r := open(t, newBucket())
	var last environment.Deployment
	for _, restores := range []int64{0, 0, 2, 0, 3, 5} { // serials 1 to 6
		next, err := r.NextSerial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		last = environment.Deployment{ID: next.DeploymentID, Serial: next.Serial, Restores: restores, RequestID: "r", State: environment.Succeeded}
		if next.Serial == 1 {
			continue // as if it had been removed
		}
		if _, err := r.PutDeployment(t.Context(), &last, ""); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.Restored(t.Context(), last); err != nil || !slices.Equal(got, []int64{6, 5, 3, 2}) {
		t.Errorf("got %v, %v", got, err)
	}
	last.Restores = 1
	if got, err := r.Restored(t.Context(), last); err != nil || !slices.Equal(got, []int64{6, 1}) {
		t.Errorf("without the record: %v, %v", got, err)
	}
	last.Restores = 9 // somebody wrote rubbish
	if got, err := r.Restored(t.Context(), last); err != nil || !slices.Equal(got, []int64{6}) {
		t.Errorf("of a later one: %v, %v", got, err)
	}
}

// TestPutDeployment_RefusesWhatCouldNotBeRead: a record over the bound would block every later operation.
func TestPutDeployment_RefusesWhatCouldNotBeRead(t *testing.T) {
	r := open(t, newBucket())
	d := environment.Deployment{ID: 1, RequestID: "x", State: environment.Running, Failure: strings.Repeat("x", 17<<20)}
	if _, err := r.PutDeployment(t.Context(), &d, ""); !errors.Is(err, environment.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
}
