package aws_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hostmanager/aws"
	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
)

// serve starts SQS with faults, and says where.
func serve(t *testing.T, o localaws.Options) *localaws.Server {
	t.Helper()
	s, err := localaws.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// role is an IMDS that hands out numbered keys and can be away.
type role struct {
	away   atomic.Bool
	issued atomic.Int64
	valid  time.Duration
}

func (m *role) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case m.away.Load():
		w.WriteHeader(http.StatusServiceUnavailable)
	case r.Method == http.MethodPut:
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		fmt.Fprint(w, "token")
	case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
		fmt.Fprint(w, "role")
	default:
		fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":"KEY%d","SecretAccessKey":"s","Token":"t","Expiration":%q}`,
			m.issued.Add(1), time.Now().Add(m.valid).UTC().Format(time.RFC3339))
	}
}

func asRole(t *testing.T, m *role) {
	t.Helper()
	s := httptest.NewServer(m)
	t.Cleanup(s.Close)
	environment(t, settings{"AWS_EC2_METADATA_SERVICE_ENDPOINT": s.URL, "AWS_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1"}, nil)
}

// signedWith tells whether a request carries that key.
func signedWith(key string) func(localaws.Call) bool {
	return func(c localaws.Call) bool {
		return strings.Contains(c.Request.Header.Get("Authorization"), "Credential="+key+"/")
	}
}

// What the service says of credentials counts, not what their cache thinks: expired ones are renewed within the very call.
func TestCredentials_ThatTheServiceCallsExpiredAreRenewedAtOnce(t *testing.T) {
	for _, code := range []string{"ExpiredToken", "ExpiredTokenException"} {
		t.Run(code, func(t *testing.T) {
			m := &role{valid: 6 * time.Hour}
			asRole(t, m)
			s := serve(t, localaws.Options{Faults: []localaws.Fault{{Op: "*", Status: 403, Code: code, When: signedWith("KEY1")}}})
			c, err := queue.New(t.Context(), queue.Options{Endpoint: s.URL()})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Create(t.Context(), "q", nil); err != nil || m.issued.Load() != 2 {
				t.Errorf("%v, %d keys issued", err, m.issued.Load())
			}
		})
	}
}

// S3 says nothing to a HEAD but a status: that credentials have expired is found out all the same, and they are renewed.
func TestCredentials_ThatExpiredAreRenewedForAHead(t *testing.T) {
	m := &role{valid: 6 * time.Hour}
	asRole(t, m)
	var old atomic.Bool
	expired := func(c localaws.Call) bool { return old.Load() && signedWith("KEY1")(c) }
	s := serve(t, localaws.Options{Faults: []localaws.Fault{
		{Op: "S3.HeadObject", Status: 400, Code: " ", When: expired},
		{Op: "S3.GetObject", Status: 400, Code: "ExpiredToken", When: expired},
	}})
	c, err := objects.New(t.Context(), objects.Options{Endpoint: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CreateBucket(t.Context(), "bucket"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), "bucket", "k", []byte("text"), objects.Condition{}); err != nil {
		t.Fatal(err)
	}
	old.Store(true)
	if info, err := c.Head(t.Context(), "bucket", "k"); err != nil || info.Size != 4 || m.issued.Load() != 2 {
		t.Errorf("%+v, %v, %d keys issued", info, err, m.issued.Load())
	}
}

// A metadata service that is away does not matter while there are credentials.
func TestCredentials_AreUsedOnWhileTheirSourceIsAway(t *testing.T) {
	m := &role{valid: -time.Second} // every call asks for fresh ones
	asRole(t, m)
	s := serve(t, localaws.Options{})
	c, err := queue.New(t.Context(), queue.Options{Endpoint: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	url, err := c.Create(t.Context(), "q", nil)
	if err != nil {
		t.Fatal(err)
	}
	m.away.Store(true)
	if err := c.Send(t.Context(), url, "x"); err != nil || m.issued.Load() != 1 {
		t.Errorf("%v, %d keys issued", err, m.issued.Load())
	}
}

func TestPace_HoldsAllRequestsApartWhileThrottled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p aws.Pace
		began := time.Now()
		for range 100 {
			if err := p.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.Done(false)
		}
		if took := time.Since(began); took != 0 {
			t.Fatalf("a pace of %v where nothing throttles", took)
		}
		for range 6 { // 0.1, 0.2, 0.4, 0.8, 1.6, 3.2 s
			p.Done(true)
		}
		began = time.Now()
		done := make(chan time.Duration, 5)
		for range 5 {
			go func() {
				if p.Wait(t.Context()) == nil {
					done <- time.Since(began)
				}
			}()
		}
		synctest.Wait()
		var last time.Duration
		for range 5 {
			at := <-done
			if at-last < 3*time.Second {
				t.Errorf("a request after %v, the one before it after %v", at, last)
			}
			last = at
		}
		for range 10 {
			p.Done(false)
		}
		began = time.Now()
		_ = p.Wait(t.Context())
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("still a pace of %v", took)
		}
		began = time.Now()
		_ = p.Wait(t.Context())
		if took := time.Since(began); took != 0 {
			t.Errorf("still a pace of %v", took)
		}
		p.Done(true)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if p.Wait(ended) == nil {
			t.Error("waits on after its context ended")
		}
	})
}

// The service's time comes with every answer. A machine's clock that is off by more than can be explained is corrected, and one that is set
// meanwhile changes nothing.
func TestClock_GoesByTheServiceWhereTheMachineIsOff(t *testing.T) {
	environment(t, settings{"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}, nil)
	s := serve(t, localaws.Options{})
	var off atomic.Int64
	clock := aws.NewClock(func() time.Time { return time.Now().Add(time.Duration(off.Load())) })
	near := func(want time.Time) bool {
		d := clock.Now().Sub(want)
		return d > -5*time.Second && d < 5*time.Second
	}
	off.Store(int64(time.Hour))
	if !near(time.Now().Add(time.Hour)) || clock.Skew() != 0 {
		t.Errorf("before any answer: %v, skew %v", clock.Now(), clock.Skew())
	}
	c, err := queue.New(t.Context(), queue.Options{Endpoint: s.URL(), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(t.Context(), "q", nil); err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{time.Hour, -3 * time.Hour, 31 * time.Minute, 0, 10 * time.Second} {
		off.Store(int64(d))
		want := time.Now()
		if d == 10*time.Second { // not worth a correction
			want = want.Add(d)
		}
		if !near(want) || (clock.Skew()-d).Abs() > 5*time.Second {
			t.Errorf("off by %v: %v, skew %v", d, clock.Now(), clock.Skew())
		}
	}
}

// A machine's clock that is far off costs one refused request: the SDK takes the service's time from the refusal.
func TestClock_SkewIsCorrectedInSignatures(t *testing.T) {
	environment(t, settings{"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}, nil)
	ahead := localaws.NewFakeClock(time.Now().Add(2 * time.Hour)) // so this machine is two hours behind
	stale := func(c localaws.Call) bool {
		at, err := time.Parse("20060102T150405Z", c.Request.Header.Get("X-Amz-Date"))
		return err != nil || ahead.Now().Sub(at).Abs() > 15*time.Minute
	}
	s := serve(t, localaws.Options{Clock: ahead, Faults: []localaws.Fault{{Op: "*", Status: 403, Code: "RequestTimeTooSkewed", When: stale}}})
	c, err := queue.New(t.Context(), queue.Options{Endpoint: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	url, err := c.Create(t.Context(), "q", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Send(t.Context(), url, "x"); err != nil {
		t.Error(err)
	}
	if list, err := c.Receive(t.Context(), url, 1, time.Second); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}
