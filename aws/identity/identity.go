// Package identity finds out which instance this is, from the EC2 instance
// metadata service. It speaks IMDSv2 only: a token is fetched first, and a
// service that wants to go on without one is not answered. It is bounded in
// time, so that a host outside EC2 hears quickly what to configure instead.
package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"

	hostaws "hostmanager/aws"
)

// DefaultTimeout bounds a Discover, tries included.
const DefaultTimeout = 2 * time.Second

// ErrNoIdentity: the metadata service gave no identity. The sentence around it
// says what to configure.
var ErrNoIdentity = errors.New("no instance identity")

// Identity is what the identity document says of this instance.
type Identity struct {
	InstanceID       string
	Region           string
	AccountID        string
	AvailabilityZone string
}

// Options of a Discover. The zero value asks the service where EC2 has it, or
// where AWS_EC2_METADATA_SERVICE_ENDPOINT says.
type Options struct {
	Endpoint string        // base URL, without the /latest
	Timeout  time.Duration // 0: DefaultTimeout
}

// Discover asks the metadata service. It returns within the timeout, or when
// ctx ends; an error is ErrNoIdentity, or ctx's own.
func Discover(ctx context.Context, o Options) (Identity, error) {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	bounded, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()

	transport := &http.Transport{DisableKeepAlives: true, Proxy: nil}
	client := hostaws.Metadata(o.Endpoint, &http.Client{Transport: transport})
	out, err := client.GetInstanceIdentityDocument(bounded, &imds.GetInstanceIdentityDocumentInput{})
	switch {
	case ctx.Err() != nil:
		return Identity{}, fmt.Errorf("ask instance metadata: %w", ctx.Err())
	case err != nil:
		return Identity{}, fmt.Errorf("%w: set instance_id and region in the configuration, or let the instance metadata service (IMDSv2) answer: %w", ErrNoIdentity, err)
	case out.InstanceID == "":
		return Identity{}, fmt.Errorf("%w: set instance_id in the configuration: the identity document names no instance", ErrNoIdentity)
	}
	return Identity{
		InstanceID: out.InstanceID, Region: out.Region,
		AccountID: out.AccountID, AvailabilityZone: out.AvailabilityZone,
	}, nil
}
