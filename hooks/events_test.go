package hooks

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hostmanager/protocol"
)

func TestParseEvents_Forms(t *testing.T) {
	info := func(msgs ...string) (all []protocol.Event) {
		for _, m := range msgs {
			all = append(all, protocol.Event{Msg: m, Severity: protocol.Info})
		}
		return all
	}
	tests := []struct {
		name, data string
		want       []protocol.Event
		problems   int
	}{
		{"nothing", "", nil, 0},
		{"only separators", "---\n---\n\n---\n", nil, 0},
		{"the original's", "{\"msg\":\"a\",\"severity\":\"TRACE\",\"timestamp\":1500445448}\n---\n", []protocol.Event{{Msg: "a", Severity: protocol.Trace, Time: time.Unix(1500445448, 0)}}, 0},
		{"milliseconds", `{"msg":"a","timestamp":1585323914015}`, []protocol.Event{{Msg: "a", Severity: protocol.Info, Time: time.UnixMilli(1585323914015)}}, 0},
		{"quoted timestamp", `{"msg":"a","timestamp":"1585323914015"}`, []protocol.Event{{Msg: "a", Severity: protocol.Info, Time: time.UnixMilli(1585323914015)}}, 0},
		{"absurd timestamps", "{\"msg\":\"a\",\"timestamp\":-5}\n---\n{\"msg\":\"b\",\"timestamp\":\"soon\"}\n---\n{\"msg\":\"c\",\"timestamp\":1e300}", info("a", "b", "c"), 0},
		{"YAML", "---\nmsg: a b\nseverity: error\n---\nmsg: 'c'\n", []protocol.Event{{Msg: "a b", Severity: protocol.Error}, {Msg: "c", Severity: protocol.Info}}, 0},
		{"YAML block", "msg: |\n  one\n  two\n---\n", info("one\ntwo"), 0},
		{"on the separator's line", "--- {\"msg\":\"a\"}\n--- {\"msg\":\"b\"}\n", info("a", "b"), 0},
		{"flow YAML", "{msg: a, severity: 'WARN'}\n---\n", []protocol.Event{{Msg: "a", Severity: protocol.Warn}}, 0},
		{"JSON lines without separators", "{\"msg\":\"a\"}\n{\"msg\":\"b\"}\n", info("a", "b"), 0},
		{"Windows line ends", "{\"msg\":\"a\"}\r\n---\r\n{\"msg\":\"b\"}\r\n---\r\n", info("a", "b"), 0},
		{"blank messages are dropped", "{\"msg\":\"  \"}\n---\nmsg: ''\n---\n", nil, 0},
		{"numbers as messages", "msg: 5\n---\n", info("5"), 0},
		{"unknown severity", `{"msg":"a","severity":"LOUD"}`, info("a"), 1},
		{"unknown severity among others", "{\"msg\":\"a\"}\n{\"msg\":\"b\",\"severity\":\"LOUD\"}\n{\"msg\":\"c\"}", info("a", "b", "c"), 1},
		{"a message that is no text", `{"msg":{"a":"b"}}`, nil, 1},
		{"malformed between good ones", "{\"msg\":\"a\"}\n---\n{\"msg\":\n---\n{\"msg\":\"b\"}\n---\n", info("a", "b"), 1},
		{"no message", "severity: INFO\n---\n", nil, 1},
		{"a list", "- msg: a\n---\n", nil, 1},
		{"bare text", "hello world\n---\n", nil, 1},
		{"not UTF-8", "{\"msg\":\"a\xff\"}", info("a\uFFFD"), 0},
		{"dashes in a message", `{"msg":"---\n---"}`, info("---\n---"), 0},
		{"too long a document", strings.Repeat("x", maxDocument+1) + "\n---\nmsg: a\n", info("a"), 1},
		{"too long a message", `{"msg":"` + strings.Repeat("y", maxMessage+10) + `"}`, info(strings.Repeat("y", maxMessage+10)), 0},
		{"aliases that multiply", bomb(), nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, used, problems := parseEvents([]byte(tt.data), true)
			if used != len(tt.data) || len(problems) != tt.problems || len(got) != len(tt.want) {
				t.Fatalf("got %+v, used %d of %d, problems %q", got, used, len(tt.data), problems)
			}
			for i, e := range got {
				if e.Msg != tt.want[i].Msg || e.Severity != tt.want[i].Severity || !e.Time.Equal(tt.want[i].Time) {
					t.Errorf("event %d is %+v, want %+v", i, e, tt.want[i])
				}
			}
		})
	}
}

// bomb is a small YAML document that grows to billions of nodes when its aliases are followed.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := range 9 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 9), ","))
	}
	return b.String() + "msg: *a9\n"
}

