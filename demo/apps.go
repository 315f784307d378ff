package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// apps makes the folders that are deployed: the application of testdata/apps/hello, whole or with one of testdata/apps/broken laid over it.
type apps struct {
	dir    string // of this run
	binary []byte // hello, built once
}

func (a *apps) hello(ctx context.Context, version string) (string, error) {
	if err := a.build(ctx); err != nil {
		return "", err
	}
	dir := filepath.Join(a.dir, version)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "hello"), a.binary, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "version"), []byte(version+"\n"), 0o644); err != nil {
		return "", err
	}
	return dir, copyFile(filepath.Join("testdata", "apps", "hello", "Dockerfile"), filepath.Join(dir, "Dockerfile"))
}

func (a *apps) broken(ctx context.Context, variant string) (string, error) {
	dir, err := a.hello(ctx, variant)
	if err != nil {
		return "", err
	}
	overlay, err := filepath.Glob(filepath.Join("testdata", "apps", "broken", variant, "*"))
	if err != nil || len(overlay) == 0 {
		return "", fmt.Errorf("testdata/apps/broken/%s has no files; run the demo from the root of the project", variant)
	}
	for _, f := range overlay {
		if err := copyFile(f, filepath.Join(dir, filepath.Base(f))); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func (a *apps) build(ctx context.Context) error {
	if a.binary != nil {
		return nil
	}
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return err
	}
	out := filepath.Join(a.dir, "hello.bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./testdata/apps/hello")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the application: %w\n%s", err, text)
	}
	var err error
	a.binary, err = os.ReadFile(out)
	return err
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, 0o644)
}
