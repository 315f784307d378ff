package fleet_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/fleet/wiretest"
	"hostmanager/protocol"
)

func TestDeploy_PrintsWhatEbDeployPrints(t *testing.T) {
	w := newWorld(t)
	// Instance b waits with its flip until a's is counted, so that the order is that of the real log.
	firstDone := make(chan struct{})
	a := w.instance("i-a", dockerLike("3691fd5e5d46"))
	b := w.instance("i-b", func(i *instance, c protocol.Command, r protocol.Request) []string {
		if *r.StageNum == 1 {
			<-firstDone
		}
		return dockerLike("14638e61c6ee")(i, c, r)
	})
	f, out := w.fleet()
	out.onLine = func(l fleet.Line) {
		if strings.Contains(l.Text, "1 of 2") {
			close(firstDone)
		}
	}
	report, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"INFO: Environment update is starting.",
		"INFO: Deploying new version to instance(s).",
		"INFO: Successfully built aws_beanstalk/staging-app",
		"INFO: Successfully built aws_beanstalk/staging-app",
		"INFO: Docker container 3691fd5e5d46 is running aws_beanstalk/current-app.",
		"INFO: Command execution completed on 1 of 2 instances in environment.",
		"INFO: Docker container 14638e61c6ee is running aws_beanstalk/current-app.",
		"INFO: Command execution completed on 2 of 2 instances in environment.",
		"INFO: New application version was deployed to running EC2 instances.",
		"INFO: Environment update completed successfully.",
	}
	if diff := cmp.Diff(want, out.texts()); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	for _, i := range []*instance{a, b} {
		if got := i.ran(); !slices.Equal(got, []int{0, 1}) {
			t.Errorf("%s ran stages %v", i.ID, got)
		}
	}
	c, m := w.current()
	if c.Serial != report.Serial || m.VersionLabel != "v1" || m.DeploymentID != report.DeploymentID {
		t.Errorf("current is %+v of version %s, report %+v", c, m.VersionLabel, report)
	}
	checkEnd(t, w, environment.Succeeded)
}

// checkEnd looks at what an ended operation leaves.
func checkEnd(t *testing.T, w *world, state environment.State) {
	t.Helper()
	if d := w.lastDeployment(); d.State != state {
		t.Errorf("the record says %s (%s), want %s", d.State, d.Failure, state)
	}
	if left := w.leftQueues(); len(left) > 0 {
		t.Errorf("result queues left: %v", left)
	}
	if l, err := w.record.LockState(t.Context()); err != nil || l.Held() {
		t.Errorf("the lock is %+v, %v", l, err)
	}
}

// TestDeploy_PrintsOnlyWhatInstancesSaid changes the events and the number of results and sees the lines change.
func TestDeploy_PrintsOnlyWhatInstancesSaid(t *testing.T) {
	for _, count := range []int{1, 3} {
		w := newWorld(t)
		for n := range count {
			w.instance("i-"+string(rune('a'+n)), func(i *instance, c protocol.Command, r protocol.Request) []string {
				e := success("stage says " + i.ID)
				e.Events[0].Severity = protocol.Warn
				return []string{i.result(c, r, e)}
			})
		}
		f, out := w.fleet()
		if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
			t.Fatal(err)
		}
		var said, completed int
		for _, text := range out.texts() {
			if strings.HasPrefix(text, "WARN: stage says i-") {
				said++
			}
			if strings.Contains(text, "Command execution completed") {
				completed++
			}
		}
		if said != 2*count || completed != count {
			t.Errorf("%d instances: %d event lines, %d completed lines:\n%s", count, said, completed, strings.Join(out.texts(), "\n"))
		}
		out.mustNotHave(t, "Successfully built", "Docker container")
	}
}

func TestDeploy_BuildThatFailsOnOneChangesNothingAnywhere(t *testing.T) {
	w := newWorld(t)
	a := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	w.instance("i-b", failingIn(0, "Failed to build Docker image"))
	f, out := w.fleet()
	report, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"})
	var failed *fleet.FailedError
	if !errors.As(err, &failed) || !slices.Equal(failed.Failed, []string{"i-b"}) || !errors.Is(err, fleet.ErrFailed) {
		t.Fatalf("got %v", err)
	}
	want := []string{
		"ERROR: [Instance: i-b] Command failed on instance. Return code: 1 Output: Failed to build Docker image.",
		"INFO: Command execution completed on all instances. Summary: [Successful: 1, Failed: 1].",
		"ERROR: Unsuccessful command execution on instance id(s) 'i-b'. Aborting the operation.",
		"ERROR: Failed to deploy application.",
	}
	got := slices.DeleteFunc(out.texts(), func(s string) bool { return !slices.Contains(want, s) })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("lines (-want +got):\n%s", diff)
	}
	out.mustNotHave(t, "During an aborted deployment", "New application version", "of 2 instances")
	if stages := a.ran(); !slices.Equal(stages, []int{0}) {
		t.Errorf("the healthy instance ran stages %v", stages)
	}
	if c, _ := w.current(); c.Serial != 0 {
		t.Errorf("current moved to %+v", c)
	}
	if report.State != environment.Failed {
		t.Errorf("report %+v", report)
	}
	checkEnd(t, w, environment.Failed)
}

