package agent_test

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hostmanager/aws/objects"
	"hostmanager/environment"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
	"hostmanager/protocol"
)

// strangerKey is a key that nobody trusts.
func strangerKey() signing.Key { return signing.FromSeed([32]byte{'e', 'v', 'e'}) }

// secured makes what the world writes into the record signed with another key, or by nobody.
func (w *world) secured(by environment.Signer) {
	w.record = w.record.Secured(by, signature.Keys{})
}

// footprint is what an instance has besides its logs, events and journal, which tell of refusals too.
func (w *world) footprint() map[string]string {
	w.t.Helper()
	files := map[string]string{}
	must(w.t, filepath.WalkDir(string(w.root), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSocket != 0 {
			return err
		}
		told := strings.HasPrefix(path, w.root.Log("")) || path == w.root.AgentEvents() || path == w.root.Journal()
		if told || d.IsDir() {
			return nil
		}
		if target, err := os.Readlink(path); err == nil {
			files[path] = "-> " + target
			return nil
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	}))
	return files
}

// refusal is an order that must not be carried out.
type refusal struct {
	name   string
	make   func(w *world, v1, v2 protocol.Current) protocol.Command // v2 is deployed, v1 before it
	event  string
	answer string // in its Message or msg; empty: there is no answer, and the journal does not know it
}

