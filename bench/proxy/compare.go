package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"hostmanager/internal/steadystream"
)

type workload struct{ name, path, script string }

const postScript = `wrk.method = "POST"
wrk.body = string.rep("x", 4096)
wrk.headers["Content-Type"] = "application/octet-stream"
`

var workloads = []workload{{"get", "/", ""}, {"post", "/", postScript}, {"large", "/large", ""}}

type candidate struct {
	name, addr string
	pid        int
	stop       func()
}

func run(ctx context.Context, s settings) error {
	dir, err := os.MkdirTemp("", "bench-proxy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.only != "flip" {
		if err := compare(ctx, s, dir); err != nil {
			return err
		}
	}
	if s.flips > 0 && (s.only == "" || s.only == "flip") {
		return flip(ctx, s, dir)
	}
	return nil
}

func compare(ctx context.Context, s settings, dir string) error {
	up, err := child(ctx, "upstream", "", "")
	if err != nil {
		return err
	}
	defer up.stop()
	up.name = "direct"
	candidates := []candidate{up}
	for _, role := range []string{"valve", "reverseproxy", "transport"} {
		c, err := child(ctx, role, up.addr, filepath.Join(dir, role))
		if err != nil {
			return err
		}
		defer c.stop()
		candidates = append(candidates, c)
	}
	for _, start := range []func(context.Context, string, string) (candidate, error){startNginx, startKamal} {
		c, err := start(ctx, up.addr, dir)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return err
		}
		defer c.stop()
		candidates = append(candidates, c)
	}
	for _, w := range workloads {
		if s.only == "" || s.only == w.name {
			if err := measure(ctx, s, w, candidates, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure lets the candidates take turns and prints requests per second.
func measure(ctx context.Context, s settings, w workload, candidates []candidate, dir string) error {
	rates, costs := map[string][]float64{}, map[string][]float64{}
	for range s.reps {
		for _, c := range candidates {
			before := cpuTime(c.pid)
			rate, err := load(ctx, s, w, c, dir)
			if err != nil {
				return fmt.Errorf("load %s: %w", c.name, err)
			}
			rates[c.name] = append(rates[c.name], rate)
			costs[c.name] = append(costs[c.name], float64((cpuTime(c.pid)-before).Microseconds())/(rate*max(1, s.duration.Seconds())))
		}
	}
	fmt.Printf("%s, %d connections, %d x %v\n", w.name, s.concurrency, s.reps, s.duration)
	fmt.Printf("  %-14s %10s %20s %8s %18s %8s\n", "", "requests/s", "min..max", "ratio", "CPU us/request", "ratio")
	base, baseCost := median(rates["reverseproxy"]), median(costs["reverseproxy"])
	for _, c := range candidates {
		r, cost := rates[c.name], median(costs[c.name])
		fmt.Printf("  %-14s %10.0f %20s %8.2f %18.1f %8.2f\n", c.name, median(r), fmt.Sprintf("%.0f..%.0f", slices.Min(r), slices.Max(r)), median(r)/base, cost, cost/baseCost)
	}
	return nil
}

// clockTick is the unit of CPU times in /proc; it is 100 a second on every Linux.
const clockTick = 10 * time.Millisecond

// cpuTime is the CPU time a process and its children have used, from /proc. It is what a request costs, which a busy machine blurs less than the rate.
func cpuTime(pid int) time.Duration {
	var sum time.Duration
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	if i := strings.LastIndexByte(string(stat), ')'); i >= 0 {
		if f := strings.Fields(string(stat)[i+1:]); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			sum = time.Duration(user+system) * clockTick
		}
	}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for c := range strings.FieldsSeq(string(children)) {
		n, _ := strconv.Atoi(c)
		sum += cpuTime(n)
	}
	return sum
}

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if len(s) == 0 {
		return 0
	}
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

var wrkRate = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)

func load(ctx context.Context, s settings, w workload, c candidate, dir string) (float64, error) {
	wrk, err := exec.LookPath("wrk")
	if err != nil {
		return loadOwn(ctx, s, w, c)
	}
	args := []string{"-t2", fmt.Sprintf("-c%d", s.concurrency), "-d" + strconv.Itoa(max(1, int(s.duration.Seconds()))) + "s"}
	if w.script != "" {
		file := filepath.Join(dir, w.name+".lua")
		if err := os.WriteFile(file, []byte(w.script), 0o600); err != nil {
			return 0, err
		}
		args = append(args, "-s", file)
	}
	out, err := exec.CommandContext(ctx, wrk, append(args, "http://"+c.addr+w.path)...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, out)
	}
	if strings.Contains(string(out), "Socket errors") || strings.Contains(string(out), "Non-2xx") {
		fmt.Printf("  %s: %s\n", c.name, strings.TrimSpace(string(out)))
	}
	m := wrkRate.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("no rate in %q", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

func loadOwn(ctx context.Context, s settings, w workload, c candidate) (float64, error) {
	o := steadystream.Options{URL: "http://" + c.addr + w.path, Concurrency: s.concurrency, PostEvery: -1}
	if w.script != "" {
		o.PostEvery, o.BodySize = 1, 4096
	}
	ctx, cancel := context.WithTimeout(ctx, s.duration)
	defer cancel()
	stream, err := steadystream.Start(ctx, o)
	if err != nil {
		return 0, err
	}
	<-ctx.Done()
	r := stream.Stop()
	return float64(r.Requests) / r.Duration.Seconds(), nil
}

// child starts this program in a role and waits for the address it prints.
func child(ctx context.Context, role, target, dir string) (candidate, error) {
	self, err := os.Executable()
	if err != nil {
		return candidate{}, err
	}
	cmd := exec.CommandContext(ctx, self, "-role", role, "-target", target, "-dir", dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return candidate{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return candidate{}, err
	}
	if err := cmd.Start(); err != nil {
		return candidate{}, err
	}
	addr, err := bufio.NewReader(out).ReadString('\n')
	stop := func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait()
	}
	if err != nil {
		stop()
		return candidate{}, fmt.Errorf("start %s: %w", role, err)
	}
	return candidate{name: role, addr: strings.TrimSpace(addr), pid: cmd.Process.Pid, stop: stop}, nil
}

// waitServing polls until addr answers an HTTP request.
func waitServing(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		s, err := steadystream.Probe(ctx, "http://"+addr+"/")
		if err == nil && s < 500 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w", addr, errors.Join(err, ctx.Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func waitListening(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not listen: %w", addr, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
