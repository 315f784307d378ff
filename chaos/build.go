package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// built is where the binaries of a run lie.
type built struct {
	module      string // the module's folder
	hostmanager string // as shipped
	hmctl       string
	striking    string // hostmanager that strikes itself at a chosen record
	app         string // the application's binary
	bundles     []bundle
}

// The packages of the shipped binaries.
const (
	agentPackage    = "./cmd/hostmanager"
	operatorPackage = "./cmd/hmctl"
)

// buildAll builds the shipped binaries, the agent that strikes itself, and the application.
func buildAll(ctx context.Context, dir string) (built, error) {
	module, err := moduleFolder()
	if err != nil {
		return built{}, err
	}
	b := built{
		module: module, hostmanager: filepath.Join(dir, "hostmanager"), hmctl: filepath.Join(dir, "hmctl"),
		striking: filepath.Join(dir, "striking", "hostmanager"), app: filepath.Join(dir, "hello"),
	}
	for out, pkg := range map[string]string{b.hostmanager: agentPackage, b.hmctl: operatorPackage, b.app: "./testdata/apps/hello"} {
		if err := build(ctx, module, out, pkg, ""); err != nil {
			return b, err
		}
	}
	if b.bundles, err = packBundles(ctx, module, b.app, filepath.Join(dir, "app")); err != nil {
		return b, err
	}
	return b, plant(ctx, module, b.striking, agentPackage, strikes())
}

// build is how `make build` does it.
func build(ctx context.Context, module, out, pkg, overlay string) error {
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out}
	if overlay != "" {
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, text)
	}
	return nil
}

func moduleFolder() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, found := os.Stat(filepath.Join(dir, "go.mod")); found == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory: chaos runs inside the module")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// change is one replacement in the source: what stands there exactly once, and what stands there instead. With an empty Old, New is a
// new file.
type change struct{ File, Old, New string }

// errNotOnce tells that a text to replace is not in the source exactly once: who changed the source must look at the change as well.
var errNotOnce = errors.New("the text to replace is not in the source exactly once")

// plant builds a binary with changes. The source stays as it is: the compiler is told to read other files in their place.
func plant(ctx context.Context, module, out, pkg string, changes []change) error {
	dir := out + ".overlay"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	texts := map[string]string{}
	for _, c := range changes {
		if err := c.apply(module, texts); err != nil {
			return err
		}
	}
	replace := map[string]string{}
	for file, text := range texts {
		at := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
			return err
		}
		replace[filepath.Join(module, file)] = at
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	overlay := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlay, list, 0o644); err != nil {
		return err
	}
	return build(ctx, module, out, pkg, overlay)
}

// apply makes the change in the texts, which hold the files changed so far.
func (c change) apply(module string, texts map[string]string) error {
	if c.Old == "" {
		texts[c.File] = c.New
		return nil
	}
	text, there := texts[c.File]
	if !there {
		data, err := os.ReadFile(filepath.Join(module, c.File))
		if err != nil {
			return err
		}
		text = string(data)
	}
	if n := strings.Count(text, c.Old); n != 1 {
		return fmt.Errorf("%s: %w: %d times: %s", c.File, errNotOnce, n, c.Old)
	}
	texts[c.File] = strings.Replace(text, c.Old, c.New, 1)
	return nil
}

// strikeVariable names the file that tells a striking agent where to strike.
const strikeVariable = "CHAOS_STRIKE"

// strike says where a striking agent kills itself: at the nth record that it appends for commands whose identity contains Command.
type strike struct {
	Command string `json:"command"`
	Nth     int    `json:"nth"` // from 1, counted from the process's start
	Place   string `json:"place"`
}

// The places of a strike.
const (
	before = "before" // nothing of the record is written
	torn   = "torn"   // half of it is
	behind = "behind" // it is durable, and nothing came after it
)

// strikes makes the journal of a hostmanager kill its own process where a strike says. All else is as shipped.
func strikes() []change {
	return []change{
		{
			File: "journal/journal.go",
			Old:  "if err := j.write(payload); err != nil {",
			New:  "if err := struck(j, r.Command, payload); err != nil {",
		},
		{File: "journal/zz_struck.go", New: `package journal

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
)

var strikeCounts = map[string]int{}

// struck is called under the journal's lock.
func struck(j *Journal, command string, payload []byte) error {
	place := strikePlace(command)
	switch place {
	case "before":
		strikeNow()
	case "torn":
		frame := appendFrame(nil, payload)
		_, _ = j.file.Write(frame[:len(frame)/2])
		strikeNow()
	}
	err := j.write(payload)
	if place == "behind" {
		strikeNow()
	}
	return err
}

func strikePlace(command string) string {
	data, err := os.ReadFile(os.Getenv("` + strikeVariable + `"))
	if err != nil {
		return ""
	}
	var s struct {
		Command, Place string
		Nth            int
	}
	if json.Unmarshal(data, &s) != nil || !strings.Contains(command, s.Command) {
		return ""
	}
	strikeCounts[s.Command]++
	if strikeCounts[s.Command] != s.Nth {
		return ""
	}
	return s.Place
}

func strikeNow() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}
`},
	}
}
