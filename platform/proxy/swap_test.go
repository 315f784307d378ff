package proxy_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/internal/steadystream"
	"hostmanager/platform/proxy"
)

func TestSwap_HundredsUnderLoadLoseNothing(t *testing.T) {
	const swaps = 300
	r := startProxy(t, proxy.Options{})
	addrs := []string{startBackend(t, steadystream.Backend("a")), startBackend(t, steadystream.Backend("b"))}
	r.to(t, addrs[0])
	stream, err := steadystream.Start(t.Context(), steadystream.Options{URL: r.url(), Check: steadystream.CheckBackend})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Stop()
	var inFlight []int
	for i := range swaps {
		s := r.to(t, addrs[(i+1)%2])
		inFlight = append(inFlight, s.InFlight)
		d, err := r.Drain(testContext(t), s.Previous.Addr, testTimeout)
		if err != nil || d.Cancelled != 0 {
			t.Fatalf("drain: %+v, %v", d, err)
		}
		mark := stream.Requests()
		eventually(t, "requests between the swaps", func() bool { return stream.Requests() >= mark+20 })
	}
	report := stream.Stop()
	t.Logf("%v; in flight at the swaps: max %d; %v", report, slices.Max(inFlight), report.By)
	if report.Failed != 0 || report.Requests == 0 || report.By["a"] == 0 || report.By["b"] == 0 {
		t.Errorf("report %v, %v", report, report.By)
	}
	if slices.Max(inFlight) == 0 {
		t.Error("no swap met a request in flight; nothing was shown")
	}
	if s := r.state(t); s.Generation != swaps+1 {
		t.Errorf("state %+v", s)
	}
	eventually(t, "nothing is in flight", func() bool { // a client has its answer a moment before the proxy is done with it
		s := r.state(t)
		return s.InFlight == 0 && len(s.Draining) == 0
	})
}

// Also with bodies of the old target under way in both directions for the whole time.
func TestSwap_SlowBodiesEndOnTheOldTarget(t *testing.T) {
	began := make(chan string, 2)
	app := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			_ = http.NewResponseController(w).EnableFullDuplex()
			w.WriteHeader(http.StatusOK)
			_, _ = io.WriteString(w, name+":")
			_ = http.NewResponseController(w).Flush()
			began <- name
			_, _ = io.Copy(w, req.Body)
		})
	}
	oldAddr, newAddr := startBackend(t, app("old")), startBackend(t, app("new"))
	r := startProxy(t, proxy.Options{})
	r.to(t, oldAddr)
	pr, pw := io.Pipe()
	answer := make(chan string, 1)
	client := newClient(t)
	go func() {
		resp, err := client.Post(r.url(), "text/plain", pr)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		answer <- fmt.Sprint(string(b), err)
	}()
	if name := wait(t, "first request", began); name != "old" {
		t.Fatal(name)
	}
	_, _ = io.WriteString(pw, "before ")
	if s := r.to(t, newAddr); s.InFlight != 1 {
		t.Errorf("in flight at the swap: %d", s.InFlight)
	}
	if st := r.state(t); st.InFlight != 0 || len(st.Draining) != 1 || st.Draining[0].Addr != oldAddr || st.Draining[0].InFlight != 1 {
		t.Errorf("state after the swap: %+v", st)
	}
	if _, body := get(t, r.url()); body != "new:" {
		t.Errorf("a new request got %q", body)
	}
	drained := make(chan proxy.Drained, 1)
	go func() {
		d, err := r.Drain(testContext(t), oldAddr, testTimeout)
		if err != nil {
			t.Error(err)
		}
		drained <- d
	}()
	_, _ = io.WriteString(pw, "after")
	select {
	case d := <-drained:
		t.Errorf("drained while a request was in flight: %+v", d)
	default:
	}
	_ = pw.Close()
	if a := wait(t, "answer", answer); a != "old:before after<nil>" {
		t.Errorf("answer %q", a)
	}
	if d := wait(t, "drain", drained); d.Cancelled != 0 || d.Remaining != 0 {
		t.Errorf("drained %+v", d)
	}
}

