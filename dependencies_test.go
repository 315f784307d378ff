package hostmanager_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every direct dependency has its reason in docs/dependencies.md, and nothing stands there that is not one.
func TestHouse_DependenciesHaveReasons(t *testing.T) {
	mod, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	var required, reasoned []string
	for line := range strings.Lines(string(mod)) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "\t") && len(fields) == 2 {
			required = append(required, fields[0])
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\| (\S+/\S+) \| \S`).FindAllStringSubmatch(string(doc), -1) {
		reasoned = append(reasoned, m[1])
	}
	slices.Sort(required)
	slices.Sort(reasoned)
	if len(required) == 0 {
		t.Fatal("go.mod shows no direct dependency; the test reads it wrongly")
	}
	if diff := cmp.Diff(required, reasoned); diff != "" {
		t.Errorf("go.mod (-) and docs/dependencies.md (+) differ:\n%s", diff)
	}
}
