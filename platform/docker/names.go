package docker

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"strconv"

	"github.com/docker/docker/api/types/filters"

	"hostmanager/hooks"
	"hostmanager/internal/layout"
)

// The labels of what the platform creates.
const (
	labelNamespace  = "hostmanager" // the only one that decides whether something is ours
	labelRole       = "hostmanager.role"
	labelDeployment = "hostmanager.deployment"
	labelVersion    = "hostmanager.version"
	labelSerial     = "hostmanager.serial"
	labelInvocation = "hostmanager.invocation"
	labelRelease    = "hostmanager.release" // name of the tree the container was made from
	labelPort       = "hostmanager.port"    // where the container listens; on an image: what its Dockerfile exposes

	roleApp = "app"

	defaultNamespace = "default"
	stagingImage     = "aws_beanstalk/staging-app"
	currentImage     = "aws_beanstalk/current-app"
)

// names derives every name that outlives a process from the namespace and the deployment.
type names struct{ label, tag string }

func newNames(namespace string) names {
	if namespace == "" || namespace == defaultNamespace {
		return names{label: defaultNamespace, tag: "latest"}
	}
	return names{label: namespace, tag: namespace}
}

func (n names) staging() string { return stagingImage + ":" + n.tag }
func (n names) current() string { return currentImage + ":" + n.tag }
func (n names) network() string { return "hostmanager-" + n.label }

// container depends on the command alone, so that a crash between its creation and the note of its id loses nothing.
func (n names) container(d hooks.Deployment) string {
	sum := sha256.Sum256([]byte(d.CommandName + "|" + d.InvocationID))
	return "hostmanager-" + n.label + "-" + hex.EncodeToString(sum[:6])
}

func (n names) labels() map[string]string { return map[string]string{labelNamespace: n.label} }

func (n names) containerLabels(d hooks.Deployment, release, port string) map[string]string {
	return map[string]string{
		labelNamespace:  n.label,
		labelRole:       roleApp,
		labelDeployment: strconv.FormatInt(d.ID, 10),
		labelVersion:    d.VersionLabel,
		labelSerial:     strconv.FormatInt(d.Serial, 10),
		labelInvocation: d.InvocationID,
		labelRelease:    release,
		labelPort:       port,
	}
}

// ours selects what carries the namespace's label.
func (n names) ours() filters.Args {
	return filters.NewArgs(filters.Arg("label", labelNamespace+"="+n.label))
}

// shortID is the form of a container id in events, files and docker ps.
func shortID(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// The files that are the platform's alone, beside those of layout.Root.

func lastGoodFile(root layout.Root) string {
	return filepath.Join(root.EtcBeanstalk(), ".aws_beanstalk.last-good-container-id")
}

func evidenceFile(root layout.Root) string {
	return filepath.Join(root.Evidence(), "container-id")
}

func buildLog(root layout.Root, release string) string {
	return filepath.Join(root.Evidence(), release+buildLogSuffix)
}

const buildLogSuffix = ".build.log"

// lastBuildLog is where people look for the build's output: a link to the build log.
func lastBuildLog(root layout.Root) string { return root.Join("tmp/docker_build.log") }

func unexpectedQuitLog(root layout.Root) string {
	return filepath.Join(root.ContainerLogs(), "unexpected-quit.log")
}

// positions is where Follow notes how far it has written each container's output.
func positions(root layout.Root) string {
	return filepath.Join(root.AgentState(), "container-logs")
}
