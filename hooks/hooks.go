package hooks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"log/slog"

	"hostmanager/internal/layout"
	"hostmanager/internal/redact"
	"hostmanager/protocol"
)

// Builtin is a hook of the platform, sorted by name together with the executable files of its directory.
type Builtin struct {
	Name      string // as a file name would be: "03build"
	Semantics protocol.Semantics
	// Run does the work. It must stop soon after ctx ends and may be called again after a crash only as Semantics allows.
	Run func(ctx context.Context, c *Call) error
	// Undo takes back what Run did or began to do; c.Saved holds what Run last gave to c.Save. It must be safe to call at any point of
	// Run, twice, and when Run never began. Required for Compensated, nil otherwise.
	Undo func(ctx context.Context, c *Call) error

	steps bool             // journals steps of its own, and is resumed among them
	idle  func(*Call) bool // tells that there is nothing to run, so that Cleanup need not journal it
}

// Deployment says which deployment a call belongs to.
type Deployment struct {
	RequestID    string
	InvocationID string
	CommandName  string // inner name, "CMD-AppDeploy"
	ID           int64  // 0 where the command carries no manifest
	VersionLabel string
	Serial       int64
	AskedBy      string `json:",omitempty"` // who gave the command, for the audit line: a key's name and id, or what stands for it
}

// Call is what one hook run is given. A Builtin may use it until Run or Undo returns, from one goroutine.
type Call struct {
	Root       layout.Root
	Dir        string // hook directory, "appdeploy/pre"
	Deployment Deployment
	Env        []string             // KEY=VALUE for executable hooks
	Output     io.Writer            // the hook's output, line by line into the activity log; safe for concurrent use
	Event      func(protocol.Event) // reports an event; the zero Time means now
	Log        *slog.Logger
	Redact     *redact.Redactor // hides secrets in what programs put out, before any of it is cut, kept or passed on; nil hides nothing
	// Save journals v (JSON) before the effect it describes, so that Undo can find its way after a crash. It may be called again; the last
	// value counts.
	Save  func(v any) error
	Saved json.RawMessage
	// Again tells Undo that the step runs once more right after it: what would only be kept for people, or for later, can go.
	Again bool
	// Prior is what an earlier agent journalled of the command's steps, by step; nil where the command runs for the first time.
	Prior map[string]Prior
	// Pause, once closed, asks for a stop that leaves the rest to a later agent: at once in a repeatable step, else behind it. Nil: never.
	Pause <-chan struct{}

	spawning Spawning // the runner's, for hooks that a built-in one runs

	rec Recorder // for a built-in hook with steps of its own
	all bool     // each hook runs, whatever became of those before it
}

// Prior is the state in which an earlier agent left a step.
type Prior struct {
	Done      bool
	Semantics protocol.Semantics
	Saved     json.RawMessage // what Run last gave to Save
}

// Mark is an entry of the environment that every process of a command's executable hooks carries, and no other process does: after a crash,
// whatever still runs of an interrupted command is found by it.
func Mark(root layout.Root, d Deployment) string {
	sum := sha256.Sum256([]byte(string(root) + "\x00" + d.CommandName + "\x00" + d.InvocationID))
	return "HOSTMANAGER_COMMAND=" + hex.EncodeToString(sum[:16])
}

// StepMark is Mark for the processes of one hook alone. Those that a hook left on purpose go on when a later one is ended.
func StepMark(root layout.Root, d Deployment, step string) string {
	sum := sha256.Sum256([]byte(string(root) + "\x00" + d.CommandName + "\x00" + d.InvocationID + "\x00" + step))
	return "HOSTMANAGER_HOOK=" + hex.EncodeToString(sum[:16])
}

// Recorder journals the steps of one command. Every method returns after the record is durable.
type Recorder interface {
	Started(step string, semantics protocol.Semantics, payload json.RawMessage) error
	Done(step string) error
	Undone(step string) error
}
