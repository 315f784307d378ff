package journal

import (
	"fmt"
	"os"
	"time"
)

// Read returns what the journal at path says. It takes no lock and changes nothing, so it answers while an agent writes or hangs: what it shows
// is true of some moment during the call.
func Read(path string) (Snapshot, error) {
	f, err := os.Open(path)
	if err != nil {
		return Snapshot{}, fmt.Errorf("open journal: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Snapshot{}, fmt.Errorf("look at journal: %w", err)
	}
	l, err := load(f, st.Size(), DefaultKeepBytes)
	if err != nil {
		return Snapshot{}, err
	}
	return Snapshot{
		Format: l.format, Instance: l.state.instance, Commands: l.state.commands(), Old: len(l.state.old), Records: l.state.records,
		Bytes: l.size, Torn: l.torn(), Damaged: l.damaged, ReadAt: time.Now(),
	}, nil
}
