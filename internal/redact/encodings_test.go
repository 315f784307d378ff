package redact_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"

	"hostmanager/internal/redact"
)

// wrap cuts a text as base64(1) and openssl do.
func wrap(s string, width int, end string) string {
	var b strings.Builder
	for len(s) > width {
		b.WriteString(s[:width] + end)
		s = s[width:]
	}
	return b.String() + s
}

// wrapped are the forms of a value that go over several lines.
func wrapped(v string, before int) map[string]string {
	whole := []byte(strings.Repeat("x", before) + v + "yyy")
	return map[string]string{
		"base64(1)":        wrap(base64.StdEncoding.EncodeToString(whole), 76, "\n"),
		"openssl":          wrap(base64.StdEncoding.EncodeToString(whole), 64, "\r\n"),
		"base64url":        wrap(base64.RawURLEncoding.EncodeToString(whole), 76, "\n"),
		"YAML":             wrap(base64.StdEncoding.EncodeToString(whole), 60, "\n    "),
		"in a JSON string": wrap(base64.StdEncoding.EncodeToString(whole), 76, `\n`),
		"xxd -p":           wrap(hex.EncodeToString(whole), 60, "\n"),
		"hexadecimal":      strings.ToUpper(hex.EncodeToString(whole)),
	}
}

// core is what of an encoded text must not be seen: all but the digits that hold bits of what stands beside the value.
func seen(t interface{ Fatalf(string, ...any) }, name, got, v string) {
	plain := strings.NewReplacer("\r", "", "\n", "", " ", "", `\n`, "").Replace(got)
	for skip := range 3 {
		whole := base64.StdEncoding.EncodeToString(append(make([]byte, skip), v...))
		core := whole[(skip*8+5)/6 : (skip+len(v))*8/6]
		for _, c := range []string{core, strings.NewReplacer("+", "-", "/", "_").Replace(core), hex.EncodeToString([]byte(v))} {
			if strings.Contains(plain, c) {
				t.Fatalf("%s: %q is seen in %q", name, c, got)
			}
		}
	}
}

func TestWriter_HidesWhatEncodersWrap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.StringOfN(rapid.RuneFrom([]rune("aZ09/+&<>\"'\\ =%$ß漢")), 6, 150, -1).Draw(t, "value")
		if len(strings.TrimSpace(v)) != len(v) {
			t.Skip("its ends are white space")
		}
		r := redact.New()
		r.Add(v)
		before := rapid.IntRange(0, 200).Draw(t, "before")
		chunk := rapid.IntRange(1, 90).Draw(t, "chunk")
		for name, text := range wrapped(v, before) {
			got := r.String(text)
			if !strings.Contains(got, redact.Mask) {
				t.Fatalf("%s: %q stays", name, text)
			}
			seen(t, name, got, v)
			var out strings.Builder
			w := r.Writer(&out)
			for rest := []byte("# it is\n" + text + "\n# end\n"); len(rest) > 0; {
				n := min(chunk, len(rest))
				_, _ = w.Write(rest[:n])
				rest = rest[n:]
			}
			_ = w.Close()
			if want := "# it is\n" + got + "\n# end\n"; out.String() != want {
				t.Fatalf("%s in pieces of %d: %q, want %q", name, chunk, out.String(), want)
			}
		}
	})
}

// TestString_HidesWhatBashQuotes asks the real shell.
func TestString_HidesWhatBashQuotes(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("the real bash is asked here, and there is none")
		}
		t.Skip("no bash")
	}
	for _, v := range []string{
		"plain-word", "with space", "it's it", "a\"b'c\\d$e`f", "tab\there", "line\nbreak\x01\x1b[0m", "größe €", "!history?*[glob]", "~tilde & more;|<>()", "emoji 🙂 x",
	} {
		r := redact.New()
		r.Add(v)
		for _, script := range []string{`printf %q "$1"`, `set -x; : "$1"`, `declare -p v`, `printf '%s' "${1@Q}"`} {
			for _, locale := range []string{"C", "C.UTF-8"} {
				cmd := exec.Command(bash, "-c", `v=$1; `+script, "bash", v)
				cmd.Env = []string{"LC_ALL=" + locale}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v: %s", script, err, out)
				}
				if got := r.String(string(out)); !strings.Contains(got, redact.Mask) {
					t.Errorf("%s in %s: %q stays %q", script, locale, v, got)
				}
			}
		}
	}
}

