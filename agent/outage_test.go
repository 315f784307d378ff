package agent_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/agent"
	"hostmanager/aws/localaws"
	"hostmanager/protocol"
)

// bad is something that goes wrong with calls of a kind until it is switched off.
type bad struct {
	met atomic.Int64
	off atomic.Bool
}

// goWrong has the calls about a key, or all where it is "", go wrong as fault says.
func (w *world) goWrong(op string, fault localaws.Fault, key string) *bad {
	w.t.Helper()
	b := &bad{}
	fault.Op = op
	fault.When = func(c localaws.Call) bool {
		if b.off.Load() || !strings.Contains(c.Request.URL.Path, key) {
			return false
		}
		b.met.Add(1)
		return true
	}
	_, err := w.aws.Inject(fault)
	must(w.t, err)
	return b
}

// The table of outages: what goes wrong, with what. Whatever it is: it is said once when it begins and once when it is over, the command that met it
// ends right, and once.
func TestOutages_AreSaidOnceAndSurvived(t *testing.T) {
	kinds := map[string]localaws.Fault{
		"throttled":       {Throttle: true},
		"500":             {Status: 500},
		"cut in the body": {HangUp: localaws.HangUpResponse},
		"cut request":     {HangUp: localaws.HangUpRequest}, // of a poll, whose answer takes its time
		"expired token":   {Status: 403, Code: "ExpiredToken"},
		"clock too far":   {Status: 403, Code: "RequestTimeTooSkewed"},
		"denied":          {Status: 403, Code: "AccessDenied"},
	}
	for what, tc := range map[string]struct {
		op, key string
		kinds   []string
		meets   int64 // how often it is met before it ends
		text    string
	}{
		"commands":     {"SQS.ReceiveMessage", "", []string{"throttled", "500", "cut request", "expired token", "clock too far", "denied"}, 3, "The command queue"},
		"results":      {"SQS.SendMessage", "", []string{"throttled", "500", "cut in the body", "expired token"}, 2, "SQS, where results go,"},
		"result":       {"SQS.SendMessage", "", []string{"denied"}, 2, "Result queue "},
		"manifest":     {"S3.GetObject", "/versions/manifest_", []string{"500", "cut in the body"}, 2, "S3, where the version to deploy is,"},
		"bundle":       {"S3.GetObject", "/_versions/", []string{"500", "cut request", "cut in the body", "throttled"}, 7, "S3, where the version to deploy is,"},
		"registration": {"S3.PutObject", "/instances/", []string{"throttled", "denied"}, 3, "The environment's record in S3"},
	} {
		for _, kind := range tc.kinds {
			t.Run(what+"/"+kind, func(t *testing.T) {
				t.Setenv("AWS_MAX_ATTEMPTS", "1")
				w := newWorld(t)
				w.hook("appdeploy/post/10count", `echo x >> "`+string(w.root)+`/count"`)
				deploy := order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), invocation: "the-one"}
				if what != "commands" { // a message lost on its way is hidden for half a minute
					w.send(deploy)
				}
				b := w.goWrong(tc.op, kinds[kind], tc.key)
				w.start(func(s *agent.Setup) { s.Config.RegisterInterval = 300 * time.Millisecond })
				eventually(t, "it is met again and again", func() bool { return b.met.Load() >= tc.meets && strings.Contains(w.events(), tc.text) })
				b.off.Store(true)
				if what == "commands" {
					w.send(deploy)
				}
				if r := w.one(); r.InvocationID != deploy.invocation || r.entry().Status != protocol.Success {
					t.Errorf("result %+v", r)
				}
				eventually(t, "it is said to be over", func() bool { return strings.Contains(w.events(), " answers again, after ") })
				if began, over := strings.Count(w.events(), tc.text), strings.Count(w.events(), "answers again"); began != 2 || over != 1 {
					t.Errorf("said %d times, over %d times:\n%s", began-over, over, w.events())
				}
				if got := w.read(w.root.Join("count")); got != "x\n" {
					t.Errorf("ran %q", got)
				}
			})
		}
	}
}

// Deployments that gathered in the queue while it could not be read come together, and only the newest is begun.
func TestOutages_OfWhatGatheredMeanwhileOnlyTheNewestRuns(t *testing.T) {
	t.Setenv("AWS_MAX_ATTEMPTS", "1")
	w := newWorld(t)
	w.hook("appdeploy/pre/05count", `echo "$INVOCATION_ID" >> "`+w.ran()+`"`)
	b := w.goWrong("SQS.ReceiveMessage", localaws.Fault{Status: 500}, "")
	w.start()
	eventually(t, "the queue cannot be read", func() bool { return b.met.Load() > 3 }) // and nothing of the start is under way any more
	older := map[string]bool{}
	for n := range 13 { // more than one poll brings
		label := fmt.Sprint("v", n)
		older[w.send(order{name: protocol.CmdAppDeploy, manifest: w.version(label, nil, nil)}).InvocationID] = true
	}
	newest := w.version("newest", nil, nil)
	w.send(order{name: protocol.CmdAppDeploy, manifest: newest, invocation: "newest"})
	b.off.Store(true)
	for _, r := range w.await(14) {
		if e := r.entry(); older[r.InvocationID] != (e.Cause == protocol.CauseSuperseded) {
			t.Errorf("%s: %+v", r.InvocationID, e)
		}
	}
	if got := w.read(w.ran()); got != "newest\n" {
		t.Errorf("ran %q", got)
	}
	w.holds(newest)
}

