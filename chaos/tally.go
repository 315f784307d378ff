package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// tally is what a part counts. Safe for concurrent use.
type tally struct {
	mu         sync.Mutex
	kills      int
	others     int      // kills of what is no agent
	missed     []string // cases whose strike did not fall
	commands   int
	results    int // distinct
	deliveries int
	asked      int // requests to the application while cases were played
	resumed    int // killed and yet a SUCCESS
	unwound    int // killed and a FAILURE
	doubles    int
	lost       int
	stuck      int
	unlike     int // results that came twice and differ, or came before they were durable
	wrong      int // anything else that may not be
	own        []time.Duration
	whole      []time.Duration
	unfetched  []time.Duration // own times of commands whose manifest was still to be fetched, since no step of them was done
	worst      string          // the case with the longest own time
	landed     map[string]int  // what the journal ended with at a kill
	violations []string
}

func newTally() *tally { return &tally{landed: map[string]int{}} }

func (t *tally) count(f func(*tally)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f(t)
}

// violate takes note of something that may not be.
func (t *tally) violate(counter *int, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	*counter++
	t.violations = append(t.violations, fmt.Sprintf(format, args...))
}

// judge holds, when a part is over, that it did what it is there for: a part that killed nobody has shown nothing, nor has a case whose strike did
// not fall, where no record came that a clean run wrote.
func (t *tally) judge() {
	if t.kills+t.others == 0 {
		t.violate(&t.wrong, "nothing was killed")
	}
	for _, name := range t.missed {
		t.violate(&t.wrong, "%s: the strike did not fall", name)
	}
}

func (t *tally) broken() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.violations) > 0
}

// print shows the counts and what was broken.
func (t *tally) print(out io.Writer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fmt.Fprintf(out, "kills %d (and %d of proxy and hmctl)  commands %d  results %d in %d deliveries\n", t.kills, t.others, t.commands, t.results, t.deliveries)
	fmt.Fprintf(out, "killed commands: %d succeeded, %d were taken back\n", t.resumed, t.unwound)
	fmt.Fprintf(out, "double runs %d  lost %d  stuck %d  unlike results %d  other %d\n", t.doubles, t.lost, t.stuck, t.unlike, t.wrong)
	if t.asked > 0 {
		fmt.Fprintf(out, "requests to the application in the middle of it %d; a case in which one was not answered by the old version or the new stands under other\n", t.asked)
	}
	t.printTimes(out)
	if len(t.landed) > 0 {
		fmt.Fprintf(out, "the kills fell behind %d different records, most often:\n", len(t.landed))
		names := slices.SortedFunc(maps.Keys(t.landed), func(a, b string) int {
			if d := t.landed[b] - t.landed[a]; d != 0 {
				return d
			}
			return strings.Compare(a, b)
		})
		for _, name := range names[:min(8, len(names))] {
			fmt.Fprintf(out, "  %4d  %s\n", t.landed[name], name)
		}
	}
	for _, v := range t.violations {
		fmt.Fprintln(out, "BROKEN:", v)
	}
}

// printTimes shows how long commands needed after a kill. The fetch of a manifest is S3's time, and S3 may throttle and hang up here, so commands
// that still had to do it stand apart.
func (t *tally) printTimes(out io.Writer) {
	if len(t.own) > 0 {
		fmt.Fprintf(out, "from the agent's start to the result of the command it took up, n=%d:\n", len(t.own))
		fmt.Fprintf(out, "  own time (without build, hook files, starting and gating the container) p50 %s  p99 %s  max %s; held to 2 s: %s\n",
			at(t.own, 0.5), at(t.own, 0.99), at(t.own, 1), met(at(t.own, 1) < ownTime))
		fmt.Fprintf(out, "  longest: %s\n", t.worst)
		fmt.Fprintf(out, "  all of it                                                               p50 %s  p99 %s  max %s\n", at(t.whole, 0.5), at(t.whole, 0.99), at(t.whole, 1))
	}
	if len(t.unfetched) > 0 {
		fmt.Fprintf(out, "  of commands of which no step was done, with the fetch of their manifest, n=%d   p50 %s  p99 %s  max %s\n",
			len(t.unfetched), at(t.unfetched, 0.5), at(t.unfetched, 0.99), at(t.unfetched, 1))
	}
}

// ownTime is what a resumed command is held to.
const ownTime = 2 * time.Second

// timed takes note of how long the last life of a case needed for a command, of which a step was done when it began, or none.
func (t *tally) timed(name string, begun bool, whole, own time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !begun {
		t.unfetched = append(t.unfetched, own)
		return
	}
	if len(t.own) == 0 || own > slices.Max(t.own) {
		t.worst = name
	}
	t.whole, t.own = append(t.whole, whole), append(t.own, own)
}

// at returns the value below which the share q of all lies.
func at(d []time.Duration, q float64) time.Duration {
	c := slices.Clone(d)
	slices.Sort(c)
	return c[min(len(c)-1, int(q*float64(len(c))))].Round(time.Millisecond)
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "NOT met"
}
