package docker_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hostmanager/internal/dockertest"
	"hostmanager/protocol"
)

// TestLinks_ReplacedByFolders holds that a hook which puts folders where the links to the application's trees were costs at most its own command:
// undoing works, a restart works, and so does the next deployment, which says what it found.
func TestLinks_ReplacedByFolders(t *testing.T) {
	f := newFixture(t)
	f.mustDeploy("1", nil)
	link, _ := os.Readlink(f.root.Current())
	for _, path := range []string{f.root.Current(), f.root.Staging()} {
		replace(t, path)
	}

	r := f.command("CMD-RestartAppServer")
	if err := r.runOrUnwind(restartDirs); err != nil {
		t.Fatalf("restart: %v", err)
	}
	if now, _ := os.Readlink(f.root.Current()); now != link {
		t.Errorf("current leads to %q after a restart, want %q", now, link)
	}
	_ = f.platform.Wait(t.Context())

	c := f.command("CMD-AppDeploy")
	c.configure(nil)
	c.unpack(dockertest.BuildHello(t, "2"))
	if err := c.run(t.Context(), c.platform, deployDirs...); err != nil {
		t.Fatalf("deploy: %v", err)
	}
	replace(t, f.root.Current())
	if err := c.unwind(c.platform); err != nil {
		t.Fatalf("unwind: %v", err)
	}
	f.wantAnswer("Hello from 1")
	if now, _ := os.Readlink(f.root.Current()); now != link {
		t.Errorf("current leads to %q after unwinding, want %q", now, link)
	}

	f.mustDeploy("3", nil)
	f.wantAnswer("Hello from 3")
	told := strings.Join(f.texts(protocol.Warn), "\n")
	for _, path := range []string{f.root.Current(), f.root.Staging()} {
		if !strings.Contains(told, path+" was no link") {
			t.Errorf("nothing is said of %s:\n%s", path, told)
		}
		if _, err := os.Stat(filepath.Join(path+".aside", "mine")); err != nil {
			t.Errorf("what stood in place of the link is lost: %v", err)
		}
	}
}

// replace puts a folder with something in it where a link was.
func replace(t *testing.T, link string) {
	t.Helper()
	if err := os.RemoveAll(link); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(link, "mine"), 0o755); err != nil {
		t.Fatal(err)
	}
}
