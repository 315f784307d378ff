package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// The reasons for which a Dockerrun.aws.json is refused.
var (
	errDockerrunSyntax  = errors.New("unusable Dockerrun.aws.json")
	errDockerrunVersion = errors.New("unsupported version of Dockerrun.aws.json")
	errDockerrunLogin   = errors.New("registry credentials (Authentication in Dockerrun.aws.json) are not supported yet: " +
		"use an image that needs none, or a Dockerfile whose base images do not")
)

// maxDockerrun bounds the Dockerrun.aws.json that is read.
const maxDockerrun = 256 << 10

// dockerrun is a Dockerrun.aws.json of version 1. The zero value stands for none, but for update.
type dockerrun struct {
	image      string
	update     bool
	port       string // the first container port, empty where none is given
	binds      []string
	logging    string // the container's log folder
	command    []string
	entrypoint []string
}

// text takes what people write where a string is meant: "80", 80, true.
type text string

func (t *text) UnmarshalJSON(b []byte) error {
	var s string
	if len(b) > 0 && b[0] == '"' {
		err := json.Unmarshal(b, &s)
		*t = text(s)
		return err
	}
	if string(b) == "null" {
		return nil
	}
	if len(b) == 0 || b[0] == '{' || b[0] == '[' {
		return errors.New("an object or a list stands where a text is wanted")
	}
	*t = text(b)
	return nil
}

type wireDockerrun struct {
	Version        text            `json:"AWSEBDockerrunVersion"`
	Authentication json.RawMessage `json:"Authentication"`
	Image          struct {
		Name   text `json:"Name"`
		Update text `json:"Update"`
	} `json:"Image"`
	Ports []struct {
		ContainerPort text `json:"ContainerPort"`
	} `json:"Ports"`
	Volumes []struct {
		HostDirectory      text `json:"HostDirectory"`
		ContainerDirectory text `json:"ContainerDirectory"`
	} `json:"Volumes"`
	Logging    text `json:"Logging"`
	Command    text `json:"Command"`
	Entrypoint text `json:"Entrypoint"`
}

// parseDockerrun reads a Dockerrun.aws.json. Errors wrap one of the sentinels above, or say which member is wrong.
func parseDockerrun(data []byte) (dockerrun, error) {
	var w wireDockerrun
	if err := json.Unmarshal(data, &w); err != nil {
		return dockerrun{}, fmt.Errorf("%w: %w", errDockerrunSyntax, err)
	}
	if w.Version != "1" {
		return dockerrun{}, fmt.Errorf("%w: AWSEBDockerrunVersion is %.20q, want \"1\"", errDockerrunVersion, string(w.Version))
	}
	if len(w.Authentication) > 0 && string(w.Authentication) != "null" {
		return dockerrun{}, errDockerrunLogin
	}
	d := dockerrun{
		image:   strings.TrimSpace(string(w.Image.Name)),
		update:  !strings.EqualFold(string(w.Image.Update), "false"),
		logging: string(w.Logging),
	}
	return d, d.take(w)
}

func (d *dockerrun) take(w wireDockerrun) error {
	if strings.ContainsAny(d.image, " \t\r\n") {
		return fmt.Errorf("%w: Image.Name %.80q is no image reference", errDockerrunSyntax, d.image)
	}
	if len(w.Ports) > 0 {
		port, ok := tcpPort(string(w.Ports[0].ContainerPort))
		if !ok {
			return fmt.Errorf("%w: ContainerPort %.20q is no port", errDockerrunSyntax, string(w.Ports[0].ContainerPort))
		}
		d.port = port
	}
	for _, v := range w.Volumes {
		bind, err := bindMount(string(v.HostDirectory), string(v.ContainerDirectory))
		if err != nil {
			return err
		}
		d.binds = append(d.binds, bind)
	}
	if d.logging != "" && (!path.IsAbs(d.logging) || strings.Contains(d.logging, ":")) {
		return fmt.Errorf("%w: Logging %.80q is no absolute path", errDockerrunSyntax, d.logging)
	}
	var errCommand, errEntrypoint error
	d.command, errCommand = shellWords(string(w.Command))
	d.entrypoint, errEntrypoint = shellWords(string(w.Entrypoint))
	return errors.Join(errCommand, errEntrypoint)
}

func bindMount(host, container string) (string, error) {
	wrong := func(p string) bool { return !path.IsAbs(p) || strings.ContainsAny(p, ":\x00") }
	if wrong(host) || wrong(container) {
		return "", fmt.Errorf("%w: a volume needs absolute paths as HostDirectory and ContainerDirectory, got %.80q and %.80q", errDockerrunSyntax, host, container)
	}
	return host + ":" + container, nil
}

// shellWords splits a command line as a shell does, without substituting anything.
func shellWords(line string) ([]string, error) {
	if openQuote(line) {
		return nil, fmt.Errorf("%w: a quote is not closed in %.80q", errDockerrunSyntax, line)
	}
	var out []string
	for _, word := range fields(strings.Join(strings.Fields(line), " "), '\\') {
		out = append(out, unquote(word))
	}
	return slices.Clip(out), nil
}

func openQuote(line string) bool {
	var quote byte
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quote != '\'':
			i++
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		}
	}
	return quote != 0
}

func unquote(word string) string {
	var b strings.Builder
	var quote byte
	for i := 0; i < len(word); i++ {
		c := word[i]
		switch {
		case c == '\\' && quote != '\'' && i+1 < len(word):
			i++
			b.WriteByte(word[i])
		case c == quote:
			quote = 0
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// dockerfileFor is the Dockerfile of a bundle that brings none: the image as it is.
func (d dockerrun) dockerfileFor() []byte {
	out := "FROM " + d.image + "\n"
	if d.port != "" {
		out += "EXPOSE " + d.port + "\n"
	}
	return []byte(out)
}
