package redact_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"hostmanager/internal/redact"
)

func TestString_Hides(t *testing.T) {
	tests := []struct {
		name   string
		values []string
		text   string
		want   string
	}{
		{"nothing given", nil, "password=hunter2", "password=hunter2"},
		{"plain", []string{"hunter22"}, "password=hunter22!", "password=[redacted]!"},
		{"short values stay", []string{"true", "8080", "12345"}, "true 8080 12345", "true 8080 12345"},
		{"six bytes are enough", []string{"123456"}, "a123456b", "a[redacted]b"},
		{"every place", []string{"secret"}, "secret secretsecret", "[redacted] [redacted][redacted]"},
		{"longer first", []string{"secret", "secret-longer"}, "secret-longer secret", "[redacted] [redacted]"},
		{"overlapping", []string{"abcdef", "defghi"}, "xabcdefghix", "x[redacted]x"},
		{"overlapping itself", []string{"ababab"}, "xababababx", "x[redacted]x"},
		{"one inside the other", []string{"0secret0", "secret"}, "0secret0", "[redacted]"},
		{"with a newline at its end", []string{"secret12\n"}, "p=secret12 ", "p=[redacted] "},
		{"case matters", []string{"secret"}, "SECRET", "SECRET"},
		{"binary", []string{"\xff\xfe\xfd\xfc\xfb\xfa"}, "<\xff\xfe\xfd\xfc\xfb\xfa>", "<[redacted]>"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := redact.New()
			r.Add(tt.values...)
			if got := r.String(tt.text); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if got := string(r.Bytes([]byte(tt.text))); got != tt.want {
				t.Errorf("Bytes: got %q, want %q", got, tt.want)
			}
		})
	}
}

// Who deploys for years with ever new secrets fills no memory, and the secrets of what runs are hidden whatever came after them.
func TestAdd_ForgetsWhatWasNotNamedForLong(t *testing.T) {
	r := redact.New()
	rnd := rand.New(rand.NewPCG(1, 2))
	random := func(size int) string {
		b := make([]byte, size)
		for i := range b {
			b[i] = byte('a' + rnd.IntN(26))
		}
		return string(b)
	}
	var names []string
	hides := func(v string) bool { return r.String(v) == redact.Mask }
	const many = 2 * redact.Remembered / 1000
	for n := range many {
		names = append(names, random(900))
		r.Add(names[n], "the-one-that-serves")
		if !hides("the-one-that-serves") || !hides(names[n]) || n > 100 && !hides(names[n-100]) {
			t.Fatalf("after %d", n)
		}
	}
	if hides(names[0]) {
		t.Error("nothing is ever forgotten")
	}
	huge := random(redact.Remembered) // of one call
	r.Add(huge, "beside-it")
	r.Add("what-came-then")
	for _, v := range []string{huge, "beside-it", "the-one-that-serves", "what-came-then"} {
		if !hides(v) {
			t.Errorf("%.20s is forgotten", v)
		}
	}
}

// encodings are the ways a value may be written; each gives a text in which it must not be seen.
func encodings(v string) map[string]string {
	pythonic := func(s string) string {
		var b strings.Builder
		for _, r := range s {
			if r < 0x80 {
				b.WriteRune(r)
				continue
			}
			b.WriteString(strings.Trim(fmt.Sprintf("%+q", string(r)), `"`))
		}
		return b.String()
	}
	quoted, _ := json.Marshal(v)
	nested, _ := json.Marshal(map[string]string{"Data": string(quoted)})
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(map[string]string{"k": v})
	var text bytes.Buffer
	slog.New(slog.NewTextHandler(&text, nil)).Info("m", "k", v)
	all := map[string]string{
		"as it is": v, "JSON": string(quoted), "JSON in JSON": string(nested), "JSON without HTML escapes": plain.String(), "slog text": text.String(),
		"Go quoted": fmt.Sprintf("%q", v), "query": url.Values{"k": {v}}.Encode(), "path": "/a/" + url.PathEscape(v),
		"component": strings.ReplaceAll(url.QueryEscape(v), "+", "%20"),
		"password":  (&url.URL{Scheme: "postgres", Host: "h", User: url.UserPassword("u", v)}).String(),
		"shell":     "'" + strings.ReplaceAll(v, "'", `'\''`) + "'",
	}
	if bytes.IndexFunc([]byte(v), func(r rune) bool { return r < ' ' || r > 0xffff }) < 0 {
		all["JSON in ASCII"] = pythonic(strings.TrimSuffix(plain.String(), "\n"))
	}
	for skip := range 3 {
		whole := []byte(strings.Repeat("x", skip) + v + "yyy")
		all[fmt.Sprint("base64 at ", skip)] = base64.StdEncoding.EncodeToString(whole)
		all[fmt.Sprint("URL base64 at ", skip)] = base64.RawURLEncoding.EncodeToString(whole)
	}
	return all
}

