package docker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"hostmanager/platform/docker"
)

func TestScanDockerfile_FindsImagesAndPorts(t *testing.T) {
	tests := []struct {
		name, text string
		images     string // separated by blanks
		ports      string
	}{
		{"plain", "FROM nginx:1.27\nEXPOSE 80\n", "nginx:1.27", "80"},
		{"lower case, blanks, tabs", "\t from   nginx\n  expose\t80", "nginx", "80"},
		{"windows line ends and byte order mark", "\xef\xbb\xbfFROM nginx\r\nEXPOSE 80\r\n", "nginx", "80"},
		{"scratch needs no pull", "FROM scratch\nEXPOSE 8080\n", "", "8080"},
		{"stage names are no images", "FROM golang:1.26 AS build\nFROM build AS test\nFROM scratch\nCOPY --from=build /a /a\nEXPOSE 1", "golang:1.26", "1"},
		{"stage names in any case", "FROM golang as Build\nFROM BUILD\nEXPOSE 1", "golang", "1"},
		{"a stage named like a later image", "FROM alpine\nFROM nginx AS alpine\nFROM alpine\nEXPOSE 1", "alpine nginx", "1"},
		{"platform flag", "FROM --platform=$BUILDPLATFORM golang AS b\nFROM --platform=linux/amd64 alpine\nEXPOSE 1", "golang alpine", "1"},
		{"ARG before FROM", "ARG V=1.2\nARG IMG=nginx:${V}\nFROM ${IMG}\nEXPOSE 80", "nginx:1.2", "80"},
		{"ARG without a default", "ARG V\nFROM nginx:${V:-9}\nEXPOSE 80", "nginx:9", "80"},
		{"unknown base is the Engine's to judge", "FROM $NOPE\nEXPOSE 80", "", "80"},
		{"quoted ARG", "ARG V=\"1.2\" W='x y'\nFROM nginx:$V\nEXPOSE 80", "nginx:1.2", "80"},
		{"alternative value", "ARG DEBUG=1\nFROM nginx${DEBUG:+-debug}\nEXPOSE 80", "nginx-debug", "80"},
		{"COPY --from an image", "FROM scratch\nCOPY --from=busybox:1 --chown=1:1 /bin/sh /\nEXPOSE 1", "busybox:1", "1"},
		{"COPY --from a number", "FROM golang\nFROM scratch\nCOPY --from=0 /a /\nEXPOSE 1", "golang", "1"},
		{"RUN --mount from an image", "FROM alpine\nRUN --mount=type=bind,from=tools:2,target=/t make\nEXPOSE 1", "alpine tools:2", "1"},
		{"EXPOSE from ARG", "FROM a\nARG P=9000\nEXPOSE $P", "a", "9000"},
		{"EXPOSE from a global ARG", "ARG P=9000\nFROM a\nARG P\nEXPOSE ${P}", "a", "9000"},
		{"a global ARG not declared in the stage is empty", "ARG P=9000\nFROM a\nEXPOSE ${P}", "a", ""},
		{"EXPOSE from ENV", "FROM a\nENV P=9001 Q=1\nEXPOSE $P/tcp", "a", "9001"},
		{"ENV in the old form", "FROM a\nENV PORTS 9002 9003\nEXPOSE $PORTS", "a", "9002 9003"},
		{"ENV sees what was before its line", "FROM a\nENV A=1\nENV A=2 B=$A\nEXPOSE 80$B", "a", "801"},
		{"ENV before ARG", "FROM a\nENV P=1\nARG P=2\nEXPOSE $P", "a", "1"},
		{"inherited from a stage", "FROM a AS base\nENV P=7000\nEXPOSE 6000\nFROM base\nEXPOSE $P", "a", "6000 7000"},
		{"only the last stage counts", "FROM a\nEXPOSE 1\nFROM b\nEXPOSE 2", "a b", "2"},
		{"several, ranges, protocols", "FROM a\nEXPOSE 53/udp 8080-8090 443/TCP\nEXPOSE 8080", "a", "8080 443"},
		{"no port", "FROM a\nEXPOSE nonsense 0 70000 -1", "a", ""},
		{"comments and continuations", "# FROM x\nFROM a # no comment\nRUN b \\\n# EXPOSE 1\n\n  EXPOSE 2\nEXPOSE \\\n 3\n", "a", "3"},
		{"double backslash is no continuation", "FROM a\nRUN echo \\\\\nEXPOSE 80", "a", "80"},
		{"escape directive", "# escape=`\nFROM a\nRUN dir c:\\\nEXPOSE `\n 80", "a", "80"},
		{"syntax directive is no image", "# syntax=docker/dockerfile:1\nFROM a\nEXPOSE 80", "a", "80"},
		{"escape after a comment is a comment", "# hi\n# escape=`\nFROM a\nEXPOSE \\\n 80", "a", "80"},
		{"here-document", "FROM a\nRUN <<EOF\nEXPOSE 1\nFROM b\nEOF\nEXPOSE 2", "a", "2"},
		{"here-documents, indented, quoted", "FROM a\nCOPY <<-\"A\" <<B /x/\nEXPOSE 1\n\tA\nEXPOSE 2\nB\nEXPOSE 3", "a", "3"},
		{"shift is no here-document", "FROM a\nRUN echo $((1 <<2))\nEXPOSE 80", "a", "80"},
		{"ONBUILD is for others", "FROM a\nONBUILD EXPOSE 1\nEXPOSE 2", "a", "2"},
		{"digest and registry", "FROM reg.example:5000/x/y@sha256:0123\nEXPOSE 1", "reg.example:5000/x/y@sha256:0123", "1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			images, ports, err := docker.ScanDockerfile([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(strings.Fields(tt.images), images, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(strings.Fields(tt.ports), ports, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("ports (-want +got):\n%s", diff)
			}
		})
	}
}

