package protocol

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Signature is an ed25519 signature as it travels: in a command's field Signature, and in the object beside a signed one.
type Signature struct {
	KeyID string `json:"KeyId"` // which key signed: the first 16 hex digits of the public key's SHA-256
	Value []byte `json:"Value"` // 64 bytes, base64 on the wire
}

// The tags that begin what is signed, so that no signature can pass for one of another kind. A change of a format is a new tag.
const (
	commandTag  = "hostmanager command v1\x00"
	manifestTag = "hostmanager manifest v1\x00"
	currentTag  = "hostmanager current v1\x00"
)

// SigningBytes are what the signature of a command is over: the tag, then seven fields, each as its length in bytes (8 bytes, big endian) and its
// text: DispatcherId, CommandName, InvocationId, Expiration, ResultQueue, EventHandle, Data. Texts are the values of the JSON strings in UTF-8; that
// of Expiration is the number as it is written, or the value of the string.
func (c Command) SigningBytes() []byte {
	return signingBytes(commandTag, c.DispatcherID, c.CommandName, c.InvocationID, c.expirationText(), c.ResultQueue, c.EventHandle, c.Data)
}

// ManifestSigningBytes are what the signature of a manifest object is over: the environment, the object's name and its SHA-256.
func ManifestSigningBytes(environmentID, name string, object []byte) []byte {
	return signingBytes(manifestTag, environmentID, name, Digest(object))
}

// CurrentSigningBytes are what the signature of the desired state's object is over.
func CurrentSigningBytes(environmentID string, object []byte) []byte {
	return signingBytes(currentTag, environmentID, currentName, Digest(object))
}

func signingBytes(tag string, fields ...string) []byte {
	b := []byte(tag)
	for _, f := range fields {
		b = binary.BigEndian.AppendUint64(b, uint64(len(f)))
		b = append(b, f...)
	}
	return b
}

// ErrBadSignatures marks an object that holds no signatures.
var ErrBadSignatures = errors.New("damaged signatures object")

// MaxSignatures is how many signatures one object may have.
const MaxSignatures = 16

type wireSignatures struct {
	Signatures []Signature `json:"Signatures"`
}

// EncodeSignatures makes the object that lies beside a signed one.
func EncodeSignatures(list []Signature) ([]byte, error) {
	return json.Marshal(wireSignatures{list})
}

// DecodeSignatures reads what EncodeSignatures made. Errors wrap ErrBadSignatures.
func DecodeSignatures(object []byte) ([]Signature, error) {
	var w wireSignatures
	if err := json.Unmarshal(object, &w); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadSignatures, err)
	}
	if len(w.Signatures) > MaxSignatures {
		return nil, fmt.Errorf("%w: %d of them, more than %d", ErrBadSignatures, len(w.Signatures), MaxSignatures)
	}
	return w.Signatures, nil
}

// errKeys marks an object whose keys could be read in two ways.
var errKeys = errors.New("ambiguous object")

// checkKeys refuses a JSON object in which a key stands twice, or one of the known keys stands in another case: readers of JSON do not agree which
// of two values counts, nor whether case does, and what was signed must be what is done. Other keys pass, as do texts that are no object: whoever
// reads them next says what is wrong.
func checkKeys(object []byte, known ...string) error {
	d := json.NewDecoder(strings.NewReader(string(object)))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return nil
		}
		if seen[key] {
			return fmt.Errorf("%w: the key %.40q stands twice", errKeys, key)
		}
		seen[key] = true
		for _, k := range known {
			if key != k && strings.EqualFold(key, k) {
				return fmt.Errorf("%w: the key %.40q is not %q", errKeys, key, k)
			}
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil
		}
	}
	return nil
}
