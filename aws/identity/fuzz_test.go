package identity_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/aws/identity"
)

// FuzzDiscover holds for whatever stands where the metadata service should: an identity with a name, or ErrNoIdentity, in the time it was given.
func FuzzDiscover(f *testing.F) {
	f.Add("the-token", 200, document)
	f.Add("", 200, `{"instanceId":""}`)
	f.Add("t", 500, `{`)
	f.Add("t\r\n", 200, `{"instanceId":1}`)
	var token, body atomic.Value
	var status atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			_, _ = w.Write([]byte(token.Load().(string)))
			return
		}
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write([]byte(body.Load().(string)))
	}))
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, bearer string, code int, text string) {
		if code < 200 || code > 599 || code >= 300 && code < 400 {
			code = 200
		}
		token.Store(bearer)
		status.Store(int64(code))
		body.Store(text)
		got, err := identity.Discover(t.Context(), identity.Options{Endpoint: s.URL, Timeout: 50 * time.Millisecond})
		if err != nil && !errors.Is(err, identity.ErrNoIdentity) {
			t.Fatalf("not marked: %v", err)
		}
		if err == nil && got.InstanceID == "" {
			t.Fatal("an identity without an instance")
		}
	})
}
