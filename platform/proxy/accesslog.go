package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"gopkg.in/natefinch/lumberjack.v2"
)

const (
	logFlushEvery = time.Second // at most this much is lost by kill -9
	logFlushAt    = 32 << 10
	logBufferMax  = 1 << 20 // a disk that does not keep up costs lines, never requests
	logFileMB     = 50
	logFiles      = 3
)

// entry is what the access log tells of one request.
type entry struct {
	start, end                 time.Time
	upstreamStart, upstreamEnd time.Time
	upstream                   string // address, empty when no target was chosen
	status                     int
	bytes                      int64 // of the response body
	cut                        bool  // the client did not get the whole response
}

// accessLog writes nginx's combined format with four more fields: request time and upstream time in seconds, target, X-Forwarded-For, and the
// word "cut" behind a response that did not end. Lines are collected in memory and written by one goroutine, so a request never waits for the
// disk. The file is rotated by size; a file that somebody moved away is noticed at the next write and made again.
type accessLog struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	buf     []byte
	dropped int
	second  int64 // of stamp
	stamp   []byte
	kick    chan struct{}

	sink   *lumberjack.Logger // below: the writing goroutine's
	opened os.FileInfo
	spare  []byte
	failed bool
	torn   bool // the file ends within a line
}

func newAccessLog(path string, log *slog.Logger) *accessLog {
	return &accessLog{
		path: path, log: log, kick: make(chan struct{}, 1),
		sink: &lumberjack.Logger{Filename: path, MaxSize: logFileMB, MaxBackups: logFiles},
	}
}

// record appends one line. A nil log keeps nothing.
func (l *accessLog) record(r *http.Request, e *entry) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf) > logBufferMax {
		l.dropped++
		return
	}
	l.buf = l.appendLine(l.buf, r, e)
	if len(l.buf) >= logFlushAt {
		select {
		case l.kick <- struct{}{}:
		default:
		}
	}
}

func (l *accessLog) appendLine(b []byte, r *http.Request, e *entry) []byte {
	if s := e.end.Unix(); s != l.second {
		l.second = s
		l.stamp = e.end.AppendFormat(l.stamp[:0], "02/Jan/2006:15:04:05 -0700")
	}
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	b = appendQuoted(b, client)
	b = append(append(append(b, " - - ["...), l.stamp...), `] "`...)
	b = append(appendQuoted(b, r.Method), ' ')
	b = append(appendQuoted(b, r.RequestURI), ' ')
	b = append(append(b, r.Proto...), `" `...)
	b = append(strconv.AppendInt(b, int64(e.status), 10), ' ')
	b = append(strconv.AppendInt(b, e.bytes, 10), ` "`...)
	b = append(appendQuoted(b, orDash(first(r.Header["Referer"]))), `" "`...)
	b = append(appendQuoted(b, orDash(first(r.Header["User-Agent"]))), `" `...)
	b = append(strconv.AppendFloat(b, e.end.Sub(e.start).Seconds(), 'f', 3, 64), ' ')
	if e.upstreamStart.IsZero() {
		b = append(b, '-')
	} else {
		b = strconv.AppendFloat(b, e.upstreamEnd.Sub(e.upstreamStart).Seconds(), 'f', 3, 64)
	}
	b = append(append(append(b, ' '), orDash(e.upstream)...), ` "`...)
	b = append(appendQuoted(b, orDash(first(r.Header["X-Forwarded-For"]))), '"')
	if e.cut {
		b = append(b, " cut"...)
	}
	return append(b, '\n')
}

func first(v []string) string {
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// appendQuoted escapes what would end a field or a line, as nginx does.
func appendQuoted(b []byte, s string) []byte {
	const hex = "0123456789ABCDEF"
	for i := range len(s) {
		if c := s[i]; c < 0x20 || c >= 0x7f || c == '"' || c == '\\' {
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		} else {
			b = append(b, c)
		}
	}
	return b
}

// run writes until ctx is done, then what is left, and closes the file.
func (l *accessLog) run(ctx context.Context) {
	if l == nil {
		return
	}
	tick := time.NewTicker(logFlushEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-l.kick:
		case <-ctx.Done():
			l.flush()
			if err := l.sink.Close(); err != nil {
				l.log.Warn("close access log", "path", l.path, "error", err)
			}
			return
		}
		l.flush()
	}
}

func (l *accessLog) flush() {
	l.mu.Lock()
	out, dropped := l.buf, l.dropped
	l.buf, l.dropped = l.spare[:0], 0
	l.mu.Unlock()
	l.spare = out
	if len(out) == 0 {
		return
	}
	err := l.reopenIfMoved()
	if err == nil && l.torn { // by a disk that was full: what follows begins a line of its own
		_, err = l.sink.Write([]byte{'\n'})
	}
	if err == nil {
		var n int
		n, err = l.sink.Write(out)
		l.torn = n > 0 && out[n-1] != '\n'
	}
	if err != nil && !l.failed {
		l.log.Warn("write access log", "path", l.path, "error", err)
	}
	l.failed = err != nil
	if dropped > 0 {
		l.log.Warn("access log lines dropped", "lines", dropped)
	}
	if l.opened == nil {
		l.opened, _ = os.Stat(l.path)
	}
}

// reopenIfMoved makes the file anew when the path no longer is the file that is open: lumberjack would write on to the moved one.
func (l *accessLog) reopenIfMoved() error {
	if l.opened == nil {
		return nil
	}
	now, err := os.Stat(l.path)
	if err == nil && os.SameFile(now, l.opened) {
		return nil
	}
	l.opened = nil // lumberjack may have rotated by itself; closing then costs one open
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return l.sink.Close()
}
