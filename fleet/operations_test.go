package fleet_test

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/protocol"
)

func deployed(t *testing.T, w *world, changes ...fleet.Change) *fleet.Fleet {
	t.Helper()
	f, _ := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", Changes: changes}); err != nil {
		t.Fatal(err)
	}
	f, _ = w.fleet()
	return f
}

func property(name, value string) fleet.Change {
	return fleet.Change{Namespace: fleet.NSEnvironment, Option: name, Value: value, Remove: value == ""}
}

func TestConfigDeploy_ChangesSettingsAndKeepsTheVersion(t *testing.T) {
	w := newWorld(t)
	a := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f := deployed(t, w, property("A", "1"), property("B", "2"))
	out := f.Printer.(*lines)
	report, err := f.ConfigDeploy(t.Context(), fleet.ConfigRequest{Changes: []fleet.Change{property("A", ""), property("C", "3")}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"INFO: Environment update is starting.",
		"INFO: Updating environment e-test's configuration settings.",
		"INFO: Successfully built aws_beanstalk/staging-app",
		"INFO: Docker container aaaaaaaaaaaa is running aws_beanstalk/current-app.",
		"INFO: Command execution completed on 1 of 1 instances in environment.",
		"INFO: Successfully deployed new configuration to environment.",
		"INFO: Environment update completed successfully.",
	}
	if diff := cmp.Diff(want, out.texts()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	c, m := w.current()
	if c.Serial != report.Serial || m.VersionLabel != "v1" || m.OptionSettings[fleet.NSEnvironment]["C"] != "3" || len(m.OptionSettings[fleet.NSEnvironment]) != 2 {
		t.Errorf("current %+v, manifest %+v", c, m)
	}
	if r := a.lastGot(); r.CommandName != protocol.CmdConfigDeploy || !r.IsLastStage || r.Data != c.Manifest {
		t.Errorf("sent %+v", r)
	}
}

func TestConfigDeploy_Refuses(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f, _ := w.fleet()
	if _, err := f.ConfigDeploy(t.Context(), fleet.ConfigRequest{Changes: []fleet.Change{property("A", "1")}}); !errors.Is(err, fleet.ErrRefused) {
		t.Errorf("with nothing deployed: %v", err)
	}
	f = deployed(t, w, property("A", "1"))
	if _, err := f.ConfigDeploy(t.Context(), fleet.ConfigRequest{Changes: []fleet.Change{property("A", "1")}}); !errors.Is(err, fleet.ErrRefused) {
		t.Errorf("that changes nothing: %v", err)
	}
	for _, c := range []struct {
		value   string
		refused bool
	}{{"Rolling", true}, {"Immutable", true}, {"AllAtOnce", false}, {"", false}} { // in this order: what was set is then removed
		value, refused := c.value, c.refused
		policy := fleet.Change{Namespace: "aws:elasticbeanstalk:command", Option: "DeploymentPolicy", Value: value, Remove: value == ""}
		_, err := f.ConfigDeploy(t.Context(), fleet.ConfigRequest{Changes: []fleet.Change{policy}})
		if errors.Is(err, fleet.ErrRefused) != refused || (refused && !strings.Contains(err.Error(), "DeploymentPolicy "+value+" is not built yet")) {
			t.Errorf("DeploymentPolicy %q: %v", value, err)
		}
	}
}

func TestConfigDeploy_SaysWhetherItWasReverted(t *testing.T) {
	for _, c := range []struct {
		name     string
		b        reply
		reverted bool
	}{
		{"build fails", failingIn(0, "no"), true},
		{"one of two flips", failingIn(1, "no"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
			f := deployed(t, w)
			w.instance("i-b", c.b)
			if _, err := f.ConfigDeploy(t.Context(), fleet.ConfigRequest{Changes: []fleet.Change{property("A", "1")}}); !errors.Is(err, fleet.ErrFailed) {
				t.Fatalf("got %v", err)
			}
			out := f.Printer.(*lines)
			out.mustHave(t, "ERROR: Failed to deploy configuration.")
			if got := out.has("ERROR: The environment was reverted to the previous configuration setting."); got != c.reverted {
				t.Errorf("says it was reverted: %v", got)
			}
			if _, m := w.current(); len(m.OptionSettings[fleet.NSEnvironment]) != 0 {
				t.Errorf("current has %v", m.OptionSettings)
			}
		})
	}
}

func TestRestart_GoesInStagesAndLeavesNoRecord(t *testing.T) {
	w := newWorld(t)
	a := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f := deployed(t, w)
	before := w.lastDeployment()
	if _, err := f.Restart(t.Context(), fleet.RestartRequest{}); err != nil {
		t.Fatal(err)
	}
	f.Printer.(*lines).mustHave(t, "restartAppServer is starting.", "Command execution completed on 1 of 1 instances", "restartAppServer completed successfully.")
	if got := a.ran(); !slices.Equal(got, []int{0, 1, 0, 1}) {
		t.Errorf("ran %v", got)
	}
	if d := w.lastDeployment(); d.ID != before.ID || len(w.leftQueues()) > 0 {
		t.Errorf("deployment %d, queues %v", d.ID, w.leftQueues())
	}
}

func TestSend_SendsTheCommandAsItStands(t *testing.T) {
	w := newWorld(t)
	a := w.instance("i-a", func(i *instance, c protocol.Command, r protocol.Request) []string {
		return []string{i.result(c, r, success("hello"))}
	})
	f := deployed(t, w)
	c, _ := w.current()
	stage := 1
	_, err := f.Send(t.Context(), fleet.SendRequest{
		Command: "CMD-Whatever", Data: c.Manifest, ExecutionData: `{"x":1}`, Stage: &stage, SNS: true, Timeout: 7 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := a.lastGot()
	if got.CommandName != "CMD-Whatever" || got.Data != c.Manifest || got.DataSHA256 != c.SHA256 || got.ExecutionData != `{"x":1}` ||
		*got.StageNum != 1 || got.Timeout != 7*time.Second {
		t.Errorf("sent %+v", got)
	}
	f.Printer.(*lines).mustHave(t, "INFO: hello", "CMD-Whatever completed successfully.")
	if _, err := f.Send(t.Context(), fleet.SendRequest{Command: "CMD X"}); !errors.Is(err, fleet.ErrRefused) {
		t.Errorf("a name with a blank: %v", err)
	}
}

func TestTargets_ByQueueAlone(t *testing.T) {
	w := newWorld(t)
	// Neither the name of the queue nor a registration tells whose it is.
	stranger := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	odd, err := w.queues.Create(t.Context(), "my-own-queue", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.instanceAt("i-odd", odd, dockerLike("bbbbbbbbbbbb"))
	f, out := w.fleet()
	_, err = f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", Targets: fleet.Selection{Queues: []string{odd}}})
	if !errors.Is(err, fleet.ErrRefused) || !strings.Contains(err.Error(), "say it with INSTANCE="+odd) {
		t.Errorf("a signed order for nobody in particular: %v", err)
	}
	named := "i-odd=" + odd
	report, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", Targets: fleet.Selection{Queues: []string{named, named}}})
	if err != nil || !slices.Equal(report.Succeeded, []string{"i-odd"}) {
		t.Fatalf("got %+v, %v", report, err)
	}
	out.mustHave(t, "Command execution completed on 1 of 1 instances")
	if len(stranger.ran()) != 0 {
		t.Error("another instance was sent to")
	}
}

func TestTargets_SilentInstancesAreNamedAndPassedOver(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	w.register("i-dead", time.Now().Add(-time.Hour))
	if _, err := w.put(protocol.InstancesPrefix(testEnv)+"torn.json", "{"); err != nil {
		t.Fatal(err)
	}
	f := deployed(t, w)
	out := f.Printer.(*lines)
	if _, err := f.Restart(t.Context(), fleet.RestartRequest{}); err != nil {
		t.Fatal(err)
	}
	out.mustHave(t, "name them with --instances to send all the same): [i-dead].", "torn.json is no registration")
	f.PickupWindow = time.Millisecond
	_, err := f.Restart(t.Context(), fleet.RestartRequest{Targets: fleet.Selection{Instances: []string{"i-dead"}}, Timeout: time.Second})
	var failed *fleet.FailedError
	if !errors.As(err, &failed) || !slices.Equal(failed.Failed, []string{"i-dead"}) || !failed.OnlyUnreached() {
		t.Errorf("named: %v", err)
	}
	out.mustHave(t, "ERROR: Instance i-dead was not reached. Its command queue "+w.aws.URL()+"/000000000000/gone does not exist: ", "`hmctl forget i-dead`")
	out.mustNotHave(t, "Command failed on instance")
}

// TestOperation_SaysWhoGivesNoSign: whoever renewed its registration after the command was sent is at work and not named.
func TestOperation_SaysWhoGivesNoSign(t *testing.T) {
	w := newWorld(t)
	release := make(chan struct{})
	slow := func(i *instance, c protocol.Command, r protocol.Request) []string {
		if i.ID == "i-busy" {
			if err := i.Register(t.Context(), environment.Instance{}); err != nil {
				t.Error(err)
			}
		}
		<-release
		return dockerLike("aaaaaaaaaaaa")(i, c, r)
	}
	w.instance("i-busy", slow)
	w.instance("i-gone", slow)
	f := deployedTo(t, w, release)
	out := f.Printer.(*lines)
	out.mustHave(t, "WARN: Still waiting, and no sign since the command was sent from i-gone, last seen ")
	out.mustHave(t, "does it trust the key "+w.record.KeyID()+" that signs here?")
	out.mustNotHave(t, "i-busy, last seen")
}

// deployedTo deploys and lets the instances go on once somebody was missed.
func deployedTo(t *testing.T, w *world, release chan struct{}) *fleet.Fleet {
	t.Helper()
	f, out := w.fleet()
	f.QuietAfter = 5 * time.Second
	var once sync.Once
	out.onLine = func(l fleet.Line) {
		if strings.Contains(l.Text, "Still waiting") {
			once.Do(func() { close(release) })
		}
	}
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTargets_ChosenInstancesOnly(t *testing.T) {
	w := newWorld(t)
	a, b := w.instance("i-a", dockerLike("aaaaaaaaaaaa")), w.instance("i-b", dockerLike("bbbbbbbbbbbb"))
	f, out := w.fleet()
	_, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", Targets: fleet.Selection{Instances: []string{"i-b"}}})
	if err != nil {
		t.Fatal(err)
	}
	if len(a.ran()) != 0 || !slices.Equal(b.Got()[0].InstanceIDs, []string{"i-b"}) {
		t.Errorf("a ran %v, b was sent %+v", a.ran(), b.Got()[0])
	}
	out.mustHave(t, "WARN: Only the chosen instances run it now.")

	restarted, again := w.fleet()
	if _, err := restarted.Restart(t.Context(), fleet.RestartRequest{Targets: fleet.Selection{Instances: []string{"i-b"}}}); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(again.texts(), "\n"); strings.Contains(all, "desired state") {
		t.Errorf("a restart moves no desired state:\n%s", all)
	}
}

func (w *world) register(id string, seen time.Time) {
	w.t.Helper()
	body := encode(w.t, environment.Instance{InstanceID: id, Queue: w.aws.URL() + "/000000000000/gone", Seen: seen})
	if _, err := w.put(protocol.InstanceKey(testEnv, id), body); err != nil {
		w.t.Fatal(err)
	}
}

func TestParseOption_SplitsAtTheLastColon(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := fleet.Change{
			Namespace: rapid.StringMatching(`[a-z]+(:[a-z]+){0,4}`).Draw(rt, "namespace"),
			Option:    rapid.StringMatching(`[A-Za-z][A-Za-z ]*`).Draw(rt, "option"),
			Value:     rapid.String().Draw(rt, "value"),
		}
		want.Remove = want.Value == ""
		got, err := fleet.ParseOption(want.Namespace + ":" + want.Option + "=" + want.Value)
		if err != nil || got != want {
			rt.Fatalf("got %+v, %v; want %+v", got, err, want)
		}
	})
}

func FuzzParseChanges(f *testing.F) {
	for _, s := range []string{"A=1", "=", "aws:x:y=1", ":=", "a:b", "A=="} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c, err := fleet.ParseOption(s); err == nil && (c.Namespace == "" || c.Option == "" || strings.Contains(c.Option, "=")) {
			t.Errorf("ParseOption(%q) = %+v", s, c)
		}
		if c, err := fleet.ParseProperty(s); err == nil && (c.Option == "" || c.Option+"="+c.Value != s) {
			t.Errorf("ParseProperty(%q) = %+v", s, c)
		}
	})
}
