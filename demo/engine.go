package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// engine looks at the Docker Engine to check what the demo claims. Two GETs need no client library and no docker command.
type engine struct {
	http *http.Client
	base string
}

// newEngine reaches the Engine that DOCKER_HOST names, as the platform does.
func newEngine() engine {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = "unix:///var/run/docker.sock"
	}
	scheme, addr, _ := strings.Cut(host, "://")
	if scheme != "unix" {
		return engine{http.DefaultClient, "http://" + addr}
	}
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", addr)
	}
	return engine{&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}, "http://engine"}
}

func (e engine) get(ctx context.Context, path string, answer any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base+path, nil)
	if err != nil {
		return err
	}
	res, err := e.http.Do(r)
	if err != nil {
		return fmt.Errorf("ask the Engine: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("ask the Engine: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the Engine answers %s: %s", res.Status, body)
	}
	return json.Unmarshal(body, answer)
}

// state returns the state of a container: "running", "exited".
func (e engine) state(ctx context.Context, id string) (string, error) {
	var c struct{ State struct{ Status string } }
	err := e.get(ctx, "/containers/"+url.PathEscape(id)+"/json", &c)
	return c.State.Status, err
}

// left counts what still carries the label of a namespace.
func (e engine) left(ctx context.Context, namespace string) (n int, err error) {
	filters := url.QueryEscape(`{"label":["hostmanager=` + namespace + `"]}`)
	for _, path := range []string{"/containers/json?all=1&filters=", "/images/json?all=1&filters=", "/networks?filters="} {
		var list []json.RawMessage
		if err := e.get(ctx, path+filters, &list); err != nil {
			return n, err
		}
		n += len(list)
	}
	return n, nil
}
