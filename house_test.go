package hostmanager_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "hostmanager"

// floors lists the rooms from the top down: a room imports from floors below its own only. A name stands for the folder and all inside it;
// the longest name that fits counts.
var floors = [][]string{
	{"cmd", "demo", "bench", "chaos", "tools"},
	{"agent", "dev"},
	{"commandproc", "platform", "worker", "fleet"},
	{"hooks", "environment", "journal", "aws"},
	{"protocol", "internal"},
}

// neighbours are the imports allowed on one floor, besides a package's own subfolders.
var neighbours = [][2]string{
	{"platform/docker", "platform/settings"},
	{"platform/proxy", "platform/settings"},
	{"platform/bundle", "platform/settings"},
	{"fleet", "fleet"},
	{"internal", "internal"},
	{"agent", "agent"},
}

// outsiders says where the types of a foreign module may appear.
var outsiders = []struct {
	prefix string
	rooms  []string
}{
	{"github.com/aws/", []string{"aws"}},
	{"github.com/docker/", []string{"platform/docker", "internal/dockertest"}},
	{"github.com/moby/", []string{"platform/docker", "internal/dockertest", "fleet/source"}},
	{"github.com/johannesboyne/gofakes3", []string{"aws/localaws"}},
	{"github.com/spf13/cobra", []string{"cmd", "internal/cli"}},
}

const (
	maxFunction    = 80 // lines
	usualFunction  = 40 // lines, for 95 of 100
	maxFile        = 600
	forbiddenNames = "util utils common manager managers helper helpers misc shared base lib"
)

// source is one parsed Go file.
type source struct {
	path string // from the module's root
	room string // its folder
	file *ast.File
	fset *token.FileSet
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// lines is the length of a node.
func (s source) lines(n ast.Node) int {
	return s.fset.Position(n.End()).Line - s.fset.Position(n.Pos()).Line + 1
}

// sources parses every Go file of the module.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, nested := os.Stat(filepath.Join(name, "go.mod"))
			skip := strings.HasPrefix(d.Name(), ".") || slices.Contains([]string{"testdata", "build", "dist", "vendor"}, d.Name()) || nested == nil
			if name != "." && skip {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		all = append(all, source{filepath.ToSlash(name), path.Dir(filepath.ToSlash(name)), f, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// within tells whether a room is a folder or inside it.
func within(room, folder string) bool {
	return room == folder || strings.HasPrefix(room, folder+"/")
}

// floor returns the number of a room's floor from the top, or -1.
func floor(room string) int {
	return slices.IndexFunc(floors, func(rooms []string) bool {
		return slices.ContainsFunc(rooms, func(r string) bool { return within(room, r) })
	})
}

// mayImport judges one import between rooms of this module.
func mayImport(from, to string) bool {
	if floor(from) < floor(to) || within(to, from) || within(from, to) {
		return true
	}
	return slices.ContainsFunc(neighbours, func(n [2]string) bool {
		return floor(from) == floor(to) && within(from, n[0]) && within(to, n[1])
	})
}

func TestHouse_ImportsGoOnlyDown(t *testing.T) {
	for _, s := range sources(t) {
		if s.room == "." {
			continue
		}
		if floor(s.room) < 0 {
			t.Errorf("%s: room %s stands on no floor: add it to the table", s.path, s.room)
			continue
		}
		for _, imp := range s.file.Imports {
			name, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			to, ours := strings.CutPrefix(name, module+"/")
			if ours && !s.test() && !mayImport(s.room, to) {
				t.Errorf("%s: %s may not import %s", s.path, s.room, to)
			}
			if ours && s.test() && floor(to) < floor(s.room) {
				t.Errorf("%s: a test of %s may not import %s from a floor above", s.path, s.room, to)
			}
		}
	}
}

func TestHouse_ForeignTypesStayInTheirRooms(t *testing.T) {
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		for _, imp := range s.file.Imports {
			name, _ := strconv.Unquote(imp.Path.Value)
			for _, o := range outsiders {
				if strings.HasPrefix(name, o.prefix) && !slices.ContainsFunc(o.rooms, func(r string) bool { return within(s.room, r) }) {
					t.Errorf("%s imports %s, which belongs into %s", s.path, name, strings.Join(o.rooms, ", "))
				}
			}
			if std := !strings.Contains(strings.SplitN(name, "/", 2)[0], "."); s.room == "protocol" && (!std || strings.HasPrefix(name, module)) {
				t.Errorf("%s imports %s: protocol is standard library only", s.path, name)
			}
		}
	}
}

func TestHouse_TheAgentDoesNotLinkTheLocalEndpoint(t *testing.T) {
	if _, err := os.Stat("cmd/hostmanager"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/hostmanager")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		if within(dep, module+"/aws/localaws") || within(dep, module+"/internal/dockertest") || within(dep, module+"/internal/signature/signing") || strings.HasPrefix(dep, "github.com/johannesboyne/") || dep == "testing" {
			t.Errorf("cmd/hostmanager links %s", dep)
		}
	}
}

func TestHouse_SizeOfFilesAndFunctions(t *testing.T) {
	var lengths []int
	for _, s := range sources(t) {
		if n := s.fset.Position(s.file.FileEnd).Line; n > maxFile {
			t.Errorf("%s has %d lines, more than %d", s.path, n, maxFile)
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := s.lines(f)
			if n > maxFunction && !s.test() { // a test may be one long table
				t.Errorf("%s: %s has %d lines, more than %d", s.path, f.Name.Name, n, maxFunction)
			}
			if !s.test() {
				lengths = append(lengths, n)
			}
			if f.Name.Name == "init" && f.Recv == nil && !s.test() {
				t.Errorf("%s has an init function", s.path)
			}
		}
	}
	slices.Sort(lengths)
	if p95 := lengths[len(lengths)*95/100]; p95 > usualFunction {
		t.Errorf("5 of 100 functions have more than %d lines (the 95th percentile is %d)", usualFunction, p95)
	}
}

func TestHouse_PackagesHaveACommentAndAName(t *testing.T) {
	commented := map[string]bool{}
	for _, s := range sources(t) {
		for _, part := range strings.Split(s.room, "/") {
			if slices.Contains(strings.Fields(forbiddenNames), part) {
				t.Errorf("%s: %q says nothing of what is inside", s.room, part)
			}
		}
		if s.test() {
			continue
		}
		commented[s.room] = commented[s.room] || s.file.Doc != nil && len(s.file.Doc.Text()) > 40
	}
	for room, ok := range commented {
		if !ok {
			t.Errorf("package %s has no package comment: what it is for, what it may not know, its invariants", room)
		}
	}
}

// TestHouse_PackageVariablesDoNotChange looks for assignments to a package's variables. A variable of the same name declared in the function
// hides the package's, so such functions are left out.
func TestHouse_PackageVariablesDoNotChange(t *testing.T) {
	all := sources(t)
	vars := map[string]map[string]bool{}
	for _, s := range all {
		if s.test() {
			continue
		}
		for _, d := range s.file.Decls {
			if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.VAR {
				for _, spec := range g.Specs {
					for _, name := range spec.(*ast.ValueSpec).Names {
						if vars[s.room] == nil {
							vars[s.room] = map[string]bool{}
						}
						vars[s.room][name.Name] = name.Name != "_"
					}
				}
			}
		}
	}
	for _, s := range all {
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || s.test() {
				continue
			}
			local := declared(f)
			for _, target := range assigned(f) {
				if vars[s.room][target.Name] && !local[target.Name] {
					t.Errorf("%s: %s assigns to the package variable %s", s.fset.Position(target.Pos()), f.Name.Name, target.Name)
				}
			}
		}
	}
}

// declared returns the names a function declares for itself, anywhere in it.
func declared(f *ast.FuncDecl) map[string]bool {
	names := map[string]bool{}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			for _, name := range n.Names {
				names[name.Name] = true
			}
		case *ast.ValueSpec:
			for _, name := range n.Names {
				names[name.Name] = true
			}
		case *ast.AssignStmt:
			for _, e := range n.Lhs {
				if name, ok := e.(*ast.Ident); ok && n.Tok == token.DEFINE {
					names[name.Name] = true
				}
			}
		case *ast.RangeStmt:
			for _, e := range []ast.Expr{n.Key, n.Value} {
				if name, ok := e.(*ast.Ident); ok && n.Tok == token.DEFINE {
					names[name.Name] = true
				}
			}
		}
		return true
	})
	return names
}

