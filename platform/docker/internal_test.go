package docker

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"hostmanager/internal/redact"
)

// The parsers below have no exported face, so their tests live inside.

func TestParseDockerrun_TakesWhatPeopleWrite(t *testing.T) {
	got, err := parseDockerrun([]byte(`{"AWSEBDockerrunVersion": 1, "Image": {"Name": " nginx:1 ", "Update": false}, "Ports": [{"ContainerPort": 8080, "HostPort": "80"}, {"ContainerPort": "9"}],
		"Volumes": [{"HostDirectory": "/data", "ContainerDirectory": "/var/lib/x"}], "Logging": "/var/log/nginx",
		"Command": "serve --name 'two words' \"a b\"c \\\"", "Entrypoint": "/bin/app", "Unknown": {"x": 1}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := dockerrun{
		image: "nginx:1", port: "8080", binds: []string{"/data:/var/lib/x"}, logging: "/var/log/nginx",
		command: []string{"serve", "--name", "two words", "a bc", `"`}, entrypoint: []string{"/bin/app"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(dockerrun{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseDockerrun_RefusesWithAReason(t *testing.T) {
	tests := []struct {
		name, text string
		want       error
	}{
		{"no JSON", `{`, errDockerrunSyntax},
		{"a list", `[]`, errDockerrunSyntax},
		{"version 2", `{"AWSEBDockerrunVersion": 2, "containerDefinitions": []}`, errDockerrunVersion},
		{"version 3", `{"AWSEBDockerrunVersion": "3"}`, errDockerrunVersion},
		{"no version", `{}`, errDockerrunVersion},
		{"credentials", `{"AWSEBDockerrunVersion": "1", "Authentication": {"Bucket": "b", "Key": "k"}}`, errDockerrunLogin},
		{"image with a blank", `{"AWSEBDockerrunVersion": "1", "Image": {"Name": "a\nRUN evil"}}`, errDockerrunSyntax},
		{"port", `{"AWSEBDockerrunVersion": "1", "Ports": [{"ContainerPort": "http"}]}`, errDockerrunSyntax},
		{"relative volume", `{"AWSEBDockerrunVersion": "1", "Volumes": [{"HostDirectory": "data", "ContainerDirectory": "/d"}]}`, errDockerrunSyntax},
		{"colon in a volume", `{"AWSEBDockerrunVersion": "1", "Volumes": [{"HostDirectory": "/a:/b", "ContainerDirectory": "/d"}]}`, errDockerrunSyntax},
		{"relative logging", `{"AWSEBDockerrunVersion": "1", "Logging": "logs"}`, errDockerrunSyntax},
		{"name is an object", `{"AWSEBDockerrunVersion": "1", "Image": {"Name": {}}}`, errDockerrunSyntax},
		{"open quote", `{"AWSEBDockerrunVersion": "1", "Command": "a \"b"}`, errDockerrunSyntax},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := parseDockerrun([]byte(tt.text)); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func FuzzParseDockerrun(f *testing.F) {
	f.Add([]byte(`{"AWSEBDockerrunVersion":"1","Image":{"Name":"a","Update":"true"},"Ports":[{"ContainerPort":"80"}],"Command":"a 'b' \"c\" \\d"}`))
	f.Add([]byte(`{"AWSEBDockerrunVersion":1,"Volumes":[{"HostDirectory":"/","ContainerDirectory":"/"}],"Logging":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parseDockerrun(data)
		if err != nil {
			return
		}
		if d.image == "" {
			return
		}
		if scanned, err := scanDockerfile(d.dockerfileFor()); err != nil || strings.Count(string(d.dockerfileFor()), "\n") > 2 || scanned.exposed() != d.port {
			t.Errorf("%q makes the Dockerfile %q", data, d.dockerfileFor())
		}
	})
}

// message builds a protobuf message of strings.
func message(fields ...any) []byte {
	var b []byte
	for i := 0; i < len(fields); i += 2 {
		number := protowire.Number(fields[i].(int))
		switch v := fields[i+1].(type) {
		case []byte:
			b = protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), v)
		case string:
			b = protowire.AppendString(protowire.AppendTag(b, number, protowire.BytesType), v)
		case bool:
			b = protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), protowire.EncodeBool(v))
		}
	}
	return b
}

func TestBuildTrace_WritesPlainLines(t *testing.T) {
	var out strings.Builder
	trace := newBuildTrace(&out, redact.New())
	messages := [][]byte{
		message(fieldVertexes, message(vertexDigest, "sha256:a", vertexName, "[1/2] FROM  x\n")),
		message(fieldVertexes, message(vertexDigest, "sha256:b", vertexName, "[2/2] RUN make")),
		message(fieldLogs, message(logVertex, "sha256:b", logMsg, "compiling\r\nlinking\n")),
		message(fieldVertexes, message(vertexDigest, "sha256:a", vertexName, "[1/2] FROM  x", vertexCached, true, vertexCompleted, "")),
		message(fieldVertexes, message(vertexDigest, "sha256:b", vertexName, "[2/2] RUN make", vertexError, "exit code: 2")),
		message(fieldVertexes, message(vertexDigest, "sha256:b", vertexName, "[2/2] RUN make", vertexError, "exit code: 2")),
		message(99, "unknown"),
	}
	for _, m := range messages {
		if err := trace.add(m); err != nil {
			t.Fatal(err)
		}
	}
	want := "#1 [1/2] FROM x\n#2 [2/2] RUN make\n#2 compiling\n#2 linking\n#1 CACHED\n#2 ERROR: exit code: 2\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestBuildTrace_HidesWhatComesInPieces has a step write a secret byte by byte, and another one on two lines, while a second step writes too.
func TestBuildTrace_HidesWhatComesInPieces(t *testing.T) {
	hide := redact.New()
	hide.Add("first-secret", "second\nsecret")
	var out strings.Builder
	trace := newBuildTrace(&out, hide)
	for _, c := range "a first-secret.\nsecond\nsecret\n" {
		for _, m := range [][]byte{message(logVertex, "a", logMsg, string(c)), message(logVertex, "b", logMsg, "x\n")} {
			if err := trace.add(message(fieldLogs, m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := trace.add(message(fieldLogs, message(logVertex, "a", logMsg, "unfinished"))); err != nil {
		t.Fatal(err)
	}
	trace.close()
	got := strings.ReplaceAll(out.String(), "#2 x\n", "")
	if want := "#1 a [redacted].\n#1 [redacted]\n#1 unfinished\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestBuildTrace_BeyondWhatItRemembers: the steps of a build without end share a number, and none of their output is lost.
func TestBuildTrace_BeyondWhatItRemembers(t *testing.T) {
	var out strings.Builder
	trace := newBuildTrace(&out, redact.New())
	add := func(digest, text string) {
		if err := trace.add(message(fieldLogs, message(logVertex, digest, logMsg, text))); err != nil {
			t.Fatal(err)
		}
	}
	for n := range maxSteps {
		add(fmt.Sprint(n), "x\n")
	}
	add("one more", "its begin")
	add("one more", "ning and its end")
	trace.close()
	if _, last, _ := strings.Cut(out.String(), fmt.Sprintf("#%d x\n", maxSteps)); last != fmt.Sprintf("#%d its beginning and its end\n", maxSteps+1) {
		t.Errorf("got %q", last)
	}
}

func FuzzBuildTrace(f *testing.F) {
	f.Add(message(fieldVertexes, message(vertexDigest, "a", vertexName, "b", vertexCached, true, vertexError, "c"), fieldLogs, message(logVertex, "a", logMsg, "d\ne")))
	seed, _ := base64.StdEncoding.DecodeString("CgYKAWESAWI=")
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		_ = newBuildTrace(&out, nil).add(data)
		for line := range strings.Lines(out.String()) {
			if !strings.HasPrefix(line, "#") {
				t.Errorf("line %q", line)
			}
		}
	})
}

func FuzzFollowBuild(f *testing.F) {
	f.Add([]byte(`{"id":"moby.buildkit.trace","aux":"CgYKAWESAWI="}` + "\r\n" + `{"id":"moby.image.id","aux":{"ID":"sha256:x"}}` + "\n" + `{"stream":"Step 1"}`))
	f.Add([]byte(`{"errorDetail":{"code":2,"message":"m"},"error":"e"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, _ = followBuild(bytes.NewReader(data), io.Discard, nil)
	})
}

func frame(stream byte, payload string) string {
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(len(payload)))
	return string([]byte{stream, 0, 0, 0}) + string(size[:]) + payload
}

func TestFrames_GivesBackWhatWasFramed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payloads := rapid.SliceOf(rapid.String()).Draw(t, "payloads")
		var in strings.Builder
		for i, p := range payloads {
			in.WriteString(frame(byte(1+i%2), p))
		}
		cut := rapid.IntRange(0, in.Len()).Draw(t, "cut")
		frames := newFrames(strings.NewReader(in.String()[:cut]))
		for i := 0; ; i++ {
			got, err := frames.next()
			if err == io.EOF {
				return
			}
			if err != nil || string(got) != payloads[i] {
				t.Fatalf("message %d is %q, %v; want %q", i, got, err, payloads[i])
			}
		}
	})
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte(frame(1, "2026-01-01T00:00:00Z hello\n") + frame(3, "oops")))
	f.Add([]byte("not framed at all"))
	f.Fuzz(func(t *testing.T, data []byte) {
		frames := newFrames(bytes.NewReader(data))
		total := 0
		for {
			payload, err := frames.next()
			if err != nil {
				break
			}
			total += len(payload) + 8
		}
		if total > len(data) {
			t.Errorf("%d bytes out of %d", total, len(data))
		}
	})
}

