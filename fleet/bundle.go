package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"hostmanager/fleet/source"
	"hostmanager/internal/proc"
)

// Bundle is a source bundle on disk.
type Bundle struct {
	Path       string
	SHA256     string // hex
	Size       int64
	Policy     string // the DeploymentPolicy its .ebextensions set, if any
	PolicyFile string // the file that sets it
	Unread     error  // .ebextensions files that cannot be read; Elastic Beanstalk passes over them too
	packed     bool   // the file was made here
}

// OpenBundle makes ready what path stands for: a folder is packed into a temporary archive, an archive is taken as it is and must stay so until the
// deployment is over. What a check finds wrong with the archive refuses it. Close removes what was made.
func OpenBundle(ctx context.Context, path string, checks ...func(ctx context.Context, archive string) error) (Bundle, error) {
	file, info, packed, err := source.Prepare(ctx, path, "", nil)
	if err != nil {
		return Bundle{}, refusedUnless(ctx, err)
	}
	b := Bundle{Path: file, SHA256: info.SHA256, Size: info.Size, packed: packed}
	if b.Size == 0 {
		return Bundle{}, errors.Join(fmt.Errorf("%w: %s is empty", ErrRefused, path), b.Close())
	}
	for _, check := range checks {
		if err := check(ctx, file); err != nil {
			return Bundle{}, errors.Join(refusedUnless(ctx, err), b.Close())
		}
	}
	b.Policy, b.PolicyFile, _, err = source.DeploymentPolicy(file)
	var unread *source.ConfigError
	switch {
	case errors.As(err, &unread):
		b.Unread = err
	case err != nil:
		return Bundle{}, errors.Join(refusedUnless(ctx, err), b.Close())
	}
	return b, nil
}

// ending is the ending of the archive's name: ".zip" of every packed folder; a lone Dockerfile has none.
func (b Bundle) ending() string {
	if strings.HasSuffix(b.Path, ".tar.gz") {
		return ".tar.gz"
	}
	return filepath.Ext(b.Path)
}

// refusedUnless judges an error of a bundle: it is the bundle's fault unless the work was interrupted.
func refusedUnless(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("prepare the bundle: %w", ErrInterrupted)
	}
	return fmt.Errorf("%w: %w", ErrRefused, err)
}

// Close removes a temporary archive.
func (b Bundle) Close() error {
	if !b.packed {
		return nil
	}
	return os.Remove(b.Path)
}

// gitTimeout bounds how long git may take to name a commit.
const gitTimeout = 5 * time.Second

var shortSHA = regexp.MustCompile(`^[0-9a-f]{4,40}$`)

// DefaultLabel returns the version label eb would choose: app-<commit>-<yymmdd_HHMMSS>, without the commit where dir is in no git repository.
func DefaultLabel(ctx context.Context, dir string, at time.Time) string {
	stamp := at.UTC().Format("060102_150405")
	git, err := exec.LookPath("git")
	if err != nil {
		return "app-" + stamp
	}
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	var out strings.Builder
	_, err = proc.Run(ctx, proc.Command{
		Path: git, Args: []string{"-C", dir, "rev-parse", "--short", "HEAD"}, Env: os.Environ(), Output: &out, Grace: time.Second,
	})
	if sha := strings.TrimSpace(out.String()); err == nil && shortSHA.MatchString(sha) {
		return "app-" + sha + "-" + stamp
	}
	return "app-" + stamp
}
