package fleet_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/protocol"
)

// TestDeploy_AnswersDoNotMakeTheRecordUnreadable: what an instance says of itself stands in the record, which is read with a bound.
func TestDeploy_AnswersDoNotMakeTheRecordUnreadable(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", 40<<10)
	w.instance("i-a", func(i *instance, c protocol.Command, r protocol.Request) []string {
		e := success()
		e.Cause, e.VersionLabel, e.DeploymentID, e.StageNum = long, long, i.deploymentOf(r), r.StageNum
		data, err := protocol.NewResponse(e).Encode()
		if err != nil {
			t.Error(err)
		}
		body := encode(t, protocol.Result{
			DispatcherID: c.DispatcherID, InvocationID: c.InvocationID, CommandName: c.CommandName, ListenerID: i.ID,
			Status: protocol.Success, ResultID: long + i.ID + protocol.Digest([]byte(data)), Data: data,
		})
		return []string{body, body}
	})
	f, out := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
		t.Fatal(err)
	}
	out.mustHave(t, "Command execution completed on 1 of 1 instances")
	for _, s := range w.lastDeployment().Stages {
		o := s.Outcomes["i-a"]
		if n := len(o.Cause) + len(o.VersionLabel) + len(o.ResultID); n == 0 || n > 1000 {
			t.Errorf("stage %d: the record holds %d bytes of what the instance called cause, version and result", s.Num, n)
		}
	}
}

// TestDeploy_AFloodDoesNotPutTheEndOff: who sends rubbish to the result queue keeps nobody waiting for ever, nor fills their terminal.
func TestDeploy_AFloodDoesNotPutTheEndOff(t *testing.T) {
	w := newWorld(t)
	ctx, stop := context.WithCancel(t.Context())
	var flood sync.WaitGroup
	defer flood.Wait()
	defer stop()
	w.instance("i-a", func(_ *instance, c protocol.Command, _ protocol.Request) []string {
		flood.Go(func() {
			for ctx.Err() == nil {
				_ = w.queues.Send(ctx, c.ResultQueue, "rubbish") // the queue is gone at the end
			}
		})
		return nil
	})
	f, out := w.fleet()
	f.PickupWindow = 100 * time.Millisecond
	bounded, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := f.Deploy(bounded, fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", Timeout: time.Second})
	var failed *fleet.FailedError
	if !errors.As(err, &failed) || len(failed.TimedOut) != 1 {
		t.Fatalf("got %v", err)
	}
	if n := strings.Count(strings.Join(out.texts(), "\n"), "Ignored a message"); n == 0 || n > 20 {
		t.Errorf("%d messages were told", n)
	}
}

// TestDeploy_AFailureThatQuotesTheRefusalIsOne: only the refusal itself says that the command is not for the instance.
func TestDeploy_AFailureThatQuotesTheRefusalIsOne(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	w.instance("i-b", func(i *instance, c protocol.Command, r protocol.Request) []string {
		return []string{i.result(c, r, protocol.ResponseEntry{Status: protocol.Failure, Msg: "hook said: Ignoring not applicable command."})}
	})
	f, _ := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); !errors.Is(err, fleet.ErrFailed) {
		t.Errorf("got %v", err)
	}
}

// TestDeploy_WhatCannotBeUploadedTakesNobodysPlace: an unfinished deployment can still be finished then.
func TestDeploy_WhatCannotBeUploadedTakesNobodysPlace(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	f, _ := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", NoWait: true}); err != nil {
		t.Fatal(err)
	}
	gone := w.bundle("v2")
	if err := os.Remove(gone.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: gone, Label: "v2"}); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
	if _, err := f.Resume(t.Context()); err != nil {
		t.Error(err)
	}
	checkEnd(t, w, environment.Succeeded)
}

