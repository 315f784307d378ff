package fleet_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hostmanager/fleet"
	"hostmanager/fleet/wiretest"
	"hostmanager/protocol"
)

func failingBecause(cause string) reply { return ready(wiretest.FailingBecause(1, cause)) }

// afterFirst takes the first deployment well and answers what follows as r does.
func afterFirst(r reply) reply {
	stages := 0
	return func(i *instance, c protocol.Command, q protocol.Request) []string {
		if stages++; stages <= 2 {
			return dockerLike("aaaaaaaaaaaa")(i, c, q)
		}
		return r(i, c, q)
	}
}

// The sentences that end an operation, by what the instances answered.
const (
	gateSays    = "ERROR: Instance id(s) '%s' did not pass health check after command execution. Aborting the operation."
	failedSays  = "ERROR: Unsuccessful command execution on instance id(s) '%s'. Aborting the operation."
	lateSays    = "ERROR: Update environment operation is complete, but with command timeouts. Try increasing the timeout period."
	errorsSays  = "ERROR: Update environment operation is complete, but with errors. For more information, see troubleshooting documentation."
	deploySays  = "ERROR: Failed to deploy application."
	configSays  = "ERROR: Failed to deploy configuration."
	mixedSays   = "ERROR: During an aborted deployment, some instances may have deployed the new application version. To ensure all instances are running the same version, re-deploy the appropriate application version."
	mixedConfig = "ERROR: Some instances may have the new configuration. To ensure all instances have the same, deploy the configuration again."
	revertSays  = "ERROR: The environment was reverted to the previous configuration setting."
)

func says(sentence, ids string) string { return strings.Replace(sentence, "%s", ids, 1) }

// ends returns the sentences about the end of an operation.
func (l *lines) ends() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, line := range l.all {
		if line.Kind == fleet.KindFailure {
			out = append(out, string(line.Severity)+": "+line.Text)
		}
	}
	return out
}

func TestFailure_IsToldByItsCause(t *testing.T) {
	ok, gate, late, plain := dockerLike("aaaaaaaaaaaa"), failingBecause(protocol.CauseHealthGate), failingBecause(protocol.CauseTimeout), failingIn(1, "no")
	for _, c := range []struct {
		name   string
		a, b   reply
		deploy []string
		config []string
	}{
		{
			"health everywhere", gate, gate,
			[]string{says(gateSays, "i-a,i-b"), deploySays},
			[]string{says(gateSays, "i-a,i-b"), configSays, revertSays},
		},
		{
			"health on one", ok, gate,
			[]string{says(gateSays, "i-b"), deploySays, mixedSays},
			[]string{says(gateSays, "i-b"), errorsSays, configSays, mixedConfig},
		},
		{
			"health and something else", gate, plain,
			[]string{says(failedSays, "i-b"), says(gateSays, "i-a"), deploySays},
			[]string{says(failedSays, "i-b"), says(gateSays, "i-a"), configSays, revertSays},
		},
		{
			"time over on one", ok, late,
			[]string{says(failedSays, "i-b"), lateSays, deploySays, mixedSays},
			[]string{says(failedSays, "i-b"), lateSays, configSays, mixedConfig},
		},
		{
			"time and something else", late, plain,
			[]string{says(failedSays, "i-a,i-b"), deploySays},
			[]string{says(failedSays, "i-a,i-b"), configSays, revertSays},
		},
		{
			"a cause this hmctl does not know", failingBecause("phase_of_the_moon"), ok,
			[]string{says(failedSays, "i-a"), deploySays, mixedSays},
			[]string{says(failedSays, "i-a"), errorsSays, configSays, mixedConfig},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.instance("i-a", afterFirst(c.a))
			w.instance("i-b", afterFirst(c.b))
			deployed(t, w)
			f, out := w.fleet()
			if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v2"), Label: "v2"}); !errors.Is(err, fleet.ErrFailed) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(c.deploy, out.ends()); diff != "" {
				t.Errorf("deploy (-want +got):\n%s", diff)
			}
			f, out = w.fleet()
			if _, err := f.ConfigDeploy(t.Context(), fleet.ConfigRequest{Changes: []fleet.Change{property("A", "1")}}); !errors.Is(err, fleet.ErrFailed) {
				t.Fatalf("got %v", err)
			}
			if diff := cmp.Diff(c.config, out.ends()); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}
