package main

import (
	"os"

	"github.com/rogpeppe/go-internal/testscript"

	"hostmanager/protocol"
)

// writeOperatorKey writes the key that the instances of a script obey: operator-key PRIVATE PUBLIC.
func writeOperatorKey(ts *testscript.TestScript, _ bool, args []string) {
	content, err := operatorKey().EncodePEM()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), content, 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(operatorKey().Public("op").String()+"\n"), 0o600))
}

// unsign takes the signatures of the desired state away.
func unsign(ts *testscript.TestScript, _ bool, _ []string) {
	r, ok := ts.Value(roomKey{}).(*room)
	if !ok {
		ts.Fatalf("no room")
	}
	ts.Check(r.store.Delete(r.ctx, "bucket", protocol.SignaturesKey(protocol.CurrentKey(ts.Getenv("HMCTL_ENVIRONMENT")))))
}
