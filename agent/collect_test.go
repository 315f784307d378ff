package agent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/protocol"
)

// What a crash or a bug of the past left is bounded at the next start, by what is on the disk and in the journal alone.
func TestStart_BoundsWhatWasSetAside(t *testing.T) {
	w := newWorld(t)
	first := w.start()
	wantStatus(t, w.deployNamed("v1", nil), protocol.Success)
	must(t, first.stop())
	old := time.Now().Add(-48 * time.Hour)
	put := func(path string, age time.Duration) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		must(t, os.WriteFile(path, []byte("x"), 0o600))
		at := old.Add(-age)
		must(t, os.Chtimes(path, at, at))
	}
	for n := range 9 {
		age := time.Duration(n) * time.Hour
		put(fmt.Sprintf("%s.quarantine-%d", w.root.Journal(), n), age)
		put(fmt.Sprintf("%s.instance-i-%d", w.root.Journal(), n), age)
		put(fmt.Sprintf("%s.corrupt-%d", w.root.ProxyState(), n), age)
	}
	put(filepath.Join(w.root.Outbox(), "leaving.json"), 0)
	part := filepath.Join(w.root.BundleCache(), "partial", strings.Repeat("a", 64)+".part")
	put(part, 0)
	must(t, os.MkdirAll(filepath.Join(w.root.Releases(), ".unpack-7-abc-123", "deep"), 0o755))
	stale := filepath.Join(w.root.BundleCache(), "trees", "1-gone")
	must(t, os.Symlink(strings.Repeat("b", 64), stale))
	kept, err := filepath.Glob(filepath.Join(w.root.BundleCache(), "sha256", "*"))
	must(t, err)

	w.start(smallReserve)
	left := func(pattern string) int {
		found, err := filepath.Glob(pattern)
		must(t, err)
		return len(found)
	}
	eventually(t, "what was set aside is bounded", func() bool {
		return left(w.root.Journal()+".quarantine-*") == 5 && left(w.root.Journal()+".instance-*") == 5 && left(w.root.ProxyState()+".corrupt-*") == 5 &&
			left(filepath.Join(w.root.Outbox(), "*")) == 0
	})
	for n := range 5 {
		if _, err := os.Stat(fmt.Sprintf("%s.quarantine-%d", w.root.Journal(), n)); err != nil {
			t.Errorf("the latest go first: %v", err)
		}
	}
	eventually(t, "leavings are gone", func() bool {
		return left(part) == 0 && left(stale) == 0 && left(filepath.Join(w.root.Releases(), ".unpack-*")) == 0
	})
	for _, path := range kept {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("the bundle of a tree that is there: %v", err)
		}
	}
}

// A response too large for a message waits in the outbox for as long as it is not sent, whatever its age.
func TestStart_KeepsWhatWaitsToBeSent(t *testing.T) {
	w := newWorld(t)
	first := w.start(smallReserve)
	recovered, err := w.aws.Inject(localaws.Fault{
		Op: "S3.PutObject", Status: 503, Code: "ServiceUnavailable",
		When: func(c localaws.Call) bool { return strings.Contains(c.Request.URL.Path, "/results/") },
	})
	must(t, err)
	w.hook("appdeploy/pre/10many.sh", manyEvents())
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), invocation: "inv-v1"})
	spills := func() []string {
		found, err := filepath.Glob(filepath.Join(w.root.Outbox(), "*.json"))
		must(t, err)
		return found
	}
	eventually(t, "a large response waits", func() bool { return len(spills()) == 1 })
	eventually(t, "its result is journalled", func() bool { return w.journalled(w.identityOf("v1")).Finished() })
	must(t, first.stop())
	old := time.Now().Add(-48 * time.Hour)
	must(t, os.Chtimes(spills()[0], old, old))
	must(t, os.RemoveAll(w.root.DiskReserve()))
	w.start(smallReserve)
	w.reserved() // which comes after the first collection
	if len(spills()) != 1 {
		t.Error("it was taken for a leaving")
	}
	recovered()
	if e := w.one().entry(); e.Location == nil {
		t.Errorf("entry %+v", e)
	}
}

// manyEvents is a hook that reports more than a message carries.
func manyEvents() string {
	return `i=0; while [ $i -lt 450 ]; do printf '{"msg":"event %d ` + strings.Repeat("x", 900) + `","severity":"INFO"}\n---\n' $i; i=$((i+1)); done >> "$EB_EVENT_FILE"`
}

// Where the disk takes no large response the verdict is sent all the same, with the beginning of what is to be said.
func TestResult_ALargeResponseThatCannotBeKept(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.hook("appdeploy/pre/10many.sh", manyEvents())
	v1 := w.version("v1", nil, nil)
	must(t, os.RemoveAll(w.root.Outbox()))
	must(t, os.WriteFile(w.root.Outbox(), []byte("no folder"), 0o600))
	w.send(order{name: protocol.CmdAppDeploy, manifest: v1})
	if e := w.one().entry(); e.Status != protocol.Success || e.Location != nil || e.Serial != v1.Serial || w.serving() != v1.Serial {
		t.Errorf("entry %+v, serial %d serves", e, w.serving())
	}
}
