package docker

import "strings"

// Bounds of substitution: ENV A=$A$A, repeated, doubles a value with every line.
const (
	maxValue = 4 << 10
	maxDepth = 8
)

// fields splits an instruction's words at blanks outside quotes; quotes and escapes stay in the words.
func fields(text string, escape byte) []string {
	var (
		out   []string
		start = -1
		quote byte
	)
	for i := 0; i < len(text); i++ {
		c := text[i]
		blank := (c == ' ' || c == '\t') && quote == 0
		switch {
		case blank && start >= 0:
			out, start = append(out, text[start:i]), -1
		case !blank && start < 0:
			start = i
		}
		switch {
		case c == escape && quote != '\'':
			i++
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		}
	}
	if start >= 0 {
		out = append(out, text[start:])
	}
	return out
}

// expand removes quotes and escapes from a word and puts in the values of $NAME, ${NAME}, ${NAME:-default} and ${NAME:+alternative}. It tells
// whether everything named was known; what is not known is empty, as the Engine has it.
func expand(word string, escape byte, lookup func(string) (string, bool)) (string, bool) {
	e := expansion{escape: escape, lookup: lookup, complete: true}
	e.run(word, 0)
	if e.out.Len() > maxValue {
		return "", false
	}
	return e.out.String(), e.complete
}

type expansion struct {
	escape   byte
	lookup   func(string) (string, bool)
	out      strings.Builder
	complete bool
}

func (e *expansion) run(word string, depth int) {
	if depth > maxDepth {
		e.complete = false
		return
	}
	var quote byte
	for i := 0; i < len(word) && e.out.Len() <= maxValue; i++ {
		c := word[i]
		switch {
		case c == e.escape && quote != '\'' && i+1 < len(word):
			i++
			e.out.WriteByte(word[i])
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case c == '$' && quote != '\'':
			i += e.variable(word[i+1:], depth)
		default:
			e.out.WriteByte(c)
		}
	}
}

// variable writes the value of the variable at the front of rest (after its $) and returns how many bytes named it.
func (e *expansion) variable(rest string, depth int) int {
	if !strings.HasPrefix(rest, "{") {
		n := nameLength(rest)
		if n == 0 {
			e.out.WriteByte('$')
			return 0
		}
		e.value(rest[:n], "", "", depth)
		return n
	}
	end := closingBrace(rest)
	if end < 0 {
		e.complete = false
		return len(rest)
	}
	inner := rest[1:end]
	n := nameLength(inner)
	operator := inner[n:]
	operand := ""
	for _, op := range []string{":-", ":+", "-", "+"} {
		if after, ok := strings.CutPrefix(operator, op); ok {
			operator, operand = op, after
			break
		}
	}
	e.value(inner[:n], operator, operand, depth)
	return end + 1
}

func (e *expansion) value(name, operator, operand string, depth int) {
	v, known := e.lookup(name)
	switch operator {
	case "", ":-", "-":
		switch {
		case known && (v != "" || operator != ":-"):
			e.out.WriteString(v)
		case operator == "":
			e.complete = false
		default:
			e.run(operand, depth+1)
		}
	case ":+", "+":
		if known && (v != "" || operator == "+") {
			e.run(operand, depth+1)
		}
	default: // ${NAME#...} and the like: the Engine knows, we do not
		e.complete = false
	}
}

// closingBrace finds the brace that closes the one text begins with.
func closingBrace(text string) int {
	depth := 0
	for i := range len(text) {
		switch text[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

func nameLength(s string) int {
	for i := range len(s) {
		c := s[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return i
		}
	}
	return len(s)
}
