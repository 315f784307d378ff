package proxy

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that stands in JSON as text: "30s".
type Duration time.Duration

// MarshalText writes the form time.ParseDuration reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads the form of time.ParseDuration.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// Target is what the proxy sends requests to. Only Addr is acted on; the rest is kept and shown, so that a reader of the state knows
// which deployment serves.
type Target struct {
	Addr         string `json:"addr"`                    // host:port
	ID           string `json:"id,omitempty"`            // container id
	Deployment   int64  `json:"deployment,omitempty"`    // deployment id
	Serial       int64  `json:"serial,omitempty"`        // serial of the manifest
	VersionLabel string `json:"version_label,omitempty"` // version label
	Checks       Checks `json:"checks"`
}

// Checks are the running checks of the target. The zero value is: TCP connect every 15 s with 5 s timeout, 3 passes to be passing, 5 failures to
// be failing (the defaults of Elastic Beanstalk's process options).
type Checks struct {
	Path      string   `json:"path,omitempty"` // empty: TCP connect
	Interval  Duration `json:"interval,omitempty"`
	Timeout   Duration `json:"timeout,omitempty"`
	Healthy   int      `json:"healthy,omitempty"`   // passes in a row
	Unhealthy int      `json:"unhealthy,omitempty"` // failures in a row
	Codes     string   `json:"codes,omitempty"`     // "200", "200,202", "200-299"; default 200
	Disabled  bool     `json:"disabled,omitempty"`
}

func (c Checks) withDefaults() Checks {
	if c.Interval == 0 {
		c.Interval = Duration(15 * time.Second)
	}
	if c.Timeout == 0 {
		c.Timeout = Duration(5 * time.Second)
	}
	if c.Healthy == 0 {
		c.Healthy = 3
	}
	if c.Unhealthy == 0 {
		c.Unhealthy = 5
	}
	if c.Codes == "" {
		c.Codes = "200"
	}
	return c
}

// minCheckInterval keeps a wrong unit in a request from turning the checks into a flood.
const minCheckInterval = 100 * time.Millisecond

func (c Checks) validate() error {
	c = c.withDefaults()
	switch {
	case c.Path != "" && !validPath(c.Path):
		return fmt.Errorf("checks.path %q: must start with / and hold only printable ASCII", c.Path)
	case time.Duration(c.Interval) < minCheckInterval || time.Duration(c.Interval) > 24*time.Hour:
		return fmt.Errorf("checks.interval %v: must be %v to 24h", time.Duration(c.Interval), minCheckInterval)
	case c.Timeout <= 0 || time.Duration(c.Timeout) > time.Hour:
		return fmt.Errorf("checks.timeout %v: must be over 0 and at most 1h", time.Duration(c.Timeout))
	case c.Healthy < 0 || c.Unhealthy < 0:
		return errors.New("checks.healthy and checks.unhealthy: must not be negative")
	}
	_, err := parseCodes(c.Codes)
	return err
}

func validPath(p string) bool {
	if !strings.HasPrefix(p, "/") || len(p) > 2048 {
		return false
	}
	for i := range len(p) {
		if p[i] <= ' ' || p[i] >= 0x7f {
			return false
		}
	}
	return true
}

type codeRange struct{ from, to int }

// parseCodes reads a MatcherHTTPCode: a comma list of codes and ranges.
func parseCodes(s string) ([]codeRange, error) {
	var out []codeRange
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.ParseUint(from, 10, 16)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil || a < 100 || b > 599 || a > b {
			return nil, fmt.Errorf("checks.codes %q: write codes from 100 to 599 as 200, 200,202 or 200-299", s)
		}
		out = append(out, codeRange{int(a), int(b)})
	}
	return out, nil
}

// maxLabel bounds the labels of a target: they stand in the state file and in every answer.
const maxLabel = 512