func TestString_HidesEveryEncoding(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.StringOfN(rapid.RuneFrom([]rune("aZ09/+&<>\"'\\ =%$#@:?;,éß漢\n\t\u2028~")), 6, 24, -1).Draw(t, "value")
		if len(strings.TrimSpace(v)) < redact.MinLength {
			t.Skip("less is left without the white space than is hidden")
		}
		r := redact.New()
		r.Add(v)
		around := encodings("MARKER")
		for name, text := range encodings(v) {
			got := r.String(text)
			if !strings.Contains(got, redact.Mask) {
				t.Fatalf("%s: %q stays %q", name, text, got)
			}
			loose := strings.Contains(name, "base64") || name == "slog text" // their borders depend on the value
			if want := strings.Replace(around[name], "MARKER", redact.Mask, 1); got != want && !loose {
				t.Fatalf("%s: %q becomes %q, want %q", name, text, got, want)
			}
		}
	})
}

// reference is the plainest way to say what must be hidden of a text: every byte any value covers.
func reference(values []string, text string) string {
	hide := make([]bool, len(text))
	join := make([]bool, len(text)) // hidden together with the byte before
	for _, v := range values {
		if len(v) < redact.MinLength {
			continue
		}
		for i := range text {
			if strings.HasPrefix(text[i:], v) {
				for k := i; k < i+len(v); k++ {
					hide[k] = true
					join[k] = join[k] || k > i
				}
			}
		}
	}
	var b strings.Builder
	for i := range len(text) {
		switch {
		case !hide[i]:
			b.WriteByte(text[i])
		case !join[i]:
			b.WriteString(redact.Mask)
		}
	}
	return b.String()
}

func TestString_AsTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.StringMatching(`[abc]{4,9}`), 0, 6).Draw(t, "values")
		text := rapid.StringMatching(`[abcd]{0,80}`).Draw(t, "text")
		r := redact.New()
		r.Add(values...)
		if got, want := r.String(text), reference(values, text); got != want {
			t.Fatalf("%q: got %q, want %q", text, got, want)
		}
	})
}

func TestWriter_CutsMakeNoDifference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		values := rapid.SliceOfN(rapid.StringMatching(`[abc]{4,9}`), 0, 6).Draw(t, "values")
		text := rapid.StringMatching(`[abcd\n]{0,200}`).Draw(t, "text")
		r := redact.New()
		r.Add(values...)
		var out bytes.Buffer
		w := r.Writer(&out)
		for rest := text; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "write")
			if m, err := w.Write([]byte(rest[:n])); m != n || err != nil {
				t.Fatalf("wrote %d of %d, %v", m, n, err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if want := reference(values, text); out.String() != want {
			t.Fatalf("got %q, want %q", out.String(), want)
		}
	})
}

func TestWriter_EndlessLineInBoundedPieces(t *testing.T) {
	values := []string{"secret", "secret-longer-than-that", "gergerger", strings.Repeat("v", 300)}
	r := redact.New()
	r.Add(values...)
	for seed := range uint64(2) {
		random := rand.New(rand.NewPCG(seed, 1))
		var text strings.Builder
		for text.Len() < 150<<10 {
			text.WriteString(strings.Repeat("x", random.IntN(50000)))
			for range random.IntN(40) {
				text.WriteString(values[random.IntN(len(values))])
			}
		}
		if seed%2 == 0 {
			text.WriteString(strings.Repeat("ger", 30000)) // one match that never ends
		}
		var out bytes.Buffer
		w := r.Writer(&out)
		for rest := []byte(text.String()); len(rest) > 0; {
			n := min(1+random.IntN(100000), len(rest))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if want := reference(values, text.String()); out.String() != want {
			t.Errorf("seed %d: %d bytes are not what they should be (%d)", seed, out.Len(), len(want))
		}
	}
}

func TestWriter_ValueOfSeveralLines(t *testing.T) {
	key := "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\r\n\"quoted\\line\"\n-----END KEY-----\n"
	r := redact.New()
	r.Add(key)
	var out strings.Builder
	w := r.Writer(&out)
	for line := range strings.Lines(key) {
		fmt.Fprintf(w, "log: %s", line)
	}
	quoted, _ := json.Marshal(map[string]string{"k": key, "line": `"quoted\line"`})
	fmt.Fprintf(w, "%s\nwhole: %s", quoted, key)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"BEGIN", "MIIE", "quoted", "END"} {
		if strings.Contains(out.String(), word) {
			t.Errorf("%s is seen:\n%s", word, out.String())
		}
	}
}

