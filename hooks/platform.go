package hooks

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hostmanager/protocol"
)

// DefaultPort is the PORT of a bundle's hooks where no property sets one: the port Elastic Beanstalk's proxy expects the application on.
const DefaultPort = "5000"

// Bundle says which of a bundle's own hooks to run and what they are given.
type Bundle struct {
	Tree       string    // the unpacked bundle, or a link to it; also the working directory
	Dir        string    // below .platform: "hooks/prebuild", "confighooks/postdeploy"
	Properties []string  // NAME=VALUE: the application's environment properties
	Log        io.Writer // eb-hooks.log, beside call.Output; nil: none
}

// RunPlatform runs the hooks a bundle brings for one moment, in the order of their names. Their environment is the properties, HOME, PATH, PORT
// and EB_EVENT_FILE; nothing of the command's. All files but hidden ones are hooks: one without an exec bit gets it, with a WARN event, since
// archives made on Windows lose it. A link that leads out of the tree is an error, and then nothing runs. Steps are journalled as
// ".platform/<dir>/<name>"; errors are those of Runner.Run.
func RunPlatform(ctx context.Context, b Bundle, call Call, rec Recorder, watch Watch) error {
	call = (&Runner{opts: Options{Root: call.Root, Log: slog.New(slog.DiscardHandler)}}).complete(call)
	call.Dir = ".platform/" + b.Dir
	tree, err := filepath.EvalSymlinks(b.Tree)
	if err != nil {
		return fmt.Errorf("find bundle of hooks: %w", err)
	}
	note := func(format string, args ...any) { logLine(b.Log, format, args...) }
	hooks, err := bundled(tree, &call)
	if err != nil {
		return fmt.Errorf("read hooks of bundle: %w", err)
	}
	if len(hooks) == 0 {
		note("The dir %s/ does not exist or holds no hooks", call.Dir)
		return nil
	}
	note("Executing platform hooks in %s/", call.Dir)
	s := sequence{call: call, rec: rec, watch: watch, dir: tree, env: platformEnvironment(tree, b.Properties), spawned: spawned{within: tree}}
	s.watch = func(hook string) (io.Writer, func(error)) {
		note("Running platform hook: %s/%s", call.Dir, hook)
		output, end := call.Output, func(error) {}
		if watch != nil {
			output, end = watch(hook)
		}
		return both{output, b.Log}, end
	}
	if err := s.run(ctx, hooks); err != nil {
		note("%v", err)
		return err
	}
	note("Finished running the platform hooks in %s/", call.Dir)
	return nil
}

// PlatformHook is a built-in hook that runs a bundle's own ones, to be placed where their moment is. given is asked when it runs. It can be
// repeated as a whole: each of the bundle's hooks is a step of its own.
func PlatformHook(name string, given func(*Call) (Bundle, error)) Builtin {
	return Builtin{
		Name: name, Semantics: protocol.Repeatable, steps: true,
		Run: func(ctx context.Context, c *Call) error {
			b, err := given(c)
			if err != nil {
				return err
			}
			return RunPlatform(ctx, b, *c, c.rec, nil)
		},
	}
}

// PlatformCleanup is a PlatformHook for a cleanup directory: each of the bundle's hooks runs, whatever became of those before it, and a bundle
// that has none, or that is not there (an empty Tree), leaves no trace.
func PlatformCleanup(name string, given func(*Call) (Bundle, error)) Builtin {
	b := PlatformHook(name, given)
	b.idle = func(c *Call) bool {
		bundle, err := given(c)
		if err != nil {
			return false // Run tells
		}
		found, err := os.ReadDir(filepath.Join(bundle.Tree, ".platform", bundle.Dir))
		return bundle.Tree == "" || errors.Is(err, fs.ErrNotExist) || err == nil && len(found) == 0
	}
	return b
}

// bundled lists the hooks of call.Dir in the tree and mends their exec bits. Every path is opened below the tree, so no link leads out.
func bundled(tree string, call *Call) ([]entry, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	found, err := fs.ReadDir(root.FS(), call.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []entry
	for _, f := range found { // sorted by name
		name := f.Name()
		if strings.HasPrefix(name, ".") {
			continue
		}
		st, err := root.Stat(filepath.Join(call.Dir, name))
		if err != nil {
			return nil, err
		}
		if !st.Mode().IsRegular() {
			continue
		}
		e := entry{name: name, path: filepath.Join(tree, call.Dir, name)}
		if st.Mode().Perm()&0o111 == 0 {
			if err := root.Chmod(filepath.Join(call.Dir, name), st.Mode().Perm()|0o111); err != nil {
				return nil, fmt.Errorf("make hook executable: %w", err)
			}
			call.Event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
				"The hook %s/%s was not executable and was made so. Set its exec bit before packing (chmod +x).", call.Dir, name)})
		}
		all = append(all, e)
	}
	return all, nil
}

func platformEnvironment(tree string, properties []string) []string {
	env := []string{"HOME=/root", "PATH=" + DefaultPath, "PORT=" + DefaultPort, "PWD=" + tree}
	return append(env, properties...) // the last value of a name counts
}

// both writes to two logs; neither may keep a line from the other or end the hook.
type both struct{ one, other io.Writer }

func (b both) Write(p []byte) (int, error) {
	_, err := b.one.Write(p)
	if b.other != nil {
		_, _ = b.other.Write(p)
	}
	return len(p), err
}

// logLine writes a line as the original's engine did. A log that cannot be written is no reason not to run.
func logLine(w io.Writer, format string, args ...any) {
	if w != nil {
		_, _ = fmt.Fprintf(w, "%s [INFO] %s\n", time.Now().UTC().Format("2006/01/02 15:04:05.000000"), fmt.Sprintf(format, args...))
	}
}
