// Package settings gives option settings their types: which properties the application gets, how its health is probed, how long a command
// may take. It reads and writes the containerconfiguration file, through which the hooks of one command (and scripts between them) learn what
// is being deployed. It knows no queue, no store and no container engine.
package settings

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"hostmanager/protocol"
)

// The namespaces read here (Elastic Beanstalk developer guide, "General options for all environments").
const (
	NSCommand     = "aws:elasticbeanstalk:command"
	NSApplication = "aws:elasticbeanstalk:application"
	NSEnvironment = "aws:elasticbeanstalk:application:environment"
	NSProcess     = "aws:elasticbeanstalk:environment:process:default"
	NSHostmanager = "aws:elasticbeanstalk:hostmanager"
)

// ErrInvalid marks a setting that cannot be used. The text names namespace, option and what is allowed.
var ErrInvalid = errors.New("invalid option setting")

// Defaults of the options (same source) and of our own HealthGateTimeout.
const (
	DefaultHealthGateTimeout = 60 * time.Second
	DefaultDrainTimeout      = 20 * time.Second // DeregistrationDelay
	DefaultCheckInterval     = 15 * time.Second
	DefaultCheckTimeout      = 5 * time.Second
	defaultHealthy           = 3
	defaultUnhealthy         = 5
)

// Check says how the application's health is probed.
type Check struct {
	Path      string // empty: a TCP connect is enough
	Codes     Codes
	Interval  time.Duration
	Timeout   time.Duration
	Healthy   int // successes in a row that make it healthy
	Unhealthy int // failures in a row that make it unhealthy
}

// Settings are the option settings the instance acts upon.
type Settings struct {
	Environment       map[string]string // application properties, byte-exact
	Check             Check
	HealthGateTimeout time.Duration
	IgnoreHealthCheck bool
	DrainTimeout      time.Duration
	CommandTimeout    time.Duration
	HookLimits        HookLimits
	ReplaceableHooks  []string // built-in hooks a file of the same name may replace ("appdeploy/enact/01flip")
}