// A clock that is set right goes back; which command ran last is still known, and so a stage finds the one before it.
func TestOutages_AClockThatIsSetBackKeepsTheOrderOfStages(t *testing.T) {
	w := newWorld(t)
	var off atomic.Int64
	w.now = func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
	r := w.start()
	w.booted()
	off.Store(int64(2 * time.Hour))
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), expires: time.Now().Add(3 * time.Hour)})
	off.Store(0)
	op := order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil), invocation: "op", stage: stage(0)}
	w.send(op)
	if e := w.one().entry(); e.Status != protocol.Success {
		t.Fatalf("stage 0: %+v", e)
	}
	must(t, r.stop())
	w.start()
	op.stage = stage(1)
	w.send(op)
	if e := w.one().entry(); e.Status != protocol.Success {
		t.Errorf("stage 1: %+v", e)
	}
}

// A machine's clock that is off neither lets an order expire before its time nor revives one: AWS's clock is asked. It is said once.
func TestOutages_AClockThatIsOff(t *testing.T) {
	for name, tc := range map[string]struct {
		off     time.Duration
		expires time.Duration
		want    protocol.Status // inner; "" for an outer failure
		said    string
	}{
		"ahead":        {2 * time.Hour, time.Hour, protocol.Success, "ahead of AWS's"},
		"behind":       {-2 * time.Hour, -time.Hour, "", "behind AWS's"},
		"as it can be": {10 * time.Second, time.Hour, protocol.Success, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.now = func() time.Time { return time.Now().Add(tc.off) }
			w.start()
			w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), expires: time.Now().Add(tc.expires)})
			r := w.one()
			if tc.want == "" && !strings.Contains(r.Message, "expired at") || tc.want != "" && (r.inner == nil || r.entry().Status != tc.want) {
				t.Errorf("result %+v", r)
			}
			if tc.said != "" { // the result does not wait for it
				eventually(t, "the clock is spoken of", func() bool { return strings.Contains(w.events(), tc.said) })
			}
			if n := strings.Count(w.events(), "This machine's clock"); tc.said == "" && n != 0 || tc.said != "" && n != 1 || !strings.Contains(w.events(), tc.said) {
				t.Errorf("said %d times:\n%s", n, w.events())
			}
		})
	}
}

// A queue that the operator named is not made by the agent: it says so once, waits for it, and goes on when it is there.
func TestOutages_ANamedQueueIsWaitedFor(t *testing.T) {
	clock := localaws.NewFakeClock(time.Now())
	w := newWorldBy(t, clock)
	url, err := w.queue.Create(t.Context(), "hostmanager-mine", nil)
	must(t, err)
	w.start(func(s *agent.Setup) { s.Config.CommandQueueURL = url })
	w.booted()
	must(t, w.queue.DeleteQueue(t.Context(), url))
	clock.Advance(20 * time.Second) // the poll under way ends
	eventually(t, "it is said", func() bool {
		return strings.Contains(w.events(), "Make the queue, or correct the setting that names it")
	})
	clock.Advance(time.Minute) // until SQS gives the name back
	_, err = w.queue.Create(t.Context(), "hostmanager-mine", nil)
	must(t, err)
	body, err := w.command(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)}).Encode()
	must(t, err)
	must(t, w.queue.Send(t.Context(), url, string(body)))
	if r := w.one(); r.entry().Status != protocol.Success {
		t.Errorf("result %+v", r)
	}
	if n := strings.Count(w.events(), "The command queue does not answer"); n != 1 || strings.Count(w.events(), "The command queue answers again") != 1 {
		t.Errorf("said %d times:\n%s", n, w.events())
	}
}

// A metadata service that is away does not keep a machine that was an instance before from becoming one again.
func TestOutages_MetadataServiceAwayAtTheStart(t *testing.T) {
	w := newWorld(t)
	must(t, w.start().stop())
	m := newMetadata(t)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", m.URL)
	w.start(func(s *agent.Setup) { s.Config.InstanceID = "" })
	w.booted()
	if m.refused.Load() < 2 {
		t.Errorf("refused %d times", m.refused.Load())
	}
}

// metadata is an IMDS that comes up late.
type metadata struct {
	*httptest.Server
	refused atomic.Int64
}

func newMetadata(t *testing.T) *metadata {
	t.Helper()
	m := &metadata{}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case m.refused.Load() < 6: // the SDK asks three times each
			m.refused.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			fmt.Fprint(w, "token")
		default:
			fmt.Fprintf(w, `{"instanceId":%q,"region":"us-east-1"}`, instance)
		}
	}))
	t.Cleanup(m.Close)
	return m
}
