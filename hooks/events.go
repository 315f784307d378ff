package hooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"hostmanager/internal/layout"
	"hostmanager/protocol"
)

// What one hook may report. More is cut, with a WARN event.
const (
	maxEventBytes = 1 << 20
	maxEvents     = 500
	maxDocument   = 64 << 10
	maxMessage    = 4 << 10
	maxProblem    = 120
)

// eventFile is the file behind EB_EVENT_FILE, read piece by piece.
type eventFile struct {
	path string
	off  int64 // up to where it was read
}

const eventPrefix = "eventsfile"

// eventName is what newEventFile names a file; others' files lie beside it.
var eventName = regexp.MustCompile(`^` + eventPrefix + `[0-9]{8}-[0-9]+$`)

// makeTemp makes the folder, for all to write in, where there is none. An existing one is not ours to change.
func makeTemp(dir string) error {
	switch err := os.Mkdir(dir, 0o777); {
	case errors.Is(err, os.ErrExist):
		return nil
	case err != nil:
		return err
	}
	return os.Chmod(dir, 0o777|os.ModeSticky) // the umask took of it
}

// SweepEventFiles removes the event files that a killed agent left in the root's /tmp. Call it at start, while no hook of this root runs.
// What is no plain file, or another user's, stays. A missing folder is no error.
func SweepEventFiles(root layout.Root) error {
	dir := root.Join("tmp")
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look for old event files: %w", err)
	}
	var errs []error
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !eventName.MatchString(e.Name()) {
			continue // also one that is gone meanwhile
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove old event file: %w", err))
		}
	}
	return errors.Join(errs...)
}

// newEventFile makes the file in the root's own /tmp, where the original has it.
func newEventFile(root layout.Root) (*eventFile, error) {
	dir := root.Join("tmp")
	if err := makeTemp(dir); err != nil {
		return nil, fmt.Errorf("make folder of event file: %w", err)
	}
	f, err := os.CreateTemp(dir, eventPrefix+time.Now().UTC().Format("20060102")+"-*")
	if err != nil {
		return nil, fmt.Errorf("make event file: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, errors.Join(fmt.Errorf("make event file: %w", err), os.Remove(f.Name()))
	}
	return &eventFile{path: f.Name()}, nil
}

func (f *eventFile) remove() { _ = os.Remove(f.path) } // its name in /tmp is all that would stay

// report passes on the events written since the last call. At the last one, what is unfinished counts as malformed.
func (f *eventFile) report(call *Call, hook string, last bool) {
	data, cut, err := f.more()
	if err != nil {
		call.Event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf("The events of hook %s could not be read: %v.", hook, err)})
		return
	}
	events, used, problems := parseEvents(data, last && !cut) // the end of what is cut may be half of anything
	f.off += int64(used)
	for _, e := range events {
		e.Msg = shorten(call.Redact.String(e.Msg), maxMessage)
		call.Event(e)
	}
	if cut {
		f.off = 1<<62 - 1 // whoever wrote this much will not be read again
		problems = append(problems, fmt.Sprintf("more than %d bytes", maxEventBytes))
	}
	if len(problems) > 0 {
		call.Event(protocol.Event{Severity: protocol.Warn, Msg: fmt.Sprintf(
			"Hook %s wrote events that could not be used (%d problems, the first: %s).", hook, len(problems), shorten(call.Redact.String(problems[0]), maxProblem))})
	}
}

// shorten cuts a text that is too long, which comes after masking: half a secret would not be found.
func shorten(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}

// more reads what was appended, up to the bound. The hook owns the name, so what stands there now may be anything.
func (f *eventFile) more() (data []byte, cut bool, err error) {
	file, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer file.Close()
	st, err := file.Stat()
	if err != nil {
		return nil, false, err
	}
	if !st.Mode().IsRegular() {
		return nil, false, errors.New("the event file is no regular file any more")
	}
	if st.Size() < f.off && f.off < 1<<62-1 { // written anew, not appended to
		f.off = 0
	}
	if st.Size() <= f.off {
		return nil, false, nil
	}
	data, err = io.ReadAll(io.NewSectionReader(file, f.off, maxEventBytes+1))
	if len(data) > maxEventBytes {
		return data[:maxEventBytes], true, err
	}
	return data, false, err
}

