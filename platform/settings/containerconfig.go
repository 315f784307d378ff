package settings

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
	"hostmanager/protocol"
)

// maxConfiguration bounds the file: 256 KiB of properties and room for the rest.
const maxConfiguration = 4 << 20

// ContainerConfiguration is the file that scripts read with get-config: option settings as KEY=VALUE lists by namespace, and the container keys.
type ContainerConfiguration struct {
	OptionSettings map[string][]string `json:"optionsettings"`
	Container      map[string]string   `json:"container"`
	Deployment     Deployment          `json:"deployment"`
}

// Deployment is the part of the manifest that hooks need.
type Deployment struct {
	ID           int64             `json:"deployment_id"`
	VersionLabel string            `json:"version_label"`
	Serial       int64             `json:"serial"`
	Images       map[string]string `json:"images,omitempty"`
}

// WriteContainerConfiguration writes the file for a manifest, mode 0600: it holds the properties.
func WriteContainerConfiguration(root layout.Root, m protocol.Manifest) error {
	c := ContainerConfiguration{
		OptionSettings: map[string][]string{},
		Container: map[string]string{
			"instance_port":      "80",
			"app_staging_dir":    root.Staging(),
			"app_deploy_dir":     root.Current(),
			"app_staging_file":   root.StagingContainerID(),
			"app_deploy_file":    root.CurrentContainerID(),
			"port_file":          root.ContainerPort(),
			"staging_image":      "aws_beanstalk/staging-app",
			"deploy_image":       "aws_beanstalk/current-app",
			"staging_image_file": root.StagingImageID(),
			"deploy_image_file":  root.CurrentImageID(),
			"host_log_dir":       root.ContainerLogs(),
			"source_bundle":      root.SourceBundle(),
		},
		Deployment: Deployment{ID: m.DeploymentID, VersionLabel: m.VersionLabel, Serial: m.Serial, Images: m.Images},
	}
	for ns, options := range m.OptionSettings {
		list := make([]string, 0, len(options))
		for k, v := range options {
			list = append(list, k+"="+v)
		}
		slices.Sort(list)
		c.OptionSettings[ns] = list
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode containerconfiguration: %w", err)
	}
	return atomicfile.WriteFile(root.ContainerConfiguration(), append(data, '\n'), 0o600)
}

// ReadContainerConfiguration reads the file back, with its settings parsed.
func ReadContainerConfiguration(root layout.Root) (ContainerConfiguration, Settings, error) {
	data, err := atomicfile.ReadFileLimit(root.ContainerConfiguration(), maxConfiguration)
	if err != nil {
		return ContainerConfiguration{}, Settings{}, fmt.Errorf("read containerconfiguration: %w", err)
	}
	var c ContainerConfiguration
	if err := json.Unmarshal(data, &c); err != nil {
		return ContainerConfiguration{}, Settings{}, fmt.Errorf("read containerconfiguration: %w", err)
	}
	options := protocol.OptionSettings{}
	for ns, list := range c.OptionSettings {
		options[ns] = map[string]string{}
		for _, item := range list {
			k, v, _ := strings.Cut(item, "=")
			options[ns][k] = v
		}
	}
	s, err := Parse(options)
	return c, s, err
}
