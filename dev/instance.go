package dev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"hostmanager/internal/atomicfile"
	"hostmanager/internal/layout"
	"hostmanager/internal/proc"
)

// child is a process of the room.
type child struct {
	stop context.CancelFunc
	done chan struct{} // closed when it has ended
	role string
}

// instance makes the n-th instance: its folder and configuration, its proxy and its agent.
func (r *room) instance(ctx context.Context, n int, namespace string) error {
	id := fmt.Sprintf("i-dev%07d", n)
	root := layout.Root(filepath.Join(r.Root, id))
	addr, err := freeAddress()
	if err != nil {
		return err
	}
	own := fmt.Sprintf("dev-%s-%d", namespace, n)
	config := fmt.Sprintf("environment_id: %s\ninstance_id: %s\nregion: %s\nbucket: %s\nlisten: %s\ndocker_namespace: %s\ntrusted_keys: [%q]\ndrain_timeout: %s\n",
		DefaultEnvironment, id, region, DefaultBucket, addr, own, r.key.Public(keyName).String(), drainTimeout)
	if err := atomicfile.WriteFile(root.ConfigFile(), []byte(config), 0o644); err != nil {
		return err
	}
	r.about.Instances = append(r.about.Instances, Instance{ID: id, URL: "http://" + addr, Root: string(root), Namespace: own})
	if err := r.writeMark(); err != nil {
		return err
	}
	if err := r.start(ctx, root, id, "proxy", "--listen", addr); err != nil {
		return err
	}
	return r.start(ctx, root, id, "agent")
}

// freeAddress finds a loopback address nobody listens on.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

// start runs one verb of hostmanager until the room is closed. Its output goes into a file of the instance's log folder.
func (r *room) start(ctx context.Context, root layout.Root, id, verb string, args ...string) error {
	path := root.Log("hostmanager-" + verb + ".out")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log of %s: %w", verb, err)
	}
	// Not ctx itself: at its end the agents go first, then the proxies.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &child{stop: stop, done: make(chan struct{}), role: verb}
	r.children = append(r.children, c)
	command := proc.Command{
		Path: r.Hostmanager, Args: append([]string{verb, "--root", string(root)}, args...), Dir: string(root),
		Env: r.environ(), Output: out, Grace: stopGrace,
	}
	go func() {
		defer close(c.done)
		err := errors.Join(supervise(ctx, command), out.Close())
		if ctx.Err() == nil {
			r.died <- fmt.Errorf("hostmanager %s of %s has ended (%w): %s", verb, id, orEnded(err), lastLine(path))
		}
	}()
	return nil
}

// Like a unit of systemd, but with twice as many starts in the time: what ends at once again and again has a reason to be read.
const (
	maxStarts   = 10
	startWindow = 10 * time.Second
)

// supervise runs the command until ctx ends or it ends by itself. What a signal has ended is started again, as its unit would do it.
func supervise(ctx context.Context, command proc.Command) error {
	var starts []time.Time
	for {
		starts = append(starts, time.Now())
		_, err := proc.Run(ctx, command)
		var killed *proc.ExitError
		if ctx.Err() != nil || !errors.As(err, &killed) || killed.Signal == 0 {
			return err
		}
		starts = slices.DeleteFunc(starts, func(at time.Time) bool { return time.Since(at) > startWindow })
		if len(starts) == maxStarts {
			return fmt.Errorf("%w, %d times in %s", err, maxStarts, startWindow)
		}
	}
}

var errEnded = errors.New("without an error")

func orEnded(err error) error {
	if err == nil {
		return errEnded
	}
	return err
}

// lastLine returns the last line of a log, for an error message.
func lastLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "see " + path
	}
	defer f.Close()
	last := ""
	for in := bufio.NewScanner(f); in.Scan(); {
		if text := strings.TrimSpace(in.Text()); text != "" {
			last = text
		}
	}
	return last + " (" + path + ")"
}

// foreign is what is not passed on to the room's processes: settings and keys of other places than this room.
func foreign(variable string) bool {
	for _, prefix := range []string{"AWS_", "HOSTMANAGER_", "HMCTL_", "NOTIFY_SOCKET=", "LISTEN_"} {
		if strings.HasPrefix(variable, prefix) {
			return true
		}
	}
	return false
}

// environ is the environment of the room's processes: this process's own, with the local endpoint in place of any AWS settings.
func (r *room) environ() []string {
	own := slices.DeleteFunc(os.Environ(), foreign)
	return append(own, "AWS_ENDPOINT_URL="+r.about.Endpoint, "AWS_REGION="+region, "AWS_ACCESS_KEY_ID=local", "AWS_SECRET_ACCESS_KEY=local",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
}

// stopChildren ends the agents and then the proxies they talk to.
func (r *room) stopChildren() {
	for _, role := range []string{"agent", "proxy"} {
		for _, c := range r.children {
			if c.role == role {
				c.stop()
			}
		}
		for _, c := range r.children {
			if c.role == role {
				<-c.done
			}
		}
	}
}

// purge has hostmanager remove the instance's containers, images and networks.
func (r *room) purge(ctx context.Context, i Instance) error {
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	var out strings.Builder
	_, err := proc.Run(ctx, proc.Command{
		Path: r.Hostmanager, Args: []string{"purge", "--root", i.Root}, Dir: i.Root, Env: r.environ(), Output: &out, Grace: stopGrace,
	})
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(out.String()))
	}
	return nil
}