func TestTail_KeepsTheEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		last := tail{limit: limit}
		var all []byte
		for _, piece := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 30)).Draw(t, "pieces") {
			_, _ = last.Write(piece)
			all = append(all, piece...)
		}
		if want := all[max(0, len(all)-limit):]; !bytes.Equal(want, last.data) {
			t.Fatalf("kept %q, want %q", last.data, want)
		}
	})
}

func TestWithTag_AddsLatest(t *testing.T) {
	for ref, want := range map[string]string{
		"nginx": "nginx:latest", "nginx:1": "nginx:1", "host:5000/a": "host:5000/a:latest", "host:5000/a:2": "host:5000/a:2", "a@sha256:0": "a@sha256:0",
	} {
		if got := withTag(ref); got != want {
			t.Errorf("%s becomes %s, want %s", ref, got, want)
		}
	}
}

func TestSubnets_StayInThePoolAndApart(t *testing.T) {
	pool := netip.MustParsePrefix(DefaultAddressPool)
	seen := map[netip.Prefix]bool{}
	for n := range 1024 {
		s := nthSubnet(pool, n)
		if !pool.Overlaps(s) || seen[s] || s != s.Masked() {
			t.Fatalf("subnet %d is %s", n, s)
		}
		seen[s] = true
	}
	if p, ok := routePrefix(strings.Fields("eth0 00001FAC 00000000 0001 0 0 0 0000FFFF 0 0 0")); !ok || p.String() != "172.31.0.0/16" {
		t.Errorf("route %v %v", p, ok)
	}
	if _, ok := routePrefix(strings.Fields("eth0 00000000 0101A8C0 0003 0 0 0 00000000 0 0 0")); ok {
		t.Error("the default route is no obstacle")
	}
}
