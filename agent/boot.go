package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"hostmanager/commandproc"
	"hostmanager/environment"
	"hostmanager/internal/atomicfile"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// bootState says what was done since the machine started. It is per root and per boot.
type bootState struct {
	BootID      string `json:"boot_id"`
	PreInit     bool   `json:"preinit"`
	SelfStartup bool   `json:"self_startup"`
}

// bootDispatcher is the DispatcherId of the commands the agent gives itself.
const bootDispatcher = "hostmanager-boot"

func fromBoot(c protocol.Command) bool { return c.DispatcherID == bootDispatcher }

// currentTimeout bounds the look at the desired state, which holds the exclusive lane.
const currentTimeout = 15 * time.Second

func (a *Agent) bootFile() string { return filepath.Join(a.Root.AgentState(), "boot.json") }

func (a *Agent) readBoot() bootState {
	var s bootState
	data, err := atomicfile.ReadFileLimit(a.bootFile(), 1<<16)
	if err != nil || json.Unmarshal(data, &s) != nil || s.BootID != a.BootID {
		return bootState{BootID: a.BootID}
	}
	return s
}

func (a *Agent) writeBoot(s bootState) error {
	data, err := marshalIndent(s)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(a.bootFile(), data, 0o600)
}

// pushBoot puts what a boot wants into the exclusive lane.
func (a *Agent) pushBoot(front bool) { a.pushBootAfter(newPatience(5*time.Second, time.Hour), front) }

func (a *Agent) pushBootAfter(again *patience, front bool) {
	a.exclusive.push(job{identity: bootDispatcher, do: func(ctx context.Context) {
		err := a.boot(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		if again.speaks() {
			a.log.Warn("start-up not complete", slog.Any("error", err))
			a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("The instance could not be brought to the environment's version at start-up: %v. It is tried again.", err)})
		}
		a.retryBoot(again)
	}}, front)
}

// retryBoot tries again later; the lane is free meanwhile.
func (a *Agent) retryBoot(again *patience) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bootTimer = time.AfterFunc(again.next(), func() { a.pushBootAfter(again, true) })
}

// stopBoot gives a pending try up.
func (a *Agent) stopBoot() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bootTimer != nil {
		a.bootTimer.Stop()
	}
}

// boot does what is due once per boot: PreInit, then the environment's current version.
func (a *Agent) boot(ctx context.Context) error {
	s := a.readBoot()
	if s.PreInit && s.SelfStartup {
		return nil
	}
	desired, err := a.desired(ctx)
	if err != nil {
		return err
	}
	if !s.PreInit {
		if err := a.runOwn(ctx, protocol.CmdPreInit, desired); err != nil {
			return err
		}
		s.PreInit = true
		if err := a.writeBoot(s); err != nil {
			return err
		}
	}
	if desired.Manifest != "" && !a.serves(ctx, desired.Serial) {
		if err := a.runOwn(ctx, protocol.CmdSelfStartup, desired); err != nil {
			return err
		}
	}
	s.SelfStartup = true
	return a.writeBoot(s)
}

// desired reads the environment's current version; none is no error.
func (a *Agent) desired(ctx context.Context) (protocol.Current, error) {
	ctx, cancel := context.WithTimeout(ctx, currentTimeout)
	defer cancel()
	c, err := a.Record.Current(ctx)
	if errors.Is(err, environment.ErrNoCurrent) {
		return protocol.Current{}, nil
	}
	if err != nil {
		return protocol.Current{}, fmt.Errorf("read the desired state: %w", err)
	}
	return c, nil
}

// serves tells whether that serial runs here and is well.
func (a *Agent) serves(ctx context.Context, serial int64) bool {
	app, err := a.Platform.Status(ctx)
	if err != nil {
		a.log.Warn("application status unknown", slog.Any("error", err))
		return false
	}
	return app.Running && app.Healthy && app.Serial == serial
}

// runOwn runs a command the agent gives itself, in the lane it is called from. It is journalled like any other, and its result goes nowhere.
func (a *Agent) runOwn(ctx context.Context, name string, desired protocol.Current) error {
	id := name + "-" + strconv.FormatInt(a.Now().UnixNano(), 36)
	request := protocol.Request{CommandName: name, RequestID: id, Data: desired.Manifest, DataSHA256: desired.SHA256}
	data, err := request.Encode()
	if err != nil {
		return err
	}
	request, err = protocol.DecodeRequest(data)
	if err != nil {
		return err
	}
	c := protocol.Command{
		DispatcherID: bootDispatcher, CommandName: "boot", InvocationID: id,
		Expiration: a.Now().Add(keepAfterExpiry), ResultQueue: localQueue, Data: data,
	}
	j := commandproc.Job{Identity: c.Identity(), Command: c, Request: request, Env: []string{"EB_SYSTEM_STARTUP=true"}}
	body, err := c.Encode()
	if err != nil {
		return err
	}
	if err := a.appendRecord(journal.Record{Type: journal.Accepted, Command: j.Identity, Payload: body}); err != nil {
		return err
	}
	if r := a.execute(ctx, j); r.Status != protocol.Success {
		return fmt.Errorf("%s: %s", name, r.Entry().Msg)
	}
	return nil
}
