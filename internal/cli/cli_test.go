package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"

	"hostmanager/internal/cli"
)

func newRoot(err error) *cobra.Command {
	root := &cobra.Command{Use: "prog", Short: "a program"}
	verb := &cobra.Command{
		Use: "verb", Short: "does it", Example: "  prog verb", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			p := cli.PrinterFor(c)
			p.Text("hello %s", "people")
			return errors.Join(err, p.JSON("greeting", struct {
				To string `json:"to"`
			}{"machines"}))
		},
	}
	verb.Flags().Int("n", 0, "a number")
	group := &cobra.Command{Use: "group", Short: "groups"}
	group.AddCommand(&cobra.Command{Use: "sub", Short: "is in it", Example: "  prog group sub", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return err }})
	root.AddCommand(verb, group)
	return root
}

func TestRun_MapsErrorsToExitStatus(t *testing.T) {
	plain := errors.New("queue not reached")
	for _, c := range []struct {
		name   string
		err    error
		args   []string
		status int
		out    string
		errOut string
	}{
		{"done", nil, []string{"verb"}, 0, "hello people\n", ""},
		{"done in JSON", nil, []string{"verb", "--json"}, 0, `{"type":"greeting","to":"machines"}` + "\n", ""},
		{"ours", plain, []string{"verb"}, 3, "hello people\n", "prog: queue not reached\n"},
		{"instance", cli.InstanceFailure(plain), []string{"verb"}, 1, "hello people\n", "prog: queue not reached\n"},
		{"wrapped instance", fmt.Errorf("deploy: %w", cli.InstanceFailure(plain)), []string{"verb"}, 1, "", "prog: deploy: queue not reached\n"},
		{"usage from the verb", cli.Usagef("no such label"), []string{"verb"}, 2, "", "Run 'prog verb --help'"},
		{"unknown flag", nil, []string{"verb", "--no-such"}, 2, "", "unknown flag: --no-such"},
		{"bad flag value", nil, []string{"verb", "--n", "x"}, 2, "", "invalid argument"},
		{"unknown verb", nil, []string{"vreb"}, 2, "", `unknown command "vreb"`},
		{"unknown verb of a group", nil, []string{"group", "vreb"}, 2, "", `unknown command "vreb" for "prog group"`},
		{"a group alone", nil, []string{"group"}, 0, "prog group [command]", ""},
		{"unknown shell", nil, []string{"completion", "vsh"}, 2, "", `unknown command "vsh"`},
		{"hostile error", errors.New("a\x1b]0;title\x07b"), []string{"verb"}, 3, "", "prog: a]0;titleb\n"},
		{"surplus argument", nil, []string{"verb", "x"}, 2, "", `unknown command "x"`},
		{"error in JSON", plain, []string{"verb", "--json"}, 3, `{"type":"error","message":"queue not reached","exit_status":3}`, ""},
		{"usage in JSON", nil, []string{"verb", "--no-such", "--json"}, 2, `"type":"error"`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			got := cli.Run(t.Context(), newRoot(c.err), c.args, cli.Streams{In: strings.NewReader(""), Out: &out, Err: &errOut})
			if got != c.status {
				t.Errorf("exit status %d, want %d", got, c.status)
			}
			if !strings.Contains(out.String(), c.out) || !strings.Contains(errOut.String(), c.errOut) {
				t.Errorf("stdout %q, stderr %q; want them to hold %q and %q", out.String(), errOut.String(), c.out, c.errOut)
			}
		})
	}
}

func TestHelp_HasExampleAndExitStatus(t *testing.T) {
	var out bytes.Buffer
	if got := cli.Run(t.Context(), newRoot(nil), []string{"verb", "--help"}, cli.Streams{Out: &out, Err: &out}); got != 0 {
		t.Fatalf("exit status %d", got)
	}
	for _, want := range []string{"prog verb", cli.ExitStatusHelp, "--json"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("help lacks %q:\n%s", want, out.String())
		}
	}
}

func TestRun_WithoutAVerbShowsTheHelp(t *testing.T) {
	root := newRoot(nil)
	root.AddCommand(cli.VersionCommand("prog"))
	var out bytes.Buffer
	if got := cli.Run(t.Context(), root, nil, cli.Streams{Out: &out, Err: &out}); got != 0 || !strings.Contains(out.String(), "--version") {
		t.Errorf("exit status %d:\n%s", got, out.String())
	}
	if got := cli.Run(t.Context(), root, []string{"vreb"}, cli.Streams{Out: &out, Err: &out}); got != 2 {
		t.Errorf("unknown verb: exit status %d", got)
	}
}

func TestCheckVerb_NamesWhatIsMissing(t *testing.T) {
	root := newRoot(nil)
	for _, v := range cli.Verbs(root) {
		if err := cli.CheckVerb(v); err != nil {
			t.Error(err)
		}
	}
	bare := &cobra.Command{Use: "bare", Run: func(*cobra.Command, []string) {}}
	if err := cli.CheckVerb(bare); err == nil || !strings.Contains(err.Error(), "Example") {
		t.Errorf("CheckVerb of a bare verb: %v", err)
	}
}

func TestPrinter_RefusesWhatIsNoObject(t *testing.T) {
	if err := cli.NewPrinter(&bytes.Buffer{}, true).JSON("x", 7); err == nil {
		t.Error("a number was printed as an object")
	}
	var out bytes.Buffer
	if err := cli.NewPrinter(&out, true).JSON("empty", struct{}{}); err != nil || out.String() != `{"type":"empty"}`+"\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

func TestVersionCommand_NamesProgramAndBuild(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"version", "--json"}, {"--version"}, {"--version", "--json"}} {
		root := newRoot(nil)
		root.AddCommand(cli.VersionCommand("prog"))
		var out bytes.Buffer
		if got := cli.Run(t.Context(), root, args, cli.Streams{Out: &out, Err: &out}); got != 0 {
			t.Fatalf("exit status %d", got)
		}
		want := "prog " + cli.Version() + " (go"
		if len(args) > 1 {
			want = `{"type":"version","version":"` + cli.Version() + `","go":"go`
		}
		if !strings.HasPrefix(out.String(), want) {
			t.Errorf("%v printed %q, want %q", args, out.String(), want)
		}
	}
}

// TestPrinter_NoTerminalObeysWhatItPrints: neither as text nor as JSON, which stays the same to who decodes it.
func TestPrinter_NoTerminalObeysWhatItPrints(t *testing.T) {
	hostile := "a\x1b]0;title\x07b\r\n\tc\u009b2J\x7fd\u202ee\xffé"
	var out bytes.Buffer
	cli.NewPrinter(&out, false).Text("%s", hostile)
	if got, want := out.String(), "a]0;titleb\n\tc2Jde\ufffdé\n"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	out.Reset()
	if err := cli.NewPrinter(&out, true).JSON("x", map[string]string{"m": hostile}); err != nil {
		t.Fatal(err)
	}
	var back map[string]string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back["m"] != strings.ToValidUTF8(hostile, "\ufffd") {
		t.Errorf("decoded %q, %v", back["m"], err)
	}
	if line := strings.TrimSuffix(out.String(), "\n"); strings.ContainsFunc(line, unicode.IsControl) {
		t.Errorf("JSON %q", line)
	}
}
