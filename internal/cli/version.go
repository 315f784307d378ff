package cli

import "runtime/debug"

// version is set by the linker (-X hostmanager/internal/cli.version=...) and never written otherwise.
var version string

// Version says which build this is: what the linker was told, else the revision the go command recorded, else "devel".
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
