// Command agent (go run ./bench/agent) measures the built agent: what it costs when idle, how large it is, how soon it begins a command, what a
// deployment costs over the bare docker CLI, and whether a flip loses requests. Both sides of a comparison run in this one run, alternating,
// from the same cache state. It prints medians and spread and judges nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type settings struct {
	bin   string
	count int
	soak  int
	only  string
}

func main() {
	var s settings
	flag.StringVar(&s.bin, "bin", "build", "folder with hostmanager")
	flag.IntVar(&s.count, "count", 10, "repetitions of each side")
	flag.IntVar(&s.soak, "soak", 2000, "commands of the soak; 0: none")
	flag.StringVar(&s.only, "only", "", "rows, separated by commas: binary, idle, pickup, engine, flip, soak")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench/agent:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	bin, err := filepath.Abs(s.bin)
	if err != nil {
		return err
	}
	s.bin = bin
	for _, row := range []struct {
		name string
		run  func(context.Context, settings) error
	}{{"binary", binary}, {"idle", idle}, {"pickup", pickup}, {"engine", engine}, {"flip", flip}, {"soak", soak}} {
		if s.only != "" && !slices.Contains(strings.Split(s.only, ","), row.name) || row.name == "soak" && s.soak == 0 {
			continue
		}
		fmt.Printf("\n== %s\n", row.name)
		if err := row.run(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
	}
	return nil
}

func binary(_ context.Context, s settings) error {
	for _, name := range []string{"hostmanager", "hmctl"} {
		st, err := os.Stat(filepath.Join(s.bin, name))
		if err != nil {
			return err
		}
		fmt.Printf("%-12s %.2f MB (10^6 bytes)\n", name, float64(st.Size())/1e6)
	}
	return nil
}

// spread is a set of durations in order.
type spread []time.Duration

func (d spread) sorted() spread {
	c := slices.Clone(d)
	slices.Sort(c)
	return c
}

// at returns the value below which the share q of all values lies.
func (d spread) at(q float64) time.Duration {
	c := d.sorted()
	return c[min(len(c)-1, int(q*float64(len(c))))]
}

func (d spread) String() string {
	c := d.sorted()
	round := time.Millisecond
	if c[0] < 100*time.Millisecond {
		round = 10 * time.Microsecond
	}
	return fmt.Sprintf("median %v (from %v to %v, n=%d)", d.at(0.5).Round(round), c[0].Round(round), c[len(c)-1].Round(round), len(c))
}
