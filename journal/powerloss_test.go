package journal_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hostmanager/internal/disktest"
	"hostmanager/journal"
)

// After a power loss the journal's file is byte for byte what it was when the last call returned: begun, appended to, or compacted.
func TestJournal_OutlivesAPowerLoss(t *testing.T) {
	dir, cut := disktest.MountPlugged(t, 32<<20)
	path := filepath.Join(dir, "state", "journal")
	for _, step := range []struct {
		name string
		do   func(j *journal.Journal) error
	}{
		{"begun", func(*journal.Journal) error { return nil }},
		{"appended to", func(j *journal.Journal) error { add(t, j, life("one")...); return nil }},
		{"compacted", func(j *journal.Journal) error { return j.Compact(day) }},
		{"compacted and appended to", func(j *journal.Journal) error {
			err := j.Compact(day.Add(2 * journal.Window))
			add(t, j, life("two")[:4]...)
			return err
		}},
	} {
		t.Run(step.name, func(t *testing.T) {
			var told events
			j := open(t, path, &told)
			if err := step.do(j); err != nil {
				t.Fatal(err)
			}
			want := j.Commands()
			_ = j.Close()
			before := content(t, path)
			cut()
			if after := content(t, path); !bytes.Equal(before, after) {
				t.Errorf("the file has %d bytes, and had %d:\n%q", len(after), len(before), after)
			}
			j = open(t, path, &told)
			defer j.Close()
			if diff := cmp.Diff(want, j.Commands()); diff != "" || len(told) > 0 {
				t.Errorf("told %v: %s", told, diff)
			}
		})
	}
}

func content(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
