package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/environment"
	"hostmanager/protocol"
)

// booted waits until the agent has nothing more to do for this boot.
func (w *world) booted() {
	w.t.Helper()
	eventually(w.t, "boot is done", func() bool {
		text := w.read(filepath.Join(w.root.AgentState(), "boot.json"))
		return strings.Contains(text, `"boot_id": "`+w.boot+`"`) && strings.Contains(text, `"self_startup": true`)
	})
}

// startupFails makes every start-up deployment fail, and no other, until the returned function is called.
func (w *world) startupFails() (no func()) {
	w.t.Helper()
	const hook = "appdeploy/pre/05startup"
	w.hook(hook, `[ "$EB_SYSTEM_STARTUP" != true ]`)
	return func() { must(w.t, os.Remove(w.root.HookDir(hook))) }
}

// failedStartup starts an agent whose start-up deployment of v fails; it will be tried again.
func (w *world) failedStartup(v protocol.Current) *running {
	w.t.Helper()
	must(w.t, w.record.MoveCurrent(w.t.Context(), v))
	r := w.start()
	eventually(w.t, "start-up failed", func() bool {
		return strings.Contains(w.events(), "could not be brought to the environment's version at start-up")
	})
	return r
}

// quiet restarts the application, a command behind whatever the lane holds: when it is answered, what start-up wanted at once is over.
func (w *world) quiet() {
	w.t.Helper()
	w.deployed(order{name: protocol.CmdRestartAppServer})
}

func TestBoot_BringsCurrentOnce(t *testing.T) {
	w := newWorld(t)
	v := w.version("v1", nil, nil)
	must(t, w.record.MoveCurrent(t.Context(), v))
	w.hook("preinit/10count", `echo x >> "`+string(w.root)+`/preinit-count"`)
	w.hook("appdeploy/pre/10count", `echo "$EB_SYSTEM_STARTUP" >> "`+string(w.root)+`/deploy-count"`)
	r := w.start()
	eventually(t, "the version serves", func() bool { return w.serving() == v.Serial })
	must(t, r.stop())
	tree, err := filepath.EvalSymlinks(w.root.Current())
	must(t, err)
	for _, again := range []struct {
		boot             string
		preinit, deploys string
		broken           bool
	}{
		{"boot-1", "x\n", "true\n", false},            // the agent alone started again
		{"boot-2", "x\nx\n", "true\n", false},         // the machine did; the serial serves and is well
		{"boot-3", "x\nx\nx\n", "true\ntrue\n", true}, // nothing serves
	} {
		if again.broken {
			must(t, os.Remove(filepath.Join(w.root.EtcBeanstalk(), "serving")))
		}
		w.boot = again.boot
		r := w.start()
		w.booted()
		must(t, r.stop())
		if p, d := w.read(w.root.Join("preinit-count")), w.read(w.root.Join("deploy-count")); p != again.preinit || d != again.deploys || w.serving() != v.Serial {
			t.Errorf("%s: preinit %q, deploys %q, serial %d", again.boot, p, d, w.serving())
		}
		if now, err := filepath.EvalSymlinks(w.root.Current()); err != nil || (now != tree) != again.broken {
			t.Errorf("%s: the tree is %s, was %s, %v", again.boot, now, tree, err)
		}
	}
}

func TestBoot_StoreThatIsAwayDoesNotBlockCommands(t *testing.T) {
	w := newWorld(t)
	must(t, w.record.MoveCurrent(t.Context(), w.version("v1", nil, nil)))
	back, err := w.aws.Inject(localaws.Fault{Op: "S3.*", Status: 500, Code: "InternalError"})
	must(t, err)
	w.start()
	w.send(order{name: protocol.CmdRestartAppServer})
	if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, "no version is deployed") {
		t.Errorf("result %+v", e)
	}
	back()
	eventually(t, "the version serves", func() bool { return w.serving() == 1 })
}

func TestBoot_WithoutAnyVersionIsDone(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.booted()
}

// operation writes the record of the operation that deploys v.
func (w *world) operation(v protocol.Current, state environment.State) {
	w.t.Helper()
	m, _, err := w.record.GetManifest(w.t.Context(), v.Manifest, v.SHA256)
	must(w.t, err)
	_, err = w.record.PutDeployment(w.t.Context(), &environment.Deployment{
		ID: m.DeploymentID, Serial: v.Serial, State: state, RequestID: "op", Command: protocol.CmdAppDeploy, VersionLabel: m.VersionLabel,
		Manifest: v.Manifest, SHA256: v.SHA256, ResultQueue: protocol.ResultQueue(envID, "op"),
	}, "")
	must(w.t, err)
}

// A version whose operation ended without SUCCESS everywhere is not the environment's: the next boot goes to the one that is.
func TestBoot_LeavesAVersionWhoseOperationFailed(t *testing.T) {
	w := newWorld(t)
	v1 := w.version("v1", nil, nil)
	must(t, w.record.MoveCurrent(t.Context(), v1))
	r := w.start()
	w.booted()
	v2 := w.version("v2", nil, nil)
	w.operation(v2, environment.Failed)
	must(t, w.record.JudgeCurrent(t.Context(), v2.Serial)) // as hmctl does when an operation failed
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: v2})
	must(t, r.stop())
	w.boot = "boot-2"
	r = w.start()
	w.booted()
	must(t, r.stop())
	w.holds(v1)
}

