package signature_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
)

func key(n byte) signing.Key { return signing.FromSeed([32]byte{n}) }

func sign(t testing.TB, k signing.Key, message []byte) []byte {
	t.Helper()
	value, err := k.Sign(context.Background(), message)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func TestVerify_EachRefusalHasItsReason(t *testing.T) {
	message := []byte("message")
	a, b, stranger := key(1), key(2), key(3)
	keys := signature.NewKeys(a.Public("a"), b.Public("b"))
	good := sign(t, a, message)
	for _, c := range []struct {
		name    string
		keys    signature.Keys
		id      string
		message []byte
		value   []byte
		want    error
	}{
		{"good", keys, a.KeyID(), message, good, nil},
		{"the other key of a rotation", keys, b.KeyID(), message, sign(t, b, message), nil},
		{"unsigned", keys, "", message, nil, signature.ErrUnsigned},
		{"no value", keys, a.KeyID(), message, nil, signature.ErrBad},
		{"no id", keys, "", message, good, signature.ErrUnknownKey},
		{"stranger", keys, stranger.KeyID(), message, sign(t, stranger, message), signature.ErrUnknownKey},
		{"stranger under a trusted id", keys, a.KeyID(), message, sign(t, stranger, message), signature.ErrBad},
		{"one key under the other's id", keys, b.KeyID(), message, good, signature.ErrBad},
		{"other message", keys, a.KeyID(), []byte("massage"), good, signature.ErrBad},
		{"cut off", keys, a.KeyID(), message, good[:63], signature.ErrBad},
		{"too long", keys, a.KeyID(), message, append(bytes.Clone(good), 0), signature.ErrBad},
		{"zeros", keys, a.KeyID(), message, make([]byte, 64), signature.ErrBad},
		{"nobody is trusted", signature.Keys{}, a.KeyID(), message, good, signature.ErrUnknownKey},
		{"nobody is trusted, unsigned", signature.NewKeys(), "", message, nil, signature.ErrUnsigned},
	} {
		err := c.keys.Verify(c.id, c.message, c.value)
		if !errors.Is(err, c.want) || (c.want == nil) != (err == nil) || (err != nil) != signature.Refused(err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	if signature.Refused(errors.New("disk full")) || signature.Refused(nil) {
		t.Error("a failure to look is no verdict")
	}
}

func TestVerify_AnyChangedBitIsRefused(t *testing.T) {
	k := key(1)
	keys := signature.NewKeys(k.Public(""))
	rapid.Check(t, func(t *rapid.T) {
		message := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "message")
		value, err := k.Sign(context.Background(), message)
		if err != nil || keys.Verify(k.KeyID(), message, value) != nil {
			t.Fatalf("%v, %v", err, keys.Verify(k.KeyID(), message, value))
		}
		both := append(bytes.Clone(message), value...)
		bit := rapid.IntRange(0, len(both)*8-1).Draw(t, "bit")
		both[bit/8] ^= 1 << (bit % 8)
		if err := keys.Verify(k.KeyID(), both[:len(message)], both[len(message):]); !errors.Is(err, signature.ErrBad) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	})
}

func TestParseKey(t *testing.T) {
	public := key(1).Public("").Public
	plain := base64.StdEncoding.EncodeToString(public)
	der := base64.StdEncoding.EncodeToString(append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, public...))
	for text, name := range map[string]string{plain: "", " " + plain + "\n": "", "ops:" + plain: "ops", der: "", "kms:" + der: "kms"} {
		k, err := signature.ParseKey(text)
		if err != nil || k.Name != name || !k.Public.Equal(public) {
			t.Errorf("%q: %+v, %v", text, k, err)
		}
		again, err := signature.ParseKey(k.String())
		if err != nil || again.String() != k.String() {
			t.Errorf("%q became %q, %v", text, again, err)
		}
	}
	zero := base64.StdEncoding.EncodeToString(make([]byte, 32))
	one := base64.StdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...))
	oneSigned := base64.StdEncoding.EncodeToString(append(append([]byte{1}, make([]byte, 30)...), 0x80))
	for _, bad := range []string{
		"", ":", "ops:", ":" + plain, "ops", "a:b:" + plain, plain[:40], plain + "AA==", "o p:" + plain, strings.Repeat("n", 65) + ":" + plain, "\x00:" + plain,
		strings.Replace(plain, "=", "", 1), zero, one, oneSigned, base64.StdEncoding.EncodeToString(make([]byte, 44)),
	} {
		if k, err := signature.ParseKey(bad); !errors.Is(err, signature.ErrKey) {
			t.Errorf("%q: %+v, %v", bad, k, err)
		}
	}
}

