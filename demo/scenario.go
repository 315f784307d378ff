package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hostmanager/internal/steadystream"
)

type options struct {
	Bin  string
	Out  io.Writer
	Keep bool
}

// scenario is one run of the demo.
type scenario struct {
	options
	dir  string // everything of this run lies here
	env  *environment
	apps *apps
}

// run plays the scenario. A step that does not hold ends it with an error; what was started is stopped and removed all the same.
func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("", "hostmanager-demo-")
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(o.Bin)
	if err != nil {
		return err
	}
	o.Bin = bin
	s := &scenario{options: o, dir: dir, apps: &apps{dir: filepath.Join(dir, "apps")}}
	defer func() {
		if o.Keep {
			fmt.Fprintln(o.Out, "\nkept:", dir)
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	first, err := s.apps.hello(ctx, "v1")
	if err != nil {
		return err
	}
	s.title("two instances, hello v1")
	if s.env, err = startEnvironment(ctx, s.options, filepath.Join(dir, "dev"), first, 2); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, s.env.stop())
		if err == nil {
			err = s.nothingLeft()
		}
	}()
	return s.steps(ctx)
}

func (s *scenario) steps(ctx context.Context) error {
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"the application's answer through each proxy", func(ctx context.Context) error { return s.answers(ctx, "v1", "Hello") }},
		{"hello v2 under a steady stream", s.flip},
		{"setenv GREETING=ahoy under a steady stream", s.setenv},
		{"an error in the Dockerfile", s.breakWith("dockerfile-error", "Failed to build Docker image aws_beanstalk/staging-app")},
		{"a container that exits at once", s.breakWith("exits-at-once", "Docker container quit unexpectedly after launch")},
		{"a health check that never passes", s.neverHealthy},
		{"a build that fails on one of the two", s.breakOne},
	} {
		s.title(step.title)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	s.title("everything held; cleaning up")
	return nil
}

// nothingLeft checks that the environment took everything with it: whatever it made carries the label of one of its namespaces.
func (s *scenario) nothingLeft() error {
	for _, i := range s.env.Instances {
		n, err := newEngine().left(context.Background(), i.Namespace)
		if err != nil || n > 0 {
			return fmt.Errorf("%d containers, images and networks of %s are left (%w)", n, i.ID, err)
		}
	}
	fmt.Fprintln(s.Out, "no container, image or network of it is left")
	return nil
}

func (s *scenario) title(text string) { fmt.Fprintf(s.Out, "\n== %s\n", text) }

// answers checks what each instance serves.
func (s *scenario) answers(ctx context.Context, version, greeting string) error {
	for _, i := range s.env.Instances {
		body, err := get(ctx, i.URL)
		if err != nil {
			return fmt.Errorf("ask %s: %w", i.ID, err)
		}
		fmt.Fprintf(s.Out, "%s  %s  %s\n", i.ID, i.URL, strings.TrimSpace(body))
		if !strings.Contains(body, version) || !strings.Contains(body, greeting) {
			return fmt.Errorf("%s answers %q, want version %s and greeting %s", i.ID, body, version, greeting)
		}
	}
	return nil
}

// underLoad runs do while every instance gets a steady stream of requests, none of which may fail.
func (s *scenario) underLoad(ctx context.Context, do func() error) error {
	var streams []*steadystream.Stream
	for _, i := range s.env.Instances {
		st, err := steadystream.Start(ctx, steadystream.Options{
			URL: i.URL + "/", PostURL: i.URL + "/echo", PostEvery: 2, BodySize: 20_000, Concurrency: 4, Rate: 400, Check: whole,
		})
		if err != nil {
			return err
		}
		streams = append(streams, st)
	}
	err := do()
	for n, st := range streams {
		r := st.Stop()
		fmt.Fprintf(s.Out, "%s  steady stream: %d requests, %d failed\n", s.env.Instances[n].ID, r.Requests, r.Failed)
		if r.Failed > 0 || r.Requests == 0 {
			err = errors.Join(err, fmt.Errorf("the stream to %s lost requests: %v", s.env.Instances[n].ID, r))
		}
	}
	return err
}

// whole judges an answer of hello: a POST to /echo gets its own body back.
func whole(a steadystream.Answer) error {
	switch {
	case a.Status != http.StatusOK:
		return fmt.Errorf("status %d", a.Status)
	case a.Method == http.MethodPost && !bytes.Equal(a.Body, a.Sent):
		return fmt.Errorf("%d bytes came back, %d were sent, or they differ", len(a.Body), len(a.Sent))
	}
	return nil
}

