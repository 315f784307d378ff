// Command proxy (go run ./bench/proxy) compares the proxy's engine with others and with no proxy at all, and shows a flip under a steady stream.
// Every candidate is a process of its own before the same upstream; they take turns, so that all see the same state of the machine. It prints
// medians, spread and ratios and judges nothing.
//
// KAMAL_PROXY=PATH adds a kamal-proxy binary; nginx is added where it is installed. wrk drives the load where it is installed, else a
// driver of our own.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"time"
)

type settings struct {
	reps        int
	duration    time.Duration
	concurrency int
	flips       int
	only        string
}

func main() {
	var s settings
	role := flag.String("role", "", "used by the benchmark itself for its child processes")
	target := flag.String("target", "", "with -role: address of the upstream")
	dir := flag.String("dir", "", "with -role: root folder of the proxy")
	flag.IntVar(&s.reps, "reps", 10, "repetitions of each candidate")
	flag.DurationVar(&s.duration, "duration", time.Second, "of one repetition")
	flag.IntVar(&s.concurrency, "c", 32, "connections")
	flag.IntVar(&s.flips, "flips", 100, "swaps under the steady stream; 0 leaves that part out")
	flag.StringVar(&s.only, "only", "", "one workload: get, post, large or flip")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *role != "" {
		err = serveRole(*role, *target, *dir)
	} else {
		err = run(ctx, s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench/proxy:", err)
		os.Exit(1)
	}
}
