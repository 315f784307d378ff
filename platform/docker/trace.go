package docker

import (
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"hostmanager/internal/redact"
)

// buildTrace turns the progress that BuildKit sends (moby.buildkit.v1.StatusResponse, github.com/moby/buildkit api/services/control/control.proto)
// into the plain lines of docker build. It is used by one goroutine and keeps one small entry a step.
type buildTrace struct {
	out   io.Writer
	hide  *redact.Redactor
	steps map[string]*traceStep
	rest  traceStep // all that came after maxSteps
}

type traceStep struct {
	number   int
	finished bool
	output   [2]io.WriteCloser // what the step puts out goes here, by stream, and is masked before its lines are told apart from other steps'
}

// maxSteps bounds what a hostile builder could make us remember; the later ones of a build with more steps than this share one number.
const maxSteps = 10_000

// The fields of StatusResponse, Vertex and VertexLog that are read.
const (
	fieldVertexes = 1
	fieldLogs     = 3

	vertexDigest    = 1
	vertexName      = 3
	vertexCached    = 4
	vertexCompleted = 6
	vertexError     = 7

	logVertex = 1
	logStream = 3 // 1 is standard output, 2 standard error
	logMsg    = 4
)

func newBuildTrace(out io.Writer, hide *redact.Redactor) *buildTrace {
	return &buildTrace{out: out, hide: hide, steps: map[string]*traceStep{}, rest: traceStep{number: maxSteps + 1}}
}

// close writes what is left of unfinished lines.
func (t *buildTrace) close() {
	for _, s := range t.steps {
		s.close()
	}
	t.rest.close()
}

func (s *traceStep) close() {
	for n, w := range s.output {
		if w != nil {
			_ = w.Close() // it writes to memory and logs, whose failures are not the build's
			s.output[n] = nil
		}
	}
}

// numbered puts the number of a step before each line.
type numbered struct {
	out    io.Writer
	number int
}

func (n numbered) Write(p []byte) (int, error) {
	for line := range strings.SplitSeq(strings.TrimRight(string(p), "\r\n"), "\n") {
		if _, err := fmt.Fprintf(n.out, "#%d %s\n", n.number, strings.TrimRight(line, "\r")); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// add takes one decoded message.
func (t *buildTrace) add(message []byte) error {
	return eachField(message, func(f field) error {
		switch f.number {
		case fieldVertexes:
			return t.vertex(f.bytes)
		case fieldLogs:
			return t.log(f.bytes)
		}
		return nil
	})
}

func (t *buildTrace) step(digest string) (*traceStep, bool) {
	if s, ok := t.steps[digest]; ok {
		return s, false
	}
	if len(t.steps) == maxSteps {
		return &t.rest, true
	}
	s := &traceStep{number: len(t.steps) + 1}
	t.steps[digest] = s
	return s, true
}

func (t *buildTrace) vertex(message []byte) error {
	var digest, name, failure string
	var cached, completed bool
	err := eachField(message, func(f field) error {
		switch f.number {
		case vertexDigest:
			digest = string(f.bytes)
		case vertexName:
			name = string(f.bytes)
		case vertexCached:
			cached = f.varint != 0
		case vertexCompleted:
			completed = true
		case vertexError:
			failure = string(f.bytes)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s, isNew := t.step(digest)
	if isNew {
		fmt.Fprintf(t.out, "#%d %s\n", s.number, oneLine(name))
	}
	if s.finished || !completed && failure == "" {
		return nil
	}
	if s != &t.rest { // others of it may go on
		s.finished = true
		s.close()
	}
	switch {
	case failure != "":
		fmt.Fprintf(t.out, "#%d ERROR: %s\n", s.number, oneLine(failure))
	case cached:
		fmt.Fprintf(t.out, "#%d CACHED\n", s.number)
	}
	return nil
}

func (t *buildTrace) log(message []byte) error {
	var digest, msg string
	stream := 0
	err := eachField(message, func(f field) error {
		switch f.number {
		case logVertex:
			digest = string(f.bytes)
		case logStream:
			stream = int(f.varint) & 1
		case logMsg:
			msg = string(f.bytes)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s, _ := t.step(digest)
	if s.output[stream] == nil {
		s.output[stream] = t.hide.Writer(numbered{t.out, s.number})
	}
	_, _ = io.WriteString(s.output[stream], msg)
	return nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

type field struct {
	number protowire.Number
	bytes  []byte // of a length-delimited field
	varint uint64
}

// eachField calls fn for every field of a message. Groups and fixed numbers are passed over.
func eachField(message []byte, fn func(field) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("decode build progress: %w", protowire.ParseError(n))
		}
		message = message[n:]
		f := field{number: number}
		switch kind {
		case protowire.VarintType:
			f.varint, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			f.bytes, n = protowire.ConsumeBytes(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return fmt.Errorf("decode build progress: %w", protowire.ParseError(n))
		}
		message = message[n:]
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}
