package fleet

import (
	"strings"
	"time"

	"hostmanager/protocol"
)

// Kind tells machines what a Line is about; people read its text.
type Kind string

// The kinds of lines.
const (
	KindNotice   Kind = "notice"    // a sentence of hmctl's own
	KindProgress Kind = "operation" // the operation began, or ended well
	KindEvent    Kind = "instance_event"
	KindFailed   Kind = "instance_failed"
	KindDone     Kind = "instances_done"
	KindSummary  Kind = "summary"
	KindTimeout  Kind = "timeout"
	KindFailure  Kind = "operation_failed"
)

// Line is one sentence of an operation.
type Line struct {
	Severity     protocol.Severity
	Kind         Kind
	Text         string
	OperationID  string
	DeploymentID int64
	InstanceID   string
	At           time.Time
}

// Upload tells how far an upload is.
type Upload struct {
	Application  string
	VersionLabel string
	Archive      string // the version label with the ending of its archive: "v1.zip"
	Sent, Size   int64
	Done         bool
	Skipped      bool // the same bundle was there already
}

// Printer shows an operation to people or to machines. It is called from one goroutine at a time.
type Printer interface {
	Packing(label string) // the archive of a version is being made; before anything else of its deployment
	Line(Line)
	Upload(Upload)
}

// shown is the severity as people see it: what is below INFO on the wire is INFO for them, as eb prints it.
func shown(s protocol.Severity) protocol.Severity {
	if s.Rank() < protocol.Info.Rank() {
		return protocol.Info
	}
	return s
}

// The sentences of Elastic Beanstalk.
const (
	textStarting      = "Environment update is starting."
	textDeploying     = "Deploying new version to instance(s)."
	textUpdating      = "Updating environment %s's configuration settings."
	textRestarting    = "restartAppServer is starting."
	textCompleted     = "Command execution completed on %d of %d instances in environment."
	textSummary       = "Command execution completed on all instances. Summary: [Successful: %d, Failed: %d%s]."
	textInstanceFail  = "[Instance: %s] Command failed on instance. Return code: %d Output: %s."
	textUnsuccessful  = "Unsuccessful command execution on instance id(s) '%s'. Aborting the operation."
	textUnhealthy     = "Instance id(s) '%s' did not pass health check after command execution. Aborting the operation."
	textLate          = "Update environment operation is complete, but with command timeouts. Try increasing the timeout period."
	textWithErrors    = "Update environment operation is complete, but with errors. For more information, see troubleshooting documentation."
	textTimeout       = "The following instances have not responded in the allowed command timeout time (they might still finish eventually on their own): [%s]."
	textDeployed      = "New application version was deployed to running EC2 instances."
	textConfigured    = "Successfully deployed new configuration to environment."
	textRestarted     = "restartAppServer completed successfully."
	textUpdated       = "Environment update completed successfully."
	textDeployFailed  = "Failed to deploy application."
	textConfigFailed  = "Failed to deploy configuration."
	textRestartFailed = "Failed to restart the application server."
	textSendFailed    = "Failed to execute the command."
	textReverted      = "The environment was reverted to the previous configuration setting."
	textMixed         = "During an aborted deployment, some instances may have deployed the new application version. To ensure all instances are running the same version, re-deploy the appropriate application version."
	textMixedConfig   = "Some instances may have the new configuration. To ensure all instances have the same, deploy the configuration again."

	// ignoredMsg is what an instance answers to a command that is not meant for it.
	ignoredMsg = "Ignoring not applicable command."
)

func listed(ids []string) string { return strings.Join(ids, ", ") }
