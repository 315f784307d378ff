// Package engineview reads the Docker Engine's answers for programs that check from outside what the host manager did to it. A few GETs need no client
// library and no docker command. It changes nothing and knows nothing of what is asked.
package engineview

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 16 << 20

// Engine is a Docker Engine that is only read. Safe for concurrent use.
type Engine struct {
	http *http.Client
	base string
}

// Open returns the Engine that DOCKER_HOST names, or the one at its usual socket. Nothing is asked yet.
func Open() Engine {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = "unix:///var/run/docker.sock"
	}
	scheme, addr, _ := strings.Cut(host, "://")
	if scheme != "unix" {
		return Engine{http.DefaultClient, "http://" + addr}
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", addr)
	}
	return Engine{&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, "http://engine"}
}

// Get decodes the JSON answer to a path of the Engine's API, such as "/containers/json?all=1". An answer other than 200 is an error that holds it.
func (e Engine) Get(ctx context.Context, path string, answer any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base+path, nil)
	if err != nil {
		return err
	}
	res, err := e.http.Do(r)
	if err != nil {
		return fmt.Errorf("ask the Engine: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("ask the Engine: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the Engine answers %s: %s", res.Status, body)
	}
	return json.Unmarshal(body, answer)
}
