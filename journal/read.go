package journal

import (
	"errors"
	"fmt"
	"os"
	"time"

	"hostmanager/internal/atomicfile"
)

// openRegular opens a file for reading. A pipe in its place, which would hold whoever opens it, is an error like everything else that is no file.
func openRegular(path string) (*os.File, error) {
	f, err := atomicfile.OpenRegular(path, os.O_RDONLY, 0)
	if errors.Is(err, atomicfile.ErrNotRegular) {
		return nil, fmt.Errorf("%w, or put the journal back", err)
	}
	return f, err
}

// Read returns what the journal at path says. It takes no lock and changes nothing, so it answers while an agent writes or hangs: what it shows
// is true of some moment during the call.
func Read(path string) (Snapshot, error) {
	f, err := openRegular(path)
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
