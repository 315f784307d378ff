package hooks

import (
	"context"
	"log/slog"
	"strconv"

	"hostmanager/internal/proc"
)

// file runs an executable file.
func (s *sequence) file(ctx context.Context, e entry, call Call) error {
	res, err := proc.Run(ctx, proc.Command{Path: e.path, Dir: s.dir, Env: append(s.env[:len(s.env):len(s.env)], Mark(call.Root, call.Deployment)), Output: call.Output, Log: call.Log, Grace: s.grace})
	if res.HeldOpen {
		call.Log.Warn("hook left a process that held its output open", slog.String("hook", e.path))
	}
	return err
}

// DefaultPath is the PATH of hooks.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is a file's environment; the last value of a name counts.
func environment(ctx context.Context, given []string, folder string) []string {
	env := []string{"PATH=" + DefaultPath, "HOME=/root", "LANG=en_US.UTF-8"}
	if deadline, ok := ctx.Deadline(); ok {
		env = append(env, "EB_COMMAND_DEADLINE="+strconv.FormatInt(deadline.UnixMilli(), 10))
	}
	return append(append(env, given...), "PWD="+folder)
}
