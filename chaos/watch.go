package main

import (
	"context"
	"slices"
	"sync"
	"time"
)

// watch is somebody who uses the application while a case is played: every answer is the old version's or the new one's, whatever is killed.
type watch struct {
	stop  context.CancelFunc
	wg    sync.WaitGroup
	asked int
	wrong []string // the first few answers that were neither
}

// watchEvery is the pause behind an answer.
const watchEvery = 10 * time.Millisecond

// watch begins to ask, until end.
func (in *instance) watch(ctx context.Context, either ...string) *watch {
	ctx, stop := context.WithCancel(ctx)
	w := &watch{stop: stop}
	w.wg.Go(func() {
		for ctx.Err() == nil {
			got := in.ask(ctx)
			if ctx.Err() != nil {
				return
			}
			w.asked++
			if !slices.Contains(either, got) && len(w.wrong) < 3 {
				w.wrong = append(w.wrong, got)
			}
			rest(ctx, watchEvery)
		}
	})
	return w
}

// end stops asking and takes into the tally what was seen in the case of that name.
func (w *watch) end(t *tally, name string) {
	w.stop()
	w.wg.Wait()
	t.count(func(t *tally) { t.asked += w.asked })
	for _, got := range w.wrong {
		t.violate(&t.wrong, "%s: in the middle of it the application answered neither old nor new but %q", name, got)
	}
}
