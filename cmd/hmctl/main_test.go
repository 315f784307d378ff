package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/fleet/record"
	"hostmanager/fleet/wiretest"
	"hostmanager/internal/cli"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"hmctl": main}) }

func TestVerbs_HaveHelpInTheHouseForm(t *testing.T) {
	verbs := cli.Verbs(newRoot())
	if len(verbs) < 14 {
		t.Errorf("only %d verbs", len(verbs))
	}
	for _, v := range verbs {
		if err := cli.CheckVerb(v); err != nil {
			t.Error(err)
		}
	}
}

// TestScripts runs the built command line against a local SQS and S3 of each script's own. "gone ID" registers an instance that is silent, "unqueue ID" deletes its queue. "instance ID MODE..." adds an instance that speaks the
// wire: ok, fail-build, fail-flip, unhealthy, no-time, silent, stuck (answers only an abort), and second (nothing at the first command, ok from then on).
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup:               setup,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"instance":  addInstance,
			"gone":      addGone,
			"unqueue":   removeQueue,
			"status":    checkStatus,
			"awaitsent": awaitSent,
			"spoil":     spoil,

			"interrupt-twice": interruptTwice,

			"operator-key": writeOperatorKey,
			"unsign":       unsign,
		},
	})
}

// operatorKey signs in the scripts, through HMCTL_SIGNING_KEY.
func operatorKey() signing.Key { return signing.FromSeed([32]byte{'o', 'p', 's'}) }

type roomKey struct{}

// room is what a script's instances run in.
type room struct {
	queues *queue.Client
	store  *objects.Client
	ctx    context.Context
	wg     *sync.WaitGroup
	sent   map[string]chan struct{} // by instance: has something when a command arrived
}

func setup(env *testscript.Env) error {
	server, err := localaws.New(localaws.Options{})
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	for _, kv := range []string{"AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local"} {
		name, value, _ := strings.Cut(kv, "=")
		if err := os.Setenv(name, value); err != nil { // for the clients of this process
			return err
		}
		env.Setenv(name, value)
	}
	env.Setenv("AWS_ENDPOINT_URL", server.URL())
	env.Setenv("AWS_REGION", localaws.DefaultRegion)
	env.Setenv("GORACE", "atexit_sleep_ms=50") // under the race detector every hmctl would otherwise end a second late
	env.Setenv("HMCTL_ENVIRONMENT", "e-script")
	env.Setenv("HMCTL_BUCKET", "bucket")
	ctx, cancel := context.WithCancel(context.Background())
	r := &room{ctx: ctx, wg: &sync.WaitGroup{}, sent: map[string]chan struct{}{}}
	env.Defer(func() { cancel(); r.wg.Wait(); _ = server.Close() })
	if r.queues, err = queue.New(ctx, queue.Options{Region: localaws.DefaultRegion, Endpoint: server.URL()}); err != nil {
		return err
	}
	if r.store, err = objects.New(ctx, objects.Options{Region: localaws.DefaultRegion, Endpoint: server.URL()}); err != nil {
		return err
	}
	env.Values[roomKey{}] = r
	pem, err := operatorKey().EncodePEM()
	if err != nil {
		return err
	}
	env.Setenv("HMCTL_SIGNING_KEY", string(pem))
	return r.store.CreateBucket(ctx, "bucket")
}

func addInstance(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: instance ID ok|fail-build|fail-flip|unhealthy|no-time|silent|second")
	}
	r, ok := ts.Value(roomKey{}).(*room)
	if !ok {
		ts.Fatalf("no room")
	}
	reply, ok := map[string]wiretest.Reply{
		"ok": wiretest.DockerLike("0123456789ab"), "fail-build": wiretest.FailingIn(0, "Failed to build Docker image"),
		"fail-flip": wiretest.FailingIn(1, "Docker container quit"),
		"unhealthy": wiretest.FailingBecause(1, protocol.CauseHealthGate),
		"no-time":   wiretest.FailingBecause(1, protocol.CauseTimeout),
		"second":    onSecond(wiretest.DockerLike("0123456789ab")),
		"stuck":     silent,
		"silent":    silent,
	}[args[1]]
	if !ok {
		ts.Fatalf("unknown mode %s", args[1])
	}
	sent := make(chan struct{}, 100)
	r.sent[args[0]] = sent
	rec, err := record.Open(r.store, "bucket", ts.Getenv("HMCTL_ENVIRONMENT"))
	ts.Check(err)
	i, err := wiretest.New(r.ctx, wiretest.Options{
		ID: args[0], Record: rec, Queues: r.queues, Trusted: signature.NewKeys(operatorKey().Public("ops")),
		Reply: func(i *wiretest.Instance, c protocol.Command, q protocol.Request) ([]string, error) {
			sent <- struct{}{}
			if q.CommandName == protocol.CmdAbort && args[1] != "silent" {
				return undone(i, c, q)
			}
			return reply(i, c, q)
		},
	})
	ts.Check(err)
	r.wg.Go(func() { i.Serve(r.ctx) })
}

