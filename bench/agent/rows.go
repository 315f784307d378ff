package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"hostmanager/internal/steadystream"
	"hostmanager/journal"
	"hostmanager/protocol"
)

// idle measures an agent with nothing deployed that waits in its long poll.
func idle(ctx context.Context, s settings) error {
	var first, cpu spread
	var rss []float64
	for range s.count {
		st, err := newStand(ctx, s)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := st.startAgent(); err != nil {
			return err
		}
		select {
		case <-st.polled:
			first = append(first, time.Since(began))
		case <-time.After(10 * time.Second):
			out, _ := os.ReadFile(filepath.Join(st.dir, "agent.out"))
			return fmt.Errorf("the agent never polled: %s (%w)", out, st.close())
		}
		pid := st.agent.Process.Pid
		before := cpuTime(pid)
		time.Sleep(10 * time.Second)
		cpu = append(cpu, cpuTime(pid)-before)
		rss = append(rss, residentMB(pid))
		if err := st.close(); err != nil {
			return err
		}
	}
	low, high := rss[0], rss[0]
	for _, v := range rss {
		low, high = min(low, v), max(high, v)
	}
	fmt.Printf("RSS after 10 s idle:      %.1f to %.1f MB (10^6 bytes, n=%d)\n", low, high, len(rss))
	fmt.Printf("CPU in 10 s idle:         %v\n", cpu)
	fmt.Printf("start to first poll:      %v\n", first)
	return nil
}

func residentMB(pid int) float64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb * 1024 / 1e6
		}
	}
	return 0
}

// cpuTime is user and system time so far; the kernel counts in hundredths of a second (proc(5), utime and stime).
func cpuTime(pid int) time.Duration {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := strings.Cut(string(data), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// pickup sends commands to an idle agent and reads from its journal when the first action of each was done, which is a little later than when it
// began: CMD-PreInit needs no deployed version.
func pickup(ctx context.Context, s settings) error {
	st, err := newStand(ctx, s)
	if err != nil {
		return err
	}
	defer func() { _ = st.close() }()
	if err := st.startAgent(); err != nil {
		return err
	}
	<-st.polled
	n := max(100, s.count*20)
	sent := map[string]time.Time{}
	for i := range n {
		at := time.Now()
		id, err := st.send(ctx, protocol.Request{CommandName: protocol.CmdPreInit}, i)
		if err != nil {
			return err
		}
		sent[id] = at
		if _, err := st.await(ctx, id); err != nil {
			return err
		}
	}
	snapshot, err := journal.Read(st.root.Journal())
	if err != nil {
		return err
	}
	var d spread
	for _, c := range snapshot.Commands {
		_, id, _ := strings.Cut(c.Identity, "|")
		_, id, _ = strings.Cut(id, "|")
		at, ours := sent[id]
		first := slices.IndexFunc(c.Steps, func(s journal.Step) bool { return s.Name == "InfraWriteConfig" })
		if ours && first >= 0 {
			d = append(d, c.Steps[first].At.Sub(at))
		}
	}
	if len(d) == 0 {
		return fmt.Errorf("the journal shows no step of %d commands", n)
	}
	fmt.Printf("SendMessage to first action: %v, p99 %v\n", d, d.at(0.99).Round(10*time.Microsecond))
	return nil
}

// engine deploys a tiny app through the agent and, in turn, with the docker CLI in a shell script: build, run, ask until it answers 200.
func engine(ctx context.Context, s settings) (err error) {
	st, app, err := servingStand(ctx, s)
	if err != nil {
		return err
	}
	defer func() { _ = st.close() }()
	cli, err := dockerCLI(ctx)
	if err != nil {
		return err
	}
	fmt.Println("docker CLI:", cli)
	net, err := shellNetwork(ctx, cli, st.namespace())
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, net.remove(), cleanShell(cli, st.namespace()), cleanShell(cli, "probe"))
	}()
	var ours, same, plain spread
	for i := range s.count + 1 { // the first of each fills the caches and does not count
		d, err := deployOnce(ctx, st, app, i)
		if err != nil {
			return err
		}
		settle(ctx) // the agent stops and removes the old container behind its answer; the script's turn is not to pay for that
		e, err := shellOnce(ctx, st, cli, app, i, net.options(i)...)
		if err != nil {
			return err
		}
		settle(ctx)
		f, err := shellOnce(ctx, st, cli, app, i)
		if err != nil {
			return err
		}
		settle(ctx)
		if i > 0 {
			ours, same, plain = append(ours, d), append(same, e), append(plain, f)
		}
	}
	fmt.Printf("CMD-AppDeploy, send to result:            %v\n", ours)
	fmt.Printf("docker CLI script, same kind of network:  %v\nratio of medians:                         %.2f\n", same, ratio(ours, same))
	fmt.Printf("docker CLI script, Docker's own bridge:   %v\nratio of medians:                         %.2f\n", plain, ratio(ours, plain))
	return nil
}

func ratio(a, b spread) float64 { return float64(a.at(0.5)) / float64(b.at(0.5)) }

// network is what the script's containers share with the agent's: a network of their own, where an address can be asked for that survives restarts.
type network struct {
	cli, name, first string // first: the subnet's address without its last number
}

// shellNetwork makes the script's network in the first free of some subnets.
func shellNetwork(ctx context.Context, cli, namespace string) (network, error) {
	n := network{cli: cli, name: "hostmanager-bench-shell-" + namespace}
	var refused []byte
	for third := range 256 {
		n.first = fmt.Sprintf("10.213.%d.", third)
		out, err := exec.CommandContext(ctx, cli, "network", "create", "--subnet", n.first+"0/24", n.name).CombinedOutput()
		if err == nil {
			return n, nil
		}
		refused = out
	}
	return n, fmt.Errorf("make a network for the script: %s", refused)
}

