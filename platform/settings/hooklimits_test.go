package settings_test

import (
	"errors"
	"strings"
	"testing"

	"hostmanager/internal/proc"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

func TestHookLimits_DeploymentBeforeInstance(t *testing.T) {
	own := proc.Limits{Memory: 1 << 30, CPU: 2, PIDs: 1024}
	for _, tt := range []struct {
		options map[string]string
		want    proc.Limits
	}{
		{nil, own},
		{map[string]string{"HookMemoryMax": "512M", "HookPidsMax": " 64 "}, proc.Limits{Memory: 512 << 20, CPU: 2, PIDs: 64}},
		{map[string]string{"HookCPUQuota": "50%", "HookMemoryMax": "none"}, proc.Limits{CPU: 0.5, PIDs: 1024}},
	} {
		s, err := settings.Parse(protocol.OptionSettings{settings.NSHostmanager: tt.options})
		if err != nil || s.HookLimits.Over(own) != tt.want {
			t.Errorf("%v: %+v, %v", tt.options, s.HookLimits.Over(own), err)
		}
	}
	for option, value := range map[string]string{"HookMemoryMax": "lots", "HookCPUQuota": "-1", "HookPidsMax": "1"} {
		_, err := settings.Parse(protocol.OptionSettings{settings.NSHostmanager: {option: value}})
		if !errors.Is(err, settings.ErrInvalid) || !strings.Contains(err.Error(), option) {
			t.Errorf("%s=%s: %v", option, value, err)
		}
	}
}
