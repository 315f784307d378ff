package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// playRandom kills the shipped agent at random moments, sometimes again while it recovers, sometimes the proxy beside it.
func playRandom(ctx context.Context, at *site) (err error) {
	all, err := openAll(ctx, at, at.built.hostmanager, weather())
	defer func() { err = errors.Join(err, closeAll(ctx, all)) }()
	if err != nil {
		return err
	}
	takes := map[string]time.Duration{}
	for _, kind := range kinds() {
		if _, takes[kind], err = all[0].clean(ctx, kind); err != nil {
			return err
		}
		fmt.Fprintf(at.out, "a clean %s takes %s\n", kind, takes[kind].Round(time.Millisecond))
	}
	return crew(ctx, at, all, moments(at.seed, at.kills, takes))
}

// moments plans trials with that many kills. The plan follows from the seed; how long a moment is follows from the clean run of the kind.
func moments(seed uint64, kills int, takes map[string]time.Duration) (all []trial) {
	r := rand.New(rand.NewPCG(seed, 2))
	for planned := 0; planned < kills; {
		t := trial{kind: pick(r)}
		// A little more than the whole, so that the last records are met as well.
		first := time.Duration(r.Float64() * 1.1 * float64(takes[t.kind]))
		t.kills = []kill{{after: first}}
		for again := r.Float64(); len(t.kills) < 3 && again < 0.25; again = r.Float64() {
			t.kills = append(t.kills, kill{after: time.Duration(r.Float64() * float64(takes[t.kind]))})
		}
		if r.Float64() < 0.1 {
			t.proxy = time.Duration(r.Float64() * 1.1 * float64(takes[t.kind]))
		}
		t.twice = r.Float64() < 0.05
		planned += len(t.kills)
		t.name = fmt.Sprintf("%s number %d killed after %v", t.kind, len(all)+1, t.kills)
		if t.proxy > 0 {
			t.name += fmt.Sprintf(", the proxy after %s", t.proxy.Round(time.Millisecond))
		}
		all = append(all, t)
	}
	return all
}

func (k kill) String() string { return k.after.Round(time.Millisecond).String() }

// pick chooses a kind of command: deployments most often.
func pick(r *rand.Rand) string {
	switch n := r.IntN(20); {
	case n < 10:
		return deploy
	case n < 15:
		return config
	case n < 19:
		return restart
	default:
		return startup
	}
}
