package logfile

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// line is what the formats share.
type line struct {
	w      io.Writer
	redact Redactor
	now    func() time.Time
}

// put writes one event. A log that cannot be written must not stop the work it tells of, and there is no other place to say so.
func (l line) put(text string) {
	_, _ = io.WriteString(l.w, l.redact.String(text)+"\n")
}

// format is Sprintf with the values kept on their line: names and messages come from outside. A line end of the format itself is the original's.
func (l line) format(format string, args []any) string {
	safe := make([]any, len(args))
	for i, arg := range args {
		text, ok := arg.(string)
		if raw, isRaw := arg.([]byte); isRaw {
			text = string(raw)
		} else if !ok {
			text = fmt.Sprint(arg)
		}
		if safe[i] = arg; escape(text) != text {
			safe[i] = escape(l.redact.String(text)) // in this order: a secret may hold a line end
		}
	}
	return fmt.Sprintf(format, safe...)
}

// putMore is put with lines of output indented below, as many as it has.
func (l line) putMore(text, more string) {
	whole := l.redact.String(text + "\n" + more) // in one piece: a secret may span lines
	lines := strings.Split(whole, "\n")
	for i, one := range lines {
		lines[i] = escape(strings.TrimSuffix(one, "\r"))
	}
	_, _ = io.WriteString(l.w, strings.Join(lines, "\n  ")+"\n")
}

// escape keeps a text on its line and off the terminal: it writes every character that is not to be seen, the tab aside, as Go does: \n, \x1b, \u2028.
func escape(text string) string {
	hidden := func(c rune) bool {
		return c != '\t' && (unicode.IsControl(c) || c == '\u2028' || c == '\u2029' || unicode.Is(unicode.Bidi_Control, c))
	}
	if !strings.ContainsFunc(text, hidden) {
		return text
	}
	var b strings.Builder
	for _, c := range text {
		if !hidden(c) {
			b.WriteRune(c)
			continue
		}
		quoted := strconv.QuoteRune(c)
		b.WriteString(quoted[1 : len(quoted)-1])
	}
	return b.String()
}

// Listener writes cfn-hup.log: "2017-07-16 23:09:15,432 [DEBUG] Receiving messages for queue". Times are UTC.
type Listener struct{ line line }

// NewListener returns the writer of the listener's lines.
func NewListener(w io.Writer, redact Redactor, now func() time.Time) *Listener {
	return &Listener{line{w, redact, now}}
}

func (l *Listener) put(level, format string, args []any) {
	t := l.line.now().UTC()
	l.line.put(fmt.Sprintf("%s,%03d [%s] %s", t.Format("2006-01-02 15:04:05"), t.Nanosecond()/1e6, level, l.line.format(format, args)))
}

// Debugf writes a DEBUG line.
func (l *Listener) Debugf(format string, args ...any) { l.put("DEBUG", format, args) }

// Infof writes an INFO line.
func (l *Listener) Infof(format string, args ...any) { l.put("INFO", format, args) }

// Errorf writes an ERROR line.
func (l *Listener) Errorf(format string, args ...any) { l.put("ERROR", format, args) }

// prefix is the part the processor's and the activity log share: "[2017-07-19T06:24:05.584Z] INFO  [4510] ", the pid in its brackets padded to 7.
func prefix(t time.Time, level string, pid int) string {
	return fmt.Sprintf("[%s] %-5s %-7s", t.UTC().Format("2006-01-02T15:04:05.000Z"), level, fmt.Sprintf("[%d]", pid))
}

// Processor writes eb-commandprocessor.log: "[2017-07-19T06:24:05.584Z] INFO  [4510]  : Running 2 of 6 actions: DownloadSourceBundle...".
type Processor struct {
	line line
	pid  int
}

// NewProcessor returns the writer of the command processor's lines.
func NewProcessor(w io.Writer, redact Redactor, now func() time.Time, pid int) *Processor {
	return &Processor{line{w, redact, now}, pid}
}

func (p *Processor) put(level, format string, args []any) {
	p.line.put(prefix(p.line.now(), level, p.pid) + " : " + p.line.format(format, args))
}

// Debugf writes a DEBUG line.
func (p *Processor) Debugf(format string, args ...any) { p.put("DEBUG", format, args) }

// Infof writes an INFO line.
func (p *Processor) Infof(format string, args ...any) { p.put("INFO", format, args) }

// Errorf writes an ERROR line.
func (p *Processor) Errorf(format string, args ...any) { p.put("ERROR", format, args) }

// Activity writes eb-activity.log: "[2020-01-12T05:16:42.754Z] INFO  [3168]  - [Application update v2@7/AppDeployStage0/AppDeployPreHook/03build]
// : Starting activity...". A path is the names from the root activity down.
type Activity struct {
	line line
	pid  int
}

// NewActivity returns the writer of the activity lines.
func NewActivity(w io.Writer, redact Redactor, now func() time.Time, pid int) *Activity {
	return &Activity{line{w, redact, now}, pid}
}

func (a *Activity) put(path []string, text string) {
	a.line.put(escape(a.line.redact.String(a.head(path) + text)))
}

func (a *Activity) head(path []string) string {
	return prefix(a.line.now(), "INFO", a.pid) + " - [" + strings.Join(path, "/") + "] : "
}

// Start tells that the activity begins.
func (a *Activity) Start(path []string) { a.put(path, "Starting activity...") }

// Complete tells that it ended well; a result, of any number of lines, is indented below.
func (a *Activity) Complete(path []string, result string) {
	if result = strings.TrimRight(result, "\n"); result == "" {
		a.put(path, "Completed activity.")
		return
	}
	a.line.putMore(escape(a.line.redact.String(a.head(path)))+"Completed activity. Result:", result)
}

// Fail tells where the cause of a failure is: the innermost activity.
func (a *Activity) Fail(path []string, cause string) {
	a.put(path, "Activity execution failed, because: "+cause)
}

// Failed tells that an activity ended badly, after Fail of itself or of one inside it.
func (a *Activity) Failed(path []string) { a.put(path, "Activity failed.") }

// TimedOut tells that the time of the command ran out in this activity.
func (a *Activity) TimedOut(path []string, after time.Duration) {
	a.put(path, fmt.Sprintf("Activity timed out after %d seconds.", int(after.Seconds())))
}

// Output writes one line that the activity put out.
func (a *Activity) Output(path []string, text string) { a.put(path, text) }
