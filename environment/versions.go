package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"hostmanager/internal/signature"
	"hostmanager/protocol"
)

// Serial is a place in the order of deployments.
type Serial struct {
	DeploymentID int64 `json:"deployment_id"`
	Serial       int64 `json:"serial"`
}

// counter is the object behind the serials. Writer makes every content unique.
type counter struct {
	Serial
	Writer string `json:"writer"`
}

func decodeCounter(key string, data []byte) (counter, error) {
	var c counter
	if data == nil {
		return c, nil
	}
	if err := json.Unmarshal(data, &c); err != nil || c.DeploymentID < 0 || c.Serial.Serial < 0 {
		return c, fmt.Errorf("%w: %s", ErrCorrupt, key)
	}
	return c, nil
}

// NextSerial gives out the next deployment id and serial. No two calls, wherever they are made, get the same; numbers of a call that failed
// may stay unused.
func (r *Record) NextSerial(ctx context.Context) (Serial, error) {
	key, writer := protocol.SerialKey(r.id), newNonce()
	var given Serial
	_, err := r.swap(ctx, key, maxSmall, func(old []byte) ([]byte, error) {
		c, err := decodeCounter(key, old)
		if err != nil {
			return nil, err
		}
		given = Serial{DeploymentID: c.DeploymentID + 1, Serial: c.Serial.Serial + 1}
		return json.Marshal(counter{given, writer})
	})
	if err != nil {
		return Serial{}, fmt.Errorf("take a deployment id: %w", err)
	}
	return given, nil
}

// LastSerial returns what NextSerial gave out last; zeros when it never did.
func (r *Record) LastSerial(ctx context.Context) (Serial, error) {
	key := protocol.SerialKey(r.id)
	data, _, err := r.store.Get(ctx, key, maxSmall)
	if errors.Is(err, ErrNotFound) {
		return Serial{}, nil
	}
	if err != nil {
		return Serial{}, fmt.Errorf("read the deployment counter: %w", err)
	}
	c, err := decodeCounter(key, data)
	return c.Serial, err
}

// manifestTries bounds how many names are tried when manifests are made in the same millisecond.
const manifestTries = 1000

// PutManifest stores a manifest under a new name and returns the name and the SHA-256 of the object.
func (r *Record) PutManifest(ctx context.Context, m protocol.Manifest) (name, sha256 string, err error) {
	data, err := m.Encode()
	if err != nil {
		return "", "", fmt.Errorf("encode manifest: %w", err)
	}
	if _, err := protocol.DecodeManifest(data); err != nil {
		return "", "", fmt.Errorf("store manifest: %w", err)
	}
	at := r.wall()
	for range manifestTries {
		name = protocol.ManifestName(at)
		_, err = r.write(ctx, protocol.ManifestKey(r.id, name), data, Condition{Absent: true})
		if !errors.Is(err, ErrPrecondition) {
			break
		}
		at = at.Add(time.Millisecond)
	}
	if err == nil {
		err = r.countersign(ctx, protocol.ManifestKey(r.id, name), protocol.ManifestSigningBytes(r.id, name, data))
	}
	if err != nil {
		return "", "", fmt.Errorf("store manifest: %w", err)
	}
	return name, protocol.Digest(data), nil
}

// GetManifest reads a manifest by name, and its bytes as they are stored. With a sha256 (hex) anything else than that object is ErrDigest. Where
// the record is secured, one that no trusted key signed for this environment and under this name is refused with an error of package signature.
func (r *Record) GetManifest(ctx context.Context, name, sha256 string) (protocol.Manifest, []byte, error) {
	if !protocol.ValidManifestName(name) {
		return protocol.Manifest{}, nil, fmt.Errorf("%.80q is no name of a manifest", name)
	}
	data, _, err := r.store.Get(ctx, protocol.ManifestKey(r.id, name), maxManifest)
	if err != nil {
		return protocol.Manifest{}, nil, fmt.Errorf("read manifest %s: %w", name, err)
	}
	if got := protocol.Digest(data); sha256 != "" && got != sha256 {
		return protocol.Manifest{}, nil, fmt.Errorf("read manifest %s: %w: it has %s, want %s", name, ErrDigest, got, sha256)
	}
	if err := r.verify(ctx, protocol.ManifestKey(r.id, name), protocol.ManifestSigningBytes(r.id, name, data)); err != nil {
		return protocol.Manifest{}, nil, fmt.Errorf("verify manifest %s: %w", name, err)
	}
	m, err := protocol.DecodeManifest(data)
	if err != nil {
		return protocol.Manifest{}, nil, fmt.Errorf("read manifest %s: %w", name, err)
	}
	return m, data, nil
}

