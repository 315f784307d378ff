package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"hostmanager/hooks"
	"hostmanager/protocol"
)

// Hooks returns the platform's built-in hooks by hook directory. The order within a directory is that of the names, executable files among them.
func (p *Platform) Hooks() map[string][]hooks.Builtin {
	run := func(name string, run func(context.Context, *hooks.Call) error) hooks.Builtin {
		return hooks.Builtin{Name: name, Semantics: protocol.Repeatable, Run: p.connected(run)}
	}
	// A container is started, and switched to, in steps that can be taken back; everything else can be done again.
	start := func(run func(context.Context, *hooks.Call) error) hooks.Builtin {
		return hooks.Builtin{Name: "00run", Semantics: protocol.Compensated, Run: p.connected(run), Undo: p.connected(p.undoRun)}
	}
	flip := func(run func(context.Context, *hooks.Call) error) hooks.Builtin {
		return hooks.Builtin{Name: "01flip", Semantics: protocol.Compensated, Run: p.connected(run), Undo: p.connected(p.undoFlip)}
	}
	// A change of configuration and a restart are the same flip with the image that serves.
	enactCurrent := []hooks.Builtin{start(p.runCurrent), flip(p.flipCurrent)}
	after := []hooks.Builtin{run("00_clean_imgs", p.cleanImages), run("01_monitor_pids", p.monitor)}
	return map[string][]hooks.Builtin{
		"preinit": {run("00engine", p.checkEngine)},
		"appdeploy/pre": {
			run("00clean_dir", p.cleanDir),
			run("01unzip", p.stage),
			run("02loopback-check", p.checkLoopback),
			run("03build", p.buildImage),
		},
		"appdeploy/enact":        {start(p.runStaged), flip(p.flipStaged)},
		"appdeploy/post":         after,
		"configdeploy/enact":     enactCurrent,
		"configdeploy/post":      after,
		"restartappserver/enact": enactCurrent,
		"restartappserver/post":  after,
	}
}

// checkEngine finds out at first boot, not at the first deployment, that no Engine answers.
func (p *Platform) checkEngine(ctx context.Context, c *hooks.Call) error {
	version, err := p.cli.ServerVersion(ctx)
	if err != nil {
		return fmt.Errorf("ask the Docker Engine for its version: %w", err)
	}
	fmt.Fprintln(c.Output, "Docker Engine", version.Version, "API", version.APIVersion)
	return p.makeLogFolder()
}

// stage is 01unzip: the verified bundle was unpacked by DownloadSourceBundle into a tree of the deployment's own; staging is pointed at it.
func (p *Platform) stage(_ context.Context, c *hooks.Call) error {
	name, err := p.release(c.Deployment)
	if err != nil {
		return err
	}
	tree := filepath.Join(p.root.Releases(), name)
	info, err := os.Stat(tree)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return fail(c, &Failure{Sentence: "Failed to unzip source bundle, abort deployment", Cause: fmt.Errorf("%s is not there", tree)})
	}
	if err != nil {
		return fmt.Errorf("look at application tree: %w", err)
	}
	return p.lead(c, p.root.Staging(), tree)
}

// checkLoopback warns of devicemapper on a loop file, which loses data and is slow.
func (p *Platform) checkLoopback(ctx context.Context, c *hooks.Call) error {
	at, err := p.engineDisk(ctx)
	if err != nil {
		return err
	}
	if file := at.file; file != "" {
		report(c, protocol.Warn, "Docker keeps its data in a loop file (%s), which is not meant for production: set up overlay2.", file)
	}
	return nil
}

// monitor is 01_monitor_pids: the last look of a deployment. A container that ended right after it took over fails the command, which then goes
// back to the one before.
func (p *Platform) monitor(ctx context.Context, c *hooks.Call) error {
	id, err := readState(p.root.CurrentContainerID())
	if err != nil {
		return err
	}
	in, ok, err := p.find(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case !ok:
		return fmt.Errorf("container %q, which has just taken over, is gone", id)
	case in.running && in.restarts == 0:
		return nil
	}
	last := p.lastOutput(ctx, in.id)
	return fail(c, &Failure{
		Sentence: fmt.Sprintf("Docker container quit unexpectedly after launch: %s. Check snapshot logs for details.", last.last(200)),
		Last:     last.last(maxTail), Code: in.exitCode,
	})
}