func silent(*wiretest.Instance, protocol.Command, protocol.Request) ([]string, error) {
	return nil, nil
}

// addGone adds an instance that was last seen a day ago.
func addGone(ts *testscript.TestScript, _ bool, args []string) {
	r, ok := ts.Value(roomKey{}).(*room)
	if !ok || len(args) != 1 {
		ts.Fatalf("usage: gone ID")
	}
	rec, err := environment.Open(record.Store{Client: r.store, Bucket: "bucket"}, ts.Getenv("HMCTL_ENVIRONMENT"),
		environment.Options{Now: func() time.Time { return time.Now().Add(-24 * time.Hour) }})
	ts.Check(err)
	_, err = wiretest.New(r.ctx, wiretest.Options{ID: args[0], Record: rec, Queues: r.queues})
	ts.Check(err)
}

// undone answers an abort: the desired version serves then.
func undone(i *wiretest.Instance, c protocol.Command, r protocol.Request) ([]string, error) {
	current, m, err := i.Record.CurrentManifest(context.Background())
	if err != nil && !errors.Is(err, environment.ErrNoCurrent) {
		return nil, err
	}
	body, err := i.Encode(c, r, protocol.ResponseEntry{
		Status: protocol.Success, Cause: protocol.CauseAborted, Msg: "stuck no more", Serial: current.Serial, VersionLabel: m.VersionLabel,
	})
	return []string{body}, err
}

// interruptTwice sends what runs in the background SIGINT, and again; by then the first may have ended it.
func interruptTwice(ts *testscript.TestScript, _ bool, _ []string) {
	for _, c := range ts.BackgroundCmds() {
		for range 2 {
			if err := c.Process.Signal(os.Interrupt); !errors.Is(err, os.ErrProcessDone) {
				ts.Check(err)
			}
		}
	}
}

// spoil puts rubbish in the place of an object of the environment's record.
func spoil(ts *testscript.TestScript, _ bool, args []string) {
	r, ok := ts.Value(roomKey{}).(*room)
	if !ok || len(args) != 1 {
		ts.Fatalf("usage: spoil OBJECT")
	}
	_, err := r.store.Put(r.ctx, "bucket", protocol.RuntimePrefix(ts.Getenv("HMCTL_ENVIRONMENT"))+args[0], []byte("rubbish"), objects.Condition{})
	ts.Check(err)
}

// removeQueue deletes an instance's command queue.
func removeQueue(ts *testscript.TestScript, _ bool, args []string) {
	r, ok := ts.Value(roomKey{}).(*room)
	if !ok || len(args) != 1 {
		ts.Fatalf("usage: unqueue ID")
	}
	url, err := r.queues.URL(r.ctx, protocol.CommandQueue(ts.Getenv("HMCTL_ENVIRONMENT"), args[0]))
	ts.Check(err)
	ts.Check(r.queues.DeleteQueue(r.ctx, url))
}

// onSecond loses the first command, as an agent that is killed before it accepts it does.
func onSecond(r wiretest.Reply) wiretest.Reply {
	lost := false
	return func(i *wiretest.Instance, c protocol.Command, q protocol.Request) ([]string, error) {
		if !lost {
			lost = true
			return nil, errors.New("lost")
		}
		return r(i, c, q)
	}
}

// awaitSent waits until a command arrived at an instance.
func awaitSent(ts *testscript.TestScript, _ bool, args []string) {
	r, ok := ts.Value(roomKey{}).(*room)
	if !ok || len(args) != 1 {
		ts.Fatalf("usage: awaitsent ID")
	}
	<-r.sent[args[0]]
}

// checkStatus runs hmctl and holds it to an exit status: status N VERB ARGS...
func checkStatus(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("hmctl", args[1:]...)
	got := 0
	if err != nil {
		if _, err := fmt.Sscanf(err.Error(), "exit status %d", &got); err != nil {
			ts.Fatalf("hmctl did not exit: %v", err)
		}
	}
	if got != want {
		ts.Fatalf("hmctl %s ended with status %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

func TestFolderOf_IsTheFolderWhoseCommitCounts(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "x.zip")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if folderOf(dir) != dir || folderOf(file) != dir {
		t.Errorf("got %s and %s", folderOf(dir), folderOf(file))
	}
}

func TestAge_IsInWholeSeconds(t *testing.T) {
	at := time.Now()
	if got := age(at, at.Add(-1500*time.Millisecond)); got != 2*time.Second {
		t.Errorf("got %s", got)
	}
}