func refusals() []refusal {
	deploy := func(v protocol.Current) order { return order{name: protocol.CmdAppDeploy, manifest: v} }
	change := func(o order, fn func(*protocol.Command)) func(*world, protocol.Current, protocol.Current) protocol.Command {
		return func(w *world, _, _ protocol.Current) protocol.Command {
			if o.name == protocol.CmdAppDeploy {
				o.manifest = w.version("v3", nil, nil)
			}
			c := w.command(o)
			fn(&c)
			return c
		}
	}
	restart := order{name: protocol.CmdRestartAppServer}
	ordered := func(o func(w *world) order) func(*world, protocol.Current, protocol.Current) protocol.Command {
		return func(w *world, _, _ protocol.Current) protocol.Command { return w.command(o(w)) }
	}
	manifest := func(spoil func(w *world, v protocol.Current) protocol.Current) func(*world, protocol.Current, protocol.Current) protocol.Command {
		return func(w *world, _, _ protocol.Current) protocol.Command {
			return w.command(deploy(spoil(w, w.version("v3", nil, nil))))
		}
	}
	return []refusal{
		{"unsigned", change(deploy(protocol.Current{}), func(c *protocol.Command) { c.Signature = protocol.Signature{} }), "not signed", ""},
		{"unsigned restart", change(restart, func(c *protocol.Command) { c.Signature = protocol.Signature{} }), "give hmctl that key with --signing-key", ""},
		{"key of a stranger", func(w *world, v1, v2 protocol.Current) protocol.Command {
			return signedBy(w.t, strangerKey(), w.command(deploy(w.version("v3", nil, nil))))
		}, "signed with a key that is not trusted", ""},
		{"stranger under the operator's id", func(w *world, v1, v2 protocol.Current) protocol.Command {
			c := signedBy(w.t, strangerKey(), w.command(restart))
			c.Signature.KeyID = operatorKey().KeyID()
			return c
		}, "signature does not fit", ""},
		{"a bit of the signature", change(restart, func(c *protocol.Command) { c.Signature.Value[10] ^= 1 }), "signature does not fit", ""},
		{"a bit of Data", change(deploy(protocol.Current{}), func(c *protocol.Command) { c.Data = strings.Replace(c.Data, "CMD-AppDeploy", "CMD-AppDeplox", 1) }), "signature does not fit", ""},
		{"a later Expiration", change(restart, func(c *protocol.Command) { c.Expiration = c.Expiration.Add(time.Hour) }), "signature does not fit", ""},
		{"another InvocationId", change(restart, func(c *protocol.Command) { c.InvocationID += "x" }), "signature does not fit", ""},
		{"another DispatcherId", change(restart, func(c *protocol.Command) { c.DispatcherID += "x" }), "signature does not fit", ""},
		{"another outer CommandName", change(restart, func(c *protocol.Command) { c.CommandName += "x" }), "signature does not fit", ""},
		{"another ResultQueue", change(restart, func(c *protocol.Command) { c.ResultQueue += "x" }), "signature does not fit", ""},
		{"an EventHandle", change(restart, func(c *protocol.Command) { c.EventHandle = "h" }), "signature does not fit", ""},
		{"signature of another order", func(w *world, v1, v2 protocol.Current) protocol.Command {
			c := w.command(restart)
			c.Signature = w.command(deploy(v2)).Signature
			return c
		}, "signature does not fit", ""},
		{"passes for the agent's own", func(w *world, v1, v2 protocol.Current) protocol.Command {
			c := w.command(deploy(v1))
			c.DispatcherID = "hostmanager-boot"
			return signedBy(w.t, operatorKey(), c)
		}, "is kept for the agent's own commands", ""},
		{"another environment", ordered(func(w *world) order {
			data, err := protocol.Request{CommandName: protocol.CmdRestartAppServer, RequestID: "r", EnvironmentID: "e-other", InstanceIDs: []string{instance}}.Encode()
			must(w.t, err)
			return order{data: data}
		}), "This order is for environment e-other; this instance belongs to e-test", "This order is for environment e-other"},
		{"no environment", ordered(func(w *world) order {
			data, err := protocol.Request{CommandName: protocol.CmdRestartAppServer, RequestID: "r", InstanceIDs: []string{instance}}.Encode()
			must(w.t, err)
			return order{data: data}
		}), "must name its environment", "must name its environment"},
		{"another instance", ordered(func(*world) order {
			return order{name: protocol.CmdRestartAppServer, instances: []string{"i-other"}}
		}), "An order for other instances came to this one", "Ignoring not applicable command."},
		{"every instance", ordered(func(w *world) order {
			data, err := protocol.Request{CommandName: protocol.CmdRestartAppServer, RequestID: "r", EnvironmentID: envID}.Encode()
			must(w.t, err)
			return order{data: data}
		}), "must name the instances it is for", "must name the instances it is for"},
		{"expired", ordered(func(*world) order {
			return order{name: protocol.CmdRestartAppServer, expires: time.Now().Add(-time.Second)}
		}), "expired at", "expired at"},
		{"valid longer than it is remembered", ordered(func(*world) order {
			return order{name: protocol.CmdRestartAppServer, expires: time.Now().Add(14*24*time.Hour + time.Minute)}
		}), "longer than commands are remembered", "longer than commands are remembered"},
		{"an older version", func(w *world, v1, v2 protocol.Current) protocol.Command { return w.command(deploy(v1)) }, "serial 1 is older than 2", "serial 1 is older than 2"},
		{"an older version in its first stage", func(w *world, v1, v2 protocol.Current) protocol.Command {
			o := deploy(v1)
			o.stage = stage(0)
			return w.command(o)
		}, "serial 1 is older than 2", "serial 1 is older than 2"},
		{"a manifest nobody signed", manifest(func(w *world, v protocol.Current) protocol.Current {
			must(w.t, w.objects.Delete(w.t.Context(), bucket, protocol.SignaturesKey(protocol.ManifestKey(envID, v.Manifest))))
			return v
		}), "not signed", "not signed"},
		{"a manifest a stranger signed", manifest(func(w *world, _ protocol.Current) protocol.Current {
			defer w.secured(operatorKey())
			w.secured(strangerKey())
			return w.version("v4", nil, nil)
		}), "signed with a key that is not trusted", "signed with a key that is not trusted"},
		{"a manifest under another's name", manifest(func(w *world, v protocol.Current) protocol.Current {
			other := w.version("v4", nil, nil)
			w.copyObject(protocol.ManifestKey(envID, other.Manifest), protocol.ManifestKey(envID, v.Manifest))
			w.copyObject(protocol.SignaturesKey(protocol.ManifestKey(envID, other.Manifest)), protocol.SignaturesKey(protocol.ManifestKey(envID, v.Manifest)))
			v.SHA256 = other.SHA256
			return v
		}), "signature does not fit", "signature does not fit"},
		{"a manifest with one byte more", manifest(func(w *world, v protocol.Current) protocol.Current {
			key := protocol.ManifestKey(envID, v.Manifest)
			body, _, err := w.objects.Get(w.t.Context(), bucket, key, 1<<20)
			must(w.t, err)
			_, err = w.objects.Put(w.t.Context(), bucket, key, append(body, ' '), objects.Condition{})
			must(w.t, err)
			return v
		}), "does not have the expected SHA-256", "does not have the expected SHA-256"},
		{"signatures that are rubbish", manifest(func(w *world, v protocol.Current) protocol.Current {
			_, err := w.objects.Put(w.t.Context(), bucket, protocol.SignaturesKey(protocol.ManifestKey(envID, v.Manifest)), []byte("{"), objects.Condition{})
			must(w.t, err)
			return v
		}), "damaged signatures object", "damaged signatures object"},
	}
}

