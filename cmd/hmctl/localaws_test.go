package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"testing"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/internal/cli"
)

func TestLocalaws_ServesUntilInterrupted(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"} {
		t.Setenv(name, "") // restored at the end: the verb sets its own
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, w := io.Pipe()
	status := make(chan int, 1)
	go func() {
		status <- cli.Run(ctx, newRoot(), []string{"localaws", "--addr", "127.0.0.1:0", "--bucket", "bucket", "--json"}, cli.Streams{Out: w, Err: io.Discard})
		_ = w.Close()
	}()
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var ready struct{ Type, Endpoint, Bucket string }
	if err := json.Unmarshal(line, &ready); err != nil || ready.Type != "ready" || ready.Bucket != "bucket" {
		t.Fatalf("printed %s: %v", line, err)
	}
	c, err := objects.New(ctx, objects.Options{Region: localaws.DefaultRegion, Endpoint: ready.Endpoint})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Put(ctx, "bucket", "k", []byte("x"), objects.Condition{IfNoneMatch: true}); err != nil {
		t.Error(err)
	}
	cancel()
	if got := <-status; got != 0 {
		t.Errorf("exit status %d", got)
	}
}
