package settings_test

import (
	"reflect"
	"testing"

	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// TestKnown_IsWhatParseReads: a value nobody can use is noticed for every known option and for no other.
func TestKnown_IsWhatParseReads(t *testing.T) {
	untouched, err := settings.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	for namespace, options := range map[string][]string{
		settings.NSCommand:     {"Timeout", "IgnoreHealthCheck", "BatchSize", "timeout"},
		settings.NSApplication: {"Application Healthcheck URL", "Application Healthcheck"},
		settings.NSProcess: {
			"HealthCheckPath", "HealthCheckInterval", "HealthCheckTimeout", "HealthyThresholdCount", "UnhealthyThresholdCount", "MatcherHTTPCode",
			"DeregistrationDelay", "StickinessEnabled", "Port",
		},
		settings.NSHostmanager:              {"HealthGateTimeout", "ReplaceableHooks", "HealthGate"},
		settings.NSEnvironment:              {"ANY"},
		"aws:autoscaling:asg":               {"MinSize"},
		"aws:elasticbeanstalk:hostmanagers": {"HealthGateTimeout"},
	} {
		for _, option := range options {
			got, err := settings.Parse(protocol.OptionSettings{namespace: {option: "\x01 unusable"}})
			read := err != nil || !reflect.DeepEqual(got, untouched)
			if known := settings.Known(namespace, option); known != read {
				t.Errorf("%s %s: known %t, read by Parse %t", namespace, option, known, read)
			}
		}
	}
	if !settings.Known(settings.NSCommand, "DeploymentPolicy") {
		t.Error("hmctl reads DeploymentPolicy")
	}
}
