package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"hostmanager/internal/atomicfile"
)

// mark is how far an instance has come in its environment's order of deployments. Signed objects with a lower serial are old ones that somebody
// put back.
type mark struct {
	Environment string `json:"environment"`
	Manifest    int64  `json:"manifest_serial"` // highest of a manifest that an order brought
	Current     int64  `json:"current_serial"`  // highest that a desired state took account of
}

// marks keeps the mark in a file of its own: it outlives the journal's memory. It only rises. Safe for concurrent use.
type marks struct {
	file        string
	environment string
	mu          sync.Mutex
}

func (m *marks) read() (mark, error) {
	fresh := mark{Environment: m.environment}
	data, err := atomicfile.ReadFileLimit(m.file, 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	var known mark
	if err == nil {
		err = json.Unmarshal(data, &known)
	}
	if err != nil { // not taken for none: that would let old versions back in
		return fresh, fmt.Errorf("read which versions were here before: %w; if the file %s is damaged, remove it", err, m.file)
	}
	if known.Environment != m.environment { // the machine, or its disk, was another environment's
		return fresh, nil
	}
	return known, nil
}

// raise makes the mark at least to.
func (m *marks) raise(to mark) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	known, err := m.read()
	if err != nil {
		return err
	}
	next := known
	next.Manifest, next.Current = max(known.Manifest, to.Manifest), max(known.Current, to.Current)
	if next == known {
		return nil
	}
	data, err := marshalIndent(next)
	if err != nil {
		return err
	}
	if err := atomicfile.WriteFile(m.file, data, 0o600); err != nil {
		return fmt.Errorf("remember which version was here: %w", err)
	}
	return nil
}

// admit takes a manifest that an order brought, or refuses it as older than one that was taken before.
func (m *marks) admit(serial int64) error {
	known, err := m.read()
	if err != nil {
		return err
	}
	if serial < known.Manifest {
		return &olderError{serial, known.Manifest, m.file}
	}
	return m.raise(mark{Manifest: serial})
}

// olderError says that something signed is older than what was here.
type olderError struct {
	serial, known int64
	file          string
}

func (e *olderError) Error() string {
	return fmt.Sprintf("serial %d is older than %d, which this instance had before; going back to an old version is a new deployment of it "+
		"(if the environment was made anew, remove %s)", e.serial, e.known, e.file)
}