func TestDrain_DeadlineCutsTheRest(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	release, begun := make(chan struct{}), make(chan struct{}, 2)
	defer close(release)
	oldAddr := startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/half" {
			_, _ = io.WriteString(w, "half")
			_ = http.NewResponseController(w).Flush()
		}
		begun <- struct{}{}
		select {
		case <-req.Context().Done():
		case <-release:
		}
	}))
	r.to(t, oldAddr)
	type result struct {
		status int
		err    error
	}
	results := map[string]chan result{"/": make(chan result, 1), "/half": make(chan result, 1)}
	for path, c := range results {
		client := newClient(t)
		go func() {
			resp, err := client.Get(r.url() + path)
			if err != nil {
				c <- result{0, err}
				return
			}
			defer resp.Body.Close()
			_, err = io.ReadAll(resp.Body)
			c <- result{resp.StatusCode, err}
		}()
		wait(t, "request", begun)
	}
	r.to(t, startBackend(t, steadystream.Backend("new")))
	d, err := r.Drain(testContext(t), oldAddr, 50*time.Millisecond)
	if err != nil || d.InFlight != 2 || d.Cancelled != 2 || d.Remaining != 0 {
		t.Errorf("drained %+v, %v", d, err)
	}
	if got := wait(t, "silent request", results["/"]); got.status != http.StatusGatewayTimeout || got.err != nil {
		t.Errorf("without an answer so far: %+v", got)
	}
	if got := wait(t, "half answer", results["/half"]); got.err == nil {
		t.Errorf("half an answer looks whole: %+v", got)
	}
	if d, err := r.Drain(testContext(t), oldAddr, time.Second); err != nil || d.InFlight != 0 {
		t.Errorf("again: %+v, %v", d, err)
	}
}

func TestDrain_OfTheCurrentTargetIsRefused(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	addr := startBackend(t, steadystream.Backend("a"))
	r.to(t, addr)
	if _, err := r.Drain(testContext(t), addr, time.Second); !errors.Is(err, proxy.ErrServing) {
		t.Errorf("got %v", err)
	}
	if d, err := r.Drain(testContext(t), "192.0.2.1:1", time.Second); err != nil || d.InFlight != 0 {
		t.Errorf("unknown address: %+v, %v", d, err)
	}
	if _, err := r.Pause(testContext(t), testTimeout); err != nil {
		t.Fatal(err)
	}
	if d, err := r.Drain(testContext(t), addr, time.Second); err != nil || d.InFlight != 0 {
		t.Errorf("during a pause: %+v, %v", d, err)
	}
}

// The same address may come back as a new target: a restarted container. Only the old flights are drained.
func TestSwap_ToTheSameAddress(t *testing.T) {
	begun, release := make(chan struct{}, 2), make(chan struct{})
	addr := startBackend(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-release
	}))
	r := startProxy(t, proxy.Options{})
	var requests sync.WaitGroup
	defer requests.Wait()
	defer close(release)
	r.to(t, addr)
	send := func() {
		client := newClient(t)
		requests.Go(func() {
			resp, err := client.Get(r.url())
			if err == nil {
				_ = resp.Body.Close()
			}
		})
		wait(t, "request", begun)
	}
	send()
	if s := r.to(t, addr); s.InFlight != 1 || s.Generation != 2 {
		t.Errorf("swap %+v", s)
	}
	send()
	d, err := r.Drain(testContext(t), addr, 20*time.Millisecond)
	if err != nil || d.InFlight != 1 || d.Cancelled != 1 {
		t.Errorf("drained %+v, %v", d, err)
	}
	if st := r.state(t); st.InFlight != 1 {
		t.Errorf("the new target's request was cut: %+v", st)
	}
}

func TestSetTarget_StaleGenerationChangesNothing(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, "127.0.0.1:1001")
	_, err := r.SetTarget(testContext(t), proxy.Target{Addr: "127.0.0.1:1002"}, 0)
	var stale *proxy.StaleError
	if !errors.Is(err, proxy.ErrStale) || !errors.As(err, &stale) || stale.Generation != 1 || stale.Expected != 0 {
		t.Errorf("got %v", err)
	}
	if st := r.state(t); st.Target.Addr != "127.0.0.1:1001" || st.Generation != 1 {
		t.Errorf("state %+v", st)
	}
}

