package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"hostmanager/platform/bundle"
	"hostmanager/platform/docker"
)

// checkBundle refuses what no instance could unpack or build, with the sentence that an instance would answer: nobody needs to wait for an upload to
// read it.
func checkBundle(ctx context.Context, archive string) (err error) {
	tree, err := os.MkdirTemp("", "hmctl-look-")
	if err != nil {
		return fmt.Errorf("look into the source bundle: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tree)) }()
	whole, err := bundle.Peek(ctx, archive, tree, "Dockerfile", "Dockerrun.aws.json")
	if err != nil || !whole {
		return err // what only unpacking would show is left to the instances
	}
	return docker.CheckSource(tree)
}
