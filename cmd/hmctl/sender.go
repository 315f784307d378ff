package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hostmanager/environment"
	"hostmanager/fleet"
	"hostmanager/internal/cli"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
)

// sender is a connection that gives orders: the flags of every verb that sends. Orders are signed unless it says otherwise.
type sender struct {
	connection
	key         string
	command     string
	keyID       string
	trustRecord bool
	unsigned    bool

	keyFromEnv bool // key came in HMCTL_SIGNING_KEY, which may hold the key itself
}

func (s *sender) flags(cmd *cobra.Command) {
	s.connection.flags(cmd)
	cmd.Flags().StringVar(&s.key, "signing-key", "", "file of the private key that signs the orders (default $HMCTL_SIGNING_KEY, a file or the key itself)")
	cmd.Flags().StringVar(&s.command, "signing-command", "", "shell command that signs: gets the bytes on stdin, prints the signature in base64 (default $HMCTL_SIGNING_COMMAND)")
	cmd.Flags().StringVar(&s.keyID, "signing-key-id", "", "which of --trusted-keys the signing command signs with, by id or name (default $HMCTL_SIGNING_KEY_ID, else the only one)")
	cmd.Flags().BoolVar(&s.trustRecord, "trust-record", false, "build on a desired state that no trusted key signed, once: when signing begins, or a key was lost")
	cmd.Flags().BoolVar(&s.unsigned, "insecure-unsigned", false, "send unsigned, to agents that run with insecure_unsigned (default $HMCTL_INSECURE_UNSIGNED)")
}

// errNoSigningKey says what to do.
var errNoSigningKey = errors.New("orders are signed, and there is no key: give --signing-key FILE or HMCTL_SIGNING_KEY; `hmctl keygen` makes one. " +
	"Agents with insecure_unsigned take orders without: --insecure-unsigned")

// open connects to the environment with what signs.
func (s *sender) open(ctx context.Context, cmd *cobra.Command) (*fleet.Fleet, error) {
	signer, trusted, err := s.keys(cmd)
	if err != nil {
		return nil, cli.Usage(err)
	}
	f, err := s.connection.open(ctx, cmd)
	if err != nil {
		return nil, err
	}
	f.Record, f.Unsigned = f.Record.Secured(signer, trusted), s.unsigned
	return f, nil
}

// keys returns what signs and whose signatures are believed: the trusted keys and the one that signs. A nil signer is asked for by --insecure-unsigned.
func (s *sender) keys(cmd *cobra.Command) (environment.Signer, signature.Keys, error) {
	if err := s.complete(cmd); err != nil {
		return nil, signature.Keys{}, err
	}
	trusted, err := s.trusted()
	if err != nil {
		return nil, trusted, err
	}
	switch {
	case s.unsigned:
		return nil, trusted, nil
	case s.command != "":
		key, err := s.commandKey(trusted)
		return signing.Command{Shell: s.command, Key: key}, s.believed(trusted, key), err
	case s.key != "":
		key, err := s.readSigningKey()
		if err != nil {
			return nil, trusted, err
		}
		return key, s.believed(trusted, key.Public("")), nil
	}
	return nil, trusted, errNoSigningKey
}

// complete fills what was not given from the environment's variables. One flag alone silences the variables of the others.
func (s *sender) complete(cmd *cobra.Command) error {
	given := 0
	for _, name := range []string{"signing-key", "signing-command", "insecure-unsigned"} {
		if cmd.Flags().Changed(name) {
			given++
		}
	}
	if given > 1 {
		return errors.New("give one of --signing-key, --signing-command and --insecure-unsigned")
	}
	if s.keyID == "" {
		s.keyID = os.Getenv("HMCTL_SIGNING_KEY_ID")
	}
	if given > 0 {
		return nil
	}
	s.key, s.command, s.keyFromEnv = os.Getenv("HMCTL_SIGNING_KEY"), os.Getenv("HMCTL_SIGNING_COMMAND"), true
	if s.key != "" && s.command != "" {
		return errors.New("HMCTL_SIGNING_KEY and HMCTL_SIGNING_COMMAND are both set: which one signs?")
	}
	if s.key == "" && s.command == "" {
		s.unsigned, _ = strconv.ParseBool(os.Getenv("HMCTL_INSECURE_UNSIGNED"))
	}
	return nil
}

// believed is whose signatures count in what is read back.
func (s *sender) believed(trusted signature.Keys, own signature.Key) signature.Keys {
	if s.trustRecord {
		return signature.Keys{}
	}
	return signature.NewKeys(append(trusted.List(), own)...)
}

// commandKey finds the public half of the key behind the signing command.
func (s *sender) commandKey(trusted signature.Keys) (signature.Key, error) {
	list := trusted.List()
	if s.keyID == "" && len(list) == 1 {
		return list[0], nil
	}
	for _, k := range list {
		if s.keyID != "" && (k.ID() == s.keyID || k.Name == s.keyID) {
			return k, nil
		}
	}
	if s.keyID == "" {
		return signature.Key{}, errors.New("with --signing-command give the public half of its key as --trusted-keys, and where there are several --signing-key-id")
	}
	return signature.Key{}, errors.New("none of --trusted-keys has the id or name of --signing-key-id " + strconv.Quote(s.keyID))
}

// readSigningKey reads the file, or the key itself where the variable holds it, as the secret of a CI system does. No error shows what may be a key.
func (s *sender) readSigningKey() (signing.Key, error) {
	switch itself := strings.Contains(s.key, "-----BEGIN "); {
	case itself && s.keyFromEnv:
		return signing.ParsePEM([]byte(s.key))
	case itself:
		return signing.Key{}, errors.New("--signing-key takes a file: on the command line every user of this machine can read the key; put it into HMCTL_SIGNING_KEY")
	}
	key, err := signing.ReadFile(s.key)
	var unread *fs.PathError
	if s.keyFromEnv && errors.As(err, &unread) {
		err = fmt.Errorf("read HMCTL_SIGNING_KEY: it holds neither a key in PEM, with its BEGIN line, nor the name of a file that can be read: %w", unread.Err)
	}
	return key, err
}
