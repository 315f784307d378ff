package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// playFresh kills the agent in the first start-up of new instances: nothing serves yet, and nobody sends a command.
func playFresh(ctx context.Context, at *site) error {
	takes, err := fresh(ctx, at, nil)
	if err != nil {
		return err
	}
	fmt.Fprintf(at.out, "a clean first start-up takes %s with what is around it\n", takes.Round(time.Millisecond))
	r := rand.New(rand.NewPCG(at.seed, 6))
	for range max(3, at.kills/25) {
		kills := []kill{{after: time.Duration(r.Float64() * float64(takes))}}
		if r.Float64() < 0.25 {
			kills = append(kills, kill{after: time.Duration(r.Float64() * float64(takes))})
		}
		if _, err := fresh(ctx, at, kills); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// fresh makes an instance of an environment that has a version, starts its agent for the first time, and tells how long that took.
func fresh(ctx context.Context, at *site, kills []kill) (took time.Duration, err error) {
	in, err := newInstance(ctx, at, "chaos-"+word(), at.built.hostmanager, weather())
	if err != nil {
		return 0, err
	}
	defer func() { in.judgeAll(ctx); err = errors.Join(err, in.close()) }()
	if err := in.startProxy(ctx); err != nil {
		return 0, err
	}
	began := time.Now()
	err = in.play(ctx, trial{name: fmt.Sprintf("first start-up killed after %v", kills), kind: startup, kills: kills})
	return time.Since(began), err
}
