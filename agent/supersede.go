package agent

import (
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"hostmanager/commandproc"
	"hostmanager/protocol"
)

// supersede answers a deployment whose turn has come while a newer one waits behind it: bringing its version would be work for nothing. Nil: it
// is to run. It is judged when the turn comes, so it is judged again after a crash.
func (a *Agent) supersede(j commandproc.Job) *protocol.Response {
	for _, newer := range slices.Backward(a.exclusive.behind()) {
		if !supersedes(newer.Request, j.Request) || fromBoot(j.Command) || fromBoot(newer.Command) {
			continue
		}
		response := a.Processor.Superseded(j, newer)
		a.log.Info("command superseded", slog.String("identity", j.Identity), slog.String("by", newer.Identity))
		a.event(protocol.Event{Severity: protocol.Info, Msg: fmt.Sprintf("%s of request %s was superseded by that of request %s and not begun.",
			j.Request.CommandName, j.Request.RequestID, newer.Request.RequestID)})
		a.concludeOrLog(j.Identity, j.Command, answer{response: response})
		return response
	}
	return nil
}

// supersedes tells whether newer, which waits behind older, makes it needless: both begin an operation, and what older would bring newer brings
// too. A deployment brings version and settings, so it stands for either; a change of configuration brings settings alone. What the operator
// made later has a later manifest; messages can be delivered out of order.
func supersedes(newer, older protocol.Request) bool {
	brings := map[string]int{protocol.CmdConfigDeploy: 1, protocol.CmdAppDeploy: 2}
	first := func(r protocol.Request) bool { return r.StageNum == nil || *r.StageNum == 0 }
	return first(newer) && first(older) && newer.RequestID != older.RequestID &&
		brings[older.CommandName] > 0 && brings[newer.CommandName] >= brings[older.CommandName] &&
		!madeBefore(newer.Data, older.Data)
}

// madeBefore tells whether one manifest's name says that it was made before another. Names that tell no time say nothing.
func madeBefore(one, other string) bool {
	a, errA := manifestTime(one)
	b, errB := manifestTime(other)
	return errA == nil && errB == nil && a < b
}

func manifestTime(name string) (int64, error) {
	ms, _, _ := strings.Cut(strings.TrimPrefix(name, "manifest_"), "_")
	return strconv.ParseInt(ms, 10, 64)
}
