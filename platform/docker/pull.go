package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"

	"hostmanager/hooks"
	"hostmanager/internal/redact"
	"hostmanager/protocol"
)

// maxMessage bounds one message of the Engine's progress streams.
const maxMessage = 4 << 20

// streamMessage is one line of a pull's or a build's progress.
type streamMessage struct {
	Stream   string          `json:"stream"`
	Status   string          `json:"status"`
	ID       string          `json:"id"`
	Progress json.RawMessage `json:"progressDetail"`
	Error    string          `json:"error"`
	Detail   *struct {
		Message string `json:"message"`
		Code    int    `json:"code"`
	} `json:"errorDetail"`
	Aux json.RawMessage `json:"aux"`
}

// failure is what the message says went wrong, without secrets, "" where nothing did. It may hold the whole output of a step: the end is kept.
func (m streamMessage) failure(hide *redact.Redactor) string {
	text := m.Error
	if m.Detail != nil && m.Detail.Message != "" {
		text = m.Detail.Message
	}
	last := tail{limit: maxTail}
	_, _ = last.Write([]byte(hide.String(text)))
	return last.last(maxTail)
}

// eachMessage calls fn for every message of a progress stream until it ends.
func eachMessage(r io.Reader, fn func(streamMessage) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), maxMessage)
	for lines.Scan() {
		if len(strings.TrimSpace(lines.Text())) == 0 {
			continue
		}
		var m streamMessage
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return fmt.Errorf("read progress of the Engine: %w", err)
		}
		if err := fn(m); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read progress of the Engine: %w", err)
	}
	return nil
}

// pullAll pulls the images a build needs. With update false an image that is here is left as it is.
func (p *Platform) pullAll(ctx context.Context, c *hooks.Call, images []string, update bool, log io.Writer) error {
	for _, ref := range images {
		ref = withTag(ref)
		needed, err := p.needsPull(ctx, ref, update)
		if err != nil {
			return err
		}
		if !needed {
			continue
		}
		if err := p.pullTwice(ctx, c, ref, log); err != nil {
			return err
		}
	}
	return nil
}

// needsPull: an image named by digest cannot have changed either.
func (p *Platform) needsPull(ctx context.Context, ref string, update bool) (bool, error) {
	if update && !strings.Contains(ref, "@") {
		return true, nil
	}
	_, err := p.cli.ImageInspect(ctx, ref)
	if err != nil && !cerrdefs.IsNotFound(err) {
		return false, fmt.Errorf("inspect image %s: %w", ref, err)
	}
	return err != nil, nil
}

func (p *Platform) pullTwice(ctx context.Context, c *hooks.Call, ref string, log io.Writer) error {
	last := tail{limit: maxTail}
	err := p.pull(ctx, ref, log, &last)
	if err != nil && ctx.Err() == nil {
		report(c, protocol.Warn, "Failed to pull Docker image %s, retrying...", ref)
		last = tail{limit: maxTail}
		err = p.pull(ctx, ref, log, &last)
	}
	if err == nil {
		report(c, protocol.Trace, "Successfully pulled %s", ref)
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("pull %s: %w", ref, context.Cause(ctx))
	}
	return fail(c, &Failure{
		Sentence: fmt.Sprintf("Failed to pull Docker image %s: %s. Check snapshot logs for details.", ref, last.last(200)),
		Last:     last.last(maxTail),
		Cause:    err,
	})
}

// pull pulls once. Whatever goes wrong also stands at the end of log and last, which hold no secrets.
func (p *Platform) pull(ctx context.Context, ref string, log io.Writer, last *tail) error {
	out := p.hide.Writer(io.MultiWriter(log, last))
	defer out.Close()
	err := p.pullStream(ctx, ref, out)
	if err != nil {
		fmt.Fprintln(out, err)
	}
	return err
}

func (p *Platform) pullStream(ctx context.Context, ref string, out io.Writer) error {
	body, err := p.cli.ImagePull(ctx, ref, image.PullOptions{})
	if err != nil {
		return err
	}
	defer drainAndClose(body)
	return eachMessage(body, func(m streamMessage) error {
		if text := m.failure(p.hide); text != "" {
			return errors.New(text)
		}
		if len(m.Progress) <= len("{}") && m.Status != "" { // bars are for terminals
			fmt.Fprintln(out, strings.TrimSpace(m.ID+" "+m.Status))
		}
		return nil
	})
}

// withTag adds :latest where neither tag nor digest is given.
func withTag(ref string) string {
	name := ref[strings.LastIndexByte(ref, '/')+1:]
	if strings.ContainsAny(name, ":@") {
		return ref
	}
	return ref + ":latest"
}