// TestParseEvents_InPieces holds that a stream read in pieces gives the events it gives as a whole.
func TestParseEvents_InPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		var want []string
		for range rapid.IntRange(0, 6).Draw(t, "events") {
			msg := rapid.StringMatching(`[a-zA-Z0-9é\-{}:\n" ]{0,20}x`).Draw(t, "msg")
			doc, err := json.Marshal(map[string]any{"msg": msg, "timestamp": 1.5e12})
			if err != nil {
				t.Fatal(err)
			}
			stream = append(append(stream, doc...), "\n---\n"...)
			want = append(want, strings.TrimSpace(msg))
		}
		var got []string
		start := 0
		for end := 0; end < len(stream); {
			end = rapid.IntRange(end, len(stream)).Draw(t, "read up to")
			if rapid.Bool().Draw(t, "all") {
				end = len(stream)
			}
			events, used, problems := parseEvents(stream[start:end], false)
			if len(problems) > 0 {
				t.Fatalf("problems %q in %q", problems, stream[start:end])
			}
			for _, e := range events {
				got = append(got, e.Msg)
			}
			start += used
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Fatalf("got %q, want %q", got, want)
		}
	})
}

func TestParseEvents_CutAnywhere(t *testing.T) {
	const stream = "{\"msg\":\"a\"}\n---\nmsg: b\nseverity: WARN\n--- {\"msg\":\"c\"}\n---\nmsg: long text\n---"
	for cut := range len(stream) + 1 {
		first, used, problems := parseEvents([]byte(stream[:cut]), false)
		second, rest, more := parseEvents([]byte(stream[used:]), true)
		all := ""
		for _, e := range append(first, second...) {
			all += string(e.Severity) + " " + e.Msg + ", "
		}
		if all != "INFO a, WARN b, INFO c, INFO long text, " || len(problems)+len(more) > 0 || used+rest != len(stream) {
			t.Errorf("cut at %d: %s %q %q", cut, all, problems, more)
		}
	}
}

func TestReadHeader_Repeatable(t *testing.T) {
	tests := []struct {
		text string
		want protocol.Semantics
	}{
		{"#!/bin/sh\n# hostmanager: repeatable\n", protocol.Repeatable},
		{"#!/bin/sh\r\n#hostmanager: repeatable\r\n", protocol.Repeatable},
		{"#!/usr/bin/env node\n// hostmanager: repeatable\n", protocol.Repeatable},
		{"#!/usr/bin/lua\n--  hostmanager: repeatable  \n", protocol.Repeatable},
		{strings.Repeat("# x\n", 9) + "## hostmanager: repeatable", protocol.Repeatable},
		{strings.Repeat("# x\n", 10) + "# hostmanager: repeatable", protocol.Once},
		{"#!/bin/sh\necho '# hostmanager: repeatable'\n", protocol.Once},
		{"#!/bin/sh\n# hostmanager: repeatable? no\n", protocol.Once},
		{"#!/bin/sh\n# not hostmanager: repeatable\n", protocol.Once},
		{"hostmanager: repeatable\n", protocol.Once},
		{"", protocol.Once},
		{"\x7fELF" + strings.Repeat("\x00", 10000), protocol.Once},
		{strings.Repeat("y", 5000) + "\n# hostmanager: repeatable", protocol.Once},
	}
	for _, tt := range tests {
		if got := readHeader(strings.NewReader(tt.text)); got != tt.want {
			t.Errorf("%.60q is %s, want %s", tt.text, got, tt.want)
		}
	}
}

func FuzzParseEvents(f *testing.F) {
	for _, s := range []string{
		"{\"msg\":\"a\",\"severity\":\"TRACE\",\"timestamp\":1500445448}\n---\n", "msg: |\n  x\n---\n", "--- {msg: a}\n...\n", "---\n--- \n---x\n",
		"msg: !!binary aGk=\n", "msg: 2026-01-01\ntimestamp: 2026-01-01T00:00:00Z\n", "&a [*a]", "msg: {a: b}\nseverity: [x]\n", "? a\n: b", "<<: 1\nmsg: a",
		bomb(),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, whole := range []bool{true, false} {
			events, used, problems := parseEvents(data, whole)
			if used > len(data) || whole && used != len(data) {
				t.Fatalf("used %d of %d", used, len(data))
			}
			if len(events)+len(problems) > len(data)+1 || len(events) > maxEvents {
				t.Fatalf("%d events, %d problems from %d bytes", len(events), len(problems), len(data))
			}
			for _, e := range events {
				if strings.TrimSpace(e.Msg) == "" || e.Severity.Rank() < 0 || len(e.Msg) > maxDocument {
					t.Fatalf("event %+v", e)
				}
				if _, err := json.Marshal(e); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
