package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"hostmanager/aws/localaws"
	"hostmanager/internal/cli"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hostmanager": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			server, err := localaws.New(localaws.Options{})
			if err != nil {
				return err
			}
			if err := server.Start(); err != nil {
				return err
			}
			e.Defer(func() { _ = server.Close() })
			for k, v := range map[string]string{
				"AWS_ENDPOINT_URL": server.URL(), "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
				"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
			} {
				e.Setenv(k, v)
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"await": await, "exitstatus": exitStatus},
	})
}

// await runs a program again and again until its output holds a text: await TEXT PROGRAM ARGS...
func await(ts *testscript.TestScript, _ bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), awaitLimit)
	defer cancel()
	for ctx.Err() == nil {
		if outputHolds(ctx, ts, args[0], args[1:]) {
			return
		}
	}
	ts.Fatalf("waited in vain for %q", args[0])
}

func TestVerbs_HaveTheHouseForm(t *testing.T) {
	for _, v := range cli.Verbs(newRoot()) {
		if err := cli.CheckVerb(v); err != nil {
			t.Error(err)
		}
	}
}

// exitStatus runs a program that must end with a status: exitstatus N PROGRAM ARGS...
func exitStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		got = statusOf(err)
	}
	if strconv.Itoa(got) != args[0] {
		ts.Fatalf("exit status %d, want %s", got, args[0])
	}
}

func statusOf(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}
