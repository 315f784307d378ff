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

// engine looks at the Docker Engine. It only reads.
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

// appContainer is a container of a namespace.
type appContainer struct {
	ID      string `json:"Id"`
	ImageID string
	State   string
	Labels  map[string]string
}

// appImage is an image of a namespace.
type appImage struct {
	ID       string `json:"Id"`
	RepoTags []string
}

func ofNamespace(namespace string) string {
	return "filters=" + url.QueryEscape(`{"label":["hostmanager=`+namespace+`"]}`)
}

func (e engine) containers(ctx context.Context, namespace string) (list []appContainer, err error) {
	err = e.get(ctx, "/containers/json?all=1&"+ofNamespace(namespace), &list)
	return list, err
}

func (e engine) images(ctx context.Context, namespace string) (list []appImage, err error) {
	err = e.get(ctx, "/images/json?"+ofNamespace(namespace), &list)
	return list, err
}