func (w *world) copyObject(from, to string) {
	w.t.Helper()
	body, _, err := w.objects.Get(w.t.Context(), bucket, from, 1<<20)
	must(w.t, err)
	_, err = w.objects.Put(w.t.Context(), bucket, to, body, objects.Condition{})
	must(w.t, err)
}

// Every order that must be refused, in both forms: it has its event, an answer only where there is somebody to answer, no hook ran, and every file
// of the instance is as it was.
func TestOrders_RefusedBeforeAnySideEffect(t *testing.T) {
	eachForm(t, func(t *testing.T, f form) {
		w := newWorld(t)
		w.start()
		v1 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
		v2 := w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil)})
		w.booted()
		for _, hook := range []string{"appdeploy/pre/00ran", "restartappserver/pre/00ran", "configdeploy/pre/00ran"} {
			w.hook(hook, `echo "$EB_INVOCATION_ID" >> "`+string(w.root)+`/ran"`)
		}
		before := w.footprint()
		for _, r := range refusals() {
			c := r.make(w, v1, v2)
			told := len(w.events())
			w.sendBody(f.body(t, c))
			eventually(t, r.name+": an event", func() bool { return strings.Contains(w.events()[told:], r.event) })
			if !strings.Contains(w.events()[told:], `"severity":"WARN"`) {
				t.Errorf("%s: %s", r.name, w.events()[told:])
			}
			if r.answer != "" {
				e := w.one()
				if text := e.Message; (e.inner == nil && (e.Status != protocol.Failure || !strings.Contains(text, r.answer))) ||
					(e.inner != nil && (e.entry().Status != protocol.Failure || !strings.Contains(e.entry().Msg, r.answer))) || e.InvocationID != c.InvocationID {
					t.Errorf("%s: answered %+v", r.name, e)
				}
			}
			w.checkQueueEmpty()
			if known := w.journalled(c.Identity()); (known.Identity != "") != (r.answer != "") || len(known.Steps) > 0 {
				t.Errorf("%s: the journal has %+v", r.name, known)
			}
			if after := w.footprint(); !maps.Equal(before, after) {
				t.Errorf("%s: files changed: %v", r.name, changes(before, after))
				before = after
			}
			if messages, err := w.queue.Attributes(t.Context(), w.results); err != nil || messages["ApproximateNumberOfMessages"] != "0" {
				t.Errorf("%s: the result queue has %v, %v", r.name, messages["ApproximateNumberOfMessages"], err)
			}
		}
		w.holds(v2)
		// And what is in order is carried out.
		w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v9", nil, nil)})
	})
}

