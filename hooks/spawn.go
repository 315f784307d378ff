package hooks

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"hostmanager/internal/proc"
	"hostmanager/protocol"
)

// Spawning says how executable hooks are run. The zero value runs them in a process group, without limits.
type Spawning struct {
	Spawner *proc.Spawner
	// Limits are asked for at each hook, since a deployment's settings say them. Nil: none.
	Limits func() proc.Limits
}

// spawned is what a sequence knows of how its files are run.
type spawned struct {
	within string // no file may lead out of this folder; empty: anywhere
	told   bool   // that variables were left out
}

// file runs an executable file.
func (s *sequence) file(ctx context.Context, e entry, call Call) error {
	env, refused := admit(append(slices.Clip(s.env), Mark(call.Root, call.Deployment), StepMark(call.Root, call.Deployment, s.step(e))))
	if len(refused) > 0 && !s.spawned.told {
		s.spawned.told = true
		call.Event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
			"Hooks of %s run without %s: such variables would change how every program in them is loaded.", call.Dir, strings.Join(refused, ", "))})
	}
	d := call.Deployment
	c := proc.Command{
		Path: e.path, Dir: s.dir, Env: env, Output: call.Output, Mask: call.Redact.Writer, Log: call.Log, Grace: s.grace, Within: s.spawned.within,
		MayDetach: func(file io.Reader) bool { return readDeclaration(file).detach },
		Asked: []slog.Attr{
			slog.String("asked_by", d.AskedBy), slog.String("invocation_id", d.InvocationID), slog.String("hook", call.Dir+"/"+e.name),
		},
	}
	if call.spawning.Spawner == nil {
		res, err := proc.Run(ctx, c)
		if res.HeldOpen {
			call.Log.Warn("hook left a process that held its output open", slog.String("hook", e.path))
		}
		return err
	}
	if call.spawning.Limits != nil {
		c.Limits = call.spawning.Limits()
	}
	res, err := call.spawning.Spawner.Run(ctx, c)
	if res.Left > 0 {
		call.Event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
			"The hook %s left %d processes behind, which were ended. One that starts a daemon on purpose says so in a line \"# hostmanager: detach\".", e.path, res.Left)})
	}
	return err
}

// DefaultPath is the PATH of hooks.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is a file's environment; the last value of a name counts. Nothing of it is the agent's own.
func environment(ctx context.Context, given []string, folder string) []string {
	env := []string{"PATH=" + DefaultPath, "HOME=/root", "LANG=en_US.UTF-8"}
	if deadline, ok := ctx.Deadline(); ok {
		env = append(env, "EB_COMMAND_DEADLINE="+strconv.FormatInt(deadline.UnixMilli(), 10))
	}
	return append(append(env, given...), "PWD="+folder)
}

// refusedVariables decide what the loader or the shell executes before a hook's first line. Those that a hook's own programs read (PYTHONPATH,
// NODE_OPTIONS, JAVA_TOOL_OPTIONS ...) are the application's business and pass, as they do on Elastic Beanstalk.
var refusedVariables = []string{"BASH_ENV", "BASHOPTS", "SHELLOPTS", "PS4", "IFS", "CDPATH", "GCONV_PATH", "GLIBC_TUNABLES", "LOCPATH", "NLSPATH"}

// admit leaves out what properties may not set for hooks, and returns the names of that.
func admit(env []string) (admitted, refused []string) {
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, "LD_") || strings.HasPrefix(name, "BASH_FUNC_") || slices.Contains(refusedVariables, name) {
			refused = append(refused, name)
			continue
		}
		admitted = append(admitted, entry)
	}
	slices.Sort(refused)
	return admitted, slices.Compact(refused)
}

// header bounds where a file may say what it is.
const (
	headerLines = 10
	headerBytes = 4 << 10
)

// declaration is what a file says of itself.
type declaration struct{ repeatable, detach bool }

// readDeclaration reads the comment "hostmanager: repeatable, detach: true" among a file's first lines. A word it does not know is passed over.
func readDeclaration(r io.Reader) declaration {
	var d declaration
	lines := bufio.NewScanner(io.LimitReader(r, headerBytes))
	lines.Buffer(make([]byte, 0, headerBytes), headerBytes+1)
	for n := 0; n < headerLines && lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if !slices.ContainsFunc([]string{"#", "//", "--", ";", "%"}, func(mark string) bool { return strings.HasPrefix(line, mark) }) {
			continue
		}
		text, ok := strings.CutPrefix(strings.TrimSpace(strings.TrimLeft(line, "#/-;%")), "hostmanager:")
		if !ok {
			continue
		}
		for word := range strings.SplitSeq(text, ",") {
			name, value, given := strings.Cut(word, ":")
			yes := !given || strings.TrimSpace(value) == "true"
			switch strings.TrimSpace(name) {
			case "repeatable":
				d.repeatable = yes
			case "detach":
				d.detach = yes
			}
		}
	}
	return d
}
