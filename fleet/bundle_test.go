package fleet_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"hostmanager/fleet"
)

func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOpenBundle_PacksAFolderAndRemovesTheArchive(t *testing.T) {
	dir := writeTree(t, map[string]string{"Dockerfile": "FROM scratch\n", ".ebextensions/01.config": "option_settings:\n  aws:elasticbeanstalk:command:\n    DeploymentPolicy: Rolling\n", ".ebextensions/02.config": "\tbroken"})
	b, err := fleet.OpenBundle(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if b.Policy != "Rolling" || b.Unread == nil || b.Size == 0 || len(b.SHA256) != 64 {
		t.Errorf("got %+v", b)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(b.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the archive is left: %v", err)
	}
}

func TestOpenBundle_LeavesAGivenArchive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "Dockerrun.aws.json")
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := fleet.OpenBundle(t.Context(), path)
	if err != nil || b.Path != path || b.Close() != nil {
		t.Fatalf("got %+v, %v", b, err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestOpenBundle_Refuses(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.zip")
	torn := filepath.Join(t.TempDir(), "torn.zip")
	for path, text := range map[string]string{empty: "", torn: "PK\x03\x04 and no more"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{empty, torn, filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if _, err := fleet.OpenBundle(t.Context(), path); !errors.Is(err, fleet.ErrRefused) {
			t.Errorf("%s: %v", path, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := fleet.OpenBundle(ctx, writeTree(t, map[string]string{"a": "b"})); !errors.Is(err, fleet.ErrInterrupted) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestDefaultLabel_NamesTheCommit(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	dir := t.TempDir()
	t.Setenv("GIT_CEILING_DIRECTORIES", filepath.Dir(dir))
	if got := fleet.DefaultLabel(t.Context(), dir, at); got != "app-260102_030405" {
		t.Errorf("outside a repository: %s", got)
	}
	for _, args := range [][]string{{"init", "-q"}, {"-c", "user.name=n", "-c", "user.email=e@x", "commit", "-q", "--allow-empty", "-m", "m"}} {
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v %s", args, err, out)
		}
	}
	if got := fleet.DefaultLabel(t.Context(), dir, at); !regexp.MustCompile(`^app-[0-9a-f]{4,}-260102_030405$`).MatchString(got) {
		t.Errorf("in a repository: %s", got)
	}
}
