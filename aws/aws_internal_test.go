package aws

import "testing"

// FuzzParseSection holds the reading of shared files to: no panic, and names
// and values that could stand in such a file.
func FuzzParseSection(f *testing.F) {
	for _, seed := range []string{"[default]\nregion = x # y\n", "[profile  a]\nk=v\n  sub = w\n[", "region=x", "[]\n=\n", "[default\nk==v;"} {
		f.Add(seed, "default")
	}
	f.Fuzz(func(t *testing.T, text, section string) {
		values, found := parseSection(text, section)
		if !found && len(values) > 0 {
			t.Errorf("settings of a section that is not there: %v", values)
		}
	})
}
