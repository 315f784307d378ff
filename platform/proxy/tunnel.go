package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// switchProtocols passes on a 101 and then bytes both ways until both sides have ended. Each side may end its half by itself. The flight lasts as
// long as the tunnel, so a drain waits for it and cuts it at the deadline.
func (x *exchange) switchProtocols(resp *http.Response) error {
	proto := strings.Join(resp.Header["Upgrade"], ", ")
	if x.upgrade == "" || !hasToken(resp.Header["Connection"], "Upgrade") || !strings.EqualFold(proto, x.upgrade) {
		return fmt.Errorf("%w: switch to %q, asked for %q", errBadResponse, proto, x.upgrade)
	}
	client, buffered, err := x.w.Hijack()
	if err != nil {
		return fmt.Errorf("take over the client's connection: %w", err)
	}
	x.tunnel, x.entry.status = true, resp.StatusCode
	defer client.Close()
	defer x.c.Close()
	if err := x.flight.setClient(client); err != nil {
		return err
	}
	h := http.Header{}
	copyResponseHeader(h, resp.Header)
	if err := writeSwitch(client, h, proto, x.p.opts.IOTimeout); err != nil {
		return fmt.Errorf("%w: %w", errClientGone, err)
	}
	x.pipe(client, buffered.Reader)
	return x.flight.reason()
}

func writeSwitch(client net.Conn, h http.Header, proto string, timeout time.Duration) error {
	_ = client.SetWriteDeadline(time.Now().Add(timeout))
	w := bufio.NewWriter(client)
	_, _ = w.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(w)
	writeField(w, "Connection", "Upgrade")
	writeField(w, "Upgrade", proto)
	_, _ = w.WriteString("\r\n")
	if err := w.Flush(); err != nil {
		return err
	}
	return client.SetWriteDeadline(time.Time{})
}

// pipe copies both ways. What was read ahead on either side goes first.
func (x *exchange) pipe(client net.Conn, ahead *bufio.Reader) {
	up := x.c
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		copyHalf(up.Conn, client, ahead)
	}()
	x.entry.bytes = copyHalf(client, up.Conn, up.br)
	<-sent
}

// copyHalf copies one direction and passes its end on. An error, unlike an end, ends both directions.
func copyHalf(dst, src net.Conn, ahead *bufio.Reader) int64 {
	n, err := io.CopyN(dst, ahead, int64(ahead.Buffered()))
	if err == nil {
		var m int64
		m, err = io.Copy(dst, src)
		n += m
	}
	half, ok := dst.(interface{ CloseWrite() error })
	if err != nil || !ok || half.CloseWrite() != nil {
		_ = dst.Close()
		_ = src.Close()
	}
	return n
}
