package identity_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hostmanager/aws/identity"
)

// metadata is an IMDS that refuses every request without a token.
func metadata(t *testing.T, document string) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		fmt.Fprint(w, "the-token")
	})
	mux.HandleFunc("GET /latest/dynamic/instance-identity/document", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Aws-Ec2-Metadata-Token") != "the-token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, document)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

const document = `{"accountId":"123456789012","instanceId":"i-0abc","region":"eu-west-1","availabilityZone":"eu-west-1b"}`

func TestDiscover_ReadsTheIdentityDocument(t *testing.T) {
	s := metadata(t, document)
	want := identity.Identity{InstanceID: "i-0abc", Region: "eu-west-1", AccountID: "123456789012", AvailabilityZone: "eu-west-1b"}
	got, err := identity.Discover(t.Context(), identity.Options{Endpoint: s.URL})
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", s.URL+"/")
	got, err = identity.Discover(t.Context(), identity.Options{})
	if err != nil || got != want {
		t.Errorf("through the environment: %+v, %v", got, err)
	}
}

func TestDiscover_NeverAsksWithoutAToken(t *testing.T) {
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusNotFound) // as an IMDSv1 service would
			return
		}
		fmt.Fprint(w, document)
	}))
	defer s.Close()
	_, err := identity.Discover(t.Context(), identity.Options{Endpoint: s.URL})
	if !errors.Is(err, identity.ErrNoIdentity) {
		t.Errorf("Discover: %v", err)
	}
	for _, a := range asked {
		if a != "PUT /latest/api/token" {
			t.Errorf("asked %s", a)
		}
	}
}

func TestDiscover_SaysWhatToConfigure(t *testing.T) {
	for name, s := range map[string]*httptest.Server{
		"no instance": metadata(t, `{"region":"eu-west-1"}`), "no JSON": metadata(t, "<html>"), "empty": metadata(t, ""),
	} {
		_, err := identity.Discover(t.Context(), identity.Options{Endpoint: s.URL, Timeout: 500 * time.Millisecond})
		if !errors.Is(err, identity.ErrNoIdentity) || !strings.Contains(err.Error(), "set instance_id") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDiscover_IsBoundedWhenNothingAnswers(t *testing.T) {
	// Connections are taken by the kernel and never read.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	began := time.Now()
	_, err = identity.Discover(t.Context(), identity.Options{Endpoint: "http://" + ln.Addr().String(), Timeout: 300 * time.Millisecond})
	if took := time.Since(began); !errors.Is(err, identity.ErrNoIdentity) || took > 5*time.Second {
		t.Errorf("%v after %s", err, took)
	}
}

func TestDiscover_EndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := identity.Discover(ctx, identity.Options{Endpoint: "http://127.0.0.1:1"})
	if !errors.Is(err, context.Canceled) || errors.Is(err, identity.ErrNoIdentity) {
		t.Errorf("Discover: %v", err)
	}
}