func TestWriter_LineComesOutWhenItIsWhole(t *testing.T) {
	var out strings.Builder
	w := redact.New().Writer(&out)
	_, _ = io.WriteString(w, "one\ntwo")
	if out.String() != "one\n" {
		t.Errorf("got %q", out.String())
	}
	_, _ = io.WriteString(w, "\nthree")
	if out.String() != "one\ntwo\n" {
		t.Errorf("got %q", out.String())
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestWriter_TellsOfErrors(t *testing.T) {
	w := redact.New().Writer(failing{})
	if _, err := io.WriteString(w, "line\n"); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

func TestRedactor_Concurrent(t *testing.T) {
	r := redact.New()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 100 {
				v := fmt.Sprintf("secret-%d-%d", i, k)
				r.Add(v)
				if got := r.String("x" + v); got != "x"+redact.Mask {
					t.Errorf("got %q", got)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzRedactor(f *testing.F) {
	f.Add("secret", "xsecretx", 3)
	f.Add("a\nb\ncdefgh", "a\nb\ncdefgh", 1)
	f.Add("\x00\xff\xc3\x28zz", "\x00\xff\xc3\x28zz", 2)
	f.Fuzz(func(t *testing.T, value, text string, cut int) {
		r := redact.New()
		r.Add(value)
		whole := r.String(text)
		if len(value) >= redact.MinLength && strings.Contains(text, value) && !strings.Contains(whole, redact.Mask) {
			t.Fatalf("%q is seen in %q", value, whole)
		}
		if strings.ContainsRune(value, '\n') {
			return
		}
		var out strings.Builder
		w := r.Writer(&out)
		cut = min(max(cut, 0), len(text))
		_, _ = io.WriteString(w, text[:cut])
		_, _ = io.WriteString(w, text[cut:])
		_ = w.Close()
		if out.String() != whole {
			t.Fatalf("in one %q, in two %q", whole, out.String())
		}
	})
}

func BenchmarkString(b *testing.B) {
	r := redact.New()
	for i := range 50 {
		r.Add(fmt.Sprintf("postgres://user%d:pass-word-%d@host/db", i, i*7919))
	}
	line := strings.Repeat("2026/11/21 12:00:00 GET /path?query=1 200 12ms ", 4)
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		_ = r.String(line)
	}
}

// BenchmarkWriter_ManyValues is the output of a build beside two thousand values, a few of them long.
func BenchmarkWriter_ManyValues(b *testing.B) {
	r := redact.New()
	random := rand.New(rand.NewPCG(1, 1))
	for i := range 2000 {
		v := fmt.Sprintf("value-%x", random.Uint64())
		if i%200 == 0 {
			v = strings.Repeat(v, 4000)
		}
		r.Add(v)
	}
	var text bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&text, "#%d %d.%03d copying /usr/lib/x86_64-linux-gnu/lib%x.so.%d: {\"path\":\"C:\\\\x\",\"size\":%d}\n", i%20, i, i%1000, random.Uint32(), i%7, random.IntN(1e6))
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		w := r.Writer(io.Discard)
		_, _ = w.Write(text.Bytes())
		_ = w.Close()
	}
}

// A hook that writes the beginning of a value as an encoder would, and then nothing but line ends, must not fill the memory: what waits is bounded.
func TestWriter_LineEndsWithoutEndDoNotWait(t *testing.T) {
	r := redact.New()
	r.Add("correct-horse-battery")
	var out bytes.Buffer
	w := r.Writer(&out)
	sent := 0
	for _, part := range append([]string{base64.StdEncoding.EncodeToString([]byte("correct-horse"))[:12]}, slices.Repeat([]string{strings.Repeat("\n", 32<<10)}, 32)...) {
		n, err := w.Write([]byte(part))
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	if kept := sent - out.Len(); kept > 512<<10 {
		t.Errorf("%d of %d bytes wait", kept, sent)
	}
}

// A long line is passed in pieces, and a piece may end inside the line end that is escaped in it.
func TestWriter_CutInsideAnEscapedLineEnd(t *testing.T) {
	r := redact.New()
	r.Add("correct-horse-battery-staple")
	encoded := base64.StdEncoding.EncodeToString([]byte("correct-horse-battery-staple"))
	written := encoded[:16] + `\n` + encoded[16:]
	for cut := range len(written) {
		var out bytes.Buffer
		w := r.Writer(&out)
		_, _ = io.WriteString(w, strings.Repeat(".", 64<<10-cut))
		for _, c := range []byte(written) {
			_, _ = w.Write([]byte{c})
		}
		_ = w.Close()
		if strings.Contains(out.String(), encoded[:12]) {
			t.Errorf("cut at %d: half of the value is in %q", cut, strings.Trim(out.String(), "."))
		}
	}
}
