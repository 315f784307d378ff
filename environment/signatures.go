package environment

import (
	"context"
	"errors"
	"fmt"

	"hostmanager/internal/signature"
	"hostmanager/protocol"
)

// Signer signs orders and what of the record instances act upon. Safe for concurrent use.
type Signer interface {
	KeyID() string
	Sign(ctx context.Context, message []byte) ([]byte, error)
}

// Secured returns the record with signatures: what it writes of manifests and the desired state is signed, and what it reads of them is refused
// unless one of the trusted keys signed it. A nil signer signs nothing, empty keys verify nothing.
func (r *Record) Secured(signer Signer, trusted signature.Keys) *Record {
	secured := *r
	secured.signer, secured.trusted = signer, trusted
	return &secured
}

// Signs tells whether what is written is signed.
func (r *Record) Signs() bool { return r.signer != nil }

// KeyID names the key that what is written is signed with, "" where it is not.
func (r *Record) KeyID() string {
	if r.signer == nil {
		return ""
	}
	return r.signer.KeyID()
}

// Sign signs a message with the record's signer.
func (r *Record) Sign(ctx context.Context, message []byte) (protocol.Signature, error) {
	if r.signer == nil {
		return protocol.Signature{}, errors.New("sign: there is no key")
	}
	value, err := r.signer.Sign(ctx, message)
	if err != nil {
		return protocol.Signature{}, fmt.Errorf("sign with key %s: %w", r.signer.KeyID(), err)
	}
	return protocol.Signature{KeyID: r.signer.KeyID(), Value: value}, nil
}

// signatures reads what lies beside a signed object; none is no error.
func (r *Record) signatures(ctx context.Context, key string) ([]protocol.Signature, string, error) {
	object, etag, err := r.store.Get(ctx, protocol.SignaturesKey(key), maxSmall)
	if errors.Is(err, ErrNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read signatures: %w", err)
	}
	list, err := protocol.DecodeSignatures(object)
	if err != nil {
		return nil, etag, fmt.Errorf("%w: %w", signature.ErrUnsigned, err)
	}
	return list, etag, nil
}

// verify refuses an object unless one of its signatures is that of a trusted key. The error wraps one of package signature.
func (r *Record) verify(ctx context.Context, key string, message []byte) error {
	if r.trusted.Empty() {
		return nil
	}
	list, _, err := r.signatures(ctx, key)
	if err != nil {
		return err
	}
	verdict := signature.ErrUnsigned
	for n, s := range list {
		err := r.trusted.Verify(s.KeyID, message, s.Value)
		if err == nil {
			return nil
		}
		if n == 0 { // the newest; the others may be of what the object held before
			verdict = err
		}
	}
	return verdict
}

// keptSignatures is how many signatures of earlier contents stay beside an object that changes: a reader may have read the object just before.
const keptSignatures = 3

// countersign puts our signature of what an object will hold beside those it has, before the object itself changes: whoever reads in between
// finds one that fits.
func (r *Record) countersign(ctx context.Context, key string, message []byte) error {
	if r.signer == nil {
		return nil
	}
	own, err := r.Sign(ctx, message)
	if err != nil {
		return err
	}
	_, err = r.swap(ctx, protocol.SignaturesKey(key), maxSmall, func(old []byte) ([]byte, error) {
		list := []protocol.Signature{own}
		before, err := protocol.DecodeSignatures(old)
		if err != nil { // none yet, or rubbish
			before = nil
		}
		for _, s := range before[:min(len(before), keptSignatures)] {
			if s.KeyID != own.KeyID || string(s.Value) != string(own.Value) {
				list = append(list, s)
			}
		}
		return protocol.EncodeSignatures(list)
	})
	if err != nil {
		return fmt.Errorf("store signature: %w", err)
	}
	return nil
}
