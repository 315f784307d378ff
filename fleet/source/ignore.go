package source

import (
	"bytes"
	"strings"
)

// rules is one ignore file: its patterns in order, and the folder they are relative to.
type rules struct {
	base     string // slash path from the root of the pack, "" for the root
	patterns []pattern
}

// pattern is one line of an ignore file.
type pattern struct {
	segments []segment
	negated  bool
	onlyDir  bool
	anchored bool // it holds a slash: it is matched against the whole path, not the name alone
}

// segment is what stands between two slashes. deep is the segment `**`.
type segment struct {
	deep   bool
	tokens []token
}

type tokenKind uint8

const (
	literal tokenKind = iota
	anyByte
	star
	class
)

type token struct {
	kind tokenKind
	b    byte
	set  *[256]bool
}

// parseRules reads an ignore file in gitignore syntax. A line that cannot match anything is left out, as git does; there are no errors.
func parseRules(base string, text []byte) rules {
	r := rules{base: base}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if p, ok := parsePattern(string(line)); ok {
			r.patterns = append(r.patterns, p)
		}
	}
	return r
}

func parsePattern(line string) (pattern, bool) {
	var p pattern
	if strings.HasPrefix(line, "#") {
		return p, false
	}
	line = trimSpaces(line)
	if rest, ok := strings.CutPrefix(line, "!"); ok {
		p.negated, line = true, rest
	}
	if rest, ok := strings.CutSuffix(line, "/"); ok {
		p.onlyDir, line = true, rest
	}
	p.anchored = strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	if line == "" {
		return p, false
	}
	var ok bool
	p.segments, ok = compile(line, p.anchored)
	return p, ok
}

// trimSpaces drops spaces at the end unless a backslash keeps them.
func trimSpaces(s string) string {
	end := 0
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
			end = min(i+1, len(s))
		case s[i] != ' ':
			end = i + 1
		}
	}
	return s[:end]
}

// compile turns the text of a pattern into segments. It says false for what matches nothing: a bracket that never closes, a backslash at the end.
func compile(text string, anchored bool) ([]segment, bool) {
	segments := []segment{{}}
	start := 0 // of the current segment, in text
	for i := 0; i < len(text); {
		last := &segments[len(segments)-1]
		if n := separator(text[i:]); n > 0 {
			last.deep = anchored && text[start:i] == "**"
			segments = append(segments, segment{})
			i += n
			start = i
			continue
		}
		switch c := text[i]; c {
		case '*':
			if n := len(last.tokens); n == 0 || last.tokens[n-1].kind != star {
				last.tokens = append(last.tokens, token{kind: star})
			}
			i++
		case '?':
			last.tokens = append(last.tokens, token{kind: anyByte})
			i++
		case '[':
			set, n, ok := parseClass(text[i:])
			if !ok {
				return nil, false
			}
			last.tokens = append(last.tokens, token{kind: class, set: set})
			i += n
		case '\\':
			if i+1 >= len(text) {
				return nil, false
			}
			i++
			c = text[i]
			fallthrough
		default:
			last.tokens = append(last.tokens, token{kind: literal, b: c})
			i++
		}
	}
	segments[len(segments)-1].deep = anchored && text[start:] == "**"
	return segments, true
}

// separator answers the length of a slash at the start of s; a backslash before it changes nothing.
func separator(s string) int {
	if strings.HasPrefix(s, "/") {
		return 1
	}
	if strings.HasPrefix(s, `\/`) {
		return 2
	}
	return 0
}

// parseClass reads a bracket expression at the start of s: ranges, ! or ^ for not, backslash, [:alpha:] and its kin. It answers its length.
func parseClass(s string) (*[256]bool, int, bool) {
	set := new([256]bool)
	i := 1
	negated := i < len(s) && (s[i] == '!' || s[i] == '^')
	if negated {
		i++
	}
	for first := true; ; first = false {
		if i >= len(s) {
			return nil, 0, false
		}
		if s[i] == ']' && !first {
			break
		}
		n, ok := classItem(set, s[i:])
		if !ok {
			return nil, 0, false
		}
		i += n
	}
	for b := range set {
		set[b] = set[b] != negated
	}
	set['/'] = false
	return set, i + 1, true
}

