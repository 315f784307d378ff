// Package signing holds the private half: making a key, reading it, and signing with it or with a command that reaches a key service. Only what
// gives orders links it; package signature, which the agent links, knows public keys alone.
//
// Invariants: a private key never goes into a log, an argument or an error; a signature is checked against its public key before it is given out.
package signing

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/signature"
)

// ErrKey marks what is no private key of ours.
var ErrKey = errors.New("no ed25519 private key")

// maxKeyFile bounds a private key's file, in bytes.
const maxKeyFile = 64 << 10

// Key signs with a private key in memory. It is safe for concurrent use.
type Key struct{ private ed25519.PrivateKey }

// Generate makes a key.
func Generate() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	return Key{private}, err
}

// FromSeed makes the key of a 32-byte seed, for tests that want the same key every time.
func FromSeed(seed [ed25519.SeedSize]byte) Key { return Key{ed25519.NewKeyFromSeed(seed[:])} }

// Public is the half that agents are given.
func (k Key) Public(name string) signature.Key {
	return signature.Key{Name: name, Public: k.private.Public().(ed25519.PublicKey)}
}

// KeyID names the key.
func (k Key) KeyID() string { return k.Public("").ID() }

// Sign signs the message.
func (k Key) Sign(_ context.Context, message []byte) ([]byte, error) {
	return ed25519.Sign(k.private, message), nil
}

// String hides the key from whoever prints it.
func (k Key) String() string { return "private key " + k.KeyID() }

// GoString is String.
func (k Key) GoString() string { return k.String() }

// EncodePEM returns the key as PKCS #8 (RFC 8410) in PEM.
func (k Key) EncodePEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// ParsePEM reads what EncodePEM wrote; `openssl genpkey -algorithm ed25519` writes the same. Errors wrap ErrKey and show nothing of the content.
func ParsePEM(content []byte) (Key, error) {
	block, _ := pem.Decode(content)
	if block == nil || block.Type != "PRIVATE KEY" {
		return Key{}, fmt.Errorf("%w: want a PEM block PRIVATE KEY (PKCS #8), as `hmctl keygen` writes it", ErrKey)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("%w: the PEM block holds no PKCS #8 key", ErrKey)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("%w: the key is of another algorithm", ErrKey)
	}
	return Key{private}, nil
}

// ReadFile reads a private key's file.
func ReadFile(path string) (Key, error) {
	content, err := atomicfile.ReadGivenLimit(path, maxKeyFile)
	if err != nil {
		return Key{}, fmt.Errorf("read private key: %w", err)
	}
	k, err := ParsePEM(content)
	if err != nil {
		return k, fmt.Errorf("read private key %s: %w", path, err)
	}
	return k, nil
}

// WriteFile writes the key into a new file that only its owner reads. A file that is there stays as it is: a key that is overwritten is lost.
func (k Key) WriteFile(path string) error {
	content, err := k.EncodePEM()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("make private key file: %w", err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write private key %s: %w", path, err), os.Remove(path))
	}
	return nil
}

// Command signs by running a command, so that the private key can stay in a key service: it gets the bytes to sign on its standard input and
// prints the signature in base64. It is safe for concurrent use.
type Command struct {
	Shell   string        // for /bin/sh -c
	Key     signature.Key // the public half of the key that the command signs with
	Timeout time.Duration // of one signature; 0: a minute
}

// Limits of a signing command.
const (
	defaultTimeout = time.Minute
	maxOutput      = 16 << 10 // bytes of each output
)

// KeyID names the key.
func (c Command) KeyID() string { return c.Key.ID() }

// Sign runs the command and checks what it printed: a wrong key would otherwise be noticed by the instances only.
func (c Command) Sign(ctx context.Context, message []byte) ([]byte, error) {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, complaint, err := run(ctx, c.Shell, message)
	if err != nil {
		return nil, fmt.Errorf("run the signing command: %w%s", err, said(complaint))
	}
	value, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(out), ""))
	if err != nil {
		return nil, fmt.Errorf("read what the signing command printed: it is not base64%s", said(complaint))
	}
	if !ed25519.Verify(c.Key.Public, message, value) {
		return nil, fmt.Errorf("check what the signing command printed: it is no signature of key %s over what it was given", c.Key.ID())
	}
	return value, nil
}
