package main

import (
	"context"
	"encoding/json"
	"net/url"

	"hostmanager/internal/engineview"
)

// engine looks at the Docker Engine to check what the demo claims.
type engine struct{ engineview.Engine }

func newEngine() engine { return engine{engineview.Open()} }

// state returns the state of a container: "running", "exited".
func (e engine) state(ctx context.Context, id string) (string, error) {
	var c struct{ State struct{ Status string } }
	err := e.Get(ctx, "/containers/"+url.PathEscape(id)+"/json", &c)
	return c.State.Status, err
}

// left counts what still carries the label of a namespace.
func (e engine) left(ctx context.Context, namespace string) (n int, err error) {
	filters := url.QueryEscape(`{"label":["hostmanager=` + namespace + `"]}`)
	for _, path := range []string{"/containers/json?all=1&filters=", "/images/json?all=1&filters=", "/networks?filters="} {
		var list []json.RawMessage
		if err := e.Get(ctx, path+filters, &list); err != nil {
			return n, err
		}
		n += len(list)
	}
	return n, nil
}
