package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"

	"hostmanager/internal/atomicfile"
)

// Follow copies the output of the application's containers into their log files until ctx ends; then it returns nil. It goes on where an earlier
// Follow stopped or was killed, without a gap and without a line twice, as long as the Engine still has the output. A container that takes over
// is followed from its start, so also what a failed one said is kept. Call it once at a time.
func (p *Platform) Follow(ctx context.Context) error {
	f := &follower{Platform: p, active: map[string]bool{}, again: map[string]bool{}}
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = 30 * time.Second
	for {
		began := time.Now()
		err := f.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > pause.MaxInterval {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		p.log.Warn("lost the Docker Engine, following again", "error", err, "in", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

type follower struct {
	*Platform
	done   sync.WaitGroup
	mu     sync.Mutex
	active map[string]bool // container ids with a goroutine
	again  map[string]bool // started anew before that goroutine ended
}

// watch follows what is there and what starts, until the connection to the Engine is lost.
func (f *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer f.done.Wait()
	defer cancel()
	if err := atomicfile.Sweep(positions(f.root)); err != nil { // of a kill; nobody writes there yet
		f.log.Warn("unfinished notes of container output not removed", "error", err)
	}
	if err := f.connect(ctx); err != nil {
		return err
	}
	only := f.names.ours()
	only.Add("type", string(events.ContainerEventType))
	only.Add("event", string(events.ActionStart))
	only.Add("event", string(events.ActionDie))
	messages, errs := f.cli.Events(ctx, events.ListOptions{Filters: only}) // before the list, so that no start is missed between the two
	if err := f.followAll(ctx); err != nil {
		return err
	}
	for {
		select {
		case m := <-messages:
			if m.Actor.Attributes[labelRole] != roleApp {
				continue
			}
			if m.Action == events.ActionStart {
				f.follow(ctx, m.Actor.ID)
			} else {
				f.died(ctx, m.Actor.ID)
			}
		case err := <-errs:
			return fmt.Errorf("follow events of the Engine: %w", err)
		}
	}
}

func (f *follower) followAll(ctx context.Context) error {
	only := f.names.ours()
	only.Add("label", labelRole+"="+roleApp)
	list, err := f.cli.ContainerList(ctx, container.ListOptions{All: true, Filters: only})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range list {
		f.follow(ctx, c.ID) // the stopped ones too: there may be lines that were never copied
	}
	if err := f.sweepLogs(ctx); err != nil {
		f.log.Warn("old container logs not removed", "error", err)
	}
	return nil
}

func (f *follower) follow(ctx context.Context, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active[id] {
		f.again[id] = true
		return
	}
	f.active[id] = true
	f.done.Go(func() {
		pause := time.Second
		for {
			err := f.copyOutput(ctx, id)
			switch {
			case err == nil:
				pause = time.Second
			case ctx.Err() == nil && !cerrdefs.IsNotFound(err):
				if pause == time.Second { // the first of a row, which a full disk makes long
					f.log.Warn("container output interrupted", "container", shortID(id), "error", err)
				}
				pause = min(2*pause, maxFollowPause)
			}
			if !f.stillRuns(ctx, id, pause) && f.ended(id) {
				return
			}
		}
	})
}

// maxFollowPause is how long what the Engine keeps of a container's output may wait to be copied when that was not possible before.
const maxFollowPause = 10 * time.Second

// stillRuns tells whether a container whose output ended goes on, after a pause: the Engine ended the connection, not the container.
func (f *follower) stillRuns(ctx context.Context, id string, pause time.Duration) bool {
	in, ok, err := f.find(ctx, id)
	if !ok || err != nil || !in.running {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// ended tells whether the goroutine of a container is to end, or to copy once more.
func (f *follower) ended(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.again[id] {
		delete(f.again, id)
		return false
	}
	delete(f.active, id)
	return true
}

// copyOutput copies from the noted position to the end: that of the container, of the connection or of ctx.
func (f *follower) copyOutput(ctx context.Context, id string) error {
	log, err := openContainerLog(f.root, id)
	if err != nil {
		return err
	}
	body, err := f.cli.ContainerLogs(ctx, id, container.LogsOptions{
		ShowStdout: true, ShowStderr: true, Follow: true, Timestamps: true, Since: log.pos.Time,
	})
	if err != nil {
		return errors.Join(fmt.Errorf("read container output: %w", err), log.close())
	}
	defer body.Close()
	in := newFrames(body)
	for {
		payload, err := in.next()
		if err == nil {
			stamp, line, _ := strings.Cut(string(payload), " ")
			err = log.add(stamp, line)
		}
		if err != nil {
			return errors.Join(ignoreEnd(ctx, err), log.close())
		}
	}
}

// died notes the end of a container that was to serve.
func (f *follower) died(ctx context.Context, id string) {
	current, err := readState(f.root.CurrentContainerID())
	if err != nil || current == "" || !strings.HasPrefix(id, current) {
		return
	}
	in, ok, err := f.find(ctx, id)
	if !ok || err != nil {
		return
	}
	f.log.Error("container that serves ended", "container", shortID(id), "exit_code", in.exitCode, "out_of_memory", in.oom)
	f.noteQuit(in, f.lastOutput(ctx, id))
}
