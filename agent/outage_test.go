package agent_test

import (
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
		"bundle":       {"S3.GetObject", "/_versions/", []string{"500", "cut request", "throttled"}, 7, "S3, where the version to deploy is,"},
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