func TestString_MixedAndPartlyEscaped(t *testing.T) {
	const v = `p@ss "w0rd"/é+🙂 ~`
	r := redact.New()
	r.Add(v)
	lower := strings.ToLower(url.QueryEscape(v))
	for _, text := range []string{
		strings.ReplaceAll(v, `"`, `\"`), strings.ReplaceAll(v, `/`, `\/`), strings.ReplaceAll(v, "é", `\u00e9`), strings.ReplaceAll(v, "é", `\303\251`),
		strings.ReplaceAll(strconv.QuoteToASCII(v), "🙂", ""), strings.ReplaceAll(v, "🙂", `\ud83d\ude42`), strings.ReplaceAll(v, " ", `\ `), lower,
		strings.ReplaceAll(v, " ", "%20"), strings.ReplaceAll(strings.ReplaceAll(v, `"`, `\"`), `\`, `\\`),
	} {
		if got := r.String("<" + text + ">"); strings.Contains(got, "w0rd") || !strings.HasPrefix(got, "<") || !strings.HasSuffix(strings.Trim(got, `"`), ">") {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// TestRedactor_LargeValues bounds what a hundred KiB cost: the values, and not their forms.
func TestRedactor_LargeValues(t *testing.T) {
	r := redact.New()
	var values []string
	random := rand.New(rand.NewPCG(1, 2))
	for range 2 {
		var v strings.Builder
		for v.Len() < 100<<10 {
			fmt.Fprintf(&v, "%x\n\"'%c", random.Uint64(), 'ä'+random.IntN(1000))
		}
		values = append(values, v.String())
	}
	r.Add(values...)
	for i, v := range values {
		var out bytes.Buffer
		w := r.Writer(&out)
		text := "k=" + strconv.Quote(v) + "\n"
		for len(text) > 0 {
			n := min(4096, len(text))
			_, _ = w.Write([]byte(text[:n]))
			text = text[n:]
		}
		_ = w.Close()
		if got := out.String(); got != "k=\""+redact.Mask+"\"\n" {
			t.Fatalf("value %d: %.100q... (%d bytes)", i, got, len(got))
		}
	}
}

// FuzzEncodings writes a value in one of the forms, behind some text and cut into pieces, and holds that it is hidden, and the same as in one piece.
func FuzzEncodings(f *testing.F) {
	f.Add("it's a \"secret\"", uint8(0), uint8(3), uint8(1))
	f.Add("p%ss w+rd", uint8(4), uint8(0), uint8(7))
	f.Add(strings.Repeat("long-value.", 90), uint8(9), uint8(75), uint8(60))
	f.Add("emoji 🙂\\n\t\x01", uint8(2), uint8(1), uint8(2))
	f.Fuzz(func(t *testing.T, v string, form, before, chunk uint8) {
		if len(v) < redact.MinLength || strings.ContainsAny(v, "\r\n") || strings.TrimSpace(v) != v || !utf8.ValidString(v) || strings.ContainsRune(v, utf8.RuneError) {
			t.Skip()
		}
		all := []string{}
		for _, forms := range []map[string]string{encodings(v), wrapped(v, int(before))} {
			for _, name := range slices.Sorted(maps.Keys(forms)) {
				all = append(all, forms[name])
			}
		}
		text := strings.Repeat(" ", int(before)) + all[int(form)%len(all)] + "\n."
		r := redact.New()
		r.Add(v)
		whole := r.String(text)
		if !strings.Contains(whole, redact.Mask) {
			t.Fatalf("%q stays %q", v, text)
		}
		var out strings.Builder
		w := r.Writer(&out)
		for rest := text; rest != ""; {
			n := min(1+int(chunk), len(rest))
			_, _ = w.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		_ = w.Close()
		if out.String() != whole {
			t.Fatalf("in one %q, in pieces %q", whole, out.String())
		}
	})
}
