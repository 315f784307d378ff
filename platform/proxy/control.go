package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
)

const (
	controlLimit    = 64 << 10
	defaultDrain    = 30 * time.Second
	defaultPause    = 30 * time.Second
	maxControlWait  = time.Hour
	codeStale       = "stale"
	codeServing     = "serving"
	codeBadRequest  = "bad_request"
	codeUnavailable = "unavailable"
)

var errBadRequest = errors.New("bad request")

// controlServer answers on the unix socket, whose mode is its guard.
func (p *Proxy) controlServer() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/state", func(w http.ResponseWriter, _ *http.Request) { reply(w, http.StatusOK, p.State()) })
	mux.HandleFunc("PUT /v1/target", p.handleTarget)
	mux.HandleFunc("POST /v1/drain", p.handleDrain)
	mux.HandleFunc("POST /v1/pause", p.handlePause)
	mux.HandleFunc("POST /v1/resume", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]int{"released": p.valve.release()})
	})
	return &http.Server{
		Handler: mux, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
}

func (p *Proxy) handleTarget(w http.ResponseWriter, r *http.Request) {
	t, expect, err := decodeTarget(r.Body)
	if err == nil {
		var s Swap
		if s, err = p.set(t, expect); err == nil {
			reply(w, http.StatusOK, s)
			return
		}
	}
	p.replyError(w, err)
}

// decodeTarget reads and checks the body of PUT /v1/target. A nil target clears.
func decodeTarget(body io.Reader) (*Target, uint64, error) {
	var req targetRequest
	if err := decode(body, &req); err != nil {
		return nil, 0, err
	}
	if req.ExpectGeneration == nil {
		return nil, 0, fmt.Errorf("%w: expect_generation is missing; take it from GET /v1/state", errBadRequest)
	}
	if req.Clear {
		if req.Target != (Target{}) {
			return nil, 0, fmt.Errorf("%w: clear stands alone", errBadRequest)
		}
		return nil, *req.ExpectGeneration, nil
	}
	if err := req.Target.validate(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	return &req.Target, *req.ExpectGeneration, nil
}

func (p *Proxy) handleDrain(w http.ResponseWriter, r *http.Request) {
	req := drainRequest{Timeout: Duration(defaultDrain)}
	err := decode(r.Body, &req)
	if err == nil && req.Addr == "" {
		err = fmt.Errorf("%w: addr is missing", errBadRequest)
	}
	if err == nil {
		err = checkWait(req.Timeout)
	}
	var d Drained
	if err == nil {
		d, err = p.valve.drain(r.Context(), req.Addr, time.Duration(req.Timeout))
	}
	if err != nil {
		p.replyError(w, err)
		return
	}
	p.log.Info("target drained", "target", d.Addr, "in_flight", d.InFlight, "cancelled", d.Cancelled, "took", time.Duration(d.Took))
	reply(w, http.StatusOK, d)
}

func (p *Proxy) handlePause(w http.ResponseWriter, r *http.Request) {
	req := pauseRequest{Timeout: Duration(defaultPause)}
	err := decode(r.Body, &req)
	if err == nil {
		err = checkWait(req.Timeout)
	}
	if err != nil {
		p.replyError(w, err)
		return
	}
	s := p.valve.hold(time.Duration(req.Timeout))
	p.log.Info("paused", "until", s.Until)
	reply(w, http.StatusOK, s)
}

func checkWait(d Duration) error {
	if d < 0 || time.Duration(d) > maxControlWait {
		return fmt.Errorf("%w: timeout %v: must be 0s to %v", errBadRequest, time.Duration(d), maxControlWait)
	}
	return nil
}

// decode reads one JSON object of bounded size. Nothing at all is an object without fields.
func decode(body io.Reader, into any) error {
	dec := json.NewDecoder(io.LimitReader(body, controlLimit))
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil && dec.More() {
		err = errors.New("more than one JSON value")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	return nil
}

func (p *Proxy) replyError(w http.ResponseWriter, err error) {
	e := errorReply{Error: err.Error(), Code: codeUnavailable}
	status := http.StatusInternalServerError
	var stale *StaleError
	switch {
	case errors.As(err, &stale):
		status, e.Code, e.Generation = http.StatusConflict, codeStale, stale.Generation
	case errors.Is(err, ErrServing):
		status, e.Code = http.StatusConflict, codeServing
	case errors.Is(err, errBadRequest):
		status, e.Code = http.StatusBadRequest, codeBadRequest
	default:
		p.log.Error("control request", "error", err)
	}
	reply(w, status, e)
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
