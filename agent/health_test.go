package agent_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"hostmanager/agent"
	"hostmanager/environment"
	"hostmanager/internal/atomicfile"
	"hostmanager/protocol"
)

// looking makes an agent look at what it has deployed all the time.
func looking(s *agentSetup) { s.LookEvery = 10 * time.Millisecond }

// registered is the instance's registration, zero where there is none.
func (w *world) registered() environment.Instance {
	w.t.Helper()
	all, _, err := w.record.Instances(w.t.Context())
	must(w.t, err)
	if len(all) == 0 {
		return environment.Instance{}
	}
	return all[0]
}

func (w *world) platformFile(name string) string { return (&filePlatform{w.root}).file(name) }

// serve has the application do as change says.
func (w *world) serve(change func(*agent.Application)) {
	w.t.Helper()
	a, err := (&filePlatform{w.root}).Status(w.t.Context())
	must(w.t, err)
	change(&a)
	data, err := json.Marshal(a)
	must(w.t, err)
	must(w.t, atomicfile.WriteFile(w.platformFile("serving"), data, 0o600))
}

func TestHealth_OfTheApplicationIsToldAtOnce(t *testing.T) {
	w := newWorld(t)
	w.start(looking)
	eventually(t, "nothing is deployed, and that is well", func() bool {
		i := w.registered()
		return i.State == "ready" && i.Application == environment.Application{}
	})
	v := w.version("v1", map[string]string{"SECRET": "s3cr3t-value"}, nil)
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: v})
	for _, c := range []struct {
		name    string
		change  func(*agent.Application)
		state   string
		health  environment.Application
		trouble string
	}{
		{"well", func(*agent.Application) {}, "ready", environment.Application{Running: true, Healthy: true}, ""},
		{
			"dead", func(a *agent.Application) {
				a.Running, a.Healthy, a.Reason = false, false, "the container ended with exit code 137"
			},
			"degraded",
			environment.Application{},
			"application not running: the container ended with exit code 137",
		},
		{
			"not healthy", func(a *agent.Application) {
				a.Running, a.Healthy, a.Reason = true, false, "GET /s3cr3t-value\n answered 500 "+strings.Repeat("x", 1000)
			},
			"degraded",
			environment.Application{Running: true},
			"application not healthy: GET /",
		},
		{"well again", func(a *agent.Application) { a.Healthy, a.Reason = true, "" }, "ready", environment.Application{Running: true, Healthy: true}, ""},
	} {
		w.serve(c.change)
		eventually(t, c.name+" is registered", func() bool {
			i := w.registered()
			return i.State == c.state && i.Application.Running == c.health.Running && i.Application.Healthy == c.health.Healthy
		})
		i := w.registered()
		if i.Serial != v.Serial || !strings.HasPrefix(i.Application.Trouble(), c.trouble) || (c.trouble == "") != (i.Application.Trouble() == "") ||
			len(i.Application.Reason) > 300 || strings.Contains(i.Application.Reason, "s3cr3t") || strings.Contains(i.Application.Reason, "\n") {
			t.Errorf("%s: registration %+v", c.name, i)
		}
		s, err := agent.AskStatus(t.Context(), w.root)
		if err != nil || s.State != c.state || s.Trouble != i.Application.Trouble() {
			t.Errorf("%s: status %+v, %v", c.name, s, err)
		}
	}
}

func TestHealth_ThatCannotBeFoundOutIsNotReady(t *testing.T) {
	w := newWorld(t)
	w.start(looking)
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	must(t, os.WriteFile(w.platformFile("serving"), []byte("{"), 0o600))
	eventually(t, "it is registered", func() bool {
		i := w.registered()
		return i.State == "degraded" && i.Application.Unknown && i.Application.Reason != ""
	})
}

// An Engine that hangs keeps no instance from being seen.
func TestHealth_OfAPlatformThatHangsIsUnknown(t *testing.T) {
	w := newWorld(t)
	w.start(looking)
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	must(t, os.WriteFile(w.platformFile("hanging"), nil, 0o600))
	eventually(t, "it is registered", func() bool {
		i := w.registered()
		return i.State == "degraded" && i.Application.Unknown
	})
	must(t, os.Remove(w.platformFile("hanging")))
	eventually(t, "it is well again", func() bool { return w.registered().State == "ready" })
	if strings.Contains(w.events(), "record in S3 does not answer") {
		t.Error(w.events())
	}
}

func TestTend_PutsRightWhatWentAstray(t *testing.T) {
	w := newWorld(t)
	w.start(looking)
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	must(t, os.WriteFile(w.platformFile("astray"), []byte("the proxy had no target"), 0o600))
	eventually(t, "it is put right", func() bool {
		return strings.Contains(w.events(), "Outside any deployment, the proxy had no target. It was put right.")
	})
	if w.read(w.platformFile("astray")) != "" || !strings.Contains(w.events(), `"severity":"WARN"`) {
		t.Error(w.events())
	}
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil)}) // the lane is free again
}

// What the platform cannot put right, because what served is gone, start-up brings again.
func TestTend_BringsTheVersionAnewWhereItIsGone(t *testing.T) {
	w := newWorld(t)
	v1 := w.version("v1", nil, nil)
	must(t, w.record.MoveCurrent(t.Context(), v1))
	w.start(looking)
	w.booted()
	platform := &filePlatform{w.root}
	must(t, os.WriteFile(platform.file("stuck"), nil, 0o600))
	must(t, os.Remove(platform.file("serving")))
	must(t, os.WriteFile(platform.file("astray"), []byte("the container is gone"), 0o600))
	eventually(t, "the version serves again", func() bool { return w.serving() == v1.Serial })
}

func TestTend_SaysWhatItCannotPutRightAndLeavesTheLaneFree(t *testing.T) {
	w := newWorld(t)
	w.start(looking)
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	must(t, os.WriteFile(w.platformFile("stuck"), nil, 0o600))
	must(t, os.WriteFile(w.platformFile("astray"), []byte("the proxy had no target"), 0o600))
	eventually(t, "it is said", func() bool { return strings.Contains(w.events(), "It could not be put right: it is stuck.") })
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil)})
	if n := strings.Count(w.events(), "could not be put right"); n != 1 {
		t.Errorf("said %d times", n)
	}
}