func (s *scenario) flip(ctx context.Context) error {
	app, err := s.apps.hello(ctx, "v2")
	if err != nil {
		return err
	}
	if err := s.underLoad(ctx, func() error { return s.env.succeeds(ctx, "deploy", app) }); err != nil {
		return err
	}
	return s.answers(ctx, "v2", "Hello")
}

func (s *scenario) setenv(ctx context.Context) error {
	if err := s.underLoad(ctx, func() error { return s.env.succeeds(ctx, "setenv", "GREETING=ahoy") }); err != nil {
		return err
	}
	return s.answers(ctx, "v2", "ahoy")
}

func (s *scenario) breakWith(variant, sentence string) func(context.Context) error {
	return func(ctx context.Context) error {
		app, err := s.apps.broken(ctx, variant)
		if err != nil {
			return err
		}
		if err := s.staysUp(ctx, sentence, "deploy", app); err != nil {
			return err
		}
		return s.evidence(ctx, variant == "exits-at-once")
	}
}

func (s *scenario) neverHealthy(ctx context.Context) error {
	app, err := s.apps.broken(ctx, "never-healthy")
	if err != nil {
		return err
	}
	if err := s.staysUp(ctx, "did not become healthy within 3s", "deploy", app,
		"--option", "aws:elasticbeanstalk:application:Application Healthcheck URL=/health",
		"--option", "aws:elasticbeanstalk:hostmanager:HealthGateTimeout=3"); err != nil {
		return err
	}
	return s.evidence(ctx, true)
}

// breakOne gives the first instance, and not the second, the hook that makes a file the build needs.
func (s *scenario) breakOne(ctx context.Context) error {
	hook := filepath.Join(s.env.Instances[0].Root, "opt/elasticbeanstalk/hooks/appdeploy/pre/02instance-file")
	if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
		return err
	}
	if err := copyFile("testdata/hooks/appdeploy/pre/02instance-file", hook); err != nil {
		return err
	}
	if err := os.Chmod(hook, 0o755); err != nil {
		return err
	}
	app, err := s.apps.broken(ctx, "fails-on-one")
	if err != nil {
		return err
	}
	if err := s.staysUp(ctx, "Summary: [Successful: 1, Failed: 1].", "deploy", app); err != nil {
		return err
	}
	return s.evidence(ctx, false)
}

// staysUp runs an operation that must fail with the sentence while both instances go on serving v2 and current does not move.
func (s *scenario) staysUp(ctx context.Context, sentence string, args ...string) error {
	before, err := s.env.current(ctx)
	if err != nil {
		return err
	}
	if err := s.underLoad(ctx, func() error { return s.env.fails(ctx, sentence, args...) }); err != nil {
		return err
	}
	if err := s.answers(ctx, "v2", "ahoy"); err != nil {
		return err
	}
	after, err := s.env.current(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.Out, "current: serial %d before, serial %d after\n", before, after)
	if before != after {
		return errors.New("current moved to a version that failed")
	}
	return nil
}

// evidence checks what the failed deployment left for its reader: the build log everywhere, and where a container was started, that container,
// stopped, and its tree.
func (s *scenario) evidence(ctx context.Context, started bool) error {
	for _, i := range s.env.Instances {
		kept := filepath.Join(i.Root, "var/lib/hostmanager/agent/evidence")
		logs, err := filepath.Glob(filepath.Join(kept, "*.build.log"))
		if err != nil || len(logs) != 1 {
			return fmt.Errorf("%s keeps %d build logs, want one (%w)", i.ID, len(logs), err)
		}
		fmt.Fprintf(s.Out, "%s  evidence: %s\n", i.ID, strings.TrimPrefix(logs[0], i.Root))
		tree := filepath.Join(i.Root, "var/app/releases", strings.TrimSuffix(filepath.Base(logs[0]), ".build.log"))
		if _, err := os.Stat(tree); err != nil {
			return fmt.Errorf("the failed version's tree is gone: %w", err)
		}
		if !started {
			continue
		}
		id, err := os.ReadFile(filepath.Join(kept, "container-id"))
		if err != nil {
			return fmt.Errorf("%s keeps no failed container: %w", i.ID, err)
		}
		state, err := newEngine().state(ctx, strings.TrimSpace(string(id)))
		if err != nil || state != "exited" {
			return fmt.Errorf("the failed container %s is %q, want exited (%w)", id, state, err)
		}
		fmt.Fprintf(s.Out, "%s  evidence: container %s, exited\n", i.ID, strings.TrimSpace(string(id)))
	}
	return nil
}

const (
	readyIn = 3 * time.Minute
	stopIn  = 3 * time.Minute // of hmctl dev, with its purge
)
