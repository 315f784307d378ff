package objects_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/objects/upload"
)

// environment gives the test credentials and a region, and nothing of the
// machine's own configuration.
func environment(t *testing.T) {
	t.Helper()
	for _, name := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE", "AWS_DEFAULT_REGION"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_ACCESS_KEY_ID", "test")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "test")
	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
}

// serve runs a server with a bucket, and then with the faults.
func serve(t *testing.T, faults ...localaws.Fault) (*localaws.Server, *objects.Client) {
	t.Helper()
	s, err := localaws.New(localaws.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	c, err := objects.New(t.Context(), objects.Options{Endpoint: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CreateBucket(t.Context(), "bucket"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(t.Context(), "bucket", "there", bytes.Repeat([]byte("0123456789"), 10_000), objects.Condition{}); err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		if _, err := s.Inject(f); err != nil {
			t.Fatal(err)
		}
	}
	return s, c
}

func TestNew_FindsTheEndpointAndAddressesByPath(t *testing.T) {
	var path atomic.Value
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { path.Store(r.Host + r.URL.Path) }))
	defer s.Close()
	// A name, not an address: the SDK would put the bucket before it.
	url := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	for name, set := range map[string]func(t *testing.T) objects.Options{
		"option": func(*testing.T) objects.Options { return objects.Options{Endpoint: url} },
		"AWS_ENDPOINT_URL": func(t *testing.T) objects.Options {
			t.Setenv("AWS_ENDPOINT_URL", url)
			return objects.Options{}
		},
		"AWS_ENDPOINT_URL_S3 first": func(t *testing.T) objects.Options {
			t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
			t.Setenv("AWS_ENDPOINT_URL_S3", url)
			return objects.Options{}
		},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t)
			c, err := objects.New(t.Context(), set(t))
			if err != nil {
				t.Fatal(err)
			}
			path.Store("")
			_, _ = c.Head(t.Context(), "bucket", "key")
			if got := path.Load(); got != strings.TrimPrefix(url, "http://")+"/bucket/key" {
				t.Errorf("asked for %v", got)
			}
		})
	}
}

func TestNew_SaysThatARegionIsMissing(t *testing.T) {
	environment(t)
	t.Setenv("AWS_REGION", "")
	if _, err := objects.New(t.Context(), objects.Options{}); !errors.Is(err, objects.ErrNoRegion) || !objects.Permanent(err) {
		t.Errorf("New: %v", err)
	}
}

