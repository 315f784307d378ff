package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"hostmanager/protocol"
)

// soakSamples is how often a soak looks at the agent, in even distances.
const soakSamples = 40

// soakRest is how long it is left alone before a look: longer than it takes to give back what commands needed, so that each look meets it in the
// same state. A look right behind a command shows what garbage and pages of code there happen to be.
const soakRest = 2500 * time.Millisecond

// soak sends commands one after the other to one agent and looks at what its process uses: most are quick or refused, every tenth restarts the
// application, every fiftieth deploys a configuration and every hundredth a version.
func soak(ctx context.Context, s settings) error {
	st, app, err := servingStand(ctx, s)
	if err != nil {
		return err
	}
	defer func() { _ = st.close() }()
	if _, err := deployOnce(ctx, st, app, 0); err != nil {
		return err
	}
	var samples, working []sample
	began := time.Now()
	for n := 1; n <= s.soak; n++ {
		if err := soakOne(ctx, st, app, n); err != nil {
			return fmt.Errorf("command %d: %w", n, err)
		}
		if n%max(1, s.soak/soakSamples) == 0 {
			if err := lookTwice(ctx, st, &working, &samples); err != nil {
				return err
			}
		}
	}
	printSoak(s.soak, time.Since(began), working, samples)
	return nil
}

// lookTwice looks right behind a command, and once more when the agent has come to rest.
func lookTwice(ctx context.Context, st *stand, working, resting *[]sample) error {
	one, err := takeSample(ctx, st)
	if err != nil {
		return err
	}
	*working = append(*working, one)
	select {
	case <-time.After(soakRest):
	case <-ctx.Done():
		return ctx.Err()
	}
	if one, err = takeSample(ctx, st); err == nil {
		*resting = append(*resting, one)
	}
	return err
}

// soakOne sends one command and waits for its result.
func soakOne(ctx context.Context, st *stand, app string, n int) error {
	r, want := protocol.Request{CommandName: protocol.CmdPreInit}, protocol.Success
	switch {
	case n%100 == 0:
		_, err := deployOnce(ctx, st, app, n)
		return err
	case n%50 == 25:
		m, err := st.manifest(ctx, app)
		if err != nil {
			return err
		}
		r = m
		r.CommandName = protocol.CmdConfigDeploy
	case n%10 == 0:
		r.CommandName = protocol.CmdRestartAppServer
	case n%10 == 3:
		r.CommandName, want = "CMD-NobodyKnows", protocol.Failure
	case n%10 == 7:
		r.InstanceIDs, want = []string{"i-another"}, protocol.Failure
	}
	id, err := st.send(ctx, r, n)
	if err != nil {
		return err
	}
	answer, err := st.await(ctx, id)
	if err == nil && (answer == nil || answer.Status != want) {
		text, _ := json.Marshal(answer)
		err = fmt.Errorf("%s ended with %s, want %s", r.CommandName, text, want)
	}
	return err
}

// sample is what the agent's process uses at one moment.
type sample struct {
	Runtime struct {
		Goroutines    int   `json:"goroutines"`
		Descriptors   int   `json:"descriptors"`
		ResidentBytes int64 `json:"resident_bytes"`
		JournalBytes  int64 `json:"journal_bytes"`
	} `json:"runtime"`
}

// takeSample asks the agent as an operator would.
func takeSample(ctx context.Context, st *stand) (one sample, err error) {
	out, err := exec.CommandContext(ctx, st.bin, "status", "--root", string(st.root), "--json").Output()
	if err != nil {
		return one, fmt.Errorf("hostmanager status: %w", err)
	}
	if err := json.Unmarshal(out, &one); err != nil {
		return one, fmt.Errorf("read status: %w", err)
	}
	if one.Runtime.Goroutines == 0 {
		return one, errors.New("the status tells nothing of the agent's process")
	}
	return one, nil
}

// printSoak shows what changed from the middle to the end: the first half fills caches and pools.
func printSoak(n int, took time.Duration, working, resting []sample) {
	half := resting[len(resting)/2:]
	fmt.Printf("%d commands in %s, %d looks\n", n, took.Round(time.Second), len(resting))
	printResident("at rest", resting)
	printResident("right behind a command", working)
	fmt.Printf("descriptors:  %s\n", extent(half, func(s sample) int64 { return int64(s.Runtime.Descriptors) }))
	fmt.Printf("goroutines:   %s\n", extent(half, func(s sample) int64 { return int64(s.Runtime.Goroutines) }))
	fmt.Printf("journal:      %s bytes\n", extent(resting, func(s sample) int64 { return s.Runtime.JournalBytes }))
}

func printResident(when string, samples []sample) {
	var rss []float64
	for _, s := range samples[len(samples)/2:] {
		rss = append(rss, float64(s.Runtime.ResidentBytes)/1e6)
	}
	mean, rise := fit(rss)
	fmt.Printf("RSS %s, second half: mean %.1f MB (10^6 bytes), rises by %+.2f MB or %+.1f %%; by eighths of the soak: %s MB\n",
		when, mean, rise, 100*rise/mean, eighths(samples))
}

// eighths shows the means of eight stretches of the samples: whether a rise goes on or comes to its end.
func eighths(samples []sample) string {
	var text []string
	for n := range 8 {
		part := samples[n*len(samples)/8 : (n+1)*len(samples)/8]
		sum := 0.0
		for _, s := range part {
			sum += float64(s.Runtime.ResidentBytes) / 1e6
		}
		if len(part) > 0 {
			text = append(text, fmt.Sprintf("%.1f", sum/float64(len(part))))
		}
	}
	return strings.Join(text, ", ")
}

// fit lays a straight line through values at even distances, by least squares: their mean, and by how much the line rises from first to last.
func fit(values []float64) (mean, rise float64) {
	n := float64(len(values))
	var sx, sy, sxx, sxy float64
	for i, y := range values {
		x := float64(i)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	if d := n*sxx - sx*sx; d > 0 {
		rise = (n*sxy - sx*sy) / d * (n - 1)
	}
	return sy / n, rise
}

// extent shows the first, the last and the outermost of the values.
func extent(samples []sample, of func(sample) int64) string {
	low, high := of(samples[0]), of(samples[0])
	for _, s := range samples {
		low, high = min(low, of(s)), max(high, of(s))
	}
	return fmt.Sprintf("from %d to %d, between %d and %d", of(samples[0]), of(samples[len(samples)-1]), low, high)
}
