package agent_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"hostmanager/protocol"
)

func TestAgent_LogsReadLikeTheOriginals(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil), invocation: "inv-1"})
	w.one()
	must(t, r.stop())
	inOrder(
		t, w.read(w.root.Log("cfn-hup.log")),
		" [DEBUG] Receiving messages for queue http",
		` [DEBUG] Processing message: {"DispatcherId":`, ` [DEBUG] Command message: {"DispatcherId":`,
		" [INFO] Received command "+outer+" (invocation id: inv-1)\n",
		" [INFO] Running action for aws-eb-command-handler\n",
		` [DEBUG] Action environment: {`,
		` [DEBUG] Action for aws-eb-command-handler output: {"status":"SUCCESS","api_version":"1.0","results":[{"status":"SUCCESS","msg":"","returncode":0,"events":[{"msg":"Successfully built`,
		" [INFO] Action for aws-eb-command-handler succeeded, returning SUCCESS\n",
		` [DEBUG] Sending {"DispatcherId":`, " to queue "+w.results+"\n",
	)
	inOrder(
		t, w.read(w.root.Log("eb-commandprocessor.log")),
		": Received command CMD-AppDeploy: {", ": Executing Application update\n", ": Executing command: CMD-AppDeploy...\n",
		": Running AddonsBefore for command CMD-AppDeploy...\n", ": Running stages of Command CMD-AppDeploy from stage 0 to stage 1...\n",
		": Running stage 0 of command CMD-AppDeploy...\n", ": Loaded 6 actions for stage 0.\n", ": Running 2 of 6 actions: DownloadSourceBundle...\n",
		": Running 6 of 6 actions: InfraCleanEbextension...\n", ": Running stage 1 of command CMD-AppDeploy...\n",
		": Running 2 of 2 actions: AppDeployPostHook...\n", ": Running AddonsAfter for command CMD-AppDeploy...\n",
		": Command CMD-AppDeploy succeeded!\n", ": Command processor returning results: \n{\"status\":\"SUCCESS\"",
	)
	inOrder(t, w.read(w.root.Log("eb-activity.log")), " - [Application update v1@1/AppDeployStage0/AppDeployPreHook/03build] : Starting activity...\n",
		" - [Application update v1@1/AppDeployStage0/AppDeployPreHook] : Completed activity. Result:\n  Successfully execute hooks in directory ")
	for _, line := range strings.Split(strings.TrimSpace(w.read(w.root.Log("hostmanager.log"))), "\n") {
		checkLogLine(t, line)
	}
}

// The environment in the listener's log has the names of the original's, but none that would give access to anything.
func TestAgent_LogsTheActionsEnvironment(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.booted()
	c := w.command(order{name: protocol.CmdRestartAppServer})
	c.EventHandle = "https://events.example/1"
	body, err := signedBy(t, operatorKey(), c).Encode()
	must(t, err)
	w.sendBody(string(body))
	w.one()
	must(t, r.stop())
	_, rest, _ := strings.Cut(w.read(w.root.Log("cfn-hup.log")), "Received command "+outer)
	_, rest, _ = strings.Cut(rest, "Action environment: ")
	line, _, _ := strings.Cut(rest, "\n")
	var env map[string]string
	must(t, json.Unmarshal([]byte(line), &env))
	want := map[string]string{
		"CMD_DATA": c.Data, "CMD_NAME": outer, "DISPATCHER_ID": c.DispatcherID, "EVENT_HANDLE": c.EventHandle, "INVOCATION_ID": c.InvocationID,
		"LISTENER_ID": instance, "RESULT_QUEUE": w.results, "STACK_NAME": "awseb-e-test-stack",
	}
	for name, value := range want {
		if env[name] != value {
			t.Errorf("%s is %q, want %q", name, env[name], value)
		}
	}
	for _, name := range []string{"LANG", "PATH", "PWD"} {
		if env[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
	for name := range env {
		if strings.HasPrefix(name, "RESULT_") && name != "RESULT_QUEUE" || strings.HasPrefix(name, "AWS_") {
			t.Errorf("%s stands in the log", name)
		}
	}
}

// What never ran has no action in the listener's log.
func TestAgent_LogsNoActionOfARefusedCommand(t *testing.T) {
	for _, o := range []order{
		{name: protocol.CmdRestartAppServer, expires: time.Now().Add(-time.Minute)},
		{name: protocol.CmdRestartAppServer, instances: []string{"i-other"}},
		{name: "CMD-Nonsense"},
		{data: "{"},
	} {
		w := newWorld(t)
		r := w.start()
		w.booted()
		before := len(w.read(w.root.Log("cfn-hup.log")))
		w.send(o)
		w.one()
		must(t, r.stop())
		log := w.read(w.root.Log("cfn-hup.log"))[before:]
		if strings.Contains(log, "ction for aws-eb-command-handler") || !strings.Contains(log, "Sending {") {
			t.Errorf("%+v:\n%s", o, log)
		}
	}
}

// checkLogLine holds that a line is one JSON object in which no key stands twice: readers keep only one of two values, and not the same one.
func checkLogLine(t *testing.T, line string) {
	t.Helper()
	if !json.Valid([]byte(line)) {
		t.Errorf("hostmanager.log: %s", line)
		return
	}
	d := json.NewDecoder(strings.NewReader(line))
	seen := map[any]bool{}
	for token, err := d.Token(); err == nil; token, err = d.Token() {
		if token == json.Delim('{') || token == json.Delim('}') {
			continue
		}
		if seen[token] {
			t.Errorf("hostmanager.log has %q twice: %s", token, line)
		}
		seen[token] = true
		var value json.RawMessage
		must(t, d.Decode(&value))
	}
}
