package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"hostmanager/hooks"
	"hostmanager/internal/layout"
	"hostmanager/internal/redact"
	"hostmanager/protocol"
)

// A promotion that ended anywhere can be undone, twice as well as once, and then done again.
func TestPromote_UndoneAndDoneAgainFromAnywhere(t *testing.T) {
	for _, had := range []bool{false, true} {
		for point := range 4 { // how many of its files it had changed: the copy, the deployed one, the staged one
			t.Run(fmt.Sprintf("had=%v/%d", had, point), func(t *testing.T) {
				i := newInfra(layout.Root(t.TempDir()), nil, nil, redact.New())
				staged, deployed := i.root.StagedManifest(), i.root.DeployedManifest()
				put(t, staged, "new")
				if had {
					put(t, deployed, "old")
				}
				var saved json.RawMessage
				call := &hooks.Call{Root: i.root, Save: func(v any) (err error) { saved, err = json.Marshal(v); return err }}
				partly(t, i, had, point)
				if point > 0 {
					saved, _ = json.Marshal(promotion{had, protocol.Digest([]byte("new"))})
				}
				undo := func() {
					t.Helper()
					if err := i.demote(t.Context(), &hooks.Call{Root: i.root, Saved: saved}); err != nil {
						t.Fatal(err)
					}
					if got, want := content(t, deployed), map[bool]string{true: "old", false: ""}[had]; got != want || content(t, staged) != "new" {
						t.Errorf("undone: deployed %q, staged %q", got, content(t, staged))
					}
				}
				undo()
				undo()
				if err := i.promote(t.Context(), call); err != nil {
					t.Fatal(err)
				}
				if content(t, deployed) != "new" || content(t, staged) != "" {
					t.Errorf("done again: deployed %q, staged %q", content(t, deployed), content(t, staged))
				}
				undo()
			})
		}
	}
}

// partly leaves the files as a promotion that was killed leaves them.
func partly(t *testing.T, i *infra, had bool, point int) {
	t.Helper()
	if had && point >= 1 {
		put(t, previousManifest(i.root), "old")
	}
	if point >= 2 {
		put(t, i.root.DeployedManifest(), "new")
	}
	if point >= 3 {
		if err := os.Remove(i.root.StagedManifest()); err != nil {
			t.Fatal(err)
		}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func content(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return string(data)
}
