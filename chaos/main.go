// Command chaos (go run ./chaos) kills the shipped binaries with SIGKILL while they work for real: an agent and a proxy as processes, SQS and S3 in
// this process with duplicates, throttling and hang-ups, and the Docker Engine. It kills right at every record of the journal that a clean run of a
// command wrote, at random moments, twice in a row, the proxy beside the agent, and the operator's hmctl; and it takes the power away from a
// filesystem. After each case it looks at what nobody may break: one result for each command, what serves is what the result says, `once` hooks ran
// at most once, nothing is left behind. It prints what it counted and ends with 1 where anything was broken.
//
// It starts the binaries and looks at them from outside: at queues, the journal's file, the Engine, the files and what the proxy answers. It may
// know the names and formats of those, and nothing of how the agent works inside. For exact moments it builds the agent from its source with an
// overlay that strikes behind a chosen record; the source itself knows nothing of that.
//
// Invariants: all it made in Docker carries namespaces of its own and is purged; the plan of cases follows from the seed alone, what the machine
// makes of it does not.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// settings are what a run is told.
type settings struct {
	seed    uint64
	kills   int
	workers int
	only    string
	verbose bool
	out     io.Writer
}

func main() {
	s := settings{out: os.Stdout}
	flag.Uint64Var(&s.seed, "seed", 0, "seed of the plan; 0: a new one, which is printed")
	flag.IntVar(&s.kills, "kills", 500, "kills at random moments")
	flag.IntVar(&s.workers, "workers", 2, "instances that are killed side by side")
	flag.StringVar(&s.only, "only", "", "parts, separated by commas: exact, random, fresh, operator, power")
	flag.BoolVar(&s.verbose, "v", false, "a line for each case")
	flag.Parse()
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

// errBroken tells that an invariant did not hold.
var errBroken = errors.New("an invariant was broken")

// run plays the parts that were asked for.
func run(ctx context.Context, s settings) (err error) {
	dir, err := os.MkdirTemp("", "hostmanager-chaos-")
	if err != nil {
		return err
	}
	if err := useLocalCredentials(); err != nil {
		return err
	}
	began := time.Now()
	fmt.Fprintf(s.out, "seed %d (SEED=%d repeats the plan)\n", s.seed, s.seed)
	b, err := buildAll(ctx, filepath.Join(dir, "bin"))
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	kept := false
	for _, part := range []struct {
		name string
		play func(context.Context, *site) error
	}{{"exact", playExact}, {"random", playRandom}, {"fresh", playFresh}, {"operator", playOperator}, {"power", playPower}} {
		if s.only != "" && !slices.Contains(strings.Split(s.only, ","), part.name) {
			continue
		}
		at := &site{settings: s, built: b, dir: filepath.Join(dir, part.name), tally: newTally()}
		fmt.Fprintf(s.out, "\n== %s\n", part.name)
		played := part.play(ctx, at)
		if played == nil {
			at.tally.judge()
		}
		err = errors.Join(err, played)
		at.tally.print(s.out)
		if at.tally.broken() {
			kept = true
			err = errors.Join(err, fmt.Errorf("%s: %w", part.name, errBroken))
		}
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Fprintf(s.out, "\n%s in all\n", time.Since(began).Round(time.Second))
	if kept {
		return errors.Join(err, fmt.Errorf("what the instances left lies in %s; SEED=%d repeats the plan", dir, s.seed))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// site is where one part is played: what all its instances share.
type site struct {
	settings
	built built
	dir   string
	tally *tally
}

// useLocalCredentials gives this process's own clients a key of their own, so that faults can tell them from the agent.
func useLocalCredentials() error {
	var errs []error
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "local", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		errs = append(errs, os.Setenv(name, value))
	}
	return errors.Join(errs...)
}
