package commandproc_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"

	"hostmanager/commandproc"
	"hostmanager/hooks"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// noRoom is a journal that has no room for a verdict.
type noRoom struct {
	steps
	asked *int
}

func (n noRoom) Recorder(identity string) commandproc.Recorder {
	return noRoomRecorder{n.steps.Recorder(identity), n.asked}
}

type noRoomRecorder struct {
	commandproc.Recorder
	asked *int
}

func (r noRoomRecorder) Verdict(json.RawMessage) error {
	*r.asked++
	return journal.ErrFull
}

// A verdict waits for room, which does not keep an agent that is to stop; nothing is undone without it.
func TestRun_WithoutRoomForTheVerdict(t *testing.T) {
	for _, stops := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t)
			asked, pause := 0, make(chan struct{})
			b.Steps = noRoom{steps{b.journal}, &asked}
			failing := b.step("DownloadSourceBundle", protocol.Compensated, errors.New("no"))
			run := failing.Run
			failing.Run = func(ctx context.Context, c *hooks.Call) error {
				if stops {
					close(pause)
				}
				return run(ctx, c)
			}
			b.Infra["DownloadSourceBundle"] = failing
			j := b.command(t, protocol.CmdAppDeploy, nil)
			j.Pause = pause
			response, err := b.Processor.Run(t.Context(), j)
			if response != nil || !errors.Is(err, journal.ErrFull) {
				t.Errorf("stops %v: %v, %v", stops, response, err)
			}
			if want := map[bool]int{true: 1, false: 10}[stops]; asked != want {
				t.Errorf("stops %v: the verdict was tried %d times, want %d", stops, asked, want)
			}
			if got := b.traced(); got != "InfraWriteConfig DownloadSourceBundle" {
				t.Errorf("stops %v: %s", stops, got)
			}
		})
	}
}
