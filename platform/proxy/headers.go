package proxy

import (
	"bufio"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// hopByHop reports whether a header concerns one connection only (RFC 9110 7.6.1) or is written anew from what was parsed. Keys are
// canonical.
func hopByHop(key string) bool {
	switch key {
	case "Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding",
		"Upgrade", "Http2-Settings":
		return true
	}
	return false
}

// listed returns the header names a Connection header lists, canonical, or nil for the usual ones.
func listed(h http.Header) []string {
	var out []string
	for _, v := range h["Connection"] {
		for part := range strings.SplitSeq(v, ",") {
			part = textproto.TrimString(part)
			if part != "" && !strings.EqualFold(part, "close") && !strings.EqualFold(part, "keep-alive") {
				out = append(out, http.CanonicalHeaderKey(part))
			}
		}
	}
	return out
}

func contains(names []string, key string) bool {
	for _, n := range names {
		if n == key {
			return true
		}
	}
	return false
}

// hasToken reports whether a comma list header holds a token, whatever its case.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for part := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(textproto.TrimString(part), token) {
				return true
			}
		}
	}
	return false
}

// upgradeOf returns the protocol a message wants to switch to, or "". h2c is never passed on: behind it requests would bypass the proxy.
func upgradeOf(h http.Header) string {
	if len(h["Upgrade"]) == 0 || !hasToken(h["Connection"], "Upgrade") {
		return ""
	}
	up := strings.Join(h["Upgrade"], ", ")
	for part := range strings.SplitSeq(up, ",") {
		if name, _, _ := strings.Cut(textproto.TrimString(part), "/"); strings.EqualFold(name, "h2c") || strings.EqualFold(name, "HTTP") {
			return ""
		}
	}
	return up
}

// originForm returns the request target for the target server: path and query byte for byte as the client wrote them.
func originForm(r *http.Request) string {
	uri := r.RequestURI
	if strings.HasPrefix(uri, "/") || uri == "*" {
		return uri
	}
	// Absolute form: only the part behind the authority is ours to send.
	if _, rest, ok := strings.Cut(uri, "://"); ok {
		if i := strings.IndexAny(rest, "/?"); i >= 0 {
			if rest[i] == '?' {
				return "/" + rest[i:]
			}
			return rest[i:]
		}
	}
	return "/"
}

// requestHead is what of a request's head does not follow from the request alone.
type requestHead struct {
	upgrade string // protocol to switch to, or ""
	host    string // when the client sent none
	port    string // the port the client connected to
	scheme  string // how the client reached us
}

// writeRequestHead writes the head as the target gets it. Framing is written from r.ContentLength alone.
func writeRequestHead(w *bufio.Writer, r *http.Request, h requestHead) {
	host := r.Host
	if host == "" {
		host = h.host
	}
	_, _ = w.WriteString(r.Method)
	_ = w.WriteByte(' ')
	_, _ = w.WriteString(originForm(r))
	_, _ = w.WriteString(" HTTP/1.1\r\n")
	writeField(w, "Host", host)
	drop := listed(r.Header)
	for key, values := range r.Header {
		if skipRequestHeader(key) || contains(drop, key) {
			continue
		}
		for _, v := range values {
			writeField(w, key, v)
		}
	}
	writeForwarded(w, r, h, drop)
	writeRequestFraming(w, r)
	if hasToken(r.Header["Te"], "trailers") {
		writeField(w, "Te", "trailers")
	}
	if h.upgrade != "" {
		writeField(w, "Connection", "Upgrade")
		writeField(w, "Upgrade", h.upgrade)
	}
	_, _ = w.WriteString("\r\n")
}

// skipRequestHeader tells of the headers that are written anew.
func skipRequestHeader(key string) bool {
	switch key {
	case "Host", "Content-Length", "Expect", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Real-Ip":
		return true
	}
	return hopByHop(key)
}

func writeField(w *bufio.Writer, key, value string) {
	_, _ = w.WriteString(key)
	_, _ = w.WriteString(": ")
	_, _ = w.WriteString(value)
	_, _ = w.WriteString("\r\n")
}

// writeForwarded appends the client to X-Forwarded-For and says in X-Real-Ip who connected, as EB's nginx did. Proto, Port and Host come from the load
// balancer where it set them (nginx passed them on); else they tell how the client reached us.
func writeForwarded(w *bufio.Writer, r *http.Request, h requestHead, drop []string) {
	client, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		client = r.RemoteAddr
	}
	_, _ = w.WriteString("X-Forwarded-For: ")
	if !contains(drop, "X-Forwarded-For") {
		for _, v := range r.Header["X-Forwarded-For"] {
			if v != "" {
				_, _ = w.WriteString(v)
				_, _ = w.WriteString(", ")
			}
		}
	}
	_, _ = w.WriteString(client)
	_, _ = w.WriteString("\r\n")
	writeField(w, "X-Real-Ip", client)
	passOr(w, r, drop, "X-Forwarded-Proto", h.scheme)
	passOr(w, r, drop, "X-Forwarded-Port", h.port)
	passOr(w, r, drop, "X-Forwarded-Host", r.Host)
}

func passOr(w *bufio.Writer, r *http.Request, drop []string, key, value string) {
	if v := r.Header[key]; len(v) > 0 && !contains(drop, key) {
		value = v[0]
	}
	if value != "" {
		writeField(w, key, value)
	}
}

func writeRequestFraming(w *bufio.Writer, r *http.Request) {
	switch {
	case r.ContentLength < 0:
		writeField(w, "Transfer-Encoding", "chunked")
		for key := range r.Trailer {
			writeField(w, "Trailer", key)
		}
	case r.ContentLength > 0 || r.Header["Content-Length"] != nil || wantsLength(r.Method):
		var buf [20]byte
		_, _ = w.WriteString("Content-Length: ")
		_, _ = w.Write(strconv.AppendInt(buf[:0], r.ContentLength, 10))
		_, _ = w.WriteString("\r\n")
	}
	if expectsContinue(r) {
		writeField(w, "Expect", "100-continue")
	}
}

// wantsLength: methods whose missing body is said with a zero (RFC 9110 8.6).
func wantsLength(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

func expectsContinue(r *http.Request) bool {
	return r.ContentLength != 0 && hasToken(r.Header["Expect"], "100-continue")
}

// safeTrailer keeps a trailer from ending a line or naming framing; the server does not validate trailer values.
func safeTrailer(key, value string) bool {
	if hopByHop(key) || key == "Content-Length" || key == "Host" {
		return false
	}
	return !strings.ContainsAny(key, "\r\n\x00: ") && !strings.ContainsAny(value, "\r\n\x00")
}

// passTrailers puts the trailers that came where net/http sends them from after the body.
func passTrailers(h, trailers http.Header, announced []string) {
	for key, values := range trailers {
		out := key
		if !contains(announced, key) {
			out = http.TrailerPrefix + key
		}
		delete(h, out)
		for _, v := range values {
			if safeTrailer(key, v) {
				h.Add(out, v)
			}
		}
	}
}

// copyResponseHeader copies the end-to-end headers of a response.
func copyResponseHeader(dst, src http.Header) {
	drop := listed(src)
	for key, values := range src {
		if !hopByHop(key) && !contains(drop, key) {
			dst[key] = values
		}
	}
}

// idempotent methods may be repeated (RFC 9110 9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}
