package agent

import (
	"context"
	"time"

	"hostmanager/internal/shed"
)

// restAfter is how long the agent must have had nothing to do before it gives memory back.
const restAfter = 2 * time.Second

// rest gives back what start and commands needed, once after each. An agent waits nearly always, beside an application that wants the memory.
func (a *Agent) rest(ctx context.Context) {
	timer := time.NewTimer(restAfter)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.worked:
			timer.Reset(restAfter)
		case <-timer.C:
			if _, running := a.exclusive.depth(); running > 0 {
				continue // its end is told
			}
			if err := shed.Idle(); err != nil {
				a.log.Debug("memory not given back", "error", err)
			}
		}
	}
}
