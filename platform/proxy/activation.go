package proxy

import (
	"errors"
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// Activated returns the sockets systemd opened for this process (LISTEN_FDS), or none. With them the socket outlives the process: connections
// wait in it while the proxy restarts.
func Activated() ([]net.Listener, error) {
	listeners, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("take sockets from systemd: %w", err)
	}
	for i, l := range listeners {
		if l == nil {
			var open []net.Listener
			for _, o := range listeners {
				if o != nil {
					open = append(open, o)
				}
			}
			err := fmt.Errorf("socket %d from systemd is not a listening stream; the unit must say ListenStream=", i)
			return nil, errors.Join(err, closeAll(open))
		}
	}
	return listeners, nil
}
