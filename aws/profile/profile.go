// Package profile loads an operator's AWS configuration as the AWS command
// line does: profiles, single sign-on, assumed roles. It is for hmctl; the
// agent's binary stays without the libraries it needs.
//
//	cfg, err := profile.Load(ctx, region)
//	queues, err := queue.New(ctx, queue.Options{Config: cfg})
package profile

import (
	"context"
	"fmt"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/smithy-go/logging"

	"hostmanager/aws"
)

// Load reads the environment and the shared files. An empty region is theirs.
// Credentials are fetched when they are first needed.
func Load(ctx context.Context, region string) (*sdk.Config, error) {
	cfg, err := config.LoadDefaultConfig(ctx, config.WithRegion(region),
		config.WithEC2RoleCredentialOptions(func(o *ec2rolecreds.Options) { o.Client = aws.Metadata("", nil) }))
	if err != nil {
		return nil, fmt.Errorf("load AWS configuration: %w", err)
	}
	cfg.Logger = logging.Nop{} // what matters comes back as an error
	return &cfg, nil
}