// Parse reads option settings. Unknown namespaces and options are not ours to judge and are left alone. Errors wrap ErrInvalid; all of them are
// reported at once.
func Parse(options protocol.OptionSettings) (Settings, error) {
	r := reader{options: options}
	s := Settings{
		Environment: map[string]string{},
		Check: Check{
			Interval:  r.seconds(NSProcess, "HealthCheckInterval", DefaultCheckInterval, 1, 300),
			Timeout:   r.seconds(NSProcess, "HealthCheckTimeout", DefaultCheckTimeout, 1, 60),
			Healthy:   r.number(NSProcess, "HealthyThresholdCount", defaultHealthy, 1, 10),
			Unhealthy: r.number(NSProcess, "UnhealthyThresholdCount", defaultUnhealthy, 1, 10),
		},
		HealthGateTimeout: r.seconds(NSHostmanager, "HealthGateTimeout", DefaultHealthGateTimeout, 1, 3600),
		IgnoreHealthCheck: r.flag(NSCommand, "IgnoreHealthCheck", false),
		DrainTimeout:      r.seconds(NSProcess, "DeregistrationDelay", DefaultDrainTimeout, 0, 3600),
		CommandTimeout:    r.seconds(NSCommand, "Timeout", protocol.DefaultCommandTimeout, 1, 3600),
		HookLimits:        r.hookLimits(),
		ReplaceableHooks:  strings.Fields(strings.ReplaceAll(r.text(NSHostmanager, "ReplaceableHooks"), ",", " ")),
	}
	s.Check.Path = r.path()
	s.Check.Codes = r.codes()
	for k, v := range options[NSEnvironment] {
		if err := checkProperty(k, v); err != nil {
			r.errs = append(r.errs, err)
			continue
		}
		s.Environment[k] = v
	}
	slices.SortFunc(r.errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return s, errors.Join(r.errs...)
}

// checkProperty refuses what no process environment can hold. Names and values are otherwise free: Elastic Beanstalk's narrower alphabet and
// 4,096-byte total come from CloudFormation parameters, which are not in the way here.
func checkProperty(name, value string) error {
	switch {
	case name == "" || strings.ContainsAny(name, "=\x00"):
		return fmt.Errorf("%w: %s: property name %q must not be empty or hold '=' or NUL", ErrInvalid, NSEnvironment, name)
	case strings.ContainsRune(value, 0):
		return fmt.Errorf("%w: %s: property %s holds a NUL byte, which no process environment can carry", ErrInvalid, NSEnvironment, name)
	case !validUTF8(name, value):
		return fmt.Errorf("%w: %s: property %q is not valid UTF-8", ErrInvalid, NSEnvironment, name)
	}
	return nil
}

func validUTF8(texts ...string) bool {
	return !slices.ContainsFunc(texts, func(t string) bool { return strings.ToValidUTF8(t, "") != t })
}

// EnvironmentList returns the properties as NAME=VALUE, sorted by name.
func (s Settings) EnvironmentList() []string {
	list := make([]string, 0, len(s.Environment))
	for k, v := range s.Environment {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return list
}

type reader struct {
	options protocol.OptionSettings
	errs    []error
}

func (r *reader) text(ns, option string) string { return strings.TrimSpace(r.options[ns][option]) }

func (r *reader) fail(ns, option, want string) {
	r.errs = append(r.errs, fmt.Errorf("%w: %s %s is %q, want %s", ErrInvalid, ns, option, r.options[ns][option], want))
}

func (r *reader) number(ns, option string, fallback, low, high int) int {
	text := r.text(ns, option)
	if text == "" {
		return fallback
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < low || n > high {
		r.fail(ns, option, fmt.Sprintf("a whole number from %d to %d", low, high))
		return fallback
	}
	return n
}

func (r *reader) seconds(ns, option string, fallback time.Duration, low, high int) time.Duration {
	return time.Duration(r.number(ns, option, int(fallback/time.Second), low, high)) * time.Second
}

func (r *reader) flag(ns, option string, fallback bool) bool {
	switch strings.ToLower(r.text(ns, option)) {
	case "":
		return fallback
	case "true":
		return true
	case "false":
		return false
	}
	r.fail(ns, option, "true or false")
	return fallback
}

// path finds the health check path: the process option, else the application's health check URL in any of its forms ("/x", "HTTP:80/x",
// "TCP:80").
func (r *reader) path() string {
	if p := r.text(NSProcess, "HealthCheckPath"); p != "" {
		if !isPath(p) {
			r.fail(NSProcess, "HealthCheckPath", "a path that begins with / and holds no blanks")
			return ""
		}
		return p
	}
	url := r.text(NSApplication, "Application Healthcheck URL")
	switch slash := strings.IndexByte(url, '/'); {
	case url == "" || strings.HasPrefix(strings.ToUpper(url), "TCP:"):
		return ""
	case slash >= 0 && (slash == 0 || strings.HasPrefix(strings.ToUpper(url), "HTTP")) && isPath(url[slash:]):
		return url[slash:]
	}
	r.fail(NSApplication, "Application Healthcheck URL", "a path such as /health, HTTP:80/health or TCP:80")
	return ""
}

// isPath tells whether text can stand in a request line as a path with its query.
func isPath(text string) bool {
	return strings.HasPrefix(text, "/") && !strings.HasPrefix(text, "//") && !strings.ContainsFunc(text, func(c rune) bool { return c <= ' ' || c == 0x7f || c == '#' })
}

func (r *reader) codes() Codes {
	text := r.text(NSProcess, "MatcherHTTPCode")
	if text == "" {
		return Codes{{200, 200}}
	}
	c, err := ParseCodes(text)
	if err != nil {
		r.fail(NSProcess, "MatcherHTTPCode", "codes and ranges such as 200,301 or 200-299")
		return Codes{{200, 200}}
	}
	return c
}

// Codes is a set of HTTP status codes as inclusive ranges.
type Codes [][2]int

// ParseCodes reads "200", "200,301" or "200-299".
func ParseCodes(text string) (Codes, error) {
	var c Codes
	for part := range strings.SplitSeq(text, ",") {
		from, to, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			to = from
		}
		a, errA := strconv.Atoi(strings.TrimSpace(from))
		b, errB := strconv.Atoi(strings.TrimSpace(to))
		if errA != nil || errB != nil || a < 100 || b > 599 || a > b {
			return nil, fmt.Errorf("%w: %q is no HTTP code or range", ErrInvalid, part)
		}
		c = append(c, [2]int{a, b})
	}
	return c, nil
}

// Match tells whether the code is in the set.
func (c Codes) Match(code int) bool {
	return slices.ContainsFunc(c, func(r [2]int) bool { return code >= r[0] && code <= r[1] })
}

// String returns the form ParseCodes reads.
func (c Codes) String() string {
	parts := make([]string, 0, len(c))
	for _, r := range c {
		if r[0] == r[1] {
			parts = append(parts, strconv.Itoa(r[0]))
			continue
		}
		parts = append(parts, fmt.Sprintf("%d-%d", r[0], r[1]))
	}
	return strings.Join(parts, ",")
}
