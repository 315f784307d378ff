package docker

import (
	"bytes"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// errNoFrom marks a Dockerfile without a FROM.
var errNoFrom = errors.New("the Dockerfile has no FROM instruction")

// maxDockerfile bounds the Dockerfiles that are read.
const maxDockerfile = 256 << 10

const maxStages = 1000

// dockerfile is what must be known of a Dockerfile before the Engine builds it. The scanner judges nothing: whatever it does not understand is
// left to the Engine, which says better what is wrong.
type dockerfile struct {
	images []string // registry images it needs, each once, in order
	ports  []string // TCP ports its final stage exposes, each once, in order
}

// exposed is the port that counts, "" where none is exposed.
func (d dockerfile) exposed() string {
	if len(d.ports) == 0 {
		return ""
	}
	return d.ports[0]
}

// stage is one FROM and what follows it.
type stage struct {
	name   string
	parent *stage            // the stage FROM names, nil where it names an image
	values map[string]string // ARG and ENV
	ports  []string
}

func (s *stage) lookup(name string) (string, bool) {
	for ; s != nil; s = s.parent {
		if v, ok := s.values[name]; ok {
			return v, true
		}
	}
	return "", false
}

type dockerfileScan struct {
	escape  byte
	globals map[string]string // ARG before the first FROM
	stages  []*stage
	byName  map[string]*stage
	images  []string
	open    map[string]bool // here-document words that nothing closes: looked for once
}

// scanDockerfile reads a Dockerfile. The only error is errNoFrom.
func scanDockerfile(text []byte) (dockerfile, error) {
	s := dockerfileScan{escape: '\\', globals: map[string]string{}, byName: map[string]*stage{}, open: map[string]bool{}}
	for _, line := range s.instructions(text) {
		word, rest := cutWord(line)
		s.instruction(strings.ToUpper(word), rest)
	}
	if len(s.stages) == 0 {
		return dockerfile{}, errNoFrom
	}
	var ports []string
	for last := s.stages[len(s.stages)-1]; last != nil; last = last.parent {
		ports = append(slices.Clone(last.ports), ports...)
	}
	return dockerfile{images: unique(s.images), ports: unique(ports)}, nil
}

func (s *dockerfileScan) instruction(word, rest string) {
	flags, rest := cutFlags(rest)
	switch {
	case word == "FROM":
		s.from(rest)
	case word == "ARG" && len(s.stages) == 0:
		for _, kv := range fields(rest, s.escape) {
			if k, v, ok := strings.Cut(kv, "="); ok {
				s.globals[k], _ = expand(v, s.escape, s.global)
			}
		}
	case len(s.stages) == 0:
	case word == "ARG":
		s.arg(rest)
	case word == "ENV":
		s.env(rest)
	case word == "EXPOSE":
		s.expose(rest)
	case word == "COPY" || word == "ADD" || word == "RUN":
		s.sources(flags)
	}
}

func (s *dockerfileScan) global(name string) (string, bool) {
	v, ok := s.globals[name]
	return v, ok
}

func (s *dockerfileScan) current() *stage { return s.stages[len(s.stages)-1] }

func (s *dockerfileScan) from(rest string) {
	words := strings.Fields(rest)
	next := &stage{values: map[string]string{}}
	if len(words) == 3 && strings.EqualFold(words[1], "AS") {
		next.name = strings.ToLower(words[2])
	}
	if len(words) > 0 {
		base, ok := expand(words[0], s.escape, s.global)
		if len(s.stages) < maxStages { // beyond it nothing is inherited, so that no chain grows long
			next.parent = s.byName[strings.ToLower(base)]
		}
		if ok && next.parent == nil {
			s.need(base)
		}
	}
	s.stages = append(s.stages, next)
	if next.name != "" {
		s.byName[next.name] = next
	}
}

// need notes an image that the build takes from a registry.
func (s *dockerfileScan) need(image string) {
	if image != "" && image != "scratch" {
		s.images = append(s.images, image)
	}
}

// sources notes the images that flags of COPY, ADD and RUN name: --from=image, --mount=type=bind,from=image.
func (s *dockerfileScan) sources(flags []string) {
	for _, flag := range flags {
		name, value, _ := strings.Cut(flag, "=")
		switch name {
		case "--from":
			s.source(value)
		case "--mount":
			for option := range strings.SplitSeq(value, ",") {
				if from, ok := strings.CutPrefix(option, "from="); ok {
					s.source(from)
				}
			}
		}
	}
}

func (s *dockerfileScan) source(name string) {
	_, isStage := s.byName[strings.ToLower(name)]
	_, notNumber := strconv.Atoi(name)
	if !isStage && notNumber != nil && !strings.ContainsAny(name, "$\"'") {
		s.need(name)
	}
}

func (s *dockerfileScan) arg(rest string) {
	for _, kv := range fields(rest, s.escape) {
		k, v, ok := strings.Cut(kv, "=")
		if ok {
			v, ok = expand(v, s.escape, s.current().lookup)
		} else {
			v, ok = s.globals[k]
		}
		if _, isSet := s.current().values[k]; ok && !isSet {
			s.current().values[k] = v
		}
	}
}

func (s *dockerfileScan) env(rest string) {
	words := fields(rest, s.escape)
	if len(words) > 0 && !strings.Contains(words[0], "=") { // ENV NAME the whole rest
		name, value := cutWord(rest)
		words = []string{name + "=" + value}
	}
	values := map[string]string{} // the words of one ENV see what was before it
	for _, kv := range words {
		k, v, _ := strings.Cut(kv, "=")
		values[k], _ = expand(v, s.escape, s.current().lookup)
	}
	for k, v := range values {
		s.current().values[k] = v
	}
}

func (s *dockerfileScan) expose(rest string) {
	for _, word := range fields(rest, s.escape) {
		text, ok := expand(word, s.escape, s.current().lookup)
		if !ok {
			continue
		}
		for port := range strings.FieldsSeq(text) {
			if p, ok := tcpPort(port); ok {
				s.current().ports = append(s.current().ports, p)
			}
		}
	}
}

// tcpPort reads 8080, 8080/tcp and, as its first port, 8080-8090.
func tcpPort(text string) (string, bool) {
	port, protocol, has := strings.Cut(text, "/")
	if has && !strings.EqualFold(protocol, "tcp") {
		return "", false
	}
	port, _, _ = strings.Cut(port, "-")
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", false
	}
	return strconv.FormatUint(n, 10), true
}

