package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"hostmanager/internal/layout"
	"hostmanager/internal/signature"
	"hostmanager/internal/unixsock"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// Status is what GET /v1/status answers and `hostmanager status` shows.
type Status struct {
	Reached         bool            `json:"agent_reached"` // false: read from the journal, the agent did not answer
	InstanceID      string          `json:"instance_id"`
	EnvironmentID   string          `json:"environment_id,omitempty"`
	EnvironmentName string          `json:"environment_name,omitempty"`
	Version         string          `json:"agent_version,omitempty"`
	PID             int             `json:"pid,omitempty"`
	Started         time.Time       `json:"started,omitzero"`
	State           string          `json:"state,omitempty"`
	Trouble         string          `json:"trouble,omitempty"` // what is wrong with the application
	Queue           string          `json:"command_queue,omitempty"`
	LastPoll        time.Time       `json:"last_poll,omitzero"`
	PollError       string          `json:"poll_error,omitempty"`
	Orders          *Orders         `json:"orders,omitempty"`
	Running         *current        `json:"running,omitempty"`
	Waiting         int             `json:"commands_waiting"`
	Unsent          int             `json:"results_unsent"`
	Application     *Application    `json:"application,omitempty"`
	ApplicationErr  string          `json:"application_error,omitempty"`
	Room            *Disks          `json:"room,omitempty"` // on the disks
	Commands        []CommandStatus `json:"last_commands"`
	Runtime         *Runtime        `json:"runtime,omitempty"` // of the agent that answered
}

// Orders says whose orders the agent carries out.
type Orders struct {
	Signed      bool         `json:"signed"` // false: anyone's
	TrustedKeys []TrustedKey `json:"trusted_keys"`
}

// TrustedKey is a key by the name the operator gave it and the id that signatures have.
type TrustedKey struct {
	Name string `json:"name,omitempty"`
	ID   string `json:"id"`
}

func ordersOf(keys signature.Keys) *Orders {
	o := &Orders{Signed: !keys.Empty(), TrustedKeys: []TrustedKey{}}
	for _, k := range keys.List() {
		o.TrustedKeys = append(o.TrustedKeys, TrustedKey{k.Name, k.ID()})
	}
	return o
}

// CommandStatus is one command as the journal knows it.
type CommandStatus struct {
	Identity   string          `json:"identity"`
	Name       string          `json:"command_name,omitempty"`
	RequestID  string          `json:"request_id,omitempty"`
	StageNum   *int            `json:"stage_num,omitempty"`
	AcceptedAt time.Time       `json:"accepted_at"`
	Step       string          `json:"step,omitempty"` // begun and not done
	Verdict    protocol.Status `json:"status,omitempty"`
	Msg        string          `json:"msg,omitempty"`
	ResultAt   time.Time       `json:"result_at,omitzero"`
	SentAt     time.Time       `json:"sent_at,omitzero"`
}

// lastCommands is how many commands a status shows.
const lastCommands = 5

// control is the agent's socket.
type control struct {
	agent    *Agent
	listener net.Listener
}

func (a *Agent) listen() (*control, error) {
	l, err := unixsock.Listen(a.Root.AgentSocket())
	if err != nil {
		return nil, err
	}
	return &control{a, l}, nil
}

// serve answers until ctx ends.
func (c *control) serve(ctx context.Context) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(c.agent.status(r.Context())); err != nil {
			c.agent.log.Debug("status not delivered", "error", err)
		}
	})
	mux.HandleFunc("POST /v1/abort", c.agent.serveAbort(ctx))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 30 * time.Second}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.Serve(c.listener); !errors.Is(err, http.ErrServerClosed) {
		c.agent.log.Error("control socket closed", "error", err)
	}
	<-closed
}

const applicationTimeout = 3 * time.Second

