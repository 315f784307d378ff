// Package wiretest is the far end of the wire for tests: an instance that registers, receives commands from its queue and answers them as it is
// told, with no agent and no Docker. Like an agent it answers a command it has seen with the same result again. Only tests import it.
package wiretest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"hostmanager/aws/queue"
	"hostmanager/environment"
	"hostmanager/internal/signature"
	"hostmanager/protocol"
)

// Reply is what an instance makes of one command: the messages it sends, in order.
type Reply func(i *Instance, c protocol.Command, r protocol.Request) ([]string, error)

// Options of an instance.
type Options struct {
	ID     string
	Queue  string // URL; empty: the default queue, made when missing, and the instance registers
	Record *environment.Record
	Queues *queue.Client
	Reply  Reply
	// Trusted are the keys that commands must be signed with, and then name the environment and this instance; empty: any command is taken.
	Trusted signature.Keys
	Failed  func(error) // is told what went wrong on the wire; may be called from the instance's goroutine
}

// Instance is one instance.
type Instance struct {
	Options

	mu      sync.Mutex
	got     []protocol.Request
	answers map[string][]string // by identity of the command
}

// New makes an instance. Where it makes its own queue it also registers.
func New(ctx context.Context, o Options) (*Instance, error) {
	i := &Instance{Options: o, answers: map[string][]string{}}
	if o.Queue != "" {
		return i, nil
	}
	url, err := o.Queues.Create(ctx, protocol.CommandQueue(o.Record.EnvironmentID(), o.ID), nil)
	if err != nil {
		return nil, err
	}
	i.Queue = url
	return i, i.Register(ctx, environment.Instance{})
}

// Register writes the instance's registration with what entry says of its version.
func (i *Instance) Register(ctx context.Context, entry environment.Instance) error {
	entry.InstanceID, entry.Queue, entry.State = i.ID, i.Queue, "ready"
	return i.Record.Register(ctx, entry)
}

// Serve answers commands until ctx ends.
func (i *Instance) Serve(ctx context.Context) {
	for ctx.Err() == nil {
		messages, err := i.Queues.Receive(ctx, i.Queue, 1, queue.MaxWait)
		if err != nil {
			continue
		}
		for _, m := range messages {
			if err := i.handle(ctx, m); err != nil && ctx.Err() == nil && i.Failed != nil {
				i.Failed(fmt.Errorf("instance %s: %w", i.ID, err))
			}
		}
	}
}

func (i *Instance) handle(ctx context.Context, m queue.Message) error {
	c, err := protocol.DecodeCommand([]byte(m.Body))
	if err != nil {
		return err
	}
	if err := i.checkOrder(c); err != nil {
		return err
	}
	answers, err := i.answer(c)
	if err != nil {
		return err
	}
	for _, body := range answers {
		if err := i.Queues.Send(ctx, c.ResultQueue, body); err != nil && !errors.Is(err, queue.ErrQueueMissing) {
			return err
		}
	}
	return i.Queues.Delete(ctx, i.Queue, m.Receipt)
}

// checkOrder holds a command to what agents hold it to. A wrong one is an error of the test, not of the command.
func (i *Instance) checkOrder(c protocol.Command) error {
	if i.Trusted.Empty() {
		return nil
	}
	if err := i.Trusted.Verify(c.Signature.KeyID, c.SigningBytes(), c.Signature.Value); err != nil {
		return fmt.Errorf("command %s: %w", c.InvocationID, err)
	}
	r, err := protocol.DecodeRequest(c.Data)
	if err == nil && (r.EnvironmentID != i.Record.EnvironmentID() || len(r.InstanceIDs) == 0) {
		err = fmt.Errorf("command %s is for environment %q, instances %q", c.InvocationID, r.EnvironmentID, r.InstanceIDs)
	}
	return err
}

