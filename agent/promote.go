package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hostmanager/commandproc"
	"hostmanager/hooks"
	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
	"hostmanager/platform/settings"
	"hostmanager/protocol"
)

// promotion is what undoing a promotion needs.
type promotion struct {
	Had    bool   `json:"had"`              // there was a deployed manifest, and a copy of it was kept
	SHA256 string `json:"sha256,omitempty"` // of the promoted manifest
}

// previousManifest is the copy of the deployed manifest that a promotion under way could be undone with. It holds properties, so it goes as soon as
// the command has its result.
func previousManifest(root layout.Root) string {
	return filepath.Join(root.AgentState(), "previous-manifest.json")
}

// commit is the last step of a command that deploys: the staged manifest becomes the deployed one.
func (i *infra) commit() hooks.Builtin {
	return hooks.Builtin{Name: "PromoteManifest", Semantics: protocol.Compensated, Run: i.promote, Undo: i.demote}
}

func (i *infra) promote(_ context.Context, c *hooks.Call) error {
	staged, err := atomicfile.ReadFileLimit(i.root.StagedManifest(), maxManifest)
	if err != nil {
		return fmt.Errorf("read the staged manifest: %w", err)
	}
	old, err := atomicfile.ReadFileLimit(i.root.DeployedManifest(), maxManifest)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the deployed manifest: %w", err)
	}
	had := err == nil
	if had {
		if err := atomicfile.WriteFile(previousManifest(i.root), old, 0o600); err != nil {
			return fmt.Errorf("keep the deployed manifest: %w", err)
		}
	}
	if err := c.Save(promotion{had, protocol.Digest(staged)}); err != nil {
		return err
	}
	if err := atomicfile.WriteFile(i.root.DeployedManifest(), staged, 0o600); err != nil {
		return fmt.Errorf("write the deployed manifest: %w", err)
	}
	return removeFile(i.root.StagedManifest()) // one copy of the properties less
}

// demote undoes promote, so that promote can run again. Without what promote saved nothing was changed.
func (i *infra) demote(_ context.Context, c *hooks.Call) error {
	if len(c.Saved) == 0 {
		return nil
	}
	var saved promotion
	if err := json.Unmarshal(c.Saved, &saved); err != nil {
		return fmt.Errorf("read what promoting saved: %w", err)
	}
	if err := i.restage(saved); err != nil {
		return err
	}
	if !saved.Had {
		return atomicfile.Remove(i.root.DeployedManifest())
	}
	old, err := atomicfile.ReadFileLimit(previousManifest(i.root), maxManifest)
	if err != nil {
		return fmt.Errorf("read the manifest that was kept: %w", err)
	}
	return atomicfile.WriteFile(i.root.DeployedManifest(), old, 0o600)
}

// restage brings the staged manifest back where promote had removed it.
func (i *infra) restage(saved promotion) error {
	if _, err := os.Stat(i.root.StagedManifest()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	raw, err := atomicfile.ReadFileLimit(i.root.DeployedManifest(), maxManifest)
	if errors.Is(err, fs.ErrNotExist) || err == nil && protocol.Digest(raw) != saved.SHA256 {
		return nil // it was demoted before
	}
	if err != nil {
		return fmt.Errorf("read the promoted manifest: %w", err)
	}
	return atomicfile.WriteFile(i.root.StagedManifest(), raw, 0o600)
}

// begunBefore finds the manifest of a command that an earlier agent began: on disk where it had come that far, else where it came from. What lies
// on disk was judged when it was written there.
func (i *infra) begunBefore(ctx context.Context, j commandproc.Job) (prepared, error) {
	for _, file := range []string{i.root.StagedManifest(), i.root.DeployedManifest()} {
		raw, err := atomicfile.ReadFileLimit(file, maxManifest)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return prepared{}, fmt.Errorf("read manifest of the command under way: %w", err)
		}
		if j.Request.DataSHA256 != "" && protocol.Digest(raw) != j.Request.DataSHA256 {
			continue
		}
		if p, err := i.decode(raw); err == nil && p.manifest.DeploymentID == j.Begun.ID && p.manifest.Serial == j.Begun.Serial {
			return p, nil
		}
	}
	if j.Request.StageNum != nil && *j.Request.StageNum > 0 {
		return i.stagedBefore(j.Request)
	}
	return i.fetch(ctx, j.Request)
}

// settle makes the files that hooks read tell of the version that serves again, after a command failed. Safe at any time, also twice.
func (i *infra) settle(context.Context) error {
	if err := atomicfile.Remove(i.root.StagedManifest()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the staged manifest: %w", err)
	}
	p, err := i.deployed()
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(removeFile(i.root.ContainerConfiguration()), removeFile(i.root.SourceBundle()))
	}
	if err != nil {
		return err
	}
	if err := settings.WriteContainerConfiguration(i.root, p.manifest); err != nil {
		return err
	}
	return i.relink(p.manifest)
}

// relink points the source bundle's link at the deployed version's archive, where the cache still has it.
func (i *infra) relink(m protocol.Manifest) error {
	target, err := os.Readlink(i.root.SourceBundle())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read source bundle link: %w", err)
	}
	src, err := sourceOf(m)
	if err != nil {
		return err
	}
	want := filepath.Join(filepath.Dir(target), src.SHA256)
	if want == target {
		return nil
	}
	if _, err := os.Stat(want); err != nil {
		return removeFile(i.root.SourceBundle())
	}
	return atomicfile.Symlink(want, i.root.SourceBundle())
}

// removeFile removes a file or link whose folder may not exist.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
