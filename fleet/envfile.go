package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// MaxProperties is how large a text of properties may be, in bytes.
const MaxProperties = 1 << 20

// ReadProperties reads properties of the application as changes, from a text in one of two forms.
//
// Lines: NAME=VALUE each. The value is every byte behind the first '=' up to the line feed; no quotes, escapes or blanks are taken out. Empty lines
// and lines that begin with '#' are passed over. A carriage return before a line feed is refused: whether it belongs to the value cannot be told.
//
// JSON: one object of strings, which begins with '{'. This is the form for values with line breaks.
//
// In both an empty value removes the property, and a name that comes twice is refused. Errors are ErrRefused; they tell lines and names, and no
// value, which may be a secret.
func ReadProperties(in io.Reader) ([]Change, error) {
	text, err := io.ReadAll(io.LimitReader(in, MaxProperties+1))
	if err != nil {
		return nil, fmt.Errorf("read properties: %w", err)
	}
	if len(text) > MaxProperties {
		return nil, fmt.Errorf("%w: the properties are larger than %d bytes", ErrRefused, MaxProperties)
	}
	text = bytes.TrimPrefix(text, []byte("\ufeff"))
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("%w: line %d is not valid UTF-8", ErrRefused, lineOf(text, firstInvalid(text)))
	}
	if bytes.HasPrefix(bytes.TrimLeft(text, " \t\r\n"), []byte("{")) {
		return jsonProperties(text)
	}
	return lineProperties(string(text))
}

func firstInvalid(text []byte) int {
	at := 0
	for at < len(text) {
		r, size := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		at += size
	}
	return at
}

// lineOf returns the number of the line that the byte stands in, from 1.
func lineOf(text []byte, at int) int { return 1 + bytes.Count(text[:at], []byte("\n")) }

// properties are changes of properties, each name once.
type properties struct {
	changes []Change
	seen    map[string]bool
}

func (p *properties) add(name, value string) error {
	switch {
	case strings.TrimSpace(name) != name || name == "" || strings.ContainsAny(name, "=\x00\n"):
		return errors.New("a name must not be empty, begin or end with a blank, or hold '=', NUL or a line feed")
	case p.seen[name]:
		return fmt.Errorf("%.80q is set twice", name)
	case strings.ContainsRune(value, 0):
		return fmt.Errorf("the value of %.80q holds a NUL byte, which no process environment can carry", name)
	}
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	p.seen[name] = true
	p.changes = append(p.changes, Change{Namespace: NSEnvironment, Option: name, Value: value, Remove: value == ""})
	return nil
}

func lineProperties(text string) ([]Change, error) {
	var all properties
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		switch {
		case strings.HasSuffix(line, "\r"):
			return nil, fmt.Errorf("%w: line %d ends with a carriage return: save the file with Unix line ends, or use the JSON form if it belongs to the value", ErrRefused, n)
		case !ok:
			return nil, fmt.Errorf("%w: line %d is not NAME=VALUE; a value with line breaks needs the JSON form, {\"NAME\": \"first\\nsecond\"}", ErrRefused, n)
		}
		if err := all.add(name, value); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrRefused, n, err)
		}
	}
	return all.changes, nil
}

// jsonProperties reads the object token by token: the usual way would keep the last of two equal names without a word.
func jsonProperties(text []byte) ([]Change, error) {
	var all properties
	in := json.NewDecoder(bytes.NewReader(text))
	refused := func(why string) error {
		return fmt.Errorf("%w: line %d: %s", ErrRefused, lineOf(text, int(in.InputOffset())), why)
	}
	const want = `want one JSON object of strings, {"NAME": "VALUE", ...}`
	if _, err := in.Token(); err != nil { // '{', as the caller has seen
		return nil, refused(want)
	}
	for in.More() {
		name, err := in.Token()
		if err != nil {
			return nil, refused(want)
		}
		value, err := in.Token()
		text, ok := value.(string)
		if err != nil || !ok {
			return nil, refused(want)
		}
		if err := all.add(name.(string), text); err != nil { // an object's names are strings
			return nil, refused(err.Error())
		}
	}
	if _, err := in.Token(); err != nil {
		return nil, refused(want)
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return nil, refused("something follows the JSON object")
	}
	return all.changes, nil
}