func (i *Instance) answer(c protocol.Command) ([]string, error) {
	i.mu.Lock()
	known, again := i.answers[c.Identity()]
	i.mu.Unlock()
	if again {
		return known, nil
	}
	r, err := protocol.DecodeRequest(c.Data)
	if err != nil {
		return nil, err
	}
	answers, err := i.Reply(i, c, r)
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, r)
	i.answers[c.Identity()] = answers
	return answers, nil
}

// Got returns the requests the instance carried out, in order.
func (i *Instance) Got() []protocol.Request {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]protocol.Request(nil), i.got...)
}

// Manifest reads the manifest a request names; nil where it names none.
func (i *Instance) Manifest(ctx context.Context, r protocol.Request) (*protocol.Manifest, error) {
	if !protocol.ValidManifestName(r.Data) {
		return nil, nil
	}
	m, _, err := i.Record.GetManifest(ctx, r.Data, r.DataSHA256)
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// Result encodes the answer to a processed command, with the deployment its manifest is.
func (i *Instance) Result(c protocol.Command, r protocol.Request, e protocol.ResponseEntry) (string, error) {
	m, err := i.Manifest(context.Background(), r)
	if err != nil {
		return "", err
	}
	if e.StageNum = r.StageNum; m != nil {
		e.DeploymentID, e.VersionLabel, e.Serial = m.DeploymentID, m.VersionLabel, m.Serial
	}
	return i.Encode(c, r, e)
}

// Encode encodes an answer as it stands.
func (i *Instance) Encode(c protocol.Command, r protocol.Request, e protocol.ResponseEntry) (string, error) {
	data, err := protocol.NewResponse(e).Encode()
	if err != nil {
		return "", err
	}
	stage := "all"
	if r.StageNum != nil {
		stage = fmt.Sprint(*r.StageNum)
	}
	b, err := json.Marshal(protocol.Result{
		DispatcherID: c.DispatcherID, InvocationID: c.InvocationID, CommandName: c.CommandName, ListenerID: i.ID,
		Status: protocol.Success, ResultID: i.ID + "/" + c.InvocationID + "/" + stage, Data: data,
	})
	return string(b), err
}

// Success is a good answer with TRACE events.
func Success(events ...string) protocol.ResponseEntry {
	e := protocol.ResponseEntry{Status: protocol.Success}
	for n, msg := range events {
		e.Events = append(e.Events, protocol.Event{Msg: msg, Severity: protocol.Trace, Time: time.UnixMilli(1_500_000_000_000 + int64(n))})
	}
	return e
}

// Failure is a bad answer.
func Failure(msg string) protocol.ResponseEntry {
	return protocol.ResponseEntry{Status: protocol.Failure, ReturnCode: 1, Msg: msg}
}

// DockerLike answers as the Docker platform does.
func DockerLike(container string) Reply {
	return func(i *Instance, c protocol.Command, r protocol.Request) ([]string, error) {
		e := Success("Successfully built aws_beanstalk/staging-app")
		if r.StageNum != nil && *r.StageNum == 1 {
			e = Success("Docker container " + container + " is running aws_beanstalk/current-app.")
		}
		return one(i.Result(c, r, e))
	}
}

// FailingIn answers FAILURE in one stage.
func FailingIn(stage int, msg string) Reply {
	return func(i *Instance, c protocol.Command, r protocol.Request) ([]string, error) {
		e := Success()
		if r.StageNum != nil && *r.StageNum == stage {
			e = Failure(msg)
		}
		return one(i.Result(c, r, e))
	}
}

// FailingBecause answers FAILURE with a cause in one stage.
func FailingBecause(stage int, cause string) Reply {
	return func(i *Instance, c protocol.Command, r protocol.Request) ([]string, error) {
		e := Success()
		if r.StageNum != nil && *r.StageNum == stage {
			e = Failure("failed because of " + cause)
			e.Cause = cause
		}
		return one(i.Result(c, r, e))
	}
}

func one(body string, err error) ([]string, error) { return []string{body}, err }