func TestScanDockerfile_WithoutFromFails(t *testing.T) {
	for _, text := range []string{"", "# nothing", "EXPOSE 80", "ARG A=1"} {
		if _, _, err := docker.ScanDockerfile([]byte(text)); err == nil {
			t.Errorf("%q was taken for a Dockerfile", text)
		}
	}
}

// TestScanDockerfile_HostileTextEnds holds the scanner to work that grows with the text and not with its tricks.
func TestScanDockerfile_HostileTextEnds(t *testing.T) {
	tests := map[string]string{
		"doubling":     "FROM a\nENV A=aaaaaaaa\n" + strings.Repeat("ENV A=$A$A\n", 20_000) + "EXPOSE $A",
		"nesting":      "FROM a\nEXPOSE " + strings.Repeat("${A:-", 50_000) + "80" + strings.Repeat("}", 50_000),
		"stages":       strings.Repeat("FROM a AS a\nEXPOSE $X\n", 10_000),
		"documents":    "FROM a\n" + strings.Repeat("RUN <<A <<B <<C <<D\n", 12_000),
		"ports":        "FROM a\nEXPOSE " + strings.Repeat("1 2 3 4 5 6 7 8 ", 15_000),
		"continuation": "FROM a\nRUN x" + strings.Repeat(" \\\n", 80_000),
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, _, _ = docker.ScanDockerfile([]byte(text))
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func FuzzScanDockerfile(f *testing.F) {
	f.Add([]byte("ARG V=1\nFROM --platform=$P a:${V:-2} AS b\nENV A=\"x y\" B=$A\nRUN <<E\nE\nEXPOSE $A 80/tcp 1-2\n"))
	f.Add([]byte("# escape=`\nFROM a`\n AS b\nCOPY --from=c <<-'X' /y\n\tX\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		images, ports, err := docker.ScanDockerfile(text)
		if err != nil && (images != nil || ports != nil) {
			t.Error("an error and a result")
		}
		for _, image := range images {
			if image == "" || image == "scratch" {
				t.Errorf("image %q", image)
			}
		}
		for _, port := range ports {
			if port == "" || len(port) > 5 || port[0] == '0' || strings.Trim(port, "0123456789") != "" {
				t.Errorf("port %q", port)
			}
		}
	})
}
