package fleet_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"hostmanager/fleet"
)

func TestReadProperties_TakesValuesAsTheyAre(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []fleet.Change
	}{
		"lines":          {"A=1\nB=two words \n", []fleet.Change{property("A", "1"), property("B", "two words ")}},
		"no last feed":   {"A=1", []fleet.Change{property("A", "1")}},
		"equal signs":    {"KEY=a=b==\n", []fleet.Change{property("KEY", "a=b==")}},
		"no quoting":     {`A="x" # y\n` + "\n", []fleet.Change{property("A", `"x" # y\n`)}},
		"empty removes":  {"A=\n", []fleet.Change{property("A", "")}},
		"comments":       {"\n# A=1\n\nB=#2\n", []fleet.Change{property("B", "#2")}},
		"inner return":   {"A=x\ry\n", []fleet.Change{property("A", "x\ry")}},
		"mark of order":  {"\ufeffA=1\n", []fleet.Change{property("A", "1")}},
		"nothing":        {"", nil},
		"JSON":           {` {"PEM": "-----\nabc=\r\n", "B": ""}` + "\n", []fleet.Change{property("PEM", "-----\nabc=\r\n"), property("B", "")}},
		"JSON of none":   {"{}", nil},
		"JSON and lines": {"A={\"x\": 1}\n", []fleet.Change{property("A", `{"x": 1}`)}},
	} {
		got, err := fleet.ReadProperties(strings.NewReader(c.text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// Every refusal names the line and never a value.
func TestReadProperties_RefusesWithoutTellingSecrets(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"A=1\nhush\n", "line 2 is not NAME=VALUE; a value with line breaks needs the JSON form"},
		{"=hush\n", "line 1: a name must not be empty"},
		{"A =hush\n", "line 1: a name must not"},
		{"A=hush\r\nB=2\r\n", "line 1 ends with a carriage return"},
		{"A=1\nA=hush\n", `line 2: "A" is set twice`},
		{"A=hush\x00\n", `line 1: the value of "A" holds a NUL byte`},
		{"A=1\nB=hush\xff\n", "line 2 is not valid UTF-8"},
		{"{\"A\": 1}", "line 1: want one JSON object of strings"},
		{"{\"A\": null}", "want one JSON object of strings"},
		{"{\"A\": [\"hush\"]}", "want one JSON object of strings"},
		{"{\"A\": \"hush\"", "want one JSON object of strings"},
		{"{\"A\": \"hush\",}", "want one JSON object of strings"},
		{"{\n\"A\":\"1\",\n\"A\":\"hush\"}", `line 3: "A" is set twice`},
		{"{\"A\": \"hush\"} {}", "something follows the JSON object"},
		{"{\"A\": \"hush\\u0000\"}", "holds a NUL byte"},
		{"{\"=\": \"hush\"}", "a name must not"},
		{strings.Repeat("#", fleet.MaxProperties+1), "larger than"},
	} {
		text, want := c.text, c.want
		changes, err := fleet.ReadProperties(strings.NewReader(text))
		if !errors.Is(err, fleet.ErrRefused) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") || changes != nil {
			t.Errorf("%.40q: %v, %v, want %q", text, changes, err, want)
		}
	}
}

// Whatever value a program may have comes through the JSON form, and every one without a line feed through lines.
func TestReadProperties_KeepsEveryValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.StringN(1, 50, 200).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }).Draw(t, "value")
		text, err := json.Marshal(map[string]string{"A": value})
		if err != nil {
			t.Fatal(err)
		}
		forms := []string{string(text)}
		if !strings.Contains(value, "\n") && !strings.HasSuffix(value, "\r") {
			forms = append(forms, "A="+value+"\n")
		}
		for _, form := range forms {
			got, err := fleet.ReadProperties(strings.NewReader(form))
			if err != nil || len(got) != 1 || got[0].Value != value {
				t.Fatalf("%q: %+v, %v", form, got, err)
			}
		}
	})
}

func FuzzReadProperties(f *testing.F) {
	for _, seed := range []string{"A=1\nB=\n", "{\"A\": \"x\\ny\"}", "# c\n\nA=\r\n", "{", "\xff", "{\"A\":\"\\ud800\"}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		changes, err := fleet.ReadProperties(strings.NewReader(text))
		if err != nil && (!errors.Is(err, fleet.ErrRefused) || changes != nil) {
			t.Fatalf("%v, %v", changes, err)
		}
		for _, c := range changes {
			if c.Option == "" || c.Namespace != fleet.NSEnvironment || !utf8.ValidString(c.Value) || c.Remove != (c.Value == "") {
				t.Fatalf("%+v", c)
			}
		}
	})
}
