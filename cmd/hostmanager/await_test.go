package main

import (
	"context"
	"os/exec"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// awaitLimit bounds a wait for another process.
const awaitLimit = 30 * time.Second

func outputHolds(ctx context.Context, ts *testscript.TestScript, text string, argv []string) bool {
	path := argv[0]
	for _, dir := range strings.Split(ts.Getenv("PATH"), ":") {
		if found, err := exec.LookPath(dir + "/" + argv[0]); err == nil {
			path = found
			break
		}
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("HOME")}
	out, _ := cmd.CombinedOutput() // a program that fails now may succeed the next time
	return strings.Contains(string(out), text)
}
