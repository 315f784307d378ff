package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// silent takes every request and never answers it.
func silent(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func answer(body io.Reader) *http.Response {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(body)}
}

func request(t *testing.T, method, path string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, "http://engine/v1.51"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// No call waits for an Engine that hangs for longer than it may take where the Engine is well.
func TestBounded_EndsWhatTheEngineDoesNotAnswer(t *testing.T) {
	for _, tc := range []struct {
		method, path string
		within       time.Duration
	}{
		{"GET", "/containers/x/json", lookLimit},
		{"HEAD", "/_ping", lookLimit},
		{"GET", "/events?filters=x", lookLimit},
		{"GET", "/containers/x/logs?follow=1&stdout=1", lookLimit},
		{"GET", "/containers/x/logs?tail=50&stdout=1", lookLimit},
		{"POST", "/containers/x/wait?condition=not-running", lookLimit},
		{"POST", "/containers/create?name=x", changeLimit},
		{"POST", "/containers/x/start", changeLimit},
		{"POST", "/containers/x/stop?t=30", changeLimit + 30*time.Second},
		{"DELETE", "/containers/x?force=1", changeLimit},
		{"POST", "/build?t=x", aliveLimit + 2*aliveEvery},
		{"POST", "/images/create?fromImage=x", aliveLimit + 2*aliveEvery},
		{"POST", "/build/prune", aliveLimit + 2*aliveEvery},
	} {
		t.Run(tc.method+" "+tc.path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				got, err := bounded{roundTrip(silent)}.RoundTrip(request(t, tc.method, tc.path))
				if err == nil {
					_ = got.Body.Close()
				}
				if took := time.Since(began); !errors.Is(err, errSilent) || took > tc.within || took < lookLimit {
					t.Errorf("%v after %v, want within %v", err, took, tc.within)
				}
			})
		})
	}
}

// An answer that stays away in its middle is no better; one of a stream may take as long as it likes.
func TestBounded_BodiesThatStall(t *testing.T) {
	stalls := func(r *http.Request) (*http.Response, error) {
		in, out := io.Pipe()
		context.AfterFunc(r.Context(), func() { _ = out.CloseWithError(r.Context().Err()) })
		return answer(in), nil
	}
	for path, want := range map[string]bool{"/containers/x/json": true, "/events": false} {
		synctest.Test(t, func(t *testing.T) {
			got, err := bounded{roundTrip(stalls)}.RoundTrip(request(t, "GET", path))
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() {
				_, err := io.ReadAll(got.Body)
				ended <- err
			}()
			<-time.After(time.Hour)
			select {
			case err := <-ended:
				if !want || !errors.Is(err, errSilent) {
					t.Errorf("%s: ended with %v", path, err)
				}
			default:
				if want {
					t.Errorf("%s: goes on", path)
				}
			}
			_ = got.Body.Close()
			synctest.Wait()
		})
	}
}

// A build may be silent for an hour, as long as the Engine is there.
func TestBounded_BuildsAreLeftAloneWhileTheEngineIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := 0
		slow := func(r *http.Request) (*http.Response, error) {
			if r.URL.Path == "/_ping" {
				pings++
				return answer(strings.NewReader("OK")), nil
			}
			select {
			case <-time.After(time.Hour):
				return answer(strings.NewReader("built")), nil
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		}
		got, err := bounded{roundTrip(slow)}.RoundTrip(request(t, "POST", "/build"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(got.Body)
		err = errors.Join(err, got.Body.Close())
		synctest.Wait() // a question may be under way
		if err != nil || string(text) != "built" || pings < 300 {
			t.Errorf("%q, %v, %d pings", text, err, pings)
		}
	})
}

func TestPatientDial_WaitsForStepsOfCommandsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		refused := errors.New("connection refused")
		back := 7 * time.Second
		dial := patientDial(func(context.Context, string, string) (net.Conn, error) {
			if time.Since(began) < back {
				return nil, refused
			}
			a, b := net.Pipe()
			return a, b.Close()
		})
		if _, err := dial(t.Context(), "unix", "x"); !errors.Is(err, refused) || time.Since(began) != 0 {
			t.Errorf("a look: %v after %v", err, time.Since(began))
		}
		conn, err := dial(waiting(t.Context()), "unix", "x")
		if err != nil || time.Since(began) < back {
			t.Errorf("a step: %v after %v", err, time.Since(began))
		} else {
			_ = conn.Close()
		}
		back = time.Hour
		at := time.Now()
		if _, err := dial(waiting(t.Context()), "unix", "x"); !errors.Is(err, refused) || time.Since(at) > engineWait+time.Second {
			t.Errorf("an Engine that stays away: %v after %v", err, time.Since(at))
		}
		ctx, cancel := context.WithTimeout(waiting(t.Context()), time.Second)
		defer cancel()
		at = time.Now()
		if _, err := dial(ctx, "unix", "x"); !errors.Is(err, refused) || time.Since(at) > time.Second {
			t.Errorf("a step whose time is over: %v after %v", err, time.Since(at))
		}
	})
}

func TestBound_GivesUpWorkThatHeedsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		_, err := bound(t.Context(), func() (net.Conn, error) {
			<-time.After(time.Hour)
			return a, nil
		})
		if !errors.Is(err, errSilent) {
			t.Error(err)
		}
		<-time.After(2 * time.Hour)
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("what came late is not closed: %v", err)
		}
	})
}

// A question is put again to an Engine that takes connections and hangs up, for those who wait; a change is not.
func TestAgain_AsksAnEngineThatHangsUp(t *testing.T) {
	for name, tc := range map[string]struct {
		method  string
		waits   bool
		hangups int
		tries   int
		fails   bool
	}{
		"a question":                  {http.MethodGet, true, 3, 4, false},
		"of somebody who cannot wait": {http.MethodGet, false, 3, 1, true},
		"a change":                    {http.MethodPost, true, 3, 1, true},
		"for ever":                    {http.MethodHead, true, 1 << 20, int(engineWait/enginePause) + 2, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tries := 0
				engine := roundTrip(func(*http.Request) (*http.Response, error) {
					if tries++; tries <= tc.hangups {
						return nil, io.ErrUnexpectedEOF
					}
					return answer(strings.NewReader("")), nil
				})
				r := request(t, tc.method, "/containers/json")
				if tc.waits {
					r = r.WithContext(waiting(r.Context()))
				}
				got, err := again{engine}.RoundTrip(r)
				if err == nil {
					_ = got.Body.Close()
				}
				if (err != nil) != tc.fails || tries != tc.tries {
					t.Errorf("%d tries, %v", tries, err)
				}
			})
		})
	}
}
