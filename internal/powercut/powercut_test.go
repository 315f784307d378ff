package powercut_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"hostmanager/internal/disktest"
)

// TestCut_LosesWhatWasNotSynced holds that the power loss is a real one: what was synced is in the copy, what was not is not.
func TestCut_LosesWhatWasNotSynced(t *testing.T) {
	dir, cut := disktest.MountPlugged(t, 16<<20)
	write := func(name, text string, sync bool) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteString(text)
		if sync {
			err = errors.Join(err, unix.Fdatasync(int(f.Fd())))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write("synced", "kept\n", true)
	write("unsynced", "lost\n", false)
	write("both", "kept\n", true)
	write("both", "lost\n", false)
	write("later", "kept\n", true) // which commits the filesystem's own journal with everything before
	cut()
	for name, want := range map[string]string{"synced": "kept\n", "unsynced": "", "both": "kept\n", "later": "kept\n"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
		// Where only the new length was written out, ext4 gives zeros for what was lost.
		if got = bytes.TrimRight(got, "\x00"); !bytes.Equal(got, []byte(want)) {
			t.Errorf("%s holds %q after the power loss, want %q", name, got, want)
		}
	}
}
