package redact

import (
	"bytes"
	"slices"
	"sort"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// index is the values to hide, sorted so that a text can be followed through all of them at once.
type index struct {
	plain   list
	base64  [3]list // by alignment
	begins  bits    // first three bytes of plain
	sextets bits    // first three sextets of base64
	nibbles bits    // the last 18 bits of the first three bytes of plain
	first   [256]bool
}

func newIndex() *index {
	x := &index{plain: list{skip: bytewise}}
	for skip := range x.base64 {
		x.base64[skip].skip = skip
	}
	return x
}

const (
	// pieceBytes is how much of a long value is looked for at a time, so that what a place of a text costs and how much of it waits is bounded, and
	// a part of a long value is hidden as well.
	pieceBytes = 512
	// pieceShared is how much a piece has in common with the next one, so that what is hidden is all in one.
	pieceShared = 16
)

// learn takes a value: as it is, without the space around it, and each of its lines, since a key of several lines is written line by line.
func (x *index) learn(v string) {
	x.add(v)
	x.add(strings.TrimSpace(v))
	if strings.Contains(v, "\n") {
		for line := range strings.Lines(v) {
			x.add(strings.TrimSpace(line))
		}
	}
}

// add takes a text, a long one in pieces.
func (x *index) add(v string) {
	for len(v) > pieceBytes {
		end := runeStart(v, pieceBytes)
		x.addPiece(v[:end])
		v = v[runeStart(v, end-pieceShared):]
	}
	x.addPiece(v)
}

// runeStart is at, or a little before it the beginning of the character that at is in the middle of.
func runeStart(v string, at int) int {
	for n := 0; n < utf8.UTFMax && at-n > 0; n++ {
		if utf8.RuneStart(v[at-n]) {
			return at - n
		}
	}
	return at
}

func (x *index) addPiece(v string) {
	if len(v) < MinLength || !x.plain.insert(v) {
		return
	}
	x.begins.set(hash3(v[0], v[1], v[2]))
	x.nibbles.set((uint32(v[0])<<16 | uint32(v[1])<<8 | uint32(v[2])) & (1<<18 - 1))
	x.first[v[0]] = true
	for skip := range x.base64 {
		l := &x.base64[skip]
		if l.unit(v, MinLength-1) >= 0 {
			l.insert(v)
			x.sextets.set(uint32(l.unit(v, 0)<<12 | l.unit(v, 1)<<6 | l.unit(v, 2)))
		}
	}
}

// bits is a set of 18 bit numbers.
type bits [1 << 12]uint64

func (b *bits) set(n uint32)      { b[n>>6] |= 1 << (n & 63) }
func (b *bits) has(n uint32) bool { return b[n>>6]&(1<<(n&63)) != 0 }

func hash3(a, b, c byte) uint32 { return (uint32(a) | uint32(b)<<8 | uint32(c)<<16) * 0x9E3779B1 >> 14 }

// list is values in the order of their units: bytes, or the sextets that base64 writes of them where skip bytes, of which nothing is known, come
// before. The sextets that hold bits of those, or of what follows, are left out.
type list struct {
	values []string
	skip   int
}

// bytewise is the skip of a list whose units are bytes.
const bytewise = -1

// unit is the nth unit of v, -1 behind its end.
func (l *list) unit(v string, n int) int {
	if l.skip == bytewise {
		if n >= len(v) {
			return -1
		}
		return int(v[n])
	}
	n += (l.skip*8 + 5) / 6
	if n >= (l.skip+len(v))*8/6 {
		return -1
	}
	bit := 6*n - 8*l.skip
	word := int(v[bit/8]) << 8
	if bit/8+1 < len(v) {
		word |= int(v[bit/8+1])
	}
	return word >> (10 - bit%8) & 63
}

func (l *list) compare(a, b string) int {
	if l.skip == bytewise {
		return strings.Compare(a, b)
	}
	for n := 0; ; n++ {
		x, y := l.unit(a, n), l.unit(b, n)
		if x != y || x < 0 {
			return x - y
		}
	}
}

// insert tells whether the list has one more value than before.
func (l *list) insert(v string) bool {
	at, known := slices.BinarySearchFunc(l.values, v, l.compare)
	if !known {
		l.values = slices.Insert(l.values, at, v)
	}
	return !known
}

// cursor is the values of a list, lo to hi, that agree with a text so far, n units of it.
type cursor struct {
	l         *list
	lo, hi, n int
}

func (l *list) cursor() cursor { return cursor{l: l, hi: len(l.values)} }

// take goes on with those whose next unit is u, and tells whether there are any.
func (c *cursor) take(u int) bool {
	if c.hi-c.lo > 1 {
		c.lo += sort.Search(c.hi-c.lo, func(i int) bool { return c.l.unit(c.l.values[c.lo+i], c.n) >= u })
		c.hi = c.lo + sort.Search(c.hi-c.lo, func(i int) bool { return c.l.unit(c.l.values[c.lo+i], c.n) > u })
	} else if c.lo < c.hi && c.l.unit(c.l.values[c.lo], c.n) != u {
		c.hi = c.lo
	}
	c.n++
	return c.lo < c.hi
}

// whole tells whether one of them ends here; longer, whether one goes on.
func (c *cursor) whole() bool  { return c.l.unit(c.l.values[c.lo], c.n) < 0 }
func (c *cursor) longer() bool { return c.hi-c.lo > 1 || !c.whole() }

// scan calls found for every place of t at which a value begins, with the end of the longest, and open for every one at which one would, or a
// longer one, if more came. The first kept bytes have waited before.
func (x *index) scan(t []byte, kept int, found func(from, to int), open func(from int)) {
	if len(x.plain.values) == 0 {
		return
	}
	tell := func(from, to int, more bool, encoded func(byte) int) {
		if to > from {
			found(from, to)
		}
		if more && (from < kept || waits(t, from, encoded)) {
			open(from)
		}
	}
	for i := range t {
		if i+3 <= len(t) && classes[t[i]]|classes[t[i+1]]|classes[t[i+2]] == 0 {
			if !x.begins.has(hash3(t[i], t[i+1], t[i+2])) {
				continue
			}
		} else if !x.first[t[i]] && classes[t[i]] == 0 {
			continue
		}
		to, more := x.at(t, i)
		tell(i, to, more, nil)
	}
	base64Digits.starts(t, &x.sextets, func(i int) {
		for skip := range x.base64 {
			to, more := base64Digits.follow(x.base64[skip].cursor(), t, i)
			tell(i, to, more, sextet)
		}
	})
	hexDigits.starts(t, &x.nibbles, func(i int) {
		to, more := hexDigits.follow(x.plain.cursor(), t, i)
		tell(i, to, more, nibble)
	})
}

const (
	// sureBytes before a line end are the beginning of a value and no accident: the line waits for the next one.
	sureBytes = 4
	// sureRun is a line of an encoder's output: it waits also where it ends with less.
	sureRun = 32
)

// waits tells whether what begins at from, and may become a value, is kept until more is known. Within its line it is; behind the end of a line,
// that would make lines late that have nothing to do with a value but their last characters.
func waits(t []byte, from int, encoded func(byte) int) bool {
	line := bytes.IndexByte(t[from:], '\n')
	if line < 0 || line >= sureBytes {
		return true
	}
	if encoded == nil {
		return false
	}
	end := len(bytes.TrimRight(t[:from+line], "\r"))
	run := end
	for run > 0 && end-run < sureRun && encoded(t[run-1]) >= 0 {
		run--
	}
	return end-run >= sureRun
}

// at follows a text from i on in every way in which it may be written, and returns the end of the longest value, and whether more text could make
// one or a longer one.
func (x *index) at(t []byte, i int) (to int, more bool) {
	to, more, seen := x.follow(t, i, plain)
	try := func(d decoder) {
		end, open, _ := x.follow(t, i, d)
		to, more = max(to, end), more || open
	}
	if seen&backslash != 0 {
		try(unescape)
		try(unescapeTwice)
	}
	if seen&(quote|backslash) != 0 {
		try(unquote)
	}
	if seen&(percent|plus) != 0 {
		try(unpercent)
		try(unquery)
	}
	return to, more
}

func (x *index) follow(t []byte, i int, decode decoder) (to int, more bool, seen class) {
	c := x.plain.cursor()
	for {
		if c.n > 0 && c.whole() {
			to = i
		}
		if !c.longer() {
			return to, false, seen
		}
		if i == len(t) {
			return to, true, seen
		}
		seen |= classes[t[i]]
		units, n, width := decode(t, i)
		if width == 0 {
			return to, true, seen
		}
		for _, u := range units[:n] {
			if !c.take(int(u)) {
				return to, false, seen
			}
		}
		i += width
	}
}

// class says which ways of writing a character belongs to.
type class uint8

const (
	backslash class = 1 << iota
	quote
	percent
	plus
)

var classes = [256]class{'\\': backslash, '\'': quote, '%': percent, '+': plus}

// decoder returns the bytes that the text at i stands for and how much of the text that is: 0 where it ends before that is known.
type decoder func(t []byte, i int) (units [4]byte, n, width int)

func plain(t []byte, i int) ([4]byte, int, int) { return [4]byte{t[i]}, 1, 1 }

// unescape reads what JSON, C, Go and the shell's $'..' and printf %q write.
func unescape(t []byte, i int) ([4]byte, int, int) {
	if t[i] != '\\' {
		return plain(t, i)
	}
	if i+1 == len(t) {
		return [4]byte{}, 0, 0
	}
	c := t[i+1]
	if n := strings.IndexByte("abfnrtveE", c); n >= 0 {
		return [4]byte{"\a\b\f\n\r\t\v\x1b\x1b"[n]}, 1, 2
	}
	digits, base := 0, 16
	switch {
	case c == 'x':
		digits = 2
	case c == 'u':
		digits = 4
	case c == 'U':
		digits = 8
	case c >= '0' && c <= '3':
		return unescapeOctal(t, i)
	default:
		return [4]byte{c}, 1, 2
	}
	r, whole := number(t, i+2, digits, base)
	switch {
	case r < 0 && !whole:
		return [4]byte{}, 0, 0
	case r < 0:
		return [4]byte{c}, 1, 2
	case digits == 2:
		return [4]byte{byte(r)}, 1, 4
	}
	width := 2 + digits
	if utf16.IsSurrogate(r) && bytes.HasPrefix(t[i+width:], []byte(`\u`)) {
		if low, _ := number(t, i+width+2, 4, 16); low >= 0 {
			r, width = utf16.DecodeRune(r, low), width+6
		}
	}
	var units [4]byte
	return units, utf8.EncodeRune(units[:], r), width
}

func unescapeOctal(t []byte, i int) ([4]byte, int, int) {
	r, whole := number(t, i+1, 3, 8)
	switch {
	case r >= 0:
		return [4]byte{byte(r)}, 1, 4
	case whole:
		return [4]byte{t[i+1]}, 1, 2
	}
	return [4]byte{}, 0, 0
}

// number reads digits; -1 where there are none, and whole tells that the text does not merely end before it is sure.
func number(t []byte, i, digits, base int) (n rune, whole bool) {
	for k := range digits {
		if i+k == len(t) {
			return -1, false
		}
		d := nibble(t[i+k])
		if d < 0 || d >= base {
			return -1, true
		}
		n = n*rune(base) + rune(d)
	}
	return n, true
}

// unescapeTwice reads what was escaped and then escaped again: a result holds JSON in a JSON string.
func unescapeTwice(t []byte, i int) ([4]byte, int, int) {
	units, n, width := unescape(t, i)
	if width == 0 || n != 1 || units[0] != '\\' {
		return units, n, width
	}
	const longest = len(`\ud83d\ude00`)
	var once [longest + 4]byte
	var ends [longest + 4]int
	have := 0
	for at := i; have < longest && at < len(t); {
		units, n, width := unescape(t, at)
		if width == 0 {
			break
		}
		at += width
		for _, u := range units[:n] {
			once[have], ends[have] = u, at-i
			have++
		}
	}
	units, n, width = unescape(once[:have], 0)
	if width > 0 {
		width = ends[width-1]
	}
	return units, n, width
}

// unquote reads a shell's '..', in which a quote is written '\” or '"'"'.
func unquote(t []byte, i int) ([4]byte, int, int) {
	if t[i] != '\'' {
		return plain(t, i)
	}
	for _, written := range []string{`'\''`, `'"'"'`} {
		if bytes.HasPrefix(t[i:], []byte(written)) {
			return [4]byte{'\''}, 1, len(written)
		}
		if len(t)-i < len(written) && strings.HasPrefix(written, string(t[i:])) {
			return [4]byte{}, 0, 0
		}
	}
	return plain(t, i)
}

// unpercent reads percent-encoding, in which a plus stands for itself; unquery that of forms, in which it is a space.
func unpercent(t []byte, i int) ([4]byte, int, int) {
	if t[i] != '%' {
		return plain(t, i)
	}
	r, whole := number(t, i+1, 2, 16)
	switch {
	case r >= 0:
		return [4]byte{byte(r)}, 1, 3
	case whole:
		return plain(t, i)
	}
	return [4]byte{}, 0, 0
}

func unquery(t []byte, i int) ([4]byte, int, int) {
	if t[i] == '+' {
		return [4]byte{' '}, 1, 1
	}
	return unpercent(t, i)
}

func sextet(c byte) int {
	switch {
	case c >= 'A' && c <= 'Z':
		return int(c - 'A')
	case c >= 'a' && c <= 'z':
		return int(c-'a') + 26
	case c >= '0' && c <= '9':
		return int(c-'0') + 52
	case c == '+' || c == '-':
		return 62
	case c == '/' || c == '_':
		return 63
	}
	return -1
}

func nibble(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// longestBreak bounds an encoder's line end with its indentation, in bytes; what is longer is none. So what waits for the rest of a value is bounded.
const longestBreak = 128

// lineBreak is the width of an encoder's line end at i, with the indentation behind it: as it is, or escaped in a string. 0: there is none.
func lineBreak(t []byte, i int) int {
	from, end := i, min(len(t), i+longestBreak)
	switch t[i] {
	case '\r', '\n':
		for i < end && (t[i] == '\r' || t[i] == '\n' || t[i] == ' ' || t[i] == '\t') {
			i++
		}
	case '\\':
		for i < end && t[i] == '\\' {
			i++
		}
		if i == len(t) { // it may become one
			return i - from
		}
		if i == end || t[i] != 'n' && t[i] != 'r' {
			return 0
		}
		i++
	}
	return i - from
}

// digits is how an encoder writes units: a number of digits each, of some bits.
type digits struct {
	bits, each int
	values     [256]int8 // -1 for what is none
}

var (
	base64Digits = &digits{bits: 6, each: 1, values: valuesOf(sextet)}
	hexDigits    = &digits{bits: 4, each: 2, values: valuesOf(nibble)}
)

func valuesOf(digit func(byte) int) (values [256]int8) {
	for c := range values {
		values[c] = int8(digit(byte(c)))
	}
	return values
}

// starts calls at for each place of a text from which three units, of which line ends are no part, begin something; and at its end for those fewer
// that could.
func (d *digits) starts(t []byte, begins *bits, at func(i int)) {
	n := 3 * d.each
	var places [8]int // a ring
	have := 0
	const mask = 1<<18 - 1
	var code uint32
	for i := 0; i < len(t); i++ {
		v := d.values[t[i]]
		if v < 0 {
			if c := t[i]; c != '\n' && c != '\r' && c != '\\' {
				have = 0
			} else if skip := lineBreak(t, i); skip > 0 {
				i += skip - 1
			} else {
				have = 0
			}
			continue
		}
		code = (code<<d.bits | uint32(v)) & mask
		places[have&7] = i
		have++
		if have >= n && begins.has(code) {
			at(places[(have-n)&7])
		}
	}
	for k := max(0, have-n+1); k < have; k++ {
		at(places[k&7])
	}
}

// follow follows a text of digits from i on.
func (d *digits) follow(c cursor, t []byte, i int) (to int, more bool) {
	if c.hi == 0 {
		return 0, false
	}
	first := i
	for {
		if c.n > 0 && c.whole() {
			to = i
		}
		if !c.longer() {
			return to, false
		}
		unit := 0
		for range d.each {
			for gap := i; i > first && i < len(t) && d.values[t[i]] < 0; {
				skip := lineBreak(t, i)
				if skip == 0 || i+skip-gap > longestBreak {
					return to, false
				}
				i += skip
			}
			if i >= len(t) {
				return to, true
			}
			unit = unit<<d.bits | int(d.values[t[i]])
			i++
		}
		if !c.take(unit) {
			return to, false
		}
	}
}
