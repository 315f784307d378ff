package signing

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"time"
)

// afterKill is how long the output of a command that was stopped is still waited for: a child of it may hold the pipe.
const afterKill = time.Second

// run runs the signing command. Unlike a hook it is the operator's own and needs what they have: the environment, with its credentials, and an
// input; so it is started here and not by internal/proc, which gives neither.
func run(ctx context.Context, shell string, input []byte) (out, complaint string, err error) {
	var stdout, stderr head
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", shell)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = afterKill
	err = cmd.Run()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return stdout.String(), stderr.String(), err
}

// head keeps the first maxOutput bytes and takes the rest without keeping it.
type head struct{ kept bytes.Buffer }

func (h *head) Write(p []byte) (int, error) {
	h.kept.Write(p[:min(len(p), maxOutput-h.kept.Len())])
	return len(p), nil
}

func (h *head) String() string { return h.kept.String() }

// said is the end of a sentence: the last line of what the command complained of.
func said(complaint string) string {
	lines := strings.Split(strings.TrimSpace(strings.ToValidUTF8(complaint, "?")), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	if last == "" {
		return ""
	}
	return ": " + last[:min(len(last), 300)]
}
