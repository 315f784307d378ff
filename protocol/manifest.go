package protocol

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// ErrBadManifest marks an object that is no manifest.
var ErrBadManifest = errors.New("invalid manifest")

// OptionSettings are the configuration options of an environment: namespace, then option, then value.
type OptionSettings map[string]map[string]string

// RuntimeSource says where a source bundle lies and what it must be.
type RuntimeSource struct {
	Bucket    string `json:"Bucket"`
	Key       string `json:"Key"`
	VersionID string `json:"VersionId,omitempty"`
	SHA256    string `json:"SHA256"` // hex
	Size      int64  `json:"Size"`
}

// Manifest says what one deployment is: the bundle, its settings, its place in the order of deployments.
type Manifest struct {
	RuntimeSources map[string]map[string]RuntimeSource `json:"RuntimeSources"` // application, then version label
	VersionLabel   string                              `json:"VersionLabel"`
	DeploymentID   int64                               `json:"DeploymentId"`
	Serial         int64                               `json:"Serial"`
	OptionSettings OptionSettings                      `json:"OptionSettings,omitempty"`
	Images         map[string]string                   `json:"Images,omitempty"` // image reference to digest
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// DecodeManifest reads and checks a manifest object. Errors wrap ErrBadManifest.
func DecodeManifest(data []byte) (Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return Manifest{}, fmt.Errorf("%w: %w", ErrBadManifest, err)
	}
	if m.VersionLabel == "" || m.Serial <= 0 || m.DeploymentID <= 0 {
		return Manifest{}, fmt.Errorf("%w: VersionLabel, Serial and DeploymentId must be set", ErrBadManifest)
	}
	_, src, err := m.Source()
	if err != nil {
		return Manifest{}, err
	}
	if src.Bucket == "" || src.Key == "" || !hexDigest.MatchString(src.SHA256) || src.Size <= 0 {
		return Manifest{}, fmt.Errorf("%w: the source of version %q needs Bucket, Key, Size and a hex SHA256", ErrBadManifest, m.VersionLabel)
	}
	return m, nil
}

// Source returns the application and the source of the manifest's version.
func (m Manifest) Source() (application string, src RuntimeSource, err error) {
	found := 0
	for app, versions := range m.RuntimeSources {
		if s, ok := versions[m.VersionLabel]; ok {
			application, src = app, s
			src.SHA256 = strings.ToLower(s.SHA256) // names files and is compared
			found++
		}
	}
	if found != 1 {
		return "", RuntimeSource{}, fmt.Errorf("%w: version %q stands under %d applications, want one", ErrBadManifest, m.VersionLabel, found)
	}
	return application, src, nil
}

// Encode returns the object to store.
func (m Manifest) Encode() ([]byte, error) { return json.MarshalIndent(m, "", "  ") }

// Digest is the hex SHA-256 of an object's bytes, as it stands beside the object's name.
func Digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// Current is the environment's desired state: the last deployment that succeeded.
type Current struct {
	Manifest string `json:"manifest"` // file name under versions/
	SHA256   string `json:"sha256"`
	Serial   int64  `json:"serial"`
	// Judged is the serial of the last deployment that the operator has brought to its end, where that is another than Serial: that one failed, and
	// this is the desired state all the same. An instance that knows of a later serial than both takes the object for an old one.
	Judged int64 `json:"judged,omitempty"`
}

// AsOf is the serial up to which the desired state takes account of deployments.
func (c Current) AsOf() int64 { return max(c.Serial, c.Judged) }