func TestDeploy_FlipThatFailsOnOneSaysThatVersionsDiffer(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	w.instance("i-b", failingIn(1, "health gate closed"))
	f, out := w.fleet()
	_, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"})
	if !errors.Is(err, fleet.ErrFailed) {
		t.Fatalf("got %v", err)
	}
	out.mustHave(t, "Failed to deploy application.", "During an aborted deployment, some instances may have deployed the new application version.")
	if c, _ := w.current(); c.Serial != 0 {
		t.Errorf("current moved to %+v", c)
	}
	checkEnd(t, w, environment.Failed)
}

func TestDeploy_FlipThatFailsEverywhereLeavesOneVersion(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", failingIn(1, "x"))
	w.instance("i-b", failingIn(1, "y"))
	f, out := w.fleet()
	_, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"})
	if !errors.Is(err, fleet.ErrFailed) {
		t.Fatalf("got %v", err)
	}
	out.mustHave(t, "Unsuccessful command execution on instance id(s) 'i-a,i-b'. Aborting the operation.", "Summary: [Successful: 0, Failed: 2].")
	out.mustNotHave(t, "During an aborted deployment")
}

func TestDeploy_NamesWhoDidNotAnswer(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	w.instance("i-b", nil)
	f, out := w.fleet()
	f.PickupWindow = time.Millisecond
	report, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", Timeout: 5 * time.Second})
	if !errors.Is(err, fleet.ErrFailed) || !slices.Equal(report.TimedOut, []string{"i-b"}) {
		t.Fatalf("got %v, %+v", err, report)
	}
	out.mustHave(t,
		"WARN: The following instances have not responded in the allowed command timeout time (they might still finish eventually on their own): [i-b].",
		"Summary: [Successful: 1, Failed: 0, TimedOut: 1].",
		"Unsuccessful command execution on instance id(s) 'i-b'. Aborting the operation.", lateSays,
		"ERROR: Failed to deploy application.")
	checkEnd(t, w, environment.Failed)
}

func TestDeploy_CountsDuplicatesOnce(t *testing.T) {
	w := newWorld(t)
	for _, id := range []string{"i-a", "i-b"} {
		w.instance(id, func(i *instance, c protocol.Command, r protocol.Request) []string {
			one := i.result(c, r, success("done by "+i.ID))
			return []string{one, one, "no JSON at all", one}
		})
	}
	f, out := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
		t.Fatal(err)
	}
	var completed, events int
	for _, text := range out.texts() {
		if strings.Contains(text, "Command execution completed on") {
			completed++
		}
		if strings.Contains(text, "done by") {
			events++
		}
	}
	if completed != 2 || events != 4 {
		t.Errorf("%d completed lines, %d events:\n%s", completed, events, strings.Join(out.texts(), "\n"))
	}
	out.mustHave(t, "Ignored a message on the result queue")
}

func TestDeploy_PassesOverForeignAndLateResults(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", func(i *instance, c protocol.Command, r protocol.Request) []string {
		stranger := &instance{w: w, Instance: &wiretest.Instance{Options: wiretest.Options{ID: "i-stranger", Record: w.record}}}
		other := c
		other.InvocationID = "another"
		late := r
		late.StageNum = new(int) // stage 0 again, with another ResultId
		return []string{
			stranger.result(c, r, failure("not me")),
			i.result(other, r, failure("not this")),
			strings.Replace(i.result(c, late, failure("late")), i.ID+"/", i.ID+"/late/", 1),
			i.result(c, r, success()),
		}
	})
	// In stage 0 the "late" answer is simply its answer; so let only stage 1 be judged here.
	f, out := w.fleet()
	stage := 1
	_, err := f.Send(t.Context(), fleet.SendRequest{Command: "CMD-AppDeploy", Stage: &stage})
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(out.texts(), "\n"))
	}
	out.mustHave(t, "i-stranger", "it is of invocation")
	out.mustNotHave(t, "not me.", "late.")
}

func TestDeploy_AnswerForAnotherDeploymentIsAFailure(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", func(i *instance, c protocol.Command, r protocol.Request) []string {
		e := success()
		e.StageNum = r.StageNum
		if *r.StageNum == 1 {
			e.DeploymentID = 77
		}
		return []string{i.encode(c, r, e)}
	})
	f, out := w.fleet()
	_, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"})
	if !errors.Is(err, fleet.ErrFailed) {
		t.Fatalf("got %v", err)
	}
	out.mustHave(t, "It answered for deployment 77 and not for 1")
	if c, _ := w.current(); c.Serial != 0 {
		t.Errorf("current moved to %+v", c)
	}
}

func TestDeploy_IgnoredCommandIsNoFailure(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	w.instance("i-b", func(i *instance, c protocol.Command, r protocol.Request) []string {
		return []string{i.result(c, r, protocol.ResponseEntry{Status: protocol.Failure, Msg: "Ignoring not applicable command."})}
	})
	f, out := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
		t.Fatal(err)
	}
	out.mustHave(t, "Command execution completed on 1 of 1 instances in environment.")
	out.mustNotHave(t, "ERROR")
}

