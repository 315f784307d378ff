package fleet

import (
	"fmt"

	"hostmanager/environment"
	"hostmanager/protocol"
)

// operationKind is what tells one operation from another: the command and the sentences around it.
type operationKind struct {
	command  string
	purpose  string   // for errors and the lock: "deploy application"
	starting []string // %s is the environment's id
	done     []string
	failed   string
	reverted string // said when nothing that serves was changed
	errors   string // said before failed when some instances may have what others have not
	mixed    string // said when some instances may have what others have not
	back     bool   // brings some instances back to what the others run
	speaks   bool   // its answers are sentences to be shown
	versions bool   // has a manifest and a record; results must name its deployment
}

func deployKind() operationKind {
	return operationKind{
		command: protocol.CmdAppDeploy, purpose: "deploy application", versions: true,
		starting: []string{textStarting, textDeploying}, done: []string{textDeployed, textUpdated},
		failed: textDeployFailed, mixed: textMixed,
	}
}

func configKind() operationKind {
	return operationKind{
		command: protocol.CmdConfigDeploy, purpose: "deploy configuration", versions: true,
		starting: []string{textStarting, textUpdating}, done: []string{textConfigured, textUpdated},
		failed: textConfigFailed, reverted: textReverted, errors: textWithErrors, mixed: textMixedConfig,
	}
}

func restartKind() operationKind {
	return operationKind{
		command: protocol.CmdRestartAppServer, purpose: "restart the application server",
		starting: []string{textRestarting}, done: []string{textRestarted}, failed: textRestartFailed,
	}
}

// rollbackKind brings the desired state back by the same command that brought what is taken back.
func rollbackKind(of operationKind, label string) operationKind {
	of.purpose = "go back to version " + label
	of.done, of.reverted, of.mixed, of.back = nil, "", "", true
	if of.command == protocol.CmdConfigDeploy {
		of.done = []string{textReverted}
	}
	return of
}

func abortKind() operationKind {
	return operationKind{command: protocol.CmdAbort, purpose: "abort the operation", failed: textSendFailed, speaks: true}
}

// recordedKind returns the kind of a deployment record.
func recordedKind(d environment.Deployment) (operationKind, bool) {
	for _, k := range []operationKind{deployKind(), configKind()} {
		switch {
		case k.command != d.Command:
		case d.Restores > 0:
			return lateRollbackKind(k, d), true
		default:
			return k, true
		}
	}
	return operationKind{}, false
}

// lateRollbackKind is rollbackKind for whoever carries it on: the abort that says how it began and what came of it has ended.
func lateRollbackKind(of operationKind, d environment.Deployment) operationKind {
	var ids []string
	for _, t := range d.Targets {
		ids = append(ids, targetID(t))
	}
	k := rollbackKind(of, d.VersionLabel)
	k.starting = []string{fmt.Sprintf("[%s] go back to version %s after an abort.", listed(ids), d.VersionLabel)}
	k.done, k.mixed = append(k.done, fmt.Sprintf("[%s] went back to version %s.", listed(ids), d.VersionLabel)), of.mixed
	return k
}