// options have docker run do what the agent does: this network, an address that stays, a restart after a reboot.
func (n network) options(i int) []string {
	return []string{"--network", n.name, "--ip", fmt.Sprint(n.first, 2+i%250), "--restart", "unless-stopped"}
}

func (n network) remove() error { return exec.Command(n.cli, "network", "rm", n.name).Run() }

// cleanShell removes what the script's side made, by its label.
func cleanShell(cli, label string) error {
	out, err := exec.Command(cli, "images", "-q", "--filter", "label=hostmanager-bench="+label).Output()
	if err != nil {
		return fmt.Errorf("list the script's images: %w", err)
	}
	ids := strings.Fields(string(out))
	if len(ids) == 0 {
		return nil
	}
	return exec.Command(cli, append([]string{"rmi", "-f"}, ids...)...).Run()
}

// settle leaves the Engine a second to end what goes on in the background.
func settle(ctx context.Context) {
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
	}
}

func deployOnce(ctx context.Context, st *stand, app string, i int) (time.Duration, error) {
	if err := os.WriteFile(filepath.Join(app, "version"), fmt.Appendf(nil, "agent-%d-%d\n", i, time.Now().UnixNano()), 0o644); err != nil {
		return 0, err
	}
	r, err := st.manifest(ctx, app)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	id, err := st.send(ctx, r, i)
	if err != nil {
		return 0, err
	}
	answer, err := st.await(ctx, id)
	took := time.Since(began)
	if err != nil {
		return 0, err
	}
	return took, mustSucceed(answer)
}

func shellImage(st *stand) string { return "hostmanager-bench-shell:" + st.namespace() }

// shellScript is what a careful person writes by hand. It never sleeps; curl retries at once. What follows the third argument is for docker run.
const shellScript = `set -eu
"$0" build -q --label hostmanager-bench="$3" -t "$1" "$2" >/dev/null
image=$1 label=$3; shift 3
id=$("$0" run -d --label hostmanager-bench="$label" "$@" "$image")
ip=$("$0" inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$id")
until curl -sf -o /dev/null --connect-timeout 1 "http://$ip:8080/"; do :; done
echo "$id"`

// dockerCLI returns the first docker on the PATH that builds with BuildKit, as the agent does: newer ones need the buildx plugin for it.
func dockerCLI(ctx context.Context) (string, error) {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		cli := filepath.Join(dir, "docker")
		cmd := exec.CommandContext(ctx, cli, "build", "-")
		cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
		cmd.Stdin = strings.NewReader("FROM scratch\nLABEL hostmanager-bench=probe\n")
		if cmd.Run() == nil {
			return cli, nil
		}
	}
	return "", errors.New("no docker on the PATH builds with BuildKit; install docker.io or the buildx plugin")
}

func shellOnce(ctx context.Context, st *stand, cli, app string, i int, run ...string) (time.Duration, error) {
	if err := os.WriteFile(filepath.Join(app, "version"), fmt.Appendf(nil, "shell-%d-%d\n", i, time.Now().UnixNano()), 0o644); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", shellScript, cli, shellImage(st), app, st.namespace()}, run...)...)
	cmd.Stderr = os.Stderr
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1")
	began := time.Now()
	out, err := cmd.Output()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("shell script: %w", err)
	}
	return took, exec.CommandContext(ctx, "docker", "rm", "-f", strings.TrimSpace(string(out))).Run()
}

// flip deploys again and again under a steady stream and counts what clients lost.
func flip(ctx context.Context, s settings) error {
	st, app, err := servingStand(ctx, s)
	if err != nil {
		return err
	}
	defer func() { _ = st.close() }()
	if _, err := deployOnce(ctx, st, app, 0); err != nil {
		return err
	}
	url := "http://127.0.0.1:" + st.port
	stream, err := steadystream.Start(ctx, steadystream.Options{URL: url + "/", PostURL: url + "/echo", PostEvery: 2, BodySize: 20_000, Concurrency: 16})
	if err != nil {
		return err
	}
	for i := range s.count {
		if _, err = deployOnce(ctx, st, app, i+1); err != nil {
			break
		}
	}
	r := stream.Stop()
	fmt.Printf("%d flips, %d requests, %d failed: %v\n", s.count, r.Requests, r.Failed, r)
	printSwaps(st)
	return err
}

// printSwaps shows what the proxy counted at each swap.
func printSwaps(st *stand) {
	out, _ := os.ReadFile(filepath.Join(st.dir, "proxy.out"))
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "in_flight") {
			fmt.Print(line)
		}
	}
}

// servingStand is a stand with a proxy, an agent, and the application's folder to deploy.
func servingStand(ctx context.Context, s settings) (_ *stand, app string, err error) {
	st, err := newStand(ctx, s)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.close())
		}
	}()
	if err := st.startProxy(ctx); err != nil {
		return st, "", err
	}
	if err := st.startAgent(); err != nil {
		return st, "", err
	}
	app, err = buildApp(ctx, st.dir)
	return st, app, err
}

// buildApp makes the folder of testdata/apps/hello with its binary.
func buildApp(ctx context.Context, dir string) (string, error) {
	app := filepath.Join(dir, "app")
	if err := os.MkdirAll(app, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(app, "hello"), "./testdata/apps/hello")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the application: %w\n%s", err, out)
	}
	data, err := os.ReadFile("testdata/apps/hello/Dockerfile")
	if err != nil {
		return "", err
	}
	return app, os.WriteFile(filepath.Join(app, "Dockerfile"), data, 0o644)
}