// A public key of small order would let anyone sign: the check that refuses them is held to the arithmetic of the curve itself.
func TestParseKey_RefusesKeysThatAnyoneCanSignFor(t *testing.T) {
	for _, y := range []byte{0, 1} {
		for _, sign := range []byte{0, 0x80} {
			public := make([]byte, 32)
			public[0], public[31] = y, sign
			// R = identity, S = 0 satisfies S*B = R + k*A whenever k*A is the identity; of these k's an eighth or more are such.
			forged := append([]byte{1}, make([]byte, 63)...)
			for n := range 200 {
				if ed25519.Verify(public, fmt.Appendf(nil, "message %d", n), forged) {
					if _, err := signature.ParseKey(base64.StdEncoding.EncodeToString(public)); err == nil {
						t.Errorf("%x is taken and can be forged for", public)
					}
					break
				}
			}
		}
	}
}

func TestLoad_KeysFilesAndFolders(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	a, b, c, d := key(1).Public("a"), key(2).Public(""), key(3).Public("c"), key(4).Public("")
	file := write("two.txt", "# the operators\n\n  "+a.String()+"  # first\n"+b.String()+"\n")
	write("keys/c.pub", c.String()+"\n")
	write("keys/d.pub", d.String()+"\n")
	write("keys/private.pem", "not read")
	keys, err := signature.Load([]string{file, " " + filepath.Join(dir, "keys"), a.String()})
	if err != nil || len(keys.List()) != 4 {
		t.Fatalf("%v, %v", keys.List(), err)
	}
	names := map[string]bool{}
	for _, k := range keys.List() {
		names[k.Name] = true
	}
	for _, want := range []string{"a", "two", "c", "d"} { // one without a name has its file's
		if !names[want] {
			t.Errorf("no key is named %s: %v", want, names)
		}
	}
	pem := "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"
	if keys, err := signature.Load([]string{write("kms.pem", pem)}); err != nil || len(keys.List()) != 1 || keys.List()[0].Name != "kms" {
		t.Errorf("PEM: %v, %v", keys.List(), err)
	}
	for name, entry := range map[string]string{
		"missing": filepath.Join(dir, "none"), "empty": write("empty", "# nobody\n"), "folder without keys": t.TempDir(), "rubbish": write("rubbish", "hello\n"),
		"too large": write("large", strings.Repeat("#\n", 40<<10)), "private": write("private.pem", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
		"text": "hello",
	} {
		if keys, err := signature.Load([]string{entry}); err == nil {
			t.Errorf("%s: %v", name, keys.List())
		}
	}
	if keys, err := signature.Load(nil); err != nil || !keys.Empty() {
		t.Errorf("no entries: %v, %v", keys.List(), err)
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(key(1).Public("ops").String() + "\n# x\n"))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		keys, err := signature.ParseFile(content)
		if err != nil {
			if !errors.Is(err, signature.ErrKey) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		if len(keys) == 0 {
			t.Fatal("no key and no error")
		}
		for _, k := range keys {
			again, err := signature.ParseKey(k.String())
			if err != nil || again.Name != k.Name || !again.Public.Equal(k.Public) {
				t.Fatalf("%q became %+v, %v", k, again, err)
			}
		}
	})
}
