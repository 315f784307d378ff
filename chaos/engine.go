package main

import (
	"context"
	"net/url"

	"hostmanager/internal/engineview"
)

// engine looks at the Docker Engine. It only reads.
type engine struct{ engineview.Engine }

func newEngine() engine { return engine{engineview.Open()} }

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
	err = e.Get(ctx, "/containers/json?all=1&"+ofNamespace(namespace), &list)
	return list, err
}

func (e engine) images(ctx context.Context, namespace string) (list []appImage, err error) {
	err = e.Get(ctx, "/images/json?"+ofNamespace(namespace), &list)
	return list, err
}