func (t Target) validate() error {
	host, port, err := net.SplitHostPort(t.Addr)
	if err != nil {
		return fmt.Errorf("addr %q: must be host:port", t.Addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("addr %q: port must be 1 to 65535", t.Addr)
	}
	if host == "" || len(host) > 253 || strings.ContainsFunc(host, badHostRune) {
		return fmt.Errorf("addr %q: host must be an IP address or a name", t.Addr)
	}
	if len(t.ID) > maxLabel || len(t.VersionLabel) > maxLabel {
		return fmt.Errorf("id and version_label: must be at most %d bytes", maxLabel)
	}
	return t.Checks.validate()
}

func badHostRune(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`/\@?#"<>[]`, r)
}

// Status of the running checks.
const (
	CheckUnknown  = "unknown" // not enough checks yet, or none wanted
	CheckPassing  = "passing"
	CheckFailing  = "failing"
	CheckDisabled = "disabled"
)

// CheckState is what the running checks of the current target found.
type CheckState struct {
	Status   string    `json:"status"`
	Since    time.Time `json:"since,omitzero"`       // of Status
	LastRun  time.Time `json:"last_run,omitzero"`    // end of the last check
	InARow   int       `json:"in_a_row,omitempty"`   // equal outcomes so far
	LastOK   bool      `json:"last_ok,omitempty"`    // outcome of the last check
	LastErr  string    `json:"last_error,omitempty"` // of the last check, when it failed
	RunsDone uint64    `json:"runs"`
}

// Draining is an old target that still has requests in flight.
type Draining struct {
	Addr       string    `json:"addr"`
	ID         string    `json:"id,omitempty"`
	Deployment int64     `json:"deployment,omitempty"`
	InFlight   int       `json:"in_flight"`
	Since      time.Time `json:"since"` // of the swap away from it
}

// PauseState tells of a pause under way.
type PauseState struct {
	Until time.Time `json:"until"` // then the proxy resumes by itself
	Held  int       `json:"held"`  // requests waiting
}

// State is the answer to GET /v1/state.
type State struct {
	Generation uint64      `json:"generation"`       // grows by one with each swap
	Target     *Target     `json:"target,omitempty"` // nil: none, clients get 503
	InFlight   int         `json:"in_flight"`        // on the target
	SwappedAt  time.Time   `json:"swapped_at,omitzero"`
	Checks     CheckState  `json:"checks"`
	Draining   []Draining  `json:"draining,omitempty"`
	Paused     *PauseState `json:"paused,omitempty"`
	Listen     []string    `json:"listen"` // addresses clients connect to
	PID        int         `json:"pid"`
	Started    time.Time   `json:"started"`
	Served     uint64      `json:"served"`           // requests sent to a target since Started
	Notice     string      `json:"notice,omitempty"` // something an operator should know, e.g. a state file set aside
}

// Swap is the answer to PUT /v1/target.
type Swap struct {
	Generation uint64  `json:"generation"`
	Previous   *Target `json:"previous,omitempty"`
	InFlight   int     `json:"in_flight"` // on the previous target at the instant of the swap
	Held       int     `json:"held"`      // by a pause, at the same instant
}

// Drained is the answer to POST /v1/drain.
type Drained struct {
	Addr      string   `json:"addr"`
	InFlight  int      `json:"in_flight"` // when the drain began
	Cancelled int      `json:"cancelled"` // cut at the deadline
	Remaining int      `json:"remaining"` // cut but not yet ended when this was answered
	Took      Duration `json:"took"`
}

type targetRequest struct {
	Target
	Clear            bool    `json:"clear,omitempty"`
	ExpectGeneration *uint64 `json:"expect_generation"`
}

type drainRequest struct {
	Addr    string   `json:"addr"`
	Timeout Duration `json:"timeout"`
}

type pauseRequest struct {
	Timeout Duration `json:"timeout"`
}

type errorReply struct {
	Code       string `json:"code"`
	Error      string `json:"error"`
	Generation uint64 `json:"generation,omitempty"`
}
