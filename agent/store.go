package agent

import (
	"context"
	"time"

	"hostmanager/platform/bundle"
	"hostmanager/protocol"
)

// patientStore is S3 as a running command uses it: what fails only because S3 does not answer is tried again until the command's time is over. A
// download goes on where it was cut.
type patientStore struct {
	Record
	Bundles
	outages *outages
}

// storePatience is how long it takes at most to notice that S3 answers again.
const storePatience = 10 * time.Second

// GetManifest is Record's.
func (s *patientStore) GetManifest(ctx context.Context, name, sha256 string) (m protocol.Manifest, raw []byte, err error) {
	err = s.persist(ctx, func() error {
		m, raw, err = s.Record.GetManifest(ctx, name, sha256)
		return err
	})
	return m, raw, err
}

// Fetch is Bundles'.
func (s *patientStore) Fetch(ctx context.Context, src bundle.Source) (path string, err error) {
	err = s.persist(ctx, func() error {
		path, err = s.Bundles.Fetch(ctx, src)
		return err
	})
	return path, err
}

func (s *patientStore) persist(ctx context.Context, call func() error) error {
	again := newPatience(time.Second, storePatience)
	for {
		err := call()
		if !passing(ctx, err) {
			if err == nil {
				s.outages.answered(onBundles)
			} else {
				s.outages.forget(onBundles)
			}
			return err
		}
		s.outages.failed(onBundles, err, 1)
		again.wait(ctx, nil)
		if ctx.Err() != nil {
			return err
		}
	}
}
