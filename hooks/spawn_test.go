package hooks

import (
	"strings"
	"testing"
)

func TestReadDeclaration(t *testing.T) {
	for text, want := range map[string]declaration{
		"#!/bin/sh\n# hostmanager: repeatable\n":               {repeatable: true},
		"#!/bin/sh\n# hostmanager: repeatable, detach: true\n": {repeatable: true, detach: true},
		"// hostmanager: detach\n":                             {detach: true},
		"-- hostmanager: detach:true,repeatable: false\n":      {detach: true},
		"# hostmanager: detach: yes\n":                         {},
		"# hostmanager: once, detach\n":                        {detach: true},
		"hostmanager: detach\n":                                {},
		"# my hostmanager: detach\n":                           {},
		strings.Repeat("\n", 10) + "# hostmanager: detach\n":   {},
	} {
		if got := readDeclaration(strings.NewReader(text)); got != want {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func TestAdmit(t *testing.T) {
	env, refused := admit([]string{"PATH=/bin", "LD_PRELOAD=/x", "ENV=production", "BASH_ENV=/x", "LD_PRELOAD=/y", "BASH_FUNC_f%%=() { :; }", "PYTHONPATH=/app", "XLD_=1"})
	if got := strings.Join(env, " "); got != "PATH=/bin ENV=production PYTHONPATH=/app XLD_=1" {
		t.Errorf("passed on: %s", got)
	}
	if got := strings.Join(refused, " "); got != "BASH_ENV BASH_FUNC_f%% LD_PRELOAD" {
		t.Errorf("left out: %s", got)
	}
}