func (a *Agent) status(ctx context.Context) Status {
	s := Status{
		Reached: true, InstanceID: a.InstanceID, EnvironmentID: a.Config.EnvironmentID, EnvironmentName: a.Config.EnvironmentName,
		Version: a.Version, PID: os.Getpid(), Started: a.started, State: a.registrar.state(), Unsent: a.outbox.waiting(),
		Orders: ordersOf(a.Trusted),
	}
	s.Waiting, _ = a.exclusive.depth()
	a.mu.Lock()
	s.Queue, s.LastPoll, s.Running = a.queueURL, a.lastPoll, a.current
	if a.pollErr != nil {
		s.PollError = a.Redact.String(a.pollErr.Error())
	}
	a.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, applicationTimeout)
	defer cancel()
	app, err := a.Platform.Status(ctx)
	if err != nil {
		s.ApplicationErr = a.Redact.String(err.Error())
	} else {
		s.Application = &app
	}
	health := a.health(app, err)
	s.State, s.Trouble = withHealth(s.State, health), health.Trouble()
	s.Room = a.disk.status()
	s.Commands = commandsOf(a.Journal.Commands())
	usage := a.usage()
	s.Runtime = &usage
	return s
}

// commandsOf shows the last commands, the latest first.
func commandsOf(all []journal.Command) []CommandStatus {
	list := []CommandStatus{}
	for i := len(all) - 1; i >= 0 && len(list) < lastCommands; i-- {
		list = append(list, commandStatus(all[i]))
	}
	return list
}

func commandStatus(c journal.Command) CommandStatus {
	s := CommandStatus{Identity: c.Identity, AcceptedAt: c.AcceptedAt, ResultAt: c.ResultAt, SentAt: c.SentAt}
	if _, r, err := decodeAccepted(c); err == nil {
		s.Name, s.RequestID, s.StageNum = r.CommandName, r.RequestID, r.StageNum
	}
	for _, step := range c.Steps {
		if step.State == journal.Started && !c.Finished() {
			s.Step = step.Name
		}
	}
	var o outcome
	if c.Result != nil && json.Unmarshal(c.Result, &o) == nil {
		s.Verdict, s.Msg = o.Verdict, o.Result.Message
		var inner protocol.Response
		if json.Unmarshal([]byte(o.Result.Data), &inner) == nil {
			s.Msg = inner.Entry().Msg
		}
	}
	return s
}

// ErrNotReached tells that the agent did not answer on its socket.
var ErrNotReached = errors.New("the agent does not answer")

// AskStatus asks the agent of a root; when it does not answer, it returns what the journal knows, read without its lock, and ErrNotReached.
func AskStatus(ctx context.Context, root layout.Root) (Status, error) {
	s, err := ask(ctx, root)
	if err == nil {
		return s, nil
	}
	notReached := fmt.Errorf("%w (%w); is it running? Look at %s", ErrNotReached, err, root.Log("hostmanager.log"))
	snapshot, err := journal.Read(root.Journal())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Status{}, notReached
	case err != nil:
		return Status{}, errors.Join(notReached, err)
	}
	s = Status{InstanceID: snapshot.Instance, Commands: commandsOf(snapshot.Commands)}
	for _, c := range snapshot.Commands {
		switch {
		case !c.Finished():
			s.Waiting++
		case c.SentAt.IsZero():
			s.Unsent++
		}
	}
	return s, notReached
}

func ask(ctx context.Context, root layout.Root) (s Status, err error) {
	err = askAgent(ctx, root, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// maxRefusal bounds what is read of an agent's error, in bytes.
const maxRefusal = 16 << 10

// askAgent makes one request to the agent of a root. One that could not be reached is ErrNotReached.
func askAgent(ctx context.Context, root layout.Root, method, path string, body []byte, into any) error {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return unixsock.Dial(ctx, root.AgentSocket())
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
		return fmt.Errorf("the agent answered %s: %s", resp.Status, strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read the agent's answer: %w", err)
	}
	return nil
}
