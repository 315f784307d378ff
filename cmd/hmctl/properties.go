package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"hostmanager/fleet"
	"hostmanager/internal/cli"
)

// envFileHelp tells what --env-file reads.
const envFileHelp = `Values on the command line can be seen by every user of this machine (ps). --env-file reads them from a file, or with - from
standard input: a line NAME=VALUE each, every byte behind the first = being the value, with no quoting; empty lines and lines
that begin with # are passed over. Values with line breaks need the other form, a JSON object of strings:
{"NAME": "first line\nsecond line"}. In both an empty value removes the property.`

// settingFlags are the ways to change option settings.
type settingFlags struct {
	properties []string
	options    []string
	file       string
}

func (s *settingFlags) flags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&s.properties, "env", nil, "NAME=VALUE: set a property of the application; an empty VALUE removes it")
	cmd.Flags().StringArrayVar(&s.options, "option", nil, "NAMESPACE:NAME=VALUE: set an option setting; an empty VALUE removes it")
	s.fileFlag(cmd)
}

func (s *settingFlags) fileFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.file, "env-file", "", "read properties from this file (-: standard input), NAME=VALUE lines or a JSON object")
}

// changes reads all of them, the file first: what the command line says wins.
func (s *settingFlags) changes(in io.Reader) ([]fleet.Change, error) {
	all, err := readEnvFile(s.file, in)
	if err != nil {
		return nil, err
	}
	for _, set := range []struct {
		texts []string
		parse func(string) (fleet.Change, error)
	}{{s.properties, fleet.ParseProperty}, {s.options, fleet.ParseOption}} {
		for _, text := range set.texts {
			c, err := set.parse(text)
			if err != nil {
				return nil, cli.Usage(err)
			}
			all = append(all, c)
		}
	}
	return all, nil
}

// readEnvFile reads the properties in the file; of no file there are none.
func readEnvFile(name string, in io.Reader) ([]fleet.Change, error) {
	switch name {
	case "":
		return nil, nil
	case "-":
		name = "standard input"
	default:
		f, err := os.Open(name)
		if err != nil {
			return nil, cli.Usage(fmt.Errorf("open --env-file: %w", err))
		}
		defer f.Close()
		in = f
	}
	all, err := fleet.ReadProperties(in)
	if err != nil {
		err = fmt.Errorf("%s: %w", name, err)
		if errors.Is(err, fleet.ErrRefused) {
			return nil, cli.Usage(err)
		}
	}
	return all, err
}
