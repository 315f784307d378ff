// Package signature says who may give orders: a set of trusted ed25519 public keys (RFC 8032) and whether one of them signed some bytes. It knows
// nothing of what the bytes mean; package protocol says which bytes are signed. Private keys are in package signing, which the agent does not link.
//
// Invariants: an empty set trusts nobody; nothing is trusted but what stands in the set; every refusal is one of the errors here.
package signature

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Why something is not taken for signed.
var (
	// ErrUnsigned: there is no signature.
	ErrUnsigned = errors.New("not signed")
	// ErrUnknownKey: the signature names a key that is not trusted.
	ErrUnknownKey = errors.New("signed with a key that is not trusted")
	// ErrBad: the signature is not one of that key over these bytes.
	ErrBad = errors.New("signature does not fit: altered, or meant for something else")
	// ErrKey: a text is no public key.
	ErrKey = errors.New("no ed25519 public key")
)

// Refused tells whether the error is a verdict on a signature, and no failure to come by it.
func Refused(err error) bool {
	return errors.Is(err, ErrUnsigned) || errors.Is(err, ErrUnknownKey) || errors.Is(err, ErrBad)
}

// Key is a public key with the name an operator gave it, for people.
type Key struct {
	Name   string // may be empty
	Public ed25519.PublicKey
}

// ID is how signatures name the key.
func (k Key) ID() string { return KeyID(k.Public) }

// String is the key as trusted_keys takes it.
func (k Key) String() string {
	text := base64.StdEncoding.EncodeToString(k.Public)
	if k.Name != "" {
		return k.Name + ":" + text
	}
	return text
}

// KeyID names a public key: the first 16 hex digits of its SHA-256. It is a hint which key to try, never a proof.
func KeyID(public ed25519.PublicKey) string {
	sum := sha256.Sum256(public)
	return hex.EncodeToString(sum[:8])
}

// spki is what stands before the 32 bytes of an ed25519 key in the DER form (RFC 8410), which key services give out.
var spki = []byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}

// maxName bounds a key's name.
const maxName = 64

// ParseKey reads "base64" or "name:base64"; the base64 holds the 32 bytes of the key, or its DER form. Errors wrap ErrKey.
func ParseKey(text string) (Key, error) {
	name, encoded, named := strings.Cut(strings.TrimSpace(text), ":")
	if !named {
		name, encoded = "", name
	}
	if len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) || (named && name == "") {
		return Key{}, fmt.Errorf("%w: its name is %.80q, want up to %d visible ASCII characters", ErrKey, name, maxName)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %.80q is not base64", ErrKey, encoded)
	}
	return keyOf(name, raw)
}

func keyOf(name string, raw []byte) (Key, error) {
	if len(raw) == len(spki)+ed25519.PublicKeySize {
		raw, _ = bytes.CutPrefix(raw, spki)
	}
	if len(raw) != ed25519.PublicKeySize {
		return Key{}, fmt.Errorf("%w: it has %d bytes, want %d", ErrKey, len(raw), ed25519.PublicKeySize)
	}
	if weak(raw) {
		return Key{}, fmt.Errorf("%w: this one has no private half; anyone could sign for it", ErrKey)
	}
	return Key{Name: name, Public: slices.Clone(raw)}, nil
}

// weak tells whether a key is a point of small order, for which a signature can be made up without a private key. Only y and the sign of x are in
// the encoding; these are all y of such points, also those written as y+p, with the sign left out.
func weak(raw []byte) bool {
	y := slices.Clone(raw)
	y[31] &= 0x7f
	for _, low := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000",
		"0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		if hex.EncodeToString(y) == low {
			return true
		}
	}
	return false
}

// ParseFile reads keys from a file's content: PEM blocks PUBLIC KEY, else one key a line with empty lines and # comments between. A file without
// a key is an error: it would trust nobody.
func ParseFile(content []byte) ([]Key, error) {
	var keys []Key
	var err error
	if bytes.Contains(content, []byte("-----BEGIN ")) {
		keys, err = parsePEM(content)
	} else {
		keys, err = parseLines(string(content))
	}
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("%w in it", ErrKey)
	}
	return keys, err
}

func parseLines(content string) (keys []Key, err error) {
	n := 0
	for line := range strings.Lines(content) {
		n++
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		k, err := ParseKey(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func parsePEM(content []byte) (keys []Key, err error) {
	for {
		block, rest := pem.Decode(content)
		if block == nil {
			return keys, nil
		}
		content = rest
		if block.Type != "PUBLIC KEY" {
			return nil, fmt.Errorf("%w: a block %.40q; only PUBLIC KEY belongs here, and no private key", ErrKey, block.Type)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKey, err)
		}
		public, ok := parsed.(ed25519.PublicKey)
		if !ok {
			return nil, fmt.Errorf("%w: a block of another algorithm", ErrKey)
		}
		k, err := keyOf("", public)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
}

// Keys are the trusted keys. The zero value trusts nobody. It does not change, so it may be used concurrently.
type Keys struct{ byID map[string]Key }

// NewKeys returns the set of the keys. One that is there twice counts once, under its first name.
func NewKeys(keys ...Key) Keys {
	s := Keys{map[string]Key{}}
	for _, k := range keys {
		if _, twice := s.byID[k.ID()]; !twice {
			s.byID[k.ID()] = k
		}
	}
	return s
}

// Empty tells whether nobody is trusted.
func (s Keys) Empty() bool { return len(s.byID) == 0 }

// List returns the keys in the order of their ids.
func (s Keys) List() []Key {
	list := make([]Key, 0, len(s.byID))
	for _, k := range s.byID {
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b Key) int { return strings.Compare(a.ID(), b.ID()) })
	return list
}

// Lookup finds a key by its id.
func (s Keys) Lookup(id string) (Key, bool) {
	k, ok := s.byID[id]
	return k, ok
}

// Verify tells whether the key of that id signed the message: nil, ErrUnsigned, ErrUnknownKey or ErrBad.
func (s Keys) Verify(keyID string, message, value []byte) error {
	if keyID == "" && len(value) == 0 {
		return ErrUnsigned
	}
	k, ok := s.byID[keyID]
	if !ok {
		return fmt.Errorf("%w: %.40q", ErrUnknownKey, keyID)
	}
	if !ed25519.Verify(k.Public, message, value) { // also where value has another length
		return fmt.Errorf("%w (key %s)", ErrBad, keyID)
	}
	return nil
}