func TestErrors_AreJudged(t *testing.T) {
	for name, tc := range map[string]struct {
		fault     localaws.Fault
		want      error
		permanent bool
	}{
		"throttled":          {localaws.Fault{Throttle: true}, objects.ErrThrottled, false},
		"500":                {localaws.Fault{Status: 500}, objects.ErrUnavailable, false},
		"502 without a code": {localaws.Fault{Status: 502, Code: " "}, objects.ErrUnavailable, false},
		"cut request":        {localaws.Fault{HangUp: localaws.HangUpRequest}, objects.ErrUnavailable, false},
		"cut response":       {localaws.Fault{HangUp: localaws.HangUpResponse}, objects.ErrUnavailable, false},
		"damaged on the way": {localaws.Fault{Status: 400, Code: "BadDigest"}, objects.ErrUnavailable, false},
		"expired token":      {localaws.Fault{Status: 400, Code: "ExpiredToken"}, objects.ErrUnavailable, false},
		"denied":             {localaws.Fault{Status: 403, Code: "AccessDenied"}, objects.ErrAccessDenied, true},
		"no bucket":          {localaws.Fault{Status: 404, Code: "NoSuchBucket"}, objects.ErrNotFound, true},
		"precondition":       {localaws.Fault{Status: 412, Code: "PreconditionFailed"}, objects.ErrPrecondition, true},
		"anything else, 4xx": {localaws.Fault{Status: 400, Code: "Strange"}, objects.ErrInvalid, true},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t)
			tc.fault.Op = "S3.PutObject"
			_, c := serve(t, tc.fault)
			_, err := c.Put(t.Context(), "bucket", "k", []byte("x"), objects.Condition{})
			if !errors.Is(err, tc.want) || objects.Permanent(err) != tc.permanent {
				t.Errorf("%v, permanent %t; want %v, %t", err, objects.Permanent(err), tc.want, tc.permanent)
			}
			var e *objects.Error
			if !errors.As(err, &e) || e.Op != "put" || !strings.Contains(err.Error(), "s3://bucket/k") {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestErrors_OfHeadHaveOnlyAStatus(t *testing.T) {
	environment(t)
	for status, want := range map[int]error{403: objects.ErrAccessDenied, 404: objects.ErrNotFound, 412: objects.ErrPrecondition, 503: objects.ErrThrottled, 500: objects.ErrUnavailable} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		c, err := objects.New(t.Context(), objects.Options{Endpoint: s.URL})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Head(t.Context(), "bucket", "k"); !errors.Is(err, want) {
			t.Errorf("status %d: %v, want %v", status, err, want)
		}
		s.Close()
	}
}

func TestPut_TriesAgainWhenItMeetsAnother(t *testing.T) {
	environment(t)
	conflict := localaws.Fault{Op: "S3.PutObject", Status: 409, Code: "ConditionalRequestConflict", Times: 3}
	_, c := serve(t, conflict)
	if _, err := c.Put(t.Context(), "bucket", "k", []byte("x"), objects.Condition{IfNoneMatch: true}); err != nil {
		t.Errorf("put: %v", err)
	}
}

func TestPut_GivesUpOnEndlessConflict(t *testing.T) {
	environment(t)
	_, c := serve(t, localaws.Fault{Op: "S3.PutObject", Status: 409, Code: "ConditionalRequestConflict"})
	_, err := c.Put(t.Context(), "bucket", "k", []byte("x"), objects.Condition{IfNoneMatch: true})
	if !errors.Is(err, objects.ErrConflict) || objects.Permanent(err) {
		t.Errorf("put: %v", err)
	}
}

func TestPut_EndsWithItsContextBetweenTwoTries(t *testing.T) {
	environment(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, c := serve(t, localaws.Fault{Op: "S3.PutObject", Status: 409, Code: "ConditionalRequestConflict", When: func(localaws.Call) bool {
		cancel()
		return true
	}})
	_, err := c.Put(ctx, "bucket", "k", []byte("x"), objects.Condition{IfNoneMatch: true})
	var e *objects.Error
	if !errors.Is(err, context.Canceled) || !errors.As(err, &e) || objects.Permanent(err) {
		t.Errorf("put: %v", err)
	}
}

func TestGet_AsksOnceMoreForABodyThatBreaksOff(t *testing.T) {
	environment(t)
	_, c := serve(t, localaws.Fault{Op: "S3.GetObject", HangUp: localaws.HangUpResponse, Times: 1})
	body, _, err := c.Get(t.Context(), "bucket", "there", 1<<20)
	if err != nil || len(body) != 100_000 {
		t.Errorf("%d bytes, %v", len(body), err)
	}
	_, c = serve(t, localaws.Fault{Op: "S3.GetObject", HangUp: localaws.HangUpResponse})
	if _, _, err := c.Get(t.Context(), "bucket", "there", 1<<20); !errors.Is(err, objects.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
}

func TestGetRange_LetsItsReaderSeeTheCut(t *testing.T) {
	environment(t)
	_, c := serve(t, localaws.Fault{Op: "S3.GetObject", HangUp: localaws.HangUpResponse, Times: 1})
	in, err := c.GetRange(t.Context(), "bucket", "there", "", 0, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	got, err := io.ReadAll(in)
	if err == nil || len(got) != 50_000 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestUpload_ErrorsAreJudged(t *testing.T) {
	environment(t)
	_, c := serve(t, localaws.Fault{Op: "S3.UploadPart", Status: 403, Code: "AccessDenied", Skip: 1})
	size := int64(24 << 20)
	err := upload.Object(t.Context(), c, "bucket", "k", bytes.NewReader(make([]byte, size)), size, nil)
	if !errors.Is(err, objects.ErrAccessDenied) || !objects.Permanent(err) {
		t.Errorf("upload: %v", err)
	}
	if _, err := c.Head(t.Context(), "bucket", "k"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("head: %v", err)
	}
}
