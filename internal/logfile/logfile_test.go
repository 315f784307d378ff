package logfile_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hostmanager/internal/layout"
	"hostmanager/internal/logfile"
	"hostmanager/internal/redact"
)

func at(text string) func() time.Time {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		panic(err)
	}
	return func() time.Time { return t }
}

func TestLines_AreThoseOfTheOriginal(t *testing.T) {
	var b bytes.Buffer
	hide := redact.New()
	listener := logfile.NewListener(&b, hide, at("2017-07-16T23:09:15.432Z"))
	processor := logfile.NewProcessor(&b, hide, at("2017-07-19T06:24:05.584Z"), 4510)
	activity := logfile.NewActivity(&b, hide, at("2020-01-12T05:16:42.754Z"), 3168)
	path := []string{"Application update app-1@7", "AppDeployStage0", "AppDeployPreHook"}
	for _, c := range []struct {
		write func()
		want  string
	}{
		{func() { listener.Debugf("Receiving messages for queue") }, "2017-07-16 23:09:15,432 [DEBUG] Receiving messages for queue\n"},
		{
			func() {
				listener.Infof("Received command %s (invocation id: %s)", "ElasticBeanstalkCommand-AWSEBAutoScalingGroup", "blah")
			},
			"2017-07-16 23:09:15,432 [INFO] Received command ElasticBeanstalkCommand-AWSEBAutoScalingGroup (invocation id: blah)\n",
		},
		{func() { processor.Debugf("Loaded %d actions for stage %d.", 6, 0) }, "[2017-07-19T06:24:05.584Z] DEBUG [4510]  : Loaded 6 actions for stage 0.\n"},
		{
			func() { processor.Infof("Running %d of %d actions: %s...", 2, 6, "DownloadSourceBundle") },
			"[2017-07-19T06:24:05.584Z] INFO  [4510]  : Running 2 of 6 actions: DownloadSourceBundle...\n",
		},
		{
			func() { activity.Start(path) },
			"[2020-01-12T05:16:42.754Z] INFO  [3168]  - [Application update app-1@7/AppDeployStage0/AppDeployPreHook] : Starting activity...\n",
		},
		{func() { activity.Complete(path[:1], "one\ntwo\n") }, " - [Application update app-1@7] : Completed activity. Result:\n  one\n  two\n"},
		{func() { activity.Complete(path[:1], "") }, " : Completed activity.\n"},
		{func() { activity.Fail(path, "no room (x)") }, " : Activity execution failed, because: no room (x)\n"},
		{func() { activity.Failed(path) }, " : Activity failed.\n"},
		{func() { activity.TimedOut(path, 90*time.Second) }, " : Activity timed out after 90 seconds.\n"},
	} {
		b.Reset()
		c.write()
		if !strings.HasSuffix(b.String(), c.want) {
			t.Errorf("got  %q\nwant %q", b.String(), c.want)
		}
	}
}

// Names and messages come from a queue: none of them may write a line of its own.
func TestLines_OneEventIsOneLine(t *testing.T) {
	var b bytes.Buffer
	hide := redact.New()
	hide.Add("first\nsecond")
	clock := at("2017-07-16T23:09:15.432Z")
	listener, processor := logfile.NewListener(&b, hide, clock), logfile.NewProcessor(&b, hide, clock, 1)
	activity := logfile.NewActivity(&b, hide, clock, 1)
	const forged = "x\n2017-07-16 23:09:15,432 [INFO] forged\r\x1b[2J\x00\x7f\u0085\u2028\u202eé\ty"
	const want = `x\n2017-07-16 23:09:15,432 [INFO] forged\r\x1b[2J\x00\x7f\u0085\u2028\u202eé` + "\ty"
	for name, write := range map[string]func(){
		"debug": func() { listener.Debugf("a %s", forged) }, "info": func() { listener.Infof("%s", forged) },
		"error": func() { listener.Errorf("%s", forged) }, "processor": func() { processor.Infof("%s", forged) },
		"path": func() { activity.Start([]string{"a", forged}) }, "cause": func() { activity.Fail([]string{"a"}, forged) },
		"output": func() { activity.Output([]string{"a"}, forged) }, "path of a result": func() { activity.Complete([]string{forged}, "r\n") },
	} {
		b.Reset()
		write()
		got, result, _ := strings.Cut(b.String(), "Completed activity. Result:")
		if !strings.Contains(got, want) || strings.Count(got, "\n") > 1 || strings.ContainsAny(got, "\r\x1b\x00\u2028") || result != "" && result != "\n  r\n" {
			t.Errorf("%s: %q", name, b.String())
		}
	}
	b.Reset()
	processor.Debugf("%d results of %v: \n%s, %s", 2, []string{"a\nb"}, []byte("c\nd"), errors.New("first\nsecond\n"))
	if want := "2 results of [a\\nb]: \nc\\nd, " + redact.Mask + "\\n\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("got %q, want %q at its end", b.String(), want)
	}
	b.Reset()
	activity.Complete([]string{"a"}, "one\r\n"+"first\nsecond\n\n[x]\x1b[0m")
	if want := "Result:\n  one\n  " + redact.Mask + "\n  \n  [x]\\x1b[0m\n"; !strings.HasSuffix(b.String(), want) {
		t.Errorf("got %q, want %q at its end", b.String(), want)
	}
}

func TestSet_HidesSecretsInEveryFile(t *testing.T) {
	root := layout.Root(t.TempDir())
	hide := redact.New()
	hide.Add("s3cr3t-value")
	set := logfile.OpenSet(logfile.Options{Root: root, Redact: hide, PID: 1})
	set.Listener.Infof("x s3cr3t-value")
	set.Processor.Infof("x s3cr3t-value")
	set.Activity.Output([]string{"a"}, "x s3cr3t-value")
	set.Structured.Info("x s3cr3t-value", "k", "s3cr3t-value", "err", errors.New("bad s3cr3t-value"), "any", []string{"s3cr3t-value"})
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cfn-hup.log", "eb-commandprocessor.log", "eb-activity.log", "hostmanager.log"} {
		data, err := os.ReadFile(root.Log(name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, []byte("s3cr3t")) || !bytes.Contains(data, []byte(redact.Mask)) {
			t.Errorf("%s: %s", name, data)
		}
	}
}

func TestStructuredHandler_KeepsItsOwnKeys(t *testing.T) {
	var b bytes.Buffer
	hide := redact.New()
	hide.Add("ERROR-IN-NAME", "level\":")
	log := slog.New(logfile.StructuredHandler(&b, hide, nil))
	log.Error("stop", "n", 3)
	var line map[string]any
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line["level"] != "ERROR" || line["msg"] != "stop" || line["n"] != 3.0 {
		t.Errorf("got %s, %v", b.Bytes(), err)
	}
}

func TestFile_ReopenFollowsARename(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	f := logfile.Open(path, 1, 1)
	write(t, f, "one\n")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := f.Reopen(); err != nil {
		t.Fatal(err)
	}
	write(t, f, "two\n")
	if got, err := os.ReadFile(path); err != nil || string(got) != "two\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestFile_CutsAWriteLargerThanTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.log")
	f := logfile.Open(path, 1, 1)
	defer f.Close()
	write(t, f, strings.Repeat("x", 3<<20))
	if st, err := os.Stat(path); err != nil || st.Size() != 1<<20 {
		t.Errorf("got %v, %v", st, err)
	}
}

func write(t *testing.T, f *logfile.File, text string) {
	t.Helper()
	if n, err := f.Write([]byte(text)); err != nil || n != len(text) {
		t.Fatalf("wrote %d: %v", n, err)
	}
}
