package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// environment is a running `hmctl dev`, driven from outside as an operator would.
type environment struct {
	options
	cmd       *exec.Cmd
	ended     chan error
	Endpoint  string `json:"endpoint"`
	ID        string `json:"environment"`
	Bucket    string `json:"bucket"`
	Key       string `json:"signing_key"`
	Instances []struct {
		ID        string `json:"id"`
		URL       string `json:"url"`
		Root      string `json:"root"`
		Namespace string `json:"docker_namespace"`
	} `json:"instances"`
}

// startEnvironment runs hmctl dev and returns when it says that the application serves on every instance.
func startEnvironment(ctx context.Context, o options, root, app string, instances int) (*environment, error) {
	cmd := exec.Command(filepath.Join(o.Bin, "hmctl"), "dev", app, "--json", "--instances", fmt.Sprint(instances), "--root", root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches the demo first, which then stops it in order
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start hmctl dev: %w", err)
	}
	e := &environment{options: o, cmd: cmd, ended: make(chan error, 1)}
	ready := make(chan error, 1)
	go func() {
		ready <- e.follow(out)
		_, _ = io.Copy(io.Discard, out)
		e.ended <- cmd.Wait()
	}()
	select {
	case err = <-ready:
	case <-time.After(readyIn):
		err = fmt.Errorf("hmctl dev was not ready in %v", readyIn)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, e.stop())
	}
	return e, nil
}

// follow prints what hmctl dev says until it is ready.
func (e *environment) follow(out io.Reader) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Type, Severity, Message string }
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("hmctl dev printed %q: %w", lines.Text(), err)
		}
		switch line.Type {
		case "ready":
			return json.Unmarshal(lines.Bytes(), e)
		default:
			if line.Message != "" {
				fmt.Fprintf(e.Out, "%s: %s\n", strings.ToUpper(line.Severity), line.Message)
			}
		}
	}
	return errors.New("hmctl dev ended before it was ready")
}

// stop ends hmctl dev, which removes what it made.
func (e *environment) stop() error {
	_ = e.cmd.Process.Signal(os.Interrupt)
	select {
	case err := <-e.ended:
		if err != nil {
			return fmt.Errorf("hmctl dev: %w", err)
		}
		return nil
	case <-time.After(stopIn):
		_ = syscall.Kill(-e.cmd.Process.Pid, syscall.SIGKILL)
		return fmt.Errorf("hmctl dev did not stop in %v", stopIn)
	}
}

// hmctl runs a verb against the environment, prints what it prints, and returns that with its exit status.
func (e *environment) hmctl(ctx context.Context, quiet bool, args ...string) (string, int, error) {
	args = append(args, "--environment", e.ID, "--bucket", e.Bucket)
	cmd := exec.CommandContext(ctx, filepath.Join(e.Bin, "hmctl"), args...)
	cmd.Env = append(os.Environ(), "AWS_ENDPOINT_URL="+e.Endpoint, "AWS_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local", "HMCTL_SIGNING_KEY="+e.Key)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, e.Out), io.MultiWriter(&out, e.Out)
	if quiet {
		cmd.Stdout, cmd.Stderr = &out, &out
	} else {
		fmt.Fprintln(e.Out, "$ hmctl", strings.Join(args, " "))
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return out.String(), exit.ExitCode(), nil
	}
	return out.String(), 0, err
}

func (e *environment) succeeds(ctx context.Context, args ...string) error {
	_, status, err := e.hmctl(ctx, false, args...)
	if err == nil && status != 0 {
		err = fmt.Errorf("hmctl %s ended with status %d", args[0], status)
	}
	return err
}

func (e *environment) fails(ctx context.Context, sentence string, args ...string) error {
	out, status, err := e.hmctl(ctx, false, args...)
	switch {
	case err != nil:
		return err
	case status != 1:
		return fmt.Errorf("hmctl %s ended with status %d, want 1", args[0], status)
	case !strings.Contains(out, sentence):
		return fmt.Errorf("hmctl %s did not say %q", args[0], sentence)
	}
	return nil
}

// current returns the serial of the environment's desired state.
func (e *environment) current(ctx context.Context) (int64, error) {
	out, status, err := e.hmctl(ctx, true, "status", "--json")
	if err != nil || status != 0 {
		return 0, fmt.Errorf("hmctl status ended with status %d: %s %w", status, out, err)
	}
	for line := range strings.Lines(out) {
		var s struct {
			Type    string
			Current struct{ Serial int64 }
		}
		if json.Unmarshal([]byte(line), &s) == nil && s.Current.Serial > 0 {
			return s.Current.Serial, nil
		}
	}
	return 0, fmt.Errorf("hmctl status names no current version: %s", out)
}

var client = &http.Client{Timeout: 10 * time.Second}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", res.Status)
	}
	return string(body), err
}