func changes(before, after map[string]string) (paths []string) {
	for path := range before {
		if before[path] != after[path] {
			paths = append(paths, path)
		}
	}
	for path := range after {
		if _, was := before[path]; !was {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// A recorded order that is sent again does nothing: not after a restart, not after the journal was compacted. An older version stays refused also
// where the journal is gone.
func TestOrders_ReplaysOverRestartAndCompaction(t *testing.T) {
	w := newWorld(t)
	w.hook("appdeploy/pre/00ran", `echo x >> "`+string(w.root)+`/ran"`)
	r := w.start()
	c := w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	w.one()
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil)})
	replayed := func(answers int) {
		t.Helper()
		w.sendAgain(c, form{})
		for _, again := range w.await(answers) {
			if again.InvocationID != c.InvocationID {
				t.Errorf("answered %+v", again)
			}
		}
		w.checkQueueEmpty()
		if got := w.read(w.root.Join("ran")); got != "x\nx\n" || w.serving() != 2 {
			t.Errorf("ran %q, serial %d serves", got, w.serving())
		}
	}
	replayed(1)
	must(t, r.Journal.Compact(time.Now().Add(13*24*time.Hour)))
	replayed(1)
	must(t, r.stop())
	r = w.start()
	replayed(1)
	must(t, r.stop())
	must(t, os.Remove(w.root.Journal()))
	w.start()
	replayed(1) // refused: FAILURE
	if !strings.Contains(w.events(), "serial 1 is older than 2") {
		t.Errorf("events: %s", w.events())
	}
}

// The operators change their key: new beside old, then new alone.
func TestOrders_KeysAreRotated(t *testing.T) {
	w := newWorld(t)
	newKey := signing.FromSeed([32]byte{'n', 'e', 'w'})
	oldPublic, newPublic := operatorKey().Public("old").String(), newKey.Public("new").String()
	trusting := func(keys ...string) func(*agentSetup) { return func(s *agentSetup) { s.Config.TrustedKeys = keys } }
	v1 := w.version("v1", nil, nil)
	must(t, w.record.MoveCurrent(t.Context(), v1))
	r := w.start(trusting(oldPublic, newPublic))
	w.booted()
	w.deployed(order{name: protocol.CmdRestartAppServer})
	w.secured(newKey)
	w.sendAgain(signedBy(t, newKey, w.command(order{name: protocol.CmdRestartAppServer})), form{})
	if e := w.one().entry(); e.Status != protocol.Success {
		t.Errorf("the new key, beside the old one: %+v", e)
	}
	must(t, w.record.MoveCurrent(t.Context(), w.version("v2", nil, nil)))
	must(t, r.stop())
	w.boot = "boot-2"
	w.start(trusting(newPublic)) // the desired state is signed with the new key by now
	eventually(t, "the version signed with the new key serves", func() bool { return w.serving() == 2 })
	w.send(order{name: protocol.CmdRestartAppServer})
	eventually(t, "the old key is refused", func() bool { return strings.Contains(w.events(), "signed with a key that is not trusted") })
	w.sendAgain(signedBy(t, newKey, w.command(order{name: protocol.CmdRestartAppServer})), form{})
	if e := w.one().entry(); e.Status != protocol.Success {
		t.Errorf("the new key, alone: %+v", e)
	}
}