func TestDeploy_OuterFailureIsTheInstancesFailure(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", func(i *instance, c protocol.Command, _ protocol.Request) []string {
		return []string{encode(t, protocol.Result{
			DispatcherID: c.DispatcherID, InvocationID: c.InvocationID, CommandName: c.CommandName, ListenerID: i.ID,
			Status: protocol.Failure, ResultID: "x", Message: "the command expired",
		})}
	})
	f, out := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); !errors.Is(err, fleet.ErrFailed) {
		t.Fatalf("got %v", err)
	}
	out.mustHave(t, "[Instance: i-a] Command failed on instance. Return code: 1 Output: the command expired.")
}

func TestDeploy_ReadsSpilledAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(*protocol.Location)
		want   string
	}{
		{"whole", func(*protocol.Location) {}, "INFO: a very long story"},
		{"wrong digest", func(l *protocol.Location) { l.SHA256 = strings.Repeat("0", 64) }, "WARN: The whole answer of i-a could not be read"},
		{"gone", func(l *protocol.Location) { l.Key += "x" }, "WARN: The whole answer of i-a could not be read"},
		{"foreign bucket", func(l *protocol.Location) { l.Bucket = "elsewhere" }, "is no place for answers"},
		{"foreign key", func(l *protocol.Location) { l.Key = "secrets" }, "is no place for answers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.instance("i-a", func(i *instance, cmd protocol.Command, r protocol.Request) []string {
				short := success()
				short.DeploymentID = i.deploymentOf(r)
				long := short
				long.Events = success("a very long story").Events
				data, err := protocol.NewResponse(long).Encode()
				if err != nil {
					t.Error(err)
				}
				key := protocol.SpillKey(testEnv, "result-1")
				if _, err := w.put(key, data); err != nil {
					t.Error(err)
				}
				short.Location = &protocol.Location{Bucket: testBucket, Key: key, SHA256: protocol.Digest([]byte(data)), Size: int64(len(data))}
				c.damage(short.Location)
				return []string{i.result(cmd, r, short)}
			})
			f, out := w.fleet()
			if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
				t.Fatal(err)
			}
			out.mustHave(t, c.want)
		})
	}
}

func TestDeploy_TakesOverTheSettingsOfTheDesiredState(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f, _ := w.fleet()
	deploy := func(label string, changes ...string) protocol.OptionSettings {
		t.Helper()
		q := fleet.DeployRequest{Bundle: w.bundle(label), Label: label}
		for _, text := range changes {
			c, err := fleet.ParseProperty(text)
			if err != nil {
				t.Fatal(err)
			}
			q.Changes = append(q.Changes, c)
		}
		if _, err := f.Deploy(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		_, m := w.current()
		return m.OptionSettings
	}
	deploy("v1", "A=1", "B=2=3")
	got := deploy("v2", "A=", "C=x")
	want := protocol.OptionSettings{fleet.NSEnvironment: {"B": "2=3", "C": "x"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
}

func TestDeploy_SameBundleIsUploadedOnce(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f, out := w.fleet()
	for _, content := range []string{"one", "one", "two"} {
		if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle(content), Label: "v1"}); err != nil {
			t.Fatal(err)
		}
	}
	var skipped, done int
	for _, u := range out.uploads {
		if u.Skipped {
			skipped++
		} else if u.Done {
			done++
		}
	}
	if skipped != 1 || done != 2 {
		t.Errorf("%d skipped, %d done: %+v", skipped, done, out.uploads)
	}
}

func TestDeploy_Refuses(t *testing.T) {
	w := newWorld(t)
	f, _ := w.fleet()
	rolling := fleet.Change{Namespace: "aws:elasticbeanstalk:command", Option: "DeploymentPolicy", Value: "Rolling"}
	b := w.bundle("v1")
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: b, Label: "v1"}); !errors.Is(err, fleet.ErrNoTargets) {
		t.Errorf("no instances: %v", err)
	}
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	inBundle := b
	inBundle.Policy = "Immutable"
	for name, q := range map[string]fleet.DeployRequest{
		"label":            {Bundle: b, Label: "a/b"},
		"application":      {Bundle: b, Label: "v1", Application: ".."},
		"timeout":          {Bundle: b, Label: "v1", Timeout: time.Millisecond},
		"policy":           {Bundle: b, Label: "v1", Policy: "Rolling"},
		"policy in option": {Bundle: b, Label: "v1", Changes: []fleet.Change{rolling}},
		"policy in bundle": {Bundle: inBundle, Label: "v1"},
		"unknown instance": {Bundle: b, Label: "v1", Targets: fleet.Selection{Instances: []string{"i-z"}}},
		"both selections":  {Bundle: b, Label: "v1", Targets: fleet.Selection{Instances: []string{"i-a"}, Queues: []string{"q"}}},
	} {
		if _, err := f.Deploy(t.Context(), q); !errors.Is(err, fleet.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: inBundle, Label: "v1", Policy: "AllAtOnce"}); err != nil {
		t.Errorf("--policy AllAtOnce: %v", err)
	}
}
