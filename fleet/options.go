package fleet

import (
	"fmt"
	"maps"
	"strings"

	"hostmanager/protocol"
)

// The namespaces looked at here; all others pass through.
const (
	nsCommand = "aws:elasticbeanstalk:command"
	// NSEnvironment is the namespace of the application's properties.
	NSEnvironment = "aws:elasticbeanstalk:application:environment"
)

// PolicyAllAtOnce is the one deployment policy there is so far.
const PolicyAllAtOnce = "AllAtOnce"

// Change sets one option, or removes it.
type Change struct {
	Namespace string
	Option    string
	Value     string
	Remove    bool
}

// ParseProperty reads K=V as a change of an application property; an empty V removes it, as `eb setenv` does.
func ParseProperty(text string) (Change, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok || name == "" {
		return Change{}, fmt.Errorf("%w: %.40q is not NAME=VALUE", ErrRefused, name)
	}
	return Change{Namespace: NSEnvironment, Option: name, Value: value, Remove: value == ""}, nil
}

// ParseOption reads NAMESPACE:OPTION=VALUE; an empty VALUE removes the option.
func ParseOption(text string) (Change, error) {
	left, value, ok := strings.Cut(text, "=")
	colon := strings.LastIndexByte(left, ':')
	if !ok || colon <= 0 || colon == len(left)-1 {
		return Change{}, fmt.Errorf("%w: %.80q is not NAMESPACE:OPTION=VALUE", ErrRefused, left)
	}
	return Change{Namespace: left[:colon], Option: left[colon+1:], Value: value, Remove: value == ""}, nil
}

// applyChanges returns settings with the changes made; the given ones stay as they are.
func applyChanges(old protocol.OptionSettings, changes []Change) protocol.OptionSettings {
	next := protocol.OptionSettings{}
	for ns, options := range old {
		next[ns] = maps.Clone(options)
	}
	for _, c := range changes {
		if c.Remove {
			delete(next[c.Namespace], c.Option)
			if len(next[c.Namespace]) == 0 {
				delete(next, c.Namespace)
			}
			continue
		}
		if next[c.Namespace] == nil {
			next[c.Namespace] = map[string]string{}
		}
		next[c.Namespace][c.Option] = c.Value
	}
	return next
}

// checked refuses settings that instances cannot use.
func (f *Fleet) checked(options protocol.OptionSettings) error {
	if f.Check == nil {
		return nil
	}
	if err := f.Check(options); err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return nil
}

// warnUnknown says which of the changes nothing will ever read. They are stored all the same: a later version may know them.
func (f *Fleet) warnUnknown(changes []Change) {
	if f.Known == nil {
		return
	}
	for _, c := range changes {
		if !c.Remove && !f.Known(c.Namespace, c.Option) {
			f.say(protocol.Warn, "Unknown option %.80q in namespace %.80q; stored, but nothing reads it.", c.Option, c.Namespace)
		}
	}
}

func sameOptions(a, b protocol.OptionSettings) bool {
	return maps.EqualFunc(a, b, func(x, y map[string]string) bool { return maps.Equal(x, y) })
}

// checkPolicyChange refuses a configuration with a deployment policy that the next deployment would be refused for.
func checkPolicyChange(changes []Change) error {
	for _, c := range changes {
		if c.Namespace == nsCommand && c.Option == "DeploymentPolicy" && !c.Remove && c.Value != PolicyAllAtOnce {
			return fmt.Errorf("%w: DeploymentPolicy %s is not built yet, only %s is; set that, or leave the option out", ErrRefused, c.Value, PolicyAllAtOnce)
		}
	}
	return nil
}

// checkPolicy refuses a deployment policy that would silently not be followed. Settings made directly win over those of the bundle.
func checkPolicy(asked string, options protocol.OptionSettings, bundle Bundle) error {
	where, policy := "--policy asks for", asked
	if policy == "" {
		where, policy = "the environment's option settings have", options[nsCommand]["DeploymentPolicy"]
	}
	if policy == "" {
		where, policy = "the bundle's "+bundle.PolicyFile+" sets", bundle.Policy
	}
	if policy == "" || policy == PolicyAllAtOnce {
		return nil
	}
	return fmt.Errorf("%w: %s DeploymentPolicy %s, and only %s is built yet; give --policy %s to deploy to all instances at once",
		ErrRefused, where, policy, PolicyAllAtOnce, PolicyAllAtOnce)
}