// assigned returns the variables a function assigns to: x = 1, x.f = 1, x[i]++.
func assigned(f *ast.FuncDecl) (all []*ast.Ident) {
	add := func(e ast.Expr) {
		for {
			switch at := e.(type) {
			case *ast.Ident:
				all = append(all, at)
				return
			case *ast.SelectorExpr:
				e = at.X
			case *ast.IndexExpr:
				e = at.X
			case *ast.StarExpr:
				e = at.X
			case *ast.ParenExpr:
				e = at.X
			default:
				return
			}
		}
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				for _, e := range n.Lhs {
					add(e)
				}
			}
		case *ast.IncDecStmt:
			add(n.X)
		}
		return true
	})
	return all
}

// TestHouse_TableOfFloors holds the table itself against a few cases that must come out.
func TestHouse_TableOfFloors(t *testing.T) {
	tests := []struct {
		from, to string
		want     bool
	}{
		{"cmd/hostmanager", "agent", true},
		{"agent", "cmd/hostmanager", false},
		{"agent", "aws/queue", true},
		{"commandproc", "aws/queue", true},
		{"commandproc", "platform/docker", false},
		{"platform/docker", "hooks", true},
		{"platform/docker", "platform/settings", true},
		{"platform/settings", "platform/docker", false},
		{"platform/docker", "platform/proxy", false},
		{"fleet/source", "fleet", true},
		{"fleet", "agent", false},
		{"hooks", "journal", false},
		{"hooks", "internal/proc", true},
		{"internal/proc", "hooks", false},
		{"protocol", "internal/layout", false},
		{"internal/layout", "protocol", false},
		{"journal", "protocol", true},
		{"aws/queue", "aws/localaws", false},
	}
	for _, tt := range tests {
		if got := mayImport(tt.from, tt.to); got != tt.want {
			t.Errorf("%s imports %s: %v, want %v", tt.from, tt.to, got, tt.want)
		}
	}
}
