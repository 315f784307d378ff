package hooks

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hostmanager/internal/atomicfile"
	"hostmanager/protocol"
)

// entry is one hook of a directory: a file, or a built-in hook.
type entry struct {
	name    string
	path    string
	builtin *Builtin
}

// list returns the hooks of dir in the order in which they run, and warnings for people.
func list(folder, dir string, builtins []Builtin, replaceable []string) (all []entry, warnings []string, err error) {
	files, warnings, err := executables(folder)
	if err != nil {
		return nil, nil, err
	}
	for _, b := range builtins {
		step := dir + "/" + b.Name
		i := slices.IndexFunc(files, func(e entry) bool { return standsFor(e.name, b.Name) })
		switch {
		case i < 0:
			all = append(all, entry{name: b.Name, path: filepath.Join(folder, b.Name), builtin: &b})
		case !slices.Contains(replaceable, step):
			return nil, nil, fmt.Errorf("%w: %s has the name of the built-in hook %s; rename the file, or allow it with the option "+
				"aws:elasticbeanstalk:hostmanager ReplaceableHooks=%s", ErrNotReplaceable, files[i].path, step, step)
		default:
			warnings = append(warnings, fmt.Sprintf("The built-in hook %s is replaced by the file %s.", step, files[i].path))
		}
	}
	all = append(all, files...)
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return all, warnings, nil
}

// standsFor tells whether a file's name is the built-in hook's, with or without an extension.
func standsFor(file, builtin string) bool {
	return file == builtin || strings.TrimSuffix(file, filepath.Ext(file)) == builtin
}

// executables returns the files of a folder that are hooks. A missing folder has none.
func executables(folder string) (files []entry, warnings []string, err error) {
	found, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list hooks: %w", err)
	}
	for _, f := range found {
		name, path := f.Name(), filepath.Join(folder, f.Name())
		if ignored(name) {
			continue
		}
		st, err := os.Stat(path) // a link counts as what it leads to
		switch {
		case err != nil:
			warnings = append(warnings, fmt.Sprintf("The hook %s was skipped: %v.", path, err))
		case !st.Mode().IsRegular():
		case st.Mode().Perm()&0o111 == 0:
			if hasShebang(path) {
				warnings = append(warnings, fmt.Sprintf("The hook %s was skipped: it is a script but not executable (chmod +x).", path))
			}
		default:
			files = append(files, entry{name: name, path: path})
		}
	}
	return files, warnings, nil
}

// ignored names are never hooks: hidden files, and the copies that editors and cfn-init leave.
func ignored(name string) bool {
	return strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".bak") || strings.HasSuffix(name, ".tmp")
}

func hasShebang(path string) bool {
	f, err := atomicfile.OpenRegular(path, os.O_RDONLY, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 2)
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == "#!"
}

// semanticsOf tells a built-in hook's semantics, or a file's by its header line. Whatever cannot be read there makes it once.
func semanticsOf(e entry) protocol.Semantics {
	if e.builtin != nil {
		return e.builtin.Semantics
	}
	f, err := atomicfile.OpenRegular(e.path, os.O_RDONLY, 0) // an earlier hook may have put a pipe there
	if err != nil {
		return protocol.Once
	}
	defer f.Close()
	return readHeader(f)
}

func readHeader(r io.Reader) protocol.Semantics {
	if readDeclaration(r).repeatable {
		return protocol.Repeatable
	}
	return protocol.Once
}
