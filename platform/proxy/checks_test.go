package proxy_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/internal/steadystream"
	"hostmanager/platform/proxy"
)

func TestChecks_FollowTheTargetForEver(t *testing.T) {
	var status atomic.Int64
	status.Store(200)
	addr := startBackend(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/health" {
			w.WriteHeader(int(status.Load()))
		}
	}))
	r := startProxy(t, proxy.Options{})
	checks := proxy.Checks{Path: "/health", Interval: proxy.Duration(100 * time.Millisecond), Healthy: 2, Unhealthy: 2, Codes: "200,204-210"}
	if _, err := r.SetTarget(testContext(t), proxy.Target{Addr: addr, Checks: checks}, 0); err != nil {
		t.Fatal(err)
	}
	is := func(want string) func() bool {
		return func() bool { return r.state(t).Checks.Status == want }
	}
	eventually(t, "passing", is(proxy.CheckPassing))
	for _, step := range []struct {
		code int64
		want string
	}{{503, proxy.CheckFailing}, {207, proxy.CheckPassing}, {302, proxy.CheckFailing}} {
		status.Store(step.code)
		eventually(t, fmt.Sprint(step), is(step.want))
	}
	if st := r.state(t).Checks; !strings.Contains(st.LastErr, "status 302") || st.Since.IsZero() || st.LastRun.IsZero() {
		t.Errorf("state %+v", st)
	}
	if code, _ := get(t, r.url()); code != 200 {
		t.Errorf("failing checks took the target out: %d", code)
	}
}

func TestChecks_TCPWhereThereIsNoPath(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := startProxy(t, proxy.Options{})
	checks := proxy.Checks{Interval: proxy.Duration(100 * time.Millisecond), Unhealthy: 1}
	if _, err := r.SetTarget(testContext(t), proxy.Target{Addr: l.Addr().String(), Checks: checks}, 0); err != nil {
		t.Fatal(err)
	}
	eventually(t, "passing", func() bool { return r.state(t).Checks.Status == proxy.CheckPassing })
	_ = l.Close()
	eventually(t, "failing", func() bool { return r.state(t).Checks.Status == proxy.CheckFailing })
	r.to(t, startBackend(t, steadystream.Backend("b")))
	if st := r.state(t).Checks; st.Status != proxy.CheckDisabled {
		t.Errorf("checks of the old target are still shown: %+v", st)
	}
}

func TestAccessLog_LinesAndOutsideRotation(t *testing.T) {
	r := startProxy(t, proxy.Options{})
	backend := startBackend(t, steadystream.Backend("a"))
	r.to(t, backend)
	path := r.root.ProxyAccessLog()
	read := func() string {
		b, _ := os.ReadFile(path)
		return string(b)
	}
	send := func(target, agent string) {
		c := dialRaw(t, r.addr)
		c.send(t, "GET "+target+" HTTP/1.1\r\nHost: a\r\nUser-Agent: "+agent+"\r\nReferer: r\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n")
		c.head(t)
	}
	send("/one?x=1", `q"u\o`)
	eventually(t, "first line", func() bool { return strings.HasSuffix(read(), "\n") })
	line := read()
	want := regexp.MustCompile(`^127\.0\.0\.1 - - \[[^]]+\] ` + regexp.QuoteMeta(`"GET /one?x=1 HTTP/1.1" 200 2000 "r" "q\x22u\x5Co" `) +
		`\d+\.\d{3} \d+\.\d{3} ` + regexp.QuoteMeta(backend+` "1.2.3.4"`) + `\n$`)
	if !want.MatchString(line) {
		t.Errorf("line %q, want %s", line, want)
	}
	if err := os.Rename(path, path+".moved"); err != nil {
		t.Fatal(err)
	}
	send("/two", "x")
	eventually(t, "a new file", func() bool { return strings.Contains(read(), "GET /two ") })
	send("/three", "x")
	r.stop()
	if s := read(); !strings.Contains(s, "GET /three ") {
		t.Errorf("what was buffered at the end is lost: %q", s)
	}
}
