package journal_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hostmanager/journal"
)

// Which command ended last is told by the order of records: not by the order of acceptance, nor by a clock, which may have been set back.
func TestEnded_GoesByTheOrderOfEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := open(t, path, nil)
	ends := func(id string, when time.Time) {
		t.Helper()
		add(t, j, at(when, []journal.Record{{Type: journal.Result, Command: id, Payload: raw(`"` + id + `"`)}, {Type: journal.Sent, Command: id}})...)
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		add(t, j, journal.Record{Type: journal.Accepted, Command: id, Payload: raw(`"` + id + `"`)})
	}
	ends("c", day.Add(2*time.Hour))
	ends("a", day)
	ends("d", day.Add(time.Hour))
	check := func(when string) {
		t.Helper()
		var got []string
		for c := range j.Ended() {
			got = append(got, c.Identity)
		}
		if strings.Join(got, " ") != "d a c" {
			t.Errorf("%s: %v", when, got)
		}
	}
	check("as they ended")
	if err := j.Compact(day); err != nil {
		t.Fatal(err)
	}
	check("compacted")
	_ = j.Close()
	j = open(t, path, nil)
	check("opened again")
}
