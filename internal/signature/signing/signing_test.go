package signing_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
)

func TestKey_FileIsPrivateAndNeverOverwritten(t *testing.T) {
	k, err := signing.Generate()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := k.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	again, err := signing.ReadFile(path)
	if err != nil || again.KeyID() != k.KeyID() {
		t.Errorf("%v, %v", again, err)
	}
	other, err := signing.Generate()
	if err != nil || other.KeyID() == k.KeyID() {
		t.Fatalf("%v, %v", other, err)
	}
	if err := other.WriteFile(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("overwritten: %v", err)
	}
	if again, err := signing.ReadFile(path); err != nil || again.KeyID() != k.KeyID() {
		t.Errorf("after that: %v, %v", again, err)
	}
	content, err := k.EncodePEM()
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Split(string(content), "\n")[1]
	for _, text := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s", k, k, k, k)} {
		if strings.Contains(text, secret) || !strings.Contains(text, k.KeyID()) {
			t.Errorf("printed as %s", text)
		}
	}
}

func TestParsePEM_RefusesWithoutShowing(t *testing.T) {
	for name, content := range map[string]string{
		"empty": "", "text": "SECRETSECRET", "public": "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n",
		"rubbish": "-----BEGIN PRIVATE KEY-----\nU0VDUkVU\n-----END PRIVATE KEY-----\n",
	} {
		if k, err := signing.ParsePEM([]byte(content)); !errors.Is(err, signing.ErrKey) || strings.Contains(err.Error(), "SECRET") || strings.Contains(err.Error(), "U0VD") {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
}

// The key files are those of everybody's tools.
func TestKey_OpenSSLReadsAndWritesIt(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not here")
	}
	dir := t.TempDir()
	theirs := filepath.Join(dir, "theirs.pem")
	if out, err := exec.CommandContext(t.Context(), openssl, "genpkey", "-algorithm", "ed25519", "-out", theirs).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	k, err := signing.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), openssl, "pkey", "-in", theirs, "-pubout").Output()
	if err != nil {
		t.Fatal(err)
	}
	keys, err := signature.ParseFile(out)
	if err != nil || len(keys) != 1 || keys[0].ID() != k.KeyID() {
		t.Errorf("%v, %v, want %s", keys, err, k.KeyID())
	}
	// And as a signing command, with the key out of our hands. Ed25519 of openssl wants a file, not a pipe.
	c := signing.Command{Shell: "cat > " + dir + "/m && " + openssl + " pkeyutl -sign -rawin -in " + dir + "/m -inkey " + theirs + " | base64", Key: keys[0]}
	value, err := c.Sign(t.Context(), []byte("message"))
	if err != nil || signature.NewKeys(keys...).Verify(c.KeyID(), []byte("message"), value) != nil {
		t.Errorf("%x, %v", value, err)
	}
}

func TestCommand_SaysWhatIsWrong(t *testing.T) {
	k := signing.FromSeed([32]byte{1})
	for name, c := range map[string]struct{ shell, want string }{
		"fails":           {"echo no access >&2; exit 3", "exit status 3: no access"},
		"no base64":       {"echo '***'", "it is not base64"},
		"nothing":         {"true", "it is no signature of key"},
		"another's":       {"head -c 64 /dev/zero | base64", "it is no signature of key"},
		"hangs":           {"exec sleep 600", "deadline exceeded"},
		"writes for good": {"exec yes", "deadline exceeded"},
		"not there":       {"/nonexistent/tool", "127"},
	} {
		limit := 30 * time.Second // a busy machine is slow to start a shell
		if c.want == "deadline exceeded" {
			limit = 300 * time.Millisecond
		}
		cmd := signing.Command{Shell: c.shell, Key: k.Public("kms"), Timeout: limit}
		if _, err := cmd.Sign(t.Context(), []byte("m")); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