var (
	directive = regexp.MustCompile(`^#[ \t]*([A-Za-z][A-Za-z0-9]*)[ \t]*=[ \t]*(\S+)[ \t]*$`)
	heredoc   = regexp.MustCompile(`(?:^|[ \t])[0-9]*<<(-?)(["']?)([A-Za-z0-9_.]+)(["']?)`)
)

// instructions returns the logical lines: comments gone, continuations joined, the bodies of here-documents skipped.
func (s *dockerfileScan) instructions(text []byte) []string {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	lines := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n")
	s.directives(lines)
	var out []string
	for i := 0; i < len(lines); {
		var line string
		line, i = s.logicalLine(lines, i)
		if line == "" {
			continue
		}
		out = append(out, line)
		i = s.skipHeredocs(line, lines, i)
	}
	return out
}

// directives reads the parser directives at the very top; only escape matters here.
func (s *dockerfileScan) directives(lines []string) {
	for _, line := range lines {
		m := directive.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			return
		}
		if strings.EqualFold(m[1], "escape") && m[2] == "`" {
			s.escape = '`'
		}
	}
}

// logicalLine joins the lines of the instruction that begins at i and returns where the next one begins.
func (s *dockerfileScan) logicalLine(lines []string, i int) (string, int) {
	var b strings.Builder
	for ; i < len(lines); i++ {
		line := strings.TrimLeft(lines[i], " \t")
		if line == "" || line[0] == '#' {
			if b.Len() == 0 {
				return "", i + 1
			}
			continue // comments and empty lines may stand inside a continued instruction
		}
		trimmed := strings.TrimRight(line, " \t")
		n := len(trimmed) - 1
		if trimmed[n] != s.escape || n > 0 && trimmed[n-1] == s.escape {
			b.WriteString(line)
			return strings.TrimSpace(b.String()), i + 1
		}
		b.WriteString(trimmed[:n] + " ")
	}
	return strings.TrimSpace(b.String()), i
}

// skipHeredocs returns the line after the bodies of the here-documents that an instruction opens. One that is never closed is none: before
// Dockerfile syntax 1.4 "<<" meant nothing.
func (s *dockerfileScan) skipHeredocs(line string, lines []string, i int) int {
	word, _ := cutWord(line)
	if !slices.Contains([]string{"RUN", "COPY", "ADD"}, strings.ToUpper(word)) {
		return i
	}
	for _, m := range heredoc.FindAllStringSubmatch(line, -1) {
		if m[2] != m[4] || s.open[m[3]] {
			continue
		}
		end := slices.IndexFunc(lines[i:], func(l string) bool {
			if m[1] == "-" {
				l = strings.TrimLeft(l, "\t")
			}
			return l == m[3]
		})
		if end < 0 {
			s.open[m[3]] = true
			continue
		}
		i += end + 1
	}
	return i
}

// cutFlags takes the --name=value words from the front of an instruction.
func cutFlags(rest string) (flags []string, after string) {
	for strings.HasPrefix(rest, "--") {
		var flag string
		flag, rest = cutWord(rest)
		flags = append(flags, flag)
	}
	return flags, rest
}

func cutWord(line string) (word, rest string) {
	line = strings.TrimLeft(line, " \t")
	if i := strings.IndexAny(line, " \t"); i >= 0 {
		return line[:i], strings.TrimLeft(line[i:], " \t")
	}
	return line, ""
}

func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	return slices.DeleteFunc(list, func(v string) bool {
		was := seen[v]
		seen[v] = true
		return was
	})
}