// Of several swaps that expect the same generation exactly one wins.
func TestSetTarget_ConcurrentSwapsHaveOneWinner(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	for round := range 10 {
		var mu sync.Mutex
		var winners []string
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				addr := fmt.Sprintf("127.0.0.1:%d", 1000+round*10+i)
				_, err := r.SetTarget(testContext(t), proxy.Target{Addr: addr, Checks: proxy.Checks{Disabled: true}}, uint64(round))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					winners = append(winners, addr)
				} else if !errors.Is(err, proxy.ErrStale) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if st := r.state(t); len(winners) != 1 || st.Target.Addr != winners[0] || st.Generation != uint64(round+1) {
			t.Fatalf("winners %v, state %+v", winners, st)
		}
	}
}

func TestSetTarget_NoneAnswers503(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, steadystream.Backend("a")))
	s, err := r.SetTarget(testContext(t), proxy.Target{}, 1)
	if err != nil || s.Generation != 2 || s.Previous == nil {
		t.Fatalf("swap %+v, %v", s, err)
	}
	if code, _ := get(t, r.url()); code != 503 {
		t.Errorf("status %d", code)
	}
	if st := r.state(t); st.Target != nil {
		t.Errorf("state %+v", st)
	}
}

func TestSetTarget_RefusesWhatIsNoTarget(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	for _, tgt := range []proxy.Target{
		{Addr: "nohost"},
		{Addr: ":80"},
		{Addr: "h:0"},
		{Addr: "h:65536"},
		{Addr: "a b:80"},
		{Addr: "h/x:80"},
		{Addr: "h:1", Checks: proxy.Checks{Path: "x"}},
		{Addr: "h:1", Checks: proxy.Checks{Path: "/x y"}},
		{Addr: "h:1", Checks: proxy.Checks{Codes: "2xx"}},
		{Addr: "h:1", Checks: proxy.Checks{Interval: 1}},
		{Addr: "h:1", Checks: proxy.Checks{Healthy: -1}},
		{Addr: "h:1", ID: strings.Repeat("x", 600)},
	} {
		if _, err := r.SetTarget(testContext(t), tgt, 0); !errors.Is(err, proxy.ErrRefused) {
			t.Errorf("%+v: %v", tgt, err)
		}
	}
	if st := r.state(t); st.Generation != 0 {
		t.Errorf("state %+v", st)
	}
}

func TestPause_HoldsUntilResumeAndUsesTheTargetOfThen(t *testing.T) {
	r := startProxy(t, proxy.Options{MaxHeld: 3})
	r.to(t, startBackend(t, steadystream.Backend("old")))
	if _, err := r.Pause(testContext(t), testTimeout); err != nil {
		t.Fatal(err)
	}
	stream, err := steadystream.Start(t.Context(), steadystream.Options{URL: r.url(), Concurrency: 3, Check: steadystream.CheckBackend})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "three held", func() bool { p := r.state(t).Paused; return p != nil && p.Held == 3 })
	if code, body := get(t, r.url()); code != 503 || !strings.Contains(body, "too many requests wait") {
		t.Errorf("one too many: %d %q", code, body)
	}
	if s := r.to(t, startBackend(t, steadystream.Backend("new"))); s.Held != 3 || s.InFlight != 0 {
		t.Errorf("swap %+v", s)
	}
	if n, err := r.Resume(testContext(t)); n != 3 || err != nil {
		t.Errorf("released %d, %v", n, err)
	}
	eventually(t, "answers", func() bool { return stream.Requests() >= 10 })
	rep := stream.Stop()
	if rep.Failed != 0 || rep.By["old"] != 0 || rep.By["new"] == 0 {
		t.Errorf("%v %v", rep, rep.By)
	}
	if n, err := r.Resume(testContext(t)); n != 0 || err != nil {
		t.Errorf("again: %d, %v", n, err)
	}
}

func TestPause_EndsByItself(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, steadystream.Backend("a")))
	if _, err := r.Pause(testContext(t), 30*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if code, _ := get(t, r.url()); code != 200 {
		t.Errorf("status %d", code)
	}
	if st := r.state(t); st.Paused != nil {
		t.Errorf("state %+v", st)
	}
}

func TestPause_ClientThatGoesIsNotHeld(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	r.to(t, startBackend(t, steadystream.Backend("a")))
	if _, err := r.Pause(testContext(t), testTimeout); err != nil {
		t.Fatal(err)
	}
	c := dialRaw(t, r.addr)
	c.send(t, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	eventually(t, "held", func() bool { return r.state(t).Paused.Held == 1 })
	_ = c.Close()
	eventually(t, "let go", func() bool { return r.state(t).Paused.Held == 0 })
}
