package bundle

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrNoRoom is wrapped by a Refused that tells of a full disk: bytes or inodes. More room, not another bundle, helps.
var ErrNoRoom = errors.New("no room")

// ErrDigest is wrapped by a Refused that tells of content other than the manifest names (digest or size).
var ErrDigest = errors.New("not the content the manifest names")

// Refused tells why a source bundle was not taken. Reason is a sentence for the operator; Entry names the file inside the archive, if one is to blame.
type Refused struct {
	Reason string
	Entry  string
	Err    error // the cause, if there is one below
}

func (r *Refused) Error() string {
	if r.Entry == "" {
		return "source bundle refused: " + r.Reason
	}
	return fmt.Sprintf("source bundle refused: %q: %s", r.Entry, r.Reason)
}

func (r *Refused) Unwrap() error { return r.Err }

func refuse(format string, args ...any) *Refused {
	return &Refused{Reason: fmt.Sprintf(format, args...)}
}

func refuseEntry(entry, format string, args ...any) *Refused {
	const most = 300 // a hostile name must not flood a log line
	if len(entry) > most {
		entry = entry[:most] + "..."
	}
	return &Refused{Entry: entry, Reason: fmt.Sprintf(format, args...)}
}

// diskFull turns the kernel's word for a full disk into ErrNoRoom; other errors pass.
func diskFull(err error, where string) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &Refused{Reason: "the disk became full while writing to " + where + "; free some room and deploy again", Err: errors.Join(ErrNoRoom, err)}
	}
	return err
}