// What start-up reads is judged like an order: a desired state that was put there by a stranger, and one that was put back.
func TestOrders_StartupTakesNoDesiredStateButTheLatestSigned(t *testing.T) {
	current, sig := protocol.CurrentKey(envID), protocol.SignaturesKey(protocol.CurrentKey(envID))
	for name, attack := range map[string]struct {
		do    func(w *world, v2 protocol.Current)
		event string
	}{
		"nobody's": {func(w *world, v2 protocol.Current) {
			v3 := w.version("v3", nil, nil)
			data, err := json.Marshal(v3)
			must(w.t, err)
			_, err = w.objects.Put(w.t.Context(), bucket, current, data, objects.Condition{})
			must(w.t, err)
			must(w.t, w.objects.Delete(w.t.Context(), bucket, sig))
		}, "not signed"},
		"nobody's under the old signature": {func(w *world, v2 protocol.Current) {
			data, err := json.Marshal(w.version("v3", nil, nil))
			must(w.t, err)
			_, err = w.objects.Put(w.t.Context(), bucket, current, data, objects.Condition{})
			must(w.t, err)
		}, "signature does not fit"},
		"a stranger's": {func(w *world, v2 protocol.Current) {
			w.secured(strangerKey())
			must(w.t, w.record.MoveCurrent(w.t.Context(), w.version("v3", nil, nil)))
			must(w.t, w.objects.Delete(w.t.Context(), bucket, sig))
			data, _, err := w.objects.Get(w.t.Context(), bucket, current, 1<<20)
			must(w.t, err)
			value, err := strangerKey().Sign(w.t.Context(), protocol.CurrentSigningBytes(envID, data))
			must(w.t, err)
			object, err := protocol.EncodeSignatures([]protocol.Signature{{KeyID: strangerKey().KeyID(), Value: value}})
			must(w.t, err)
			_, err = w.objects.Put(w.t.Context(), bucket, sig, object, objects.Condition{})
			must(w.t, err)
		}, "signed with a key that is not trusted"},
		"another environment's": {func(w *world, v2 protocol.Current) {
			data, _, err := w.objects.Get(w.t.Context(), bucket, current, 1<<20)
			must(w.t, err)
			value, err := operatorKey().Sign(w.t.Context(), protocol.CurrentSigningBytes("e-other", data))
			must(w.t, err)
			object, err := protocol.EncodeSignatures([]protocol.Signature{{KeyID: operatorKey().KeyID(), Value: value}})
			must(w.t, err)
			_, err = w.objects.Put(w.t.Context(), bucket, sig, object, objects.Condition{})
			must(w.t, err)
		}, "signature does not fit"},
		"its manifest swapped": {func(w *world, v2 protocol.Current) {
			v3 := w.version("v3", nil, nil)
			w.copyObject(protocol.ManifestKey(envID, v3.Manifest), protocol.ManifestKey(envID, v2.Manifest))
			w.copyObject(protocol.SignaturesKey(protocol.ManifestKey(envID, v3.Manifest)), protocol.SignaturesKey(protocol.ManifestKey(envID, v2.Manifest)))
		}, "does not have the expected SHA-256"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			must(t, w.record.MoveCurrent(t.Context(), w.version("v1", nil, nil)))
			r := w.start()
			w.booted()
			v2 := w.version("v2", nil, nil)
			must(t, w.record.MoveCurrent(t.Context(), v2))
			must(t, r.stop())
			attack.do(w, v2)
			must(t, os.Remove(filepath.Join(w.root.EtcBeanstalk(), "serving"))) // so that start-up has something to do
			w.boot = "boot-2"
			r = w.start()
			eventually(t, "the event", func() bool { return strings.Contains(w.events(), attack.event) })
			must(t, r.stop())
			if w.serving() != 0 {
				t.Errorf("serial %d serves", w.serving())
			}
		})
	}
}

// A desired state with a good signature that is older than what was here is an old object that somebody put back.
func TestOrders_AnOldDesiredStateIsNotGoneBackTo(t *testing.T) {
	current, sig := protocol.CurrentKey(envID), protocol.SignaturesKey(protocol.CurrentKey(envID))
	for _, by := range []string{"command", "start-up", "start-up that fails"} {
		t.Run(by, func(t *testing.T) {
			w := newWorld(t)
			v1 := w.version("v1", nil, nil)
			must(t, w.record.MoveCurrent(t.Context(), v1))
			r := w.start()
			w.booted()
			saved := map[string][]byte{}
			for _, key := range []string{current, sig} {
				body, _, err := w.objects.Get(t.Context(), bucket, key, 1<<20)
				must(t, err)
				saved[key] = body
			}
			v2 := w.version("v2", nil, nil)
			w.operation(v2, environment.Failed) // the attacker writes what they like into a record that nobody signs
			serves, event := v2, "is refused: it is older than what was deployed here"
			switch by {
			case "command":
				w.deployed(order{name: protocol.CmdAppDeploy, manifest: v2})
				must(t, w.record.MoveCurrent(t.Context(), v2))
			case "start-up":
				must(t, r.stop())
				must(t, w.record.MoveCurrent(t.Context(), v2))
				w.boot = "boot-2"
				r = w.start()
				eventually(t, "v2 serves", func() bool { return w.serving() == v2.Serial })
				w.booted()
			case "start-up that fails":
				must(t, r.stop())
				w.startupFails()
				w.boot = "boot-2"
				serves, event = v1, "serial 1 is older than 2"
				r = w.failedStartup(v2)
			}
			must(t, r.stop())
			for key, body := range saved {
				_, err := w.objects.Put(t.Context(), bucket, key, body, objects.Condition{})
				must(t, err)
			}
			must(t, os.Remove(w.root.Journal())) // nor does it help to make the instance forget
			w.boot = "boot-3"
			r = w.start()
			eventually(t, "the event", func() bool { return strings.Contains(w.events(), event) })
			must(t, r.stop())
			w.holds(serves)
		})
	}
}

