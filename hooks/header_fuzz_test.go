package hooks

import (
	"bytes"
	"testing"

	"hostmanager/protocol"
)

// FuzzReadHeader holds that a hook file is repeatable only when its head says so.
func FuzzReadHeader(f *testing.F) {
	f.Add([]byte("#!/bin/sh\n# hostmanager: repeatable\n"))
	f.Add([]byte("\x7fELF\x00\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		head := data[:min(len(data), headerBytes)]
		said := bytes.Contains(head, []byte("hostmanager:")) && bytes.Contains(head, []byte("repeatable"))
		if got := readHeader(bytes.NewReader(data)); got == protocol.Repeatable && !said || got != protocol.Repeatable && got != protocol.Once {
			t.Fatalf("%q is %s", data, got)
		}
	})
}
