package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"unicode"

	"github.com/spf13/cobra"
)

// Printer writes a verb's answer in one of two forms: text for people or one JSON object a line. Safe for concurrent use.
type Printer struct {
	mu   sync.Mutex
	out  io.Writer
	json bool
}

// NewPrinter returns a printer to out.
func NewPrinter(out io.Writer, asJSON bool) *Printer { return &Printer{out: out, json: asJSON} }

// PrinterFor returns the printer that a verb's --json flag asks for.
func PrinterFor(cmd *cobra.Command) *Printer {
	on, _ := cmd.Flags().GetBool("json")
	return NewPrinter(cmd.OutOrStdout(), on)
}

// IsJSON tells whether objects are printed.
func (p *Printer) IsJSON() bool { return p.json }

// Text prints a line for people, without what a terminal would obey; with --json it prints nothing.
func (p *Printer) Text(format string, args ...any) {
	if p.json {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, _ = io.WriteString(p.out, Printable(fmt.Sprintf(format, args...))+"\n")
}

// JSON prints v, which must encode as an object, as one line with "type" first; without --json it prints nothing.
func (p *Printer) JSON(kind string, v any) error {
	if !p.json {
		return nil
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode %s: %w", kind, err)
	}
	fields := escapeControls(bytes.TrimSpace(body.Bytes()))
	if len(fields) < 2 || fields[0] != '{' {
		return fmt.Errorf("encode %s: not an object", kind)
	}
	line := append([]byte(`{"type":`), mustQuote(kind)...)
	if len(fields) > 2 {
		line = append(line, ',')
	}
	line = append(append(line, fields[1:]...), '\n')
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.out.Write(line)
	return err
}

// Printable takes out of a text what a terminal would obey and not show: control characters, and those that turn the direction of writing. What
// instances and applications say must not move the cursor, retitle the window or pass for something else. Line feeds and tabs stay.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, text)
}

// escapeControls escapes the control characters that encoding/json lets through. In its output they can only stand in strings.
func escapeControls(line []byte) []byte {
	if !bytes.ContainsFunc(line, unicode.IsControl) {
		return line
	}
	var out bytes.Buffer
	for _, r := range string(line) { // what json wrote is valid UTF-8
		if unicode.IsControl(r) {
			fmt.Fprintf(&out, `\u%04x`, r)
		} else {
			out.WriteRune(r)
		}
	}
	return out.Bytes()
}

func mustQuote(s string) []byte {
	b, _ := json.Marshal(s) // a string always encodes
	return b
}
