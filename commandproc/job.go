package commandproc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"hostmanager/hooks"
	"hostmanager/internal/layout"
	"hostmanager/internal/redact"
	"hostmanager/journal"
	"hostmanager/protocol"
)

var (
	// ErrDeadline is the cause of a context that ended because the command's time ran out.
	ErrDeadline = fmt.Errorf("command timed out: %w", context.DeadlineExceeded)
	// ErrAborted is the cause of a context that ended because somebody asked for it.
	ErrAborted = errors.New("command was aborted")
	// ErrStageOrder refuses a stage whose predecessor is missing.
	ErrStageOrder = errors.New("stage is out of order")
)

// Job is one command to run.
type Job struct {
	Identity string
	Command  protocol.Command
	Request  protocol.Request
	Previous *Past    // the exclusive command that ran last before this one; nil when there is none
	Env      []string // KEY=VALUE for hooks, beside what Run sets from the command
	// Pause, once closed, asks Run and Resume to leave the rest of the command to a later agent, at the next safe point. Nil: never.
	Pause <-chan struct{}
	// Begun is the deployment of a command that an earlier agent began; nil for one that begins now. Resume sets it.
	Begun *hooks.Deployment
	Void  string // why Resume must not take the command up; empty: it may
}

// Past is what the order of stages needs to know of an earlier command.
type Past struct {
	CommandName string // inner
	RequestID   string
	StageNum    *int
	Succeeded   bool
}

// Steps is the journal as the processor uses it.
type Steps interface {
	Recorder(identity string) Recorder
	// Command returns all that the journal says of a command.
	Command(identity string) journal.Command
}

// Recorder journals what becomes of one command. Every method returns after the record is durable. *journal.Recorder is one.
type Recorder interface {
	Started(step string, semantics protocol.Semantics, payload json.RawMessage) error
	// Done also keeps the events that the step reported: a list of protocol.Event.
	Done(step string, events json.RawMessage) error
	Undone(step string) error
	Resumed() error
	Paused() error
	Verdict(payload json.RawMessage) error
}

// Dirs runs hook directories. *hooks.Runner does.
type Dirs interface {
	// Run runs the hooks of call.Dir in the order of their names, journals each through rec, and ends at the first that fails.
	Run(ctx context.Context, call hooks.Call, rec hooks.Recorder, watch hooks.Watch) error
	// Cleanup runs all of them, whatever becomes of each.
	Cleanup(ctx context.Context, call hooks.Call, rec hooks.Recorder, watch hooks.Watch) error
	// Undo takes one compensated step of a directory back; call.Saved is what the journal remembers of it.
	Undo(ctx context.Context, call hooks.Call, step string) error
}

// Processor runs commands. All fields but the addons and the last three must be set; Run and Resume may be called from several goroutines, for exclusive commands one at a
// time.
type Processor struct {
	Root       layout.Root
	InstanceID string
	Stack      string // STACK_NAME of hooks
	Steps      Steps
	Dirs       Dirs
	Infra      map[string]hooks.Builtin
	// Prepare finds out which deployment the job is about before anything is done. Its failure fails the command.
	Prepare func(ctx context.Context, j Job) (hooks.Deployment, error)
	// Commit makes a deployment the instance's own, as the last thing of a command that deploys.
	Commit hooks.Builtin
	// Settle puts the files of the version that serves back after a command failed and was undone. It must be safe at any time.
	Settle func(ctx context.Context) error
	// Before and After are the addons' actions: before stage 0, after the last stage.
	Before, After []hooks.Builtin

	Log         Log
	Activity    ActivityLog
	Structured  *slog.Logger
	Redact      *redact.Redactor     // for what hooks put out; nil hides nothing
	OnEvent     func(protocol.Event) // every event at once; they are in the result too
	Now         func() time.Time
	UndoTimeout time.Duration // bounds the undoing of one command; it starts when the command failed
	// CleanupTimeout bounds what runs in the cleanup place of one command.
	CleanupTimeout time.Duration
	// ResumeLimit is how often a command is taken up after crashes without getting further; beyond it the command fails. 0: it is never taken
	// up, only unwound.
	ResumeLimit int
}

// Defaults of Processor.
const (
	DefaultUndoTimeout    = 2 * time.Minute
	DefaultCleanupTimeout = time.Minute
	DefaultResumeLimit    = 3
)

// Environment returns the variables that a job's executable hooks get (the original's, without the credentials of the result queue).
func (p *Processor) Environment(j Job) []string {
	env := []string{
		"CMD_NAME=" + j.Command.CommandName,
		"INVOCATION_ID=" + j.Command.InvocationID,
		"DISPATCHER_ID=" + j.Command.DispatcherID,
		"STACK_NAME=" + p.Stack,
		"LISTENER_ID=" + p.InstanceID,
		"EB_REQUEST_ID=" + j.Request.RequestID,
		"EB_COMMAND_TIMEOUT=" + strconv.Itoa(int(j.Request.Timeout.Seconds())),
		"EB_IS_COMMAND_LEADER=false",
	}
	for _, optional := range [][2]string{
		{"CMD_DATA", j.Command.Data},
		{"RESULT_QUEUE", j.Command.ResultQueue},
		{"EVENT_HANDLE", j.Command.EventHandle},
		{"EB_RESOURCE_NAME", j.Request.ResourceName},
		{"EB_COMMAND_DATA", j.Request.Data},
		{"EB_EXECUTION_DATA", j.Request.ExecutionData},
	} {
		if optional[1] != "" {
			env = append(env, optional[0]+"="+optional[1])
		}
	}
	return append(env, j.Env...)
}

// checkStage holds the order of stages: stage n runs only right after stage n-1 of the same request succeeded.
func checkStage(j Job, d Definition) error {
	n := j.Request.StageNum
	switch {
	case n == nil:
		return nil
	case *n >= len(d.Stages):
		return fmt.Errorf("%w: %s has no stage %d", ErrStageOrder, d.Name, *n)
	case *n == 0:
		return nil
	}
	last := j.Previous
	switch {
	case last == nil:
		return fmt.Errorf("%w: stage %d of request %s came, but stage %d never ran here", ErrStageOrder, *n, j.Request.RequestID, *n-1)
	case last.RequestID != j.Request.RequestID || last.CommandName != d.Name || last.StageNum == nil || *last.StageNum != *n-1:
		return fmt.Errorf("%w: stage %d of request %s must follow its stage %d, but the last command here was %s of request %s",
			ErrStageOrder, *n, j.Request.RequestID, *n-1, last.CommandName, last.RequestID)
	case !last.Succeeded:
		return fmt.Errorf("%w: stage %d of request %s failed on this instance, so stage %d does not run", ErrStageOrder, *n-1, j.Request.RequestID, *n)
	}
	return nil
}
