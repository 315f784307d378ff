package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"hostmanager/aws/localaws"
)

// open makes an instance that serves its first version, and that has gone through each kind of command once, so that nothing of what follows is
// there for the first time.
func open(ctx context.Context, at *site, binary string, faults []localaws.Fault) (*instance, error) {
	in, err := newInstance(ctx, at, "chaos-"+word(), binary, faults)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(in.startProxy(ctx), in.startAgent(), in.play(ctx, trial{name: "first", kind: deploy})); err != nil {
		return nil, errors.Join(err, in.close())
	}
	if in.serves == "" {
		return nil, errors.Join(errors.New("the first deployment did not succeed"), in.close())
	}
	return in, nil
}

// crew plays trials on several instances side by side, each on the next that is free.
func crew(ctx context.Context, at *site, instances []*instance, trials []trial) error {
	work := make(chan trial)
	errs := make([]error, len(instances))
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for n, in := range instances {
		wg.Go(func() {
			for t := range work {
				if err := in.play(ctx, t); err != nil {
					errs[n] = fmt.Errorf("%s: %w", t.name, err)
					stop()
					return
				}
			}
		})
	}
	for _, t := range trials {
		select {
		case work <- t:
		case <-ctx.Done():
		}
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

// openAll opens as many instances as there are workers.
func openAll(ctx context.Context, at *site, binary string, faults []localaws.Fault) (all []*instance, err error) {
	for range max(1, at.workers) {
		in, err := open(ctx, at, binary, faults)
		if err != nil {
			return all, err
		}
		all = append(all, in)
	}
	return all, nil
}

func closeAll(ctx context.Context, all []*instance) error {
	var errs []error
	for _, in := range all {
		in.judgeAll(ctx)
		errs = append(errs, in.close())
	}
	return errors.Join(errs...)
}

// playExact kills the agent before and behind every record of a clean run of each kind of command, and within some of them.
func playExact(ctx context.Context, at *site) (err error) {
	all, err := openAll(ctx, at, at.built.striking, nil)
	defer func() { err = errors.Join(err, closeAll(ctx, all)) }()
	if err != nil {
		return err
	}
	var trials []trial
	for _, kind := range kinds() {
		records, _, err := all[0].clean(ctx, kind)
		if err != nil {
			return err
		}
		fmt.Fprintf(at.out, "a clean %s writes %d records\n", kind, len(records))
		trials = append(trials, boundaries(kind, records)...)
	}
	r := rand.New(rand.NewPCG(at.seed, 1))
	r.Shuffle(len(trials), func(i, j int) { trials[i], trials[j] = trials[j], trials[i] })
	return crew(ctx, at, all, trials)
}

func kinds() []string { return []string{deploy, config, restart, startup} }

// clean runs a command of a kind with nobody killed and returns its records and how long it took from the sending to the last of them.
func (in *instance) clean(ctx context.Context, kind string) ([]recorded, time.Duration, error) {
	began := time.Now()
	if err := in.play(ctx, trial{name: "clean " + kind, kind: kind}); err != nil {
		return nil, 0, err
	}
	p := &played{instance: in, trial: trial{kind: kind}, since: began}
	if kind != startup {
		p.order.invocation = fmt.Sprintf("%s-%04d-", kind, in.sent)
	}
	records := p.mine()
	if len(records) == 0 {
		return nil, 0, fmt.Errorf("a clean %s wrote no record", kind)
	}
	return records, records[len(records)-1].Time.Sub(began), nil
}

// boundaries are the cases of a list of records: one before, one behind each, and one within every seventh.
func boundaries(kind string, records []recorded) (all []trial) {
	for n, r := range records {
		places := []string{before, behind}
		if n%7 == 3 {
			places = append(places, torn)
		}
		for _, place := range places {
			all = append(all, trial{
				name: fmt.Sprintf("%s %s %s (%d)", kind, place, r, n+1), kind: kind, kills: []kill{{strike: &strike{Nth: n + 1, Place: place}}},
			})
		}
	}
	return all
}