// What is damaged is not taken for nothing: every version would be new to it.
func TestOrders_ADamagedMarkRefuses(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
	must(t, r.stop())
	file := filepath.Join(w.root.AgentState(), "serials.json")
	must(t, os.WriteFile(file, []byte("{"), 0o600))
	w.start()
	w.send(order{name: protocol.CmdAppDeploy, manifest: w.version("v2", nil, nil)})
	if e := w.one().entry(); e.Status != protocol.Failure || !strings.Contains(e.Msg, "if the file "+file+" is damaged, remove it") {
		t.Errorf("answered %+v", e)
	}
	must(t, os.Remove(file))
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v3", nil, nil)})
}

// A flood of refused messages neither holds up what is in order nor washes the events away.
func TestOrders_AFloodOfRefusalsIsToldInFewWords(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.booted()
	c := w.command(order{name: protocol.CmdRestartAppServer})
	c.Signature = protocol.Signature{}
	const many = 60
	for range many {
		w.sendAgain(c, form{})
	}
	w.checkQueueEmpty()
	if said := strings.Count(w.events(), "An order was refused"); said < 30 || said == many { // 30 a minute
		t.Errorf("said %d times", said)
	}
	w.deployed(order{name: protocol.CmdAppDeploy, manifest: w.version("v1", nil, nil)})
}

// With insecure_unsigned anyone's order is carried out, also one that is signed, and every start says so.
func TestOrders_InsecureUnsigned(t *testing.T) {
	w := newWorld(t)
	w.secured(nil)
	unsigned := func(s *agentSetup) { s.Config.TrustedKeys, s.Config.InsecureUnsigned = nil, true }
	v1 := w.version("v1", nil, nil)
	for n, c := range []protocol.Command{
		w.command(order{name: protocol.CmdAppDeploy, manifest: v1}),
		signedBy(t, strangerKey(), w.command(order{name: protocol.CmdRestartAppServer})),
		w.command(order{data: `{"command_name":"CMD-RestartAppServer","request_id":"r"}`}), // as issue 2's agents took them
	} {
		if n != 1 {
			c.Signature = protocol.Signature{}
		}
		r := w.start(unsigned)
		w.sendAgain(c, form{})
		if e := w.one().entry(); e.Status != protocol.Success {
			t.Errorf("%d: %+v", n, e)
		}
		must(t, r.stop())
		if said := strings.Count(w.events(), "runs with insecure_unsigned"); said != n+1 {
			t.Errorf("said %d times in %d starts", said, n+1)
		}
	}
}

// The journal keeps the command as it came, with its signature.
func TestOrders_TheJournalKeepsTheSignature(t *testing.T) {
	w := newWorld(t)
	w.start()
	c := w.send(order{name: protocol.CmdRestartAppServer})
	w.one()
	got, err := protocol.DecodeCommand(w.journalled(c.Identity()).Message)
	must(t, err)
	if err := signature.NewKeys(operatorKey().Public("")).Verify(got.Signature.KeyID, got.SigningBytes(), got.Signature.Value); err != nil {
		t.Errorf("%+v: %v", got, err)
	}
}
