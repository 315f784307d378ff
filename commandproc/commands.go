package commandproc

import (
	"strconv"
	"strings"

	"hostmanager/protocol"
)

// Lane says which commands may run beside which.
type Lane int

const (
	// Exclusive commands change the instance: one at a time, in the order of acceptance.
	Exclusive Lane = iota
	// Shared commands only look; a bounded number runs beside the exclusive one.
	Shared
)

// Action is one entry of a stage: a hook directory to run, or something built in.
type Action struct {
	Name string
	Dir  string // hook directory ("appdeploy/pre"); empty for an infra action, which Processor.Infra knows by name
}

// Definition is what one command does.
type Definition struct {
	Name    string
	Labels  []string   // what people call each stage; the last one stands for all later ones
	Stages  [][]Action // in order; a staged request runs exactly one
	Cleanup Action     // runs behind all others, whatever became of them; it is no action of a stage
	Lane    Lane
	Deploys bool // brings a version into service: the manifest is promoted when its last stage succeeded
}

// Label is what people call stage n.
func (d Definition) Label(n int) string {
	if len(d.Labels) == 0 {
		return d.Name
	}
	return d.Labels[min(n, len(d.Labels)-1)]
}

// StageName is the name of stage n in the activity log: "AppDeployStage0".
func (d Definition) StageName(n int) string {
	return strings.TrimPrefix(d.Name, "CMD-") + "Stage" + strconv.Itoa(n)
}

// stages0 of the commands that build a version, in the order of the 2017 Docker platform.
func build() []Action {
	return []Action{
		{Name: "InfraWriteConfig"},     // manifest and containerconfiguration, which all that follow read
		{Name: "DownloadSourceBundle"}, // verified and unpacked
		{Name: "EbExtensionPreBuild"},  // packages ... services, before anything of the application runs
		{"AppDeployPreHook", "appdeploy/pre"},
		{Name: "EbExtensionPostBuild"},  // container_commands, with the application built and not yet serving
		{Name: "InfraCleanEbextension"}, // they have done their work; the application does not serve them
	}
}

// Commands returns the table of commands: names, stages and actions in the order they run (2017 form).
func Commands() []Definition {
	enact := []Action{{"AppDeployEnactHook", "appdeploy/enact"}, {"AppDeployPostHook", "appdeploy/post"}}
	cleanup := Action{"AppDeployCleanupHook", "appdeploy/cleanup"}
	first := append(enact[:2:2], Action{"PostInitHook", "postinit"})
	return []Definition{
		{Name: protocol.CmdPreInit, Labels: []string{"Initialization"}, Stages: [][]Action{
			{{Name: "InfraWriteConfig"}, {Name: "DownloadSourceBundle"}, {"PreInitHook", "preinit"}},
		}, Cleanup: Action{"PreInitCleanupHook", "preinit/cleanup"}},
		{Name: protocol.CmdStartup, Labels: []string{"Application deployment"}, Deploys: true, Stages: [][]Action{build(), first}, Cleanup: cleanup},
		{Name: protocol.CmdSelfStartup, Labels: []string{"Application deployment"}, Deploys: true, Stages: [][]Action{build(), first}, Cleanup: cleanup},
		{
			Name: protocol.CmdAppDeploy, Labels: []string{"Application update", "Application version switch"}, Deploys: true,
			Stages: [][]Action{build(), enact}, Cleanup: cleanup,
		},
		{
			Name: protocol.CmdConfigDeploy, Labels: []string{"Configuration update", "Application restart"}, Deploys: true,
			Stages: [][]Action{
				{{Name: "InfraWriteConfig"}, {"ConfigDeployPreHook", "configdeploy/pre"}},
				{{"ConfigDeployEnactHook", "configdeploy/enact"}, {"ConfigDeployPostHook", "configdeploy/post"}},
			},
			Cleanup: Action{"ConfigDeployCleanupHook", "configdeploy/cleanup"},
		},
		{
			Name: protocol.CmdRestartAppServer, Labels: []string{"Application restart"},
			Stages: [][]Action{
				{{Name: "InfraWriteConfig"}, {"RestartAppServerPreHook", "restartappserver/pre"}},
				{{"RestartAppServerEnactHook", "restartappserver/enact"}, {"RestartAppServerPostHook", "restartappserver/post"}},
			},
			Cleanup: Action{"RestartAppServerCleanupHook", "restartappserver/cleanup"},
		},
		{Name: protocol.CmdAbort, Labels: []string{"Abort"}, Lane: Shared}, // the agent's own: it acts upon lanes, not on the instance
	}
}

// Lookup finds a command by its inner name.
func Lookup(name string) (Definition, bool) {
	for _, d := range Commands() {
		if d.Name == name {
			return d, true
		}
	}
	return Definition{}, false
}