// classItem reads one member of a bracket expression: a named class, a range or a byte.
func classItem(set *[256]bool, s string) (int, bool) {
	if strings.HasPrefix(s, "[:") {
		end := strings.IndexByte(s[2:], ']')
		if end < 0 {
			return 0, false
		}
		if end > 0 && s[2+end-1] == ':' {
			return end + 3, addNamed(set, s[2:2+end-1])
		}
	}
	lo, n, ok := classByte(s)
	if !ok {
		return 0, false
	}
	hi := lo
	if len(s) > n+1 && s[n] == '-' && s[n+1] != ']' {
		var m int
		if hi, m, ok = classByte(s[n+1:]); !ok {
			return 0, false
		}
		n += 1 + m
	}
	for b := int(lo); b <= int(hi); b++ {
		set[b] = true
	}
	return n, true
}

func classByte(s string) (byte, int, bool) {
	if s[0] != '\\' {
		return s[0], 1, true
	}
	if len(s) < 2 {
		return 0, 0, false
	}
	return s[1], 2, true
}

func addNamed(set *[256]bool, name string) bool {
	is, ok := map[string]func(b byte) bool{
		"alnum":  func(b byte) bool { return isLetter(b) || isDigit(b) },
		"alpha":  isLetter,
		"blank":  func(b byte) bool { return b == ' ' || b == '\t' },
		"cntrl":  func(b byte) bool { return b < 32 || b == 127 },
		"digit":  isDigit,
		"graph":  func(b byte) bool { return b > 32 && b < 127 },
		"lower":  func(b byte) bool { return b >= 'a' && b <= 'z' },
		"print":  func(b byte) bool { return b >= 32 && b < 127 },
		"punct":  func(b byte) bool { return b > 32 && b < 127 && !isLetter(b) && !isDigit(b) },
		"space":  func(b byte) bool { return b == ' ' || b >= '\t' && b <= '\r' },
		"upper":  func(b byte) bool { return b >= 'A' && b <= 'Z' },
		"xdigit": func(b byte) bool { return isDigit(b) || b|0x20 >= 'a' && b|0x20 <= 'f' },
	}[name]
	if !ok {
		return false
	}
	for b := range set {
		set[b] = set[b] || is(byte(b))
	}
	return true
}

func isLetter(b byte) bool { return b|0x20 >= 'a' && b|0x20 <= 'z' }
func isDigit(b byte) bool  { return b >= '0' && b <= '9' }

// ignores judges a path by a stack of ignore files, the deepest last: the last pattern that matches decides, and a deeper file goes before one above it.
// Whether a folder above the path is ignored is the caller's to know: nothing inside it can be brought back.
func ignores(stack []rules, path string, isDir bool) bool {
	for i := len(stack) - 1; i >= 0; i-- {
		rel := path
		if stack[i].base != "" {
			rel = strings.TrimPrefix(path, stack[i].base+"/")
		}
		if ignored, decided := stack[i].judge(rel, isDir); decided {
			return ignored
		}
	}
	return false
}

func (r rules) judge(rel string, isDir bool) (ignored, decided bool) {
	parts := strings.Split(rel, "/")
	for i := len(r.patterns) - 1; i >= 0; i-- {
		p := r.patterns[i]
		if p.onlyDir && !isDir {
			continue
		}
		if p.matches(parts) {
			return !p.negated, true
		}
	}
	return false, false
}

func (p pattern) matches(parts []string) bool {
	if !p.anchored {
		return p.segments[0].matches(parts[len(parts)-1])
	}
	// A `**` may take any number of parts. When a later part does not fit, only the last `**` seen needs to take one more: time is at most
	// patterns x parts.
	i, deep, from := 0, -1, 0
	for j := 0; j < len(parts); {
		switch {
		case i < len(p.segments) && p.segments[i].deep:
			if i == len(p.segments)-1 {
				return true // everything inside
			}
			deep, from = i, j
			i++
		case i < len(p.segments) && p.segments[i].matches(parts[j]):
			i++
			j++
		case deep >= 0:
			from++
			i, j = deep+1, from
		default:
			return false
		}
	}
	return i == len(p.segments)
}

func (s segment) matches(name string) bool {
	i, stars, from := 0, -1, 0
	for j := 0; j < len(name); {
		switch {
		case i < len(s.tokens) && s.tokens[i].kind == star:
			stars, from = i, j
			i++
		case i < len(s.tokens) && s.tokens[i].takes(name[j]):
			i++
			j++
		case stars >= 0:
			from++
			i, j = stars+1, from
		default:
			return false
		}
	}
	for i < len(s.tokens) && s.tokens[i].kind == star {
		i++
	}
	return i == len(s.tokens)
}

func (t token) takes(b byte) bool {
	switch t.kind {
	case literal:
		return t.b == b
	case anyByte:
		return true
	case class:
		return t.set[b]
	}
	return false
}
