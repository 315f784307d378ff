package source

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"
)

const (
	commandNamespace = "aws:elasticbeanstalk:command"
	policyOption     = "DeploymentPolicy"
)

// ConfigError tells of a .config file that cannot be read; Err names the line.
type ConfigError struct {
	File string
	Err  error
}

func (e *ConfigError) Error() string { return e.File + ": " + e.Err.Error() }

func (e *ConfigError) Unwrap() error { return e.Err }

// DeploymentPolicy finds the DeploymentPolicy that a bundle's .ebextensions/*.config set in aws:elasticbeanstalk:command, and the file that has the last
// word: files go by name, a later one wins. Both forms of option_settings are read, in YAML and JSON.
//
// A .config that cannot be read is skipped, as Elastic Beanstalk does; err then holds a *ConfigError for each while the other answers still stand.
// Any other error means that nothing could be learnt.
func DeploymentPolicy(archive string) (policy, file string, found bool, err error) {
	g, err := gather(archive)
	if err != nil {
		return "", "", false, err
	}
	var unread []error
	for _, c := range g.configs {
		p, ok, err := policyOf(c.text)
		if err != nil {
			unread = append(unread, &ConfigError{File: c.name, Err: err})
			continue
		}
		if ok {
			policy, file, found = p, c.name, true
		}
	}
	return policy, file, found, errors.Join(unread...)
}

func policyOf(text []byte) (string, bool, error) {
	root, err := parseConfig(text)
	if err != nil || root == nil {
		return "", false, err
	}
	settings := value(root, "option_settings")
	if settings == nil || isNull(settings) {
		return "", false, nil
	}
	switch settings.Kind {
	case yaml.MappingNode:
		return scalarOf(value(value(settings, commandNamespace), policyOption))
	case yaml.SequenceNode:
		return policyInList(settings)
	}
	return "", false, fmt.Errorf("line %d: option_settings is neither a map nor a list", settings.Line)
}

func policyInList(list *yaml.Node) (policy string, found bool, err error) {
	for _, it := range list.Content {
		it = follow(it)
		namespace, _, _ := scalarOf(value(it, "namespace"))
		option, _, _ := scalarOf(value(it, "option_name"))
		if namespace != commandNamespace || option != policyOption {
			continue
		}
		p, ok, err := scalarOf(value(it, "value"))
		if err != nil {
			return "", false, err
		}
		if ok {
			policy, found = p, true
		}
	}
	return policy, found, nil
}

// parseConfig reads one document; nil is an empty one. Nothing is expanded, so aliases cannot make it grow.
func parseConfig(text []byte) (*yaml.Node, error) {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	if json.Valid(text) { // YAML does not take every JSON: tabs may indent it
		var spaced bytes.Buffer
		if err := json.Indent(&spaced, text, "", " "); err != nil {
			return nil, err
		}
		text = spaced.Bytes()
	}
	in := yaml.NewDecoder(bytes.NewReader(text))
	var doc, second yaml.Node
	err := in.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := in.Decode(&second); !errors.Is(err, io.EOF) {
		if err == nil {
			err = fmt.Errorf("line %d: a second document begins", second.Line)
		}
		return nil, err
	}
	if len(doc.Content) == 0 || isNull(doc.Content[0]) {
		return nil, nil
	}
	root := follow(doc.Content[0])
	if root == nil || root.Kind != yaml.MappingNode {
		return nil, errors.New("line 1: the file is not a map of sections")
	}
	return root, nil
}

// maxFollow bounds how many aliases and merges are followed for one value.
const maxFollow = 32

func follow(n *yaml.Node) *yaml.Node {
	for range maxFollow {
		if n == nil || n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return nil
}

// value answers a map's value, merged maps (<<) included; of a repeated key the last counts. nil: none.
func value(n *yaml.Node, key string) *yaml.Node {
	left := maxFollow
	return valueWithin(n, key, &left)
}

// valueWithin looks into at most left maps: merges of merges could otherwise take exponential time.
func valueWithin(n *yaml.Node, key string, left *int) *yaml.Node {
	n = follow(n)
	if *left--; n == nil || n.Kind != yaml.MappingNode || *left < 0 {
		return nil
	}
	var found, merged *yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		switch k := follow(n.Content[i]); {
		case k == nil || k.Kind != yaml.ScalarNode:
		case k.Value == key:
			found = follow(n.Content[i+1])
		case k.Tag == "!!merge":
			merged = follow(n.Content[i+1])
		}
	}
	if found != nil || merged == nil {
		return found
	}
	if merged.Kind != yaml.SequenceNode {
		return valueWithin(merged, key, left)
	}
	for _, m := range merged.Content {
		if found = valueWithin(m, key, left); found != nil || *left < 0 {
			return found
		}
	}
	return nil
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func scalarOf(n *yaml.Node) (string, bool, error) {
	switch {
	case n == nil || isNull(n):
		return "", false, nil
	case n.Kind != yaml.ScalarNode:
		return "", false, fmt.Errorf("line %d: %s is not a plain value", n.Line, policyOption)
	}
	return n.Value, true, nil
}
