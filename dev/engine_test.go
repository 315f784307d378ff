package dev_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"hostmanager/environment"
	"hostmanager/internal/dockertest"
	"hostmanager/journal"
)

// TestOutage_OfTheEngineDuringDeployments takes the Engine away from a whole agent, and lets it hang, in the middle of deployments. Each ends right
// and once: with the new version served, or the old one. The application is served throughout, the agent is the same process to the end, and when
// the Engine answers again the next deployment works.
func TestOutage_OfTheEngineDuringDeployments(t *testing.T) {
	engine := dockertest.Require(t)
	cut := dockertest.NewCut(t)
	s := newSite(t)
	t.Cleanup(s.close)
	t.Cleanup(func() { s.ok(cut.Mend()) }) // before what was made is purged
	s.engine = cut.Host()
	s.open()
	s.deploy("v0", nil)
	unharmed := s.use()

	serves := "v0"
	for _, c := range []struct {
		version string
		step    string // that has begun when the Engine goes
		hangs   bool
	}{
		{"v1", "appdeploy/pre/03build", false},
		{"v2", "appdeploy/enact/00run", false},
		{"v3", "appdeploy/pre/03build", true},
		{"v4", "appdeploy/enact/00run", true},
	} {
		report, err := s.bring(c.version, func() {
			s.await("the step has begun", time.Minute, func() bool { return s.hasBegun(c.step) })
			if c.hangs {
				s.ok(cut.Hang())
			} else {
				cut.Gone()
			}
			<-time.After(engineAway)
			s.ok(cut.Mend())
		})
		if report.State == environment.Succeeded {
			serves = c.version
		}
		t.Logf("%s: %s, %v", c.version, report.State, err)
		s.ok(answers(s.room, "Hello from "+serves+"\n"))
	}
	s.deploy("v5", nil)

	unharmed()
	s.checkCommands()
	s.await("every outage that was said is said to be over", time.Minute, func() bool {
		return s.events("The platform does not answer") == s.events("The platform answers again")
	})
	s.close()
	checkRemoved(t, engine, s.namespace)
}

// engineAway is how long the Engine does not answer: longer than anything is tried again at once.
const engineAway = 5 * time.Second

// hasBegun tells whether the newest command that is not finished has begun a step.
func (s *site) hasBegun(step string) bool {
	return slices.ContainsFunc(s.commands(), func(c journal.Command) bool {
		return !c.Finished() && slices.ContainsFunc(c.Steps, func(at journal.Step) bool { return strings.HasSuffix(at.Name, step) })
	})
}