// TestDeploy_ABundleThatChangesIsNotLeftBehind: its key tells another digest, and every later deployment of what has that one would find it there.
func TestDeploy_ABundleThatChangesIsNotLeftBehind(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	b := w.bundle("good")
	var once sync.Once
	inject(t, w, localaws.Fault{Op: "S3.HeadObject", Status: 500, When: func(localaws.Call) bool {
		once.Do(func() {
			if err := os.WriteFile(b.Path, []byte("evil"), 0o600); err != nil {
				t.Error(err)
			}
		})
		return false
	}})
	f, out := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: b, Label: "v1"}); !errors.Is(err, fleet.ErrRefused) || !strings.Contains(err.Error(), "was changed while it was uploaded") {
		t.Fatalf("got %v", err)
	}
	if err := os.WriteFile(b.Path, []byte("good"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: b, Label: "v1"}); err != nil {
		t.Fatal(err)
	}
	if last := out.uploads[len(out.uploads)-1]; last.Skipped {
		t.Error("the changed bundle was taken for the good one")
	}
}

// TestResume_TellsWhyItFailed also where another hmctl took the answer and died before it showed it.
func TestResume_TellsWhyItFailed(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", nil)
	f, out := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", NoWait: true}); err != nil {
		t.Fatal(err)
	}
	d, etag, err := w.record.LastDeployment(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d.Stages[0].Outcomes = map[string]environment.Outcome{"i-a": {InstanceID: "i-a", ResultID: "r", Status: protocol.Failure, ReturnCode: 7, Msg: "no space left"}}
	if _, err := w.record.PutDeployment(t.Context(), &d, etag); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Resume(t.Context()); !errors.Is(err, fleet.ErrFailed) {
		t.Fatalf("got %v", err)
	}
	out.mustHave(t, "ERROR: [Instance: i-a] Command failed on instance. Return code: 7 Output: no space left.")
}

// TestDeploy_ALockLostAtTheEndIsNoFailure: the deployment is in the record by then, and who runs it in CI goes by the exit status.
func TestDeploy_ALockLostAtTheEndIsNoFailure(t *testing.T) {
	w := newWorld(t)
	w.instance("i-a", func(i *instance, c protocol.Command, r protocol.Request) []string {
		if *r.StageNum == 1 {
			if _, err := w.record.BreakLock(t.Context()); err != nil {
				t.Error(err)
			}
		}
		return dockerLike("aaaaaaaaaaaa")(i, c, r)
	})
	f, out := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1"}); err != nil {
		t.Fatal(err)
	}
	out.mustHave(t, "WARN: The lock was somebody else's, or free, before this operation let go of it.")
	checkEnd(t, w, environment.Succeeded)
}

// TestTargets_ByQueueMayLeaveSomeOut, which is said as it is of chosen ids.
func TestTargets_ByQueueMayLeaveSomeOut(t *testing.T) {
	w := newWorld(t)
	a := w.instance("i-a", dockerLike("aaaaaaaaaaaa"))
	w.instance("i-b", dockerLike("bbbbbbbbbbbb"))
	f, out := w.fleet()
	if _, err := f.Deploy(t.Context(), fleet.DeployRequest{Bundle: w.bundle("v1"), Label: "v1", Targets: fleet.Selection{Queues: []string{a.Queue}}}); err != nil {
		t.Fatal(err)
	}
	out.mustHave(t, "Only the chosen instances run it now.")
}

// TestAbort_SaysWhoIsAboutToBegin: an abort that comes while a bundle is uploaded finds nothing, and the deployment goes on.
func TestAbort_SaysWhoIsAboutToBegin(t *testing.T) {
	w := newWorld(t)
	held, err := w.record.Lock(t.Context(), environment.LockRequest{Holder: "bert", Reason: "deploy v1"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = held.Unlock(t.Context()) }()
	f, _ := w.fleet()
	_, err = f.Abort(t.Context(), fleet.AbortRequest{})
	if !errors.Is(err, fleet.ErrNothingToAbort) || !strings.Contains(err.Error(), "bert (deploy v1) has sent nothing to the instances") {
		t.Errorf("got %v", err)
	}
}