// parseEvents reads documents separated by lines "---". used tells how far it got: a document without its separator may still grow, so it is left
// for the next time unless whole says that there will be none. Nothing it meets makes it fail; problems says what could not be used.
func parseEvents(data []byte, whole bool) (events []protocol.Event, used int, problems []string) {
	for used < len(data) {
		doc, size, ended := document(data[used:], whole)
		if !ended && !whole {
			return events, used, problems
		}
		got, err := parseDocument(doc)
		used += size
		if err != nil {
			problems = append(problems, err.Error())
		}
		events = append(events, got...)
		if len(events) > maxEvents {
			return events[:maxEvents], len(data), append(problems, fmt.Sprintf("more than %d events", maxEvents))
		}
	}
	return events, used, problems
}

// document cuts off the first document. ended tells whether a separator stands behind it; size counts it in. The last line counts only when it
// has its end, or when the data is whole.
func document(data []byte, whole bool) (doc []byte, size int, ended bool) {
	for at := 0; at < len(data); {
		end := bytes.IndexByte(data[at:], '\n')
		if end < 0 && !whole {
			break
		}
		line, next := data[at:], len(data)
		if end >= 0 {
			line, next = data[at:at+end], at+end+1
		}
		if rest, ok := bytes.CutPrefix(line, []byte("---")); ok && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\r') {
			if len(bytes.TrimSpace(rest)) > 0 { // "--- {...}": the document begins on the separator's line
				return data[:at], at + 3, true
			}
			return data[:at], next, true
		}
		at = next
	}
	return data, len(data), false
}

// wireEvent takes any scalar where the writers differ: shell scripts quote numbers.
type wireEvent struct {
	Msg       any `json:"msg" yaml:"msg"`
	Severity  any `json:"severity" yaml:"severity"`
	Timestamp any `json:"timestamp" yaml:"timestamp"`
}

// parseDocument reads one document: one or several JSON objects, else a YAML mapping. An empty one holds nothing.
func parseDocument(doc []byte) ([]protocol.Event, error) {
	doc = bytes.TrimSpace(doc)
	switch {
	case len(doc) == 0:
		return nil, nil
	case len(doc) > maxDocument:
		return nil, fmt.Errorf("a document of %d bytes", len(doc))
	}
	if doc[0] == '{' {
		if events, err := parseJSON(doc); !errors.Is(err, errNotJSON) {
			return events, err
		}
	}
	var w wireEvent
	if err := yaml.Unmarshal(doc, &w); err != nil {
		return nil, fmt.Errorf("neither JSON nor YAML: %q", firstLineOf(doc))
	}
	e, err := w.event()
	if e.Msg == "" {
		return nil, err
	}
	return []protocol.Event{e}, err
}

var errNotJSON = errors.New("no JSON")

// parseJSON returns the events of one or several objects and the first thing that is wrong with one of them.
func parseJSON(doc []byte) (events []protocol.Event, first error) {
	dec := json.NewDecoder(bytes.NewReader(doc))
	for {
		var w wireEvent
		switch err := dec.Decode(&w); {
		case errors.Is(err, io.EOF):
			return events, first
		case err != nil:
			return nil, errNotJSON
		}
		e, err := w.event()
		if e.Msg != "" {
			events = append(events, e)
		}
		if first == nil {
			first = err
		}
	}
}

func firstLineOf(doc []byte) []byte {
	line, _, _ := bytes.Cut(doc, []byte("\n"))
	return line
}

// event checks what was read. With an unknown severity the message still counts, as INFO.
func (w wireEvent) event() (protocol.Event, error) {
	msg := strings.TrimSpace(strings.ToValidUTF8(scalar(w.Msg), "\uFFFD"))
	if msg == "" {
		if _, blank := w.Msg.(string); !blank {
			return protocol.Event{}, errors.New("a document without msg, or with one that is no text")
		}
		return protocol.Event{}, nil // blank messages are dropped, as ever
	}
	e := protocol.Event{Msg: msg}
	var err error
	if e.Severity, err = protocol.ParseSeverity(scalar(w.Severity)); err != nil {
		e.Severity = protocol.Info
	}
	if t, bad := strconv.ParseFloat(scalar(w.Timestamp), 64); bad == nil {
		e.Time = protocol.EventTime(t)
	}
	return e, err
}

// scalar writes a single value as text; a list or mapping is none.
func scalar(v any) string {
	switch v := v.(type) {
	case nil, []any, map[string]any, map[any]any:
		return ""
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	case time.Time: // YAML reads an unquoted date so
		return strconv.FormatInt(v.UnixMilli(), 10)
	default:
		return fmt.Sprint(v)
	}
}
