// Package layout names every path the host manager uses below its root. They are the paths of Elastic Beanstalk where it has one, so that
// existing scripts keep working, and FHS paths for the rest. The package only joins strings: it creates nothing and reads nothing.
package layout

import (
	"path/filepath"
	"strings"
)

// Root is the folder all paths live under; "/" on a real instance, any folder in hmctl dev and in tests.
type Root string

// Join returns a path below the root from a path written as it stands on a real instance ("/var/app").
func (r Root) Join(elem ...string) string {
	return filepath.Join(append([]string{string(r)}, elem...)...)
}

// ConfigFile is the agent's configuration.
func (r Root) ConfigFile() string { return r.Join("etc/hostmanager/hostmanager.yaml") }

// AgentState is the folder of the agent's durable state, mode 0700.
func (r Root) AgentState() string { return r.Join("var/lib/hostmanager/agent") }

// Journal is the file of the command journal.
func (r Root) Journal() string { return filepath.Join(r.AgentState(), "journal") }

// DiskReserve is the folder of the room that is kept back for a full disk.
func (r Root) DiskReserve() string { return filepath.Join(r.AgentState(), "reserve") }

// Outbox is the folder of results that wait to be sent.
func (r Root) Outbox() string { return filepath.Join(r.AgentState(), "outbox") }

// AgentEvents is the file of the agent's own events, one JSON object a line.
func (r Root) AgentEvents() string { return filepath.Join(r.AgentState(), "events.jsonl") }

// BundleCache is the folder of verified source bundles, named by digest.
func (r Root) BundleCache() string { return filepath.Join(r.AgentState(), "bundles") }

// Evidence is the folder where what a failed deployment left is kept until the next one.
func (r Root) Evidence() string { return filepath.Join(r.AgentState(), "evidence") }

// StagedManifest is the manifest of the deployment under way (0600: it holds properties).
func (r Root) StagedManifest() string { return filepath.Join(r.AgentState(), "staged-manifest.json") }

// AgentSocket is the agent's control socket, mode 0600.
func (r Root) AgentSocket() string { return r.Join("run/hostmanager/agent/control.sock") }

// ProxySocket is the proxy's control socket, mode 0600.
func (r Root) ProxySocket() string { return r.Join("run/hostmanager/proxy/control.sock") }

// ProxyState is the proxy's durable state: the target it serves and its generation.
func (r Root) ProxyState() string { return r.Join("var/lib/hostmanager/proxy/state.json") }

// ProxyAccessLog is the proxy's access log.
func (r Root) ProxyAccessLog() string { return r.Join("var/log/hostmanager-proxy/access.log") }

// EtcBeanstalk is the folder of the platform's small state files (container ids and so on).
func (r Root) EtcBeanstalk() string { return r.Join("etc/elasticbeanstalk") }

// StagingContainerID and CurrentContainerID hold a container id each, one line.
func (r Root) StagingContainerID() string {
	return filepath.Join(r.EtcBeanstalk(), ".aws_beanstalk.staging-container-id")
}

// CurrentContainerID names the container that serves.
func (r Root) CurrentContainerID() string {
	return filepath.Join(r.EtcBeanstalk(), ".aws_beanstalk.current-container-id")
}

// StagingImageID and CurrentImageID hold an image id each, one line.
func (r Root) StagingImageID() string {
	return filepath.Join(r.EtcBeanstalk(), ".aws_beanstalk.staging-image-id")
}

// CurrentImageID names the image of the container that serves.
func (r Root) CurrentImageID() string {
	return filepath.Join(r.EtcBeanstalk(), ".aws_beanstalk.current-image-id")
}

// ContainerPort holds the port the serving container listens on.
func (r Root) ContainerPort() string {
	return filepath.Join(r.EtcBeanstalk(), ".aws_beanstalk.container-port")
}

// HookDir is a directory of executable hooks on the instance, for example HookDir("appdeploy/pre").
func (r Root) HookDir(dir string) string {
	return r.Join("opt/elasticbeanstalk/hooks", filepath.FromSlash(dir))
}

// Deploy is the folder of what a deployment was given: manifest, source bundle, configuration.
func (r Root) Deploy() string { return r.Join("opt/elasticbeanstalk/deploy") }

// DeployedManifest is the manifest of the version that serves (0600).
func (r Root) DeployedManifest() string { return filepath.Join(r.Deploy(), "manifest") }

// SourceBundle is the source bundle of the deployment under way, a link into the bundle cache.
func (r Root) SourceBundle() string { return filepath.Join(r.Deploy(), "appsource", "source_bundle") }

// ContainerConfiguration is the JSON file of option settings and container settings (0600).
func (r Root) ContainerConfiguration() string {
	return filepath.Join(r.Deploy(), "configuration", "containerconfiguration")
}

// Releases is the folder of unpacked source bundles.
func (r Root) Releases() string { return r.Join("var/app/releases") }

// Release is the tree of one deployment attempt: the deployment id and the first eight characters of the invocation id. Both come off the wire:
// what is no letter, digit, "-" or "_" becomes "_", so the tree is always one folder inside Releases.
func (r Root) Release(deploymentID, invocationID string) string {
	if len(invocationID) > 8 {
		invocationID = invocationID[:8]
	}
	return filepath.Join(r.Releases(), word(deploymentID)+"-"+word(invocationID))
}

func word(text string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
			return c
		}
		return '_'
	}, text)
}

// Staging is the link to the tree being deployed.
func (r Root) Staging() string { return r.Join("var/app/staging") }

// Current is the link to the tree that serves.
func (r Root) Current() string { return r.Join("var/app/current") }

// Log is a file of /var/log.
func (r Root) Log(name string) string { return r.Join("var/log", name) }

// ContainerLogs is the folder of the application container's output.
func (r Root) ContainerLogs() string { return r.Join("var/log/eb-docker/containers/eb-current-app") }
