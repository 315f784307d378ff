package docker

// SetFault has fn asked at every named point between two effects.
func (p *Platform) SetFault(fn func(point string) error) { p.fault = fn }

// ScanDockerfile returns what the scanner found.
func ScanDockerfile(text []byte) (images, ports []string, err error) {
	d, err := scanDockerfile(text)
	return d.images, d.ports, err
}
