package redact

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode/utf16"
)

// formsOf returns the ways a value is written by those who quote, escape or encode it. All are MinLength bytes or longer.
func formsOf(v string) []string {
	forms := []string{v}
	for _, once := range jsonForms(v) {
		forms = append(forms, once)
		forms = append(forms, jsonForms(once)...) // a result carries JSON inside a JSON string
	}
	query := url.QueryEscape(v)
	forms = append(forms,
		unquote(strconv.Quote(v)), unquote(strconv.QuoteToASCII(v)), // slog's text, %q
		strings.ReplaceAll(v, "'", `'\''`), // a shell's
		query, strings.ReplaceAll(query, "+", "%20"), url.PathEscape(v), strings.TrimPrefix(url.UserPassword("", v).String(), ":"),
	)
	for skip := range 3 { // base64 of a longer text that holds v, at each of the three alignments
		whole := base64.StdEncoding.EncodeToString(append(make([]byte, skip), v...))
		from, to := (skip*8+5)/6, (skip+len(v))*8/6
		if to-from >= MinLength {
			core := whole[from:to]
			forms = append(forms, core, strings.NewReplacer("+", "-", "/", "_").Replace(core))
		}
	}
	return forms
}

// jsonForms are the contents of v's JSON string as encoders write it: Go's default, plain, and with ASCII alone.
func jsonForms(v string) []string {
	var forms []string
	for _, escape := range []bool{true, false} {
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(escape)
		if enc.Encode(v) == nil {
			forms = append(forms, unquote(strings.TrimSuffix(b.String(), "\n")))
		}
	}
	return append(forms, asciiJSON(forms[len(forms)-1]))
}

func unquote(s string) string { return s[1 : len(s)-1] }

// asciiJSON escapes what is not ASCII in the content of a JSON string.
func asciiJSON(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r < 0x80:
			b.WriteRune(r)
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
