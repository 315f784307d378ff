package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/internal/cli"
)

func newLocalawsCommand() *cobra.Command {
	var o localaws.Options
	var bucket string
	cmd := &cobra.Command{
		Use:   "localaws",
		Short: "Run SQS and S3 on this machine, for trying things out",
		Long: `Run SQS and S3 on one loopback endpoint until interrupted, with no AWS account. Point AWS_ENDPOINT_URL at it; any credentials do,
signatures are not checked.`,
		Example: "  hmctl localaws --addr 127.0.0.1:4566 --bucket my-environments\n  AWS_ENDPOINT_URL=http://127.0.0.1:4566 hmctl status -e e-1 --bucket my-environments",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runLocalaws(cmd, o, bucket)
		},
	}
	cmd.Flags().StringVar(&o.Addr, "addr", "127.0.0.1:4566", "loopback address to listen on")
	cmd.Flags().StringVar(&o.Dir, "dir", "", "keep objects in this folder (default: in memory)")
	cmd.Flags().StringVar(&o.Region, "region", localaws.DefaultRegion, "region of what is made there")
	cmd.Flags().StringVar(&bucket, "bucket", "", "make this bucket")
	return cmd
}

func runLocalaws(cmd *cobra.Command, o localaws.Options, bucket string) (err error) {
	server, err := localaws.New(o)
	if err != nil {
		return cli.Usage(err)
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	if bucket != "" {
		if err := makeBucket(cmd, server.URL(), o.Region, bucket); err != nil {
			return err
		}
	}
	p := cli.PrinterFor(cmd)
	p.Text("SQS and S3 at %s, until interrupted. Use it with:\n  export AWS_ENDPOINT_URL=%s AWS_REGION=%s AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local",
		server.URL(), server.URL(), o.Region)
	err = p.JSON("ready", struct {
		Endpoint string `json:"endpoint"`
		Region   string `json:"region"`
		Bucket   string `json:"bucket,omitempty"`
	}{server.URL(), o.Region, bucket})
	if err == nil {
		<-cmd.Context().Done()
	}
	return err
}

// makeBucket makes a bucket at the endpoint.
func makeBucket(cmd *cobra.Command, endpoint, region, bucket string) error {
	if err := localCredentials(); err != nil {
		return err
	}
	c, err := objects.New(cmd.Context(), objects.Options{Region: region, Endpoint: endpoint})
	if err != nil {
		return err
	}
	if err := c.CreateBucket(cmd.Context(), bucket); err != nil {
		return fmt.Errorf("make bucket: %w", err)
	}
	return nil
}