// Every start of the agent looks, not only the machine's: the environment may have moved on, or what served may be gone.
func TestBoot_EveryStartOfTheAgentLooks(t *testing.T) {
	w := newWorld(t)
	v1 := w.version("v1", nil, nil)
	must(t, w.record.MoveCurrent(t.Context(), v1))
	r := w.start()
	w.booted()
	must(t, r.stop())
	must(t, os.Remove(filepath.Join(w.root.EtcBeanstalk(), "serving")))
	r = w.start()
	eventually(t, "what was gone serves again", func() bool { return w.serving() == v1.Serial })
	must(t, r.stop())
	v2 := w.version("v2", nil, nil)
	must(t, w.record.MoveCurrent(t.Context(), v2))
	w.start()
	eventually(t, "the environment's new version serves", func() bool { return w.serving() == v2.Serial })
}

// A deployment that was answered with SUCCESS stays while its operation is under way, although the record does not name it yet: not the retry of
// a failed start-up, not the next agent, not the next boot puts the older version over it.
func TestBoot_NeverGoesBehindWhatACommandDeployed(t *testing.T) {
	for _, staged := range []bool{false, true} {
		t.Run(map[bool]string{false: "whole", true: "staged"}[staged], func(t *testing.T) {
			w := newWorld(t)
			succeed := w.startupFails()
			r := w.failedStartup(w.version("v1", nil, nil))
			v2 := w.version("v2", nil, nil)
			w.operation(v2, environment.Running)
			if staged {
				w.deployed(order{name: protocol.CmdAppDeploy, manifest: v2, invocation: "op", stage: stage(0)})
				w.deployed(order{name: protocol.CmdAppDeploy, manifest: v2, invocation: "op", stage: stage(1)})
			} else {
				w.deployed(order{name: protocol.CmdAppDeploy, manifest: v2})
			}
			w.booted() // a command did what start-up could not
			succeed()
			must(t, r.stop())
			for _, next := range []struct {
				boot string
				gone bool // what served is gone
			}{{"boot-1", false}, {"boot-2", false}, {"boot-3", true}} {
				if next.gone {
					must(t, os.Remove(filepath.Join(w.root.EtcBeanstalk(), "serving")))
				}
				w.boot = next.boot
				r := w.start()
				w.booted()
				w.quiet()
				must(t, r.stop())
				w.holds(v2)
			}
		})
	}
}

// What was deployed on another machine binds no machine that was made of its disk.
func TestBoot_OfAClonedDiskTakesTheEnvironmentsVersion(t *testing.T) {
	w := newWorld(t)
	v1, v2 := w.version("v1", nil, nil), w.version("v2", nil, nil)
	r := w.start()
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: v2})
	must(t, r.stop())
	must(t, w.record.MoveCurrent(t.Context(), v1))
	w.boot = "boot-2"
	_, err := w.queue.Create(t.Context(), protocol.CommandQueue(envID, "i-clone"), nil)
	must(t, err)
	w.start(func(s *agentSetup) { s.Config.InstanceID = "i-clone" })
	eventually(t, "the environment's version serves", func() bool { return w.serving() == v1.Serial })
}

// Between the stages of an operation start-up leaves the lane alone, so that the later stage is not refused.
func TestBoot_WaitsForTheNextStage(t *testing.T) {
	w := newWorld(t)
	succeed := w.startupFails()
	r := w.failedStartup(w.version("v1", nil, nil))
	op := order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil), invocation: "op"}
	op.stage = stage(0)
	w.deployed(op)
	succeed()
	must(t, r.stop())
	w.start() // wants to bring the environment's version at once
	waits := func() bool {
		return strings.Contains(w.read(w.root.Log("hostmanager.log")), "start-up waits for the next stage of the operation under way")
	}
	eventually(t, "start-up waits", waits)
	op.stage = stage(1)
	w.deployed(op)
	w.holds(op.manifest)
}

// An operation that is not carried on within its command's time does not keep the instance without a version.
func TestBoot_DoesNotWaitForAStageThatNeverComes(t *testing.T) {
	w := newWorld(t)
	succeed := w.startupFails()
	v1 := w.version("v1", nil, nil)
	r := w.failedStartup(v1)
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil), invocation: "op", stage: stage(0), timeout: 5 * time.Second})
	succeed()
	must(t, r.stop())
	w.start()
	eventually(t, "the environment's version serves", func() bool { return w.serving() == v1.Serial })
	w.booted()
	w.holds(v1)
}

// While the old version serves, the files that hooks read tell of it: PreInit does not change them for a version that then cannot be brought.
func TestBoot_PreInitLeavesTheFilesOfWhatServes(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	v1 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", map[string]string{"A": "one"}, nil)})
	must(t, r.stop())
	linked, err := os.Readlink(w.root.SourceBundle())
	must(t, err)
	v2 := w.version("v2", map[string]string{"A": "two"}, map[string]string{"Dockerfile": "FROM scratch\n# two\n"})
	must(t, w.record.MoveCurrent(t.Context(), v2))
	fifo := filepath.Join(t.TempDir(), "go")
	must(t, syscall.Mkfifo(fifo, 0o600))
	w.hook("preinit/10wait", `echo x > "`+string(w.root)+`/preinit"; read x < `+fifo)
	w.boot = "boot-2"
	w.start()
	eventually(t, "preinit runs", func() bool { _, err := os.Stat(w.root.Join("preinit")); return err == nil })
	must(t, w.objects.Delete(t.Context(), bucket, protocol.ManifestKey(envID, v2.Manifest))) // what comes next fails before its first action
	must(t, os.WriteFile(fifo, []byte("x\n"), 0o600))
	eventually(t, "start-up failed", func() bool {
		return strings.Contains(w.events(), "could not be brought to the environment's version at start-up")
	})
	w.holds(v1)
	if now, err := os.Readlink(w.root.SourceBundle()); err != nil || now != linked {
		t.Errorf("source bundle is %s, %v, want %s", now, err, linked)
	}
}
