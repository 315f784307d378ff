package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hostmanager/commandproc"
	"hostmanager/environment"
	"hostmanager/hooks"
	"hostmanager/internal/atomicfile"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// bootState says what was done since the machine started, per root and per boot, and what was deployed last, for as long as the instance lives.
type bootState struct {
	BootID      string `json:"boot_id"`
	PreInit     bool   `json:"preinit"`
	SelfStartup bool   `json:"self_startup"` // the environment's version was brought, or a command brought one since the machine started
	// Deployed is what was deployed here last with SUCCESS; it counts for this instance alone, not for a machine made of its disk. The manifest's
	// name is empty where the command did not tell it.
	Deployed     protocol.Current `json:"deployed,omitzero"`
	DeploymentID int64            `json:"deployment_id,omitempty"` // of Deployed
	Instance     string           `json:"instance"`
}

// bootDispatcher is the DispatcherId of the commands the agent gives itself.
const bootDispatcher = "hostmanager-boot"

func fromBoot(c protocol.Command) bool { return c.DispatcherID == bootDispatcher }

// currentTimeout bounds the look at the desired state, which holds the exclusive lane.
const currentTimeout = 15 * time.Second

func (a *Agent) bootFile() string { return filepath.Join(a.Root.AgentState(), "boot.json") }

func (a *Agent) readBoot() bootState {
	fresh := bootState{BootID: a.BootID, Instance: a.bootInstance()}
	var s bootState
	data, err := atomicfile.ReadFileLimit(a.bootFile(), 1<<16)
	if err != nil || json.Unmarshal(data, &s) != nil || s.Instance != fresh.Instance {
		return fresh
	}
	if s.BootID != a.BootID {
		fresh.Deployed, fresh.DeploymentID = s.Deployed, s.DeploymentID
		return fresh
	}
	return s
}

// bootInstance says whose the boot file is.
func (a *Agent) bootInstance() string { return a.Config.EnvironmentID + "/" + a.InstanceID }

// changeBoot changes the boot file. Only the exclusive lane calls it, so no change is lost.
func (a *Agent) changeBoot(change func(*bootState)) error {
	s := a.readBoot()
	change(&s)
	data, err := marshalIndent(s)
	if err != nil {
		return err
	}
	return atomicfile.WriteFile(a.bootFile(), data, 0o600)
}

// noteDeployed remembers that a command brought a version into service. What the boot still wanted is settled by that: putting an older version
// over it would undo a deployment that was answered with SUCCESS and that nobody has written into the record yet.
func (a *Agent) noteDeployed(j commandproc.Job, response *protocol.Response) {
	if fromBoot(j.Command) && j.Request.CommandName == protocol.CmdPreInit && response.Status == protocol.Success { // also one taken up after a crash
		if err := a.changeBoot(func(s *bootState) { s.PreInit = true }); err != nil {
			a.log.Error("initialization not noted for this boot", slog.String("identity", j.Identity), slog.Any("error", err))
		}
		return
	}
	def, _ := commandproc.Lookup(j.Request.CommandName)
	last := j.Request.StageNum == nil || *j.Request.StageNum == len(def.Stages)-1
	if !def.Deploys || !last || response.Status != protocol.Success {
		return
	}
	a.stopBoot()
	entry := response.Entry()
	err := a.changeBoot(func(s *bootState) {
		s.SelfStartup = true
		s.Deployed = protocol.Current{Manifest: j.Request.Data, SHA256: j.Request.DataSHA256, Serial: entry.Serial}
		s.DeploymentID = entry.DeploymentID
	})
	if err != nil {
		a.log.Error("deployment not noted for the next boot", slog.String("identity", j.Identity), slog.Any("error", err))
	}
}

// pushBoot puts what a boot wants into the exclusive lane.
func (a *Agent) pushBoot(front bool) { a.pushBootAfter(newPatience(5*time.Second, time.Hour), front) }

func (a *Agent) pushBootAfter(again *patience, front bool) {
	a.exclusive.push(job{identity: bootDispatcher, do: func(ctx context.Context) {
		if wait := a.nextStageDue(); wait > 0 {
			a.log.Debug("start-up waits for the next stage of the operation under way", slog.Duration("at_most", wait))
			a.retryBoot(min(wait, stagePause), again)
			return
		}
		err := a.boot(ctx)
		if passing(ctx, err) { // S3 does not answer: that is soon over, unlike what a version does wrong
			a.outages.failed(onDesired, err, 1)
			a.retryBoot(min(again.next(), rand.N(desiredPause)), again)
			return
		}
		if ctx.Err() == nil {
			a.outages.answered(onDesired)
		}
		if err == nil || ctx.Err() != nil || errors.Is(err, hooks.ErrPaused) {
			return
		}
		if again.speaks() {
			a.log.Warn("start-up not complete", slog.Any("error", err))
			a.event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("The instance could not be brought to the environment's version at start-up: %v. It is tried again.", err)})
		}
		a.retryBoot(again.next(), again)
	}}, front)
}

// desiredPause is the longest time until S3, which did not say which version is the environment's, is asked again.
const desiredPause = 30 * time.Second

