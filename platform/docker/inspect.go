package docker

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
)

// errNotOurs marks a container that a state file names but that this platform did not create.
var errNotOurs = errors.New("container was not created by this host manager")

// instance is a container of ours as the platform sees it.
type instance struct {
	id       string
	image    string // id
	release  string
	addr     string // host:port, fixed for the container's life
	labels   map[string]string
	running  bool
	exitCode int
	oom      bool
	started  time.Time
	finished time.Time
	restarts int
	created  bool // never started
	lasting  bool // the Engine starts it again after a reboot
}

// find returns a container by id or name. A missing one is reported by ok; one that is not ours is errNotOurs.
func (p *Platform) find(ctx context.Context, id string) (in instance, ok bool, err error) {
	if id == "" {
		return instance{}, false, nil
	}
	found, err := p.cli.ContainerInspect(ctx, id)
	if cerrdefs.IsNotFound(err) {
		return instance{}, false, nil
	}
	if err != nil {
		return instance{}, false, fmt.Errorf("inspect container %s: %w", shortID(id), err)
	}
	if found.Config.Labels[labelNamespace] != p.names.label || found.Config.Labels[labelRole] != roleApp {
		return instance{}, false, fmt.Errorf("%w: %s (%s)", errNotOurs, shortID(found.ID), found.Name)
	}
	return p.instanceOf(found), true, nil
}

func (p *Platform) instanceOf(found container.InspectResponse) instance {
	labels := found.Config.Labels
	in := instance{
		id: found.ID, image: found.Image, release: labels[labelRelease], labels: labels,
		running: found.State.Running && !found.State.Restarting, exitCode: found.State.ExitCode, oom: found.State.OOMKilled,
		restarts: found.RestartCount, created: found.State.Status == container.StateCreated,
		lasting: found.HostConfig != nil && found.HostConfig.RestartPolicy.Name == container.RestartPolicyUnlessStopped,
	}
	in.started, _ = time.Parse(time.RFC3339Nano, found.State.StartedAt)
	in.finished, _ = time.Parse(time.RFC3339Nano, found.State.FinishedAt)
	in.addr = address(found.NetworkSettings.Networks[p.names.network()], labels[labelPort])
	return in
}

// address is host:port of a container in our network, "" where it is not in there.
func address(e *network.EndpointSettings, port string) string {
	if e == nil {
		return ""
	}
	addr, ok := endpointAddress(e)
	if !ok {
		return ""
	}
	return net.JoinHostPort(addr.String(), port)
}

// A proxy that is being restarted is waited for this long by what cannot go on without it, and asked this often.
const (
	valveWait  = 10 * time.Second
	valvePause = 100 * time.Millisecond
)

// valveState is the valve's State, asked again for a while where the proxy does not answer.
func (p *Platform) valveState(ctx context.Context) (generation uint64, addr, id string, err error) {
	for deadline := time.Now().Add(valveWait); ; {
		if generation, addr, id, err = p.valve.State(ctx); err == nil {
			return generation, addr, id, nil
		}
		pause := time.NewTimer(valvePause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return 0, "", "", fmt.Errorf("ask the proxy for its state: %w", err)
		}
	}
}

// reach is what the proxy says of where it leads.
type reach struct {
	addr, id string
	err      error // it says nothing
}

// reach asks the proxy once, for what comes again by itself.
func (p *Platform) reach(ctx context.Context) reach {
	_, addr, id, err := p.valve.State(ctx)
	if err != nil {
		p.log.Warn("the proxy does not say where it leads: what runs is left alone", "error", err)
	}
	return reach{addr, id, err}
}

// has tells whether requests may come to a container, whatever the files say: the proxy leads to it, or it runs and the proxy does not say.
func (r reach) has(id, addr string, runs bool) bool {
	if r.err != nil {
		return runs
	}
	return r.addr != "" && (addr == r.addr || r.id != "" && strings.HasPrefix(id, r.id))
}

// leaves says why such a container is left running.
func (r reach) leaves(id string) error {
	if r.err != nil {
		return fmt.Errorf("container %s is left running: requests may come to it: %w", shortID(id), r.err)
	}
	return fmt.Errorf("container %s is left running: the proxy leads to it", shortID(id))
}

// unnamed returns the container of ours that the proxy leads to, for where no file names one that serves. A proxy that does not answer tells of none.
func (p *Platform) unnamed(ctx context.Context) (in instance, ok bool, err error) {
	_, addr, id, err := p.valve.State(ctx)
	if err != nil || addr == "" || id == "" {
		return instance{}, false, nil
	}
	if err := p.connect(ctx); err != nil {
		return instance{}, false, err
	}
	in, ok, err = p.find(ctx, id)
	if errors.Is(err, errNotOurs) {
		return instance{}, false, nil
	}
	return in, ok && in.addr == addr, err
}

func (in instance) target() Target {
	t := Target{Addr: in.addr, ID: shortID(in.id), VersionLabel: in.labels[labelVersion]}
	t.DeploymentID, _ = strconv.ParseInt(in.labels[labelDeployment], 10, 64)
	t.Serial, _ = strconv.ParseInt(in.labels[labelSerial], 10, 64)
	return t
}

// lastOutput returns the end of a container's output without secrets, standard output and error in the order in which the Engine got them.
func (p *Platform) lastOutput(ctx context.Context, id string) *tail {
	last := &tail{limit: maxTail}
	body, err := p.cli.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: "50"})
	if err != nil {
		return last
	}
	defer body.Close()
	masked := p.hide.Writer(last)
	frames := newFrames(body)
	for {
		payload, err := frames.next()
		if err != nil {
			_ = masked.Close()
			return last
		}
		_, _ = masked.Write(payload)
	}
}

// frames reads the multiplexed output of a container: per message one byte of stream, three of nothing, four of length, then the message.
type frames struct {
	r   *bufio.Reader
	buf []byte
}

// maxFrame bounds a message: the Engine cuts lines at 16 KiB.
const maxFrame = 1 << 20

var errFrame = errors.New("container output is not in the Engine's format")

func newFrames(r io.Reader) *frames { return &frames{r: bufio.NewReaderSize(r, 32<<10)} }

// next returns the next message, valid until the following call. io.EOF is the end, also where it comes inside a message: the Engine was
// stopped, and what is missing comes with the next connection.
func (f *frames) next() ([]byte, error) {
	var header [8]byte
	if _, err := io.ReadFull(f.r, header[:]); err != nil {
		return nil, endOf(err)
	}
	size := binary.BigEndian.Uint32(header[4:])
	if header[0] > 3 || header[1] != 0 || header[2] != 0 || header[3] != 0 || size > maxFrame {
		return nil, errFrame
	}
	if int(size) > cap(f.buf) {
		f.buf = make([]byte, size)
	}
	f.buf = f.buf[:size]
	if _, err := io.ReadFull(f.r, f.buf); err != nil {
		return nil, endOf(err)
	}
	if header[0] == 3 { // the Engine tells of an error of its own
		return nil, fmt.Errorf("read container output: %s", f.buf)
	}
	return f.buf, nil
}

func endOf(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}
