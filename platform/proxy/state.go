package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"hostmanager/internal/atomicfile"
)

const (
	stateFormat = 1
	stateLimit  = 64 << 10
)

var errCorruptState = errors.New("state file is not valid")

// savedState is the state file. Unknown fields are ignored; a change that an older proxy must not misread raises Format.
type savedState struct {
	Format     int       `json:"format"`
	Generation uint64    `json:"generation"`
	Target     *Target   `json:"target"` // null: none
	Saved      time.Time `json:"saved"`
}

func (s savedState) save(path string) error {
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	return atomicfile.WriteFile(path, append(data, '\n'), 0o600)
}

func parseState(data []byte) (savedState, error) {
	var s savedState
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&s); err != nil {
		return savedState{}, fmt.Errorf("%w: %w", errCorruptState, err)
	}
	if s.Format != stateFormat {
		return savedState{}, fmt.Errorf("%w: format %d, this proxy reads %d", errCorruptState, s.Format, stateFormat)
	}
	if s.Target != nil {
		if err := s.Target.validate(); err != nil {
			return savedState{}, fmt.Errorf("%w: %w", errCorruptState, err)
		}
	}
	return s, nil
}

// loadState reads the state file. A missing one is the empty state. One that cannot be understood is moved aside and notice tells so: the proxy
// then serves 503 until the agent sets a target. One that cannot be read is an error.
func loadState(path string, now time.Time) (s savedState, notice string, err error) {
	data, err := atomicfile.ReadFileLimit(path, stateLimit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return savedState{}, "", nil
	case errors.Is(err, atomicfile.ErrTooLarge):
		err = fmt.Errorf("%w: %w", errCorruptState, err)
	case err == nil:
		s, err = parseState(data)
	}
	if !errors.Is(err, errCorruptState) {
		return s, "", err
	}
	aside := fmt.Sprintf("%s.corrupt-%d", path, now.UnixMilli())
	if rerr := os.Rename(path, aside); rerr != nil {
		return savedState{}, "", fmt.Errorf("set state aside: %w", errors.Join(err, rerr))
	}
	return savedState{}, fmt.Sprintf("The state file could not be used (%v). It was moved to %s; deploy again or set a target.", err, aside), nil
}
