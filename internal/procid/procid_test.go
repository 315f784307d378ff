package procid_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"hostmanager/internal/procid"
)

func TestDeadAndGone_AreSaidOnlyOfWhatIsProven(t *testing.T) {
	self := procid.Self()
	if self.PID != os.Getpid() || self.Start == 0 || self.BootID == "" || self.PIDNamespace == "" {
		t.Fatalf("Self is %+v", self)
	}
	child := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	gone := self
	gone.PID = child.Process.Pid
	for name, c := range map[string]struct {
		change func(*procid.ID)
		want   bool
		gone   bool
	}{
		"this process":                   {func(*procid.ID) {}, false, false},
		"its pid with another start":     {func(i *procid.ID) { i.Start++ }, true, true},
		"a process that ended":           {func(i *procid.ID) { *i = gone }, true, true},
		"one of another boot":            {func(i *procid.ID) { *i = gone; i.BootID = "x" }, false, true},
		"this process at another boot":   {func(i *procid.ID) { i.BootID = "x" }, false, true},
		"one of another machine":         {func(i *procid.ID) { *i = gone; i.BootID, i.Host = "x", "y" }, false, false},
		"one of another namespace":       {func(i *procid.ID) { *i = gone; i.PIDNamespace = "pid:[1]" }, false, false},
		"nothing known":                  {func(i *procid.ID) { *i = procid.ID{} }, false, false},
		"one of another host, same name": {func(i *procid.ID) { *i = gone; i.BootID, i.PIDNamespace = "", "" }, false, false},
	} {
		id := self
		c.change(&id)
		if got := id.Dead(); got != c.want {
			t.Errorf("%s: dead %t, want %t (%+v)", name, got, c.want, id)
		}
		if got := id.Gone(); got != c.gone {
			t.Errorf("%s: gone %t, want %t (%+v)", name, got, c.gone, id)
		}
	}
}

func TestID_TravelsAsJSON(t *testing.T) {
	b, err := json.Marshal(procid.Self())
	if err != nil {
		t.Fatal(err)
	}
	var back procid.ID
	if err := json.Unmarshal(b, &back); err != nil || back != procid.Self() {
		t.Errorf("%s came back as %+v, %v", b, back, err)
	}
}
