// Command unpack (go run ./bench/unpack) measures how fast a source bundle becomes a tree: our fetch + SHA-256 + unpack + sync against a downloader
// followed by `bsdtar -xf`, which verify nothing and sync nothing. Both read the same object from the same S3 endpoint, a process of its own, in this
// one run, alternating, into fresh folders of one disk. It prints medians and spread and judges nothing.
//
// The downloader is `s5cmd cp` where s5cmd is on the PATH, else `curl`; the table says which. Every tree stays until the end: with the defaults that
// takes 6 GB.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

type settings struct {
	count int
	files int
	bytes int64
	dir   string
	serve bool
}

func main() {
	var s settings
	flag.IntVar(&s.count, "count", 10, "repetitions of each side")
	flag.IntVar(&s.files, "files", 2000, "files in the bundle")
	flag.Int64Var(&s.bytes, "bytes", 200e6, "bytes the bundle unpacks to; it packs to about half")
	flag.StringVar(&s.dir, "dir", "", "work in this folder (default: a temporary one)")
	flag.BoolVar(&s.serve, "serve", false, "be the S3 endpoint (the benchmark starts this itself)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	run := measure
	if s.serve {
		run = serve
	}
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "bench/unpack:", err)
		os.Exit(1)
	}
}