// retryBoot tries again after d; the lane is free meanwhile.
func (a *Agent) retryBoot(d time.Duration, again *patience) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bootTimer = time.AfterFunc(d, func() { a.pushBootAfter(again, true) })
}

// stagePause is how often is looked whether the operation that start-up waits for came to its end.
const stagePause = 5 * time.Second

// nextStageDue tells how much longer start-up leaves the lane to an operation of which a stage succeeded and a later one is to come: what start-up
// runs in between would make that stage refused. An operation that is not carried on within its command's time has no such claim.
func (a *Agent) nextStageDue() time.Duration {
	c, ok := a.lastExclusive("")
	if !ok {
		return 0
	}
	_, request, err := decodeAccepted(c)
	past := a.pastOf(c)
	if err != nil || past == nil || !past.Succeeded || request.StageNum == nil {
		return 0
	}
	if def, _ := commandproc.Lookup(request.CommandName); *request.StageNum >= len(def.Stages)-1 || a.abortedBefore(request.RequestID) != nil {
		return 0
	}
	return min(c.ResultAt.Add(request.Timeout).Sub(a.Now()), request.Timeout) // a clock that was set back holds nothing up
}

// stopBoot gives a pending try up.
func (a *Agent) stopBoot() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bootTimer != nil {
		a.bootTimer.Stop()
	}
}

// boot brings the instance to the environment's version, at every start of the agent: PreInit first, once per boot of the machine. It does nothing
// where that version, or a newer one that a command deployed here since the machine started, runs and is well.
func (a *Agent) boot(ctx context.Context) error {
	s := a.readBoot()
	desired, err := a.desired(ctx, s)
	if err != nil {
		return err
	}
	if s.SelfStartup && s.Deployed.Serial >= desired.Serial && (desired.Manifest == "" || a.serves(ctx, s.Deployed.Serial)) {
		return nil
	}
	if !s.PreInit {
		if err := a.runOwn(ctx, protocol.CmdPreInit, desired); err != nil {
			return err
		}
	}
	if desired.Manifest != "" && !a.serves(ctx, desired.Serial) {
		return a.runOwn(ctx, protocol.CmdSelfStartup, desired)
	}
	return a.changeBoot(func(s *bootState) { s.SelfStartup = true })
}

// desired reads the environment's current version; none is no error. A version that was deployed here by an operation still under way comes
// before it: the record moves only when that operation ends. One whose operation failed elsewhere does not, however well it did here.
func (a *Agent) desired(ctx context.Context, s bootState) (protocol.Current, error) {
	ctx, cancel := context.WithTimeout(ctx, currentTimeout)
	defer cancel()
	c, err := a.Record.Current(ctx)
	if err != nil && !errors.Is(err, environment.ErrNoCurrent) {
		return protocol.Current{}, fmt.Errorf("read the desired state: %w", err)
	}
	if a.signed() {
		a.warnOlder(ctx, s, c)
		return a.desiredSigned(s, c)
	}
	if s.Deployed.Serial <= c.Serial {
		return c, nil
	}
	d, _, err := a.Record.Deployment(ctx, s.DeploymentID)
	switch {
	case errors.Is(err, environment.ErrNotFound), errors.Is(err, environment.ErrCorrupt):
		return c, nil // it was deployed by other means than hmctl, which is what moves the desired state
	case err != nil:
		return protocol.Current{}, fmt.Errorf("read the deployment that was made here last: %w", err)
	case d.Serial == s.Deployed.Serial && (d.State == environment.Running || d.State == environment.Succeeded):
		return s.Deployed, nil
	}
	a.log.Warn("the version deployed here last is not the environment's; its operation failed", slog.Int64("deployed", s.Deployed.Serial), slog.Int64("current", c.Serial))
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
	// The time first: trees are named by the beginning of an invocation id, and must be no other attempt's.
	id := strconv.FormatInt(a.Now().UnixNano(), 36) + "-" + a.bootTag() + "-" + name
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
	j := commandproc.Job{Identity: c.Identity(), Command: c, Request: request}
	a.ownJob(&j)
	body, err := c.Encode()
	if err != nil {
		return err
	}
	if err := a.appendRecord(journal.Record{Type: journal.Accepted, Command: j.Identity, Payload: body}); err != nil {
		return err
	}
	r := a.execute(ctx, j)
	if r == nil {
		return fmt.Errorf("%s: %w", name, hooks.ErrPaused)
	}
	if r.Status != protocol.Success {
		return fmt.Errorf("%s: %s", name, r.Entry().Msg)
	}
	return nil
}

// bootTag tells the boots of the machine apart in the names of the agent's own commands.
func (a *Agent) bootTag() string { return protocol.Digest([]byte(a.BootID))[:8] }

// ownJob completes a command that the agent gave itself. One that an earlier boot began is taken up all the same, but for CMD-PreInit: what its
// hooks readied, the machine's restart may have taken away, so this boot runs it from its start.
func (a *Agent) ownJob(j *commandproc.Job) {
	j.Env = []string{"EB_SYSTEM_STARTUP=true"}
	if j.Request.CommandName == protocol.CmdPreInit && !strings.Contains(j.Command.InvocationID, "-"+a.bootTag()+"-") {
		j.Void = "the machine restarted while it was running, so it is run anew"
	}
}
