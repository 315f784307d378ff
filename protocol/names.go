package protocol

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// The names of queues. They are defaults: an operator may give URLs.

// CommandQueue names the queue of one instance.
func CommandQueue(environmentID, instanceID string) string {
	return "hostmanager-" + environmentID + "-cmd-" + instanceID
}

// ResultQueue names the queue of one operation's results.
func ResultQueue(environmentID, requestID string) string {
	return ResultQueuePrefix(environmentID) + requestID
}

// ResultQueuePrefix is what all result queues of an environment begin with.
func ResultQueuePrefix(environmentID string) string { return "hostmanager-" + environmentID + "-res-" }

// IsResultQueue tells whether a queue of that name holds the results of one operation of the environment. The prefix alone does not: all queues of an
// environment shop-res-eu begin like the result queues of shop. Behind it stands a request id as hmctl makes them, and nothing else.
func IsResultQueue(environmentID, name string) bool {
	id, ours := strings.CutPrefix(name, ResultQueuePrefix(environmentID))
	return ours && requestID.MatchString(id)
}

// The keys of the environment's record.

// RuntimePrefix is where the record of an environment lies in its bucket.
func RuntimePrefix(environmentID string) string {
	return "resources/environments/" + environmentID + "/_runtime/"
}

// ManifestName is the file name of a manifest made at t.
func ManifestName(t time.Time) string { return fmt.Sprintf("manifest_%d", t.UnixMilli()) }

// ManifestKey is the key of a manifest by its file name.
func ManifestKey(environmentID, name string) string {
	return RuntimePrefix(environmentID) + "versions/" + name
}

// currentName is the file name of the desired state.
const currentName = "current"

// CurrentKey is the key of the desired state.
func CurrentKey(environmentID string) string {
	return RuntimePrefix(environmentID) + "versions/" + currentName
}

// SignaturesKey is the key of the signatures of a signed object.
func SignaturesKey(key string) string { return key + ".sig" }

// SerialKey is the key of the compare-and-swap object behind deployment ids and serials.
func SerialKey(environmentID string) string { return RuntimePrefix(environmentID) + "versions/serial" }

// LockKey is the key of the operation lock.
func LockKey(environmentID string) string { return RuntimePrefix(environmentID) + "lock" }

// DeploymentKey is the key of a deployment record.
func DeploymentKey(environmentID string, deploymentID int64) string {
	return fmt.Sprintf("%sdeployments/%d.json", RuntimePrefix(environmentID), deploymentID)
}

// InstanceKey is the key of an instance's registration.
func InstanceKey(environmentID, instanceID string) string {
	return InstancesPrefix(environmentID) + instanceID + ".json"
}

// InstancesPrefix is what all registrations begin with.
func InstancesPrefix(environmentID string) string {
	return RuntimePrefix(environmentID) + "instances/"
}

// SpillKey is where a response too large for a message lies.
func SpillKey(environmentID, resultID string) string {
	return RuntimePrefix(environmentID) + "results/" + resultID + ".json"
}

// BundleKey is where hmctl puts the source bundle of a version.
func BundleKey(environmentID, application, label string) string {
	return RuntimePrefix(environmentID) + "_versions/" + application + "/" + label
}

var (
	manifestName = regexp.MustCompile(`^manifest_[0-9A-Za-z_-]{1,100}$`)
	requestID    = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`) // a random UUID
	idWord       = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
)

// ValidManifestName tells whether a request's data names a manifest and nothing else in the bucket.
func ValidManifestName(name string) bool { return manifestName.MatchString(name) }

// ValidID tells whether an environment id, instance id or request id is fit to stand in keys, queue names and paths.
func ValidID(id string) bool { return idWord.MatchString(id) }
