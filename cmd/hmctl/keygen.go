package main

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"hostmanager/internal/cli"
	"hostmanager/internal/signature"
	"hostmanager/internal/signature/signing"
)

func newKeygenCommand() *cobra.Command {
	var out, name string
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key that signs orders",
		Long: `Make an ed25519 key: the private half goes into a new file that only its owner can read, the public half is printed as
trusted_keys of the agents takes it. Keep the private half where the instances and the bucket cannot reach it. To change keys, list the
new one beside the old one on all instances, sign with the new one, deploy once, and then take the old one out.`,
		Example: "  hmctl keygen --out ops.pem --name ops\n  export HMCTL_SIGNING_KEY=ops.pem",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runKeygen(cmd, out, name) },
	}
	cmd.Flags().StringVarP(&out, "out", "o", "hostmanager-key.pem", "file to make; one that is there is never overwritten")
	cmd.Flags().StringVar(&name, "name", "", "name of the key, for people")
	return cmd
}

func runKeygen(cmd *cobra.Command, out, name string) error {
	key, err := signing.Generate()
	if err != nil {
		return err
	}
	public := key.Public(name)
	if _, err := signature.ParseKey(public.String()); err != nil || strings.Contains(name, ":") {
		return cli.Usagef("%.80q is no name for a key: want visible ASCII characters but \":\"", name)
	}
	if err := key.WriteFile(out); errors.Is(err, fs.ErrExist) {
		return cli.Usage(fmt.Errorf("%w; a key is never overwritten, name another file with --out", err))
	} else if err != nil {
		return err
	}
	p := cli.PrinterFor(cmd)
	p.Text("%s", public)
	return p.JSON("key", struct {
		Public string `json:"public"`
		ID     string `json:"id"`
		File   string `json:"private_key_file"`
	}{public.String(), public.ID(), out})
}