// Current returns the desired state, or ErrNoCurrent. Where the record is secured, one that no trusted key signed is refused with an error of
// package signature; whether it is the latest, its reader must judge.
func (r *Record) Current(ctx context.Context) (protocol.Current, error) {
	key := protocol.CurrentKey(r.id)
	for last, tries := "", 0; ; tries++ {
		data, etag, err := r.store.Get(ctx, key, maxSmall)
		if errors.Is(err, ErrNotFound) {
			return protocol.Current{}, ErrNoCurrent
		}
		if err != nil {
			return protocol.Current{}, fmt.Errorf("read the desired state: %w", err)
		}
		err = r.verify(ctx, key, protocol.CurrentSigningBytes(r.id, data))
		if err == nil {
			return decodeCurrent(key, data)
		}
		// It may have moved on, and its signatures with it, since it was read: then it is another object by now.
		if !signature.Refused(err) || etag == last || tries == maxSwaps {
			return protocol.Current{}, fmt.Errorf("verify the desired state: %w", err)
		}
		last = etag
	}
}

func decodeCurrent(key string, data []byte) (protocol.Current, error) {
	var c protocol.Current
	if err := json.Unmarshal(data, &c); err != nil || !protocol.ValidManifestName(c.Manifest) || c.SHA256 == "" || c.Serial <= 0 {
		return protocol.Current{}, fmt.Errorf("%w: %s", ErrCorrupt, key)
	}
	return c, nil
}

// CurrentManifest returns the desired state and its manifest, or ErrNoCurrent.
func (r *Record) CurrentManifest(ctx context.Context) (protocol.Current, protocol.Manifest, error) {
	c, err := r.Current(ctx)
	if err != nil {
		return protocol.Current{}, protocol.Manifest{}, err
	}
	m, _, err := r.GetManifest(ctx, c.Manifest, c.SHA256)
	return c, m, err
}

// MoveCurrent makes c the desired state. It only moves forward: where the present state has a higher serial, or the same with another
// manifest, the error is ErrStale and nothing changes. Moving to what is there already is no error.
func (r *Record) MoveCurrent(ctx context.Context, c protocol.Current) error {
	err := r.writeCurrent(ctx, func(present protocol.Current, any bool) (protocol.Current, error) {
		switch same := present.Manifest == c.Manifest && present.SHA256 == c.SHA256 && present.Serial == c.Serial; {
		case any && same:
			return present, nil
		case any && present.Serial >= c.Serial:
			return c, fmt.Errorf("%w: serial %d is not after %d", ErrStale, c.Serial, present.Serial)
		}
		if present.Judged > c.Serial {
			c.Judged = present.Judged
		}
		return c, nil
	})
	if err != nil {
		return fmt.Errorf("move the desired state: %w", err)
	}
	return nil
}

// JudgeCurrent notes that the deployment of that serial came to its end and that the desired state stays what it is: an instance that had the
// deployment already can tell by it that the older version is meant. Without a desired state there is nothing to note.
func (r *Record) JudgeCurrent(ctx context.Context, serial int64) error {
	err := r.writeCurrent(ctx, func(present protocol.Current, any bool) (protocol.Current, error) {
		if any && present.AsOf() < serial {
			present.Judged = serial
		}
		return present, nil
	})
	if err != nil {
		return fmt.Errorf("note the end of the deployment in the desired state: %w", err)
	}
	return nil
}

// writeCurrent swaps the desired state for what fn makes of it; any tells whether there is one. What is there already is not written again.
func (r *Record) writeCurrent(ctx context.Context, fn func(present protocol.Current, any bool) (protocol.Current, error)) error {
	key := protocol.CurrentKey(r.id)
	_, err := r.swap(ctx, key, maxSmall, func(old []byte) ([]byte, error) {
		var present protocol.Current
		if old != nil {
			if err := r.verify(ctx, key, protocol.CurrentSigningBytes(r.id, old)); err != nil {
				return nil, err
			}
			var err error
			if present, err = decodeCurrent(key, old); err != nil {
				return nil, err
			}
		}
		next, err := fn(present, old != nil)
		if err != nil || next == present {
			return nil, err
		}
		data, err := json.Marshal(next)
		if err != nil {
			return nil, err
		}
		return data, r.countersign(ctx, key, protocol.CurrentSigningBytes(r.id, data))
	})
	return err
}
