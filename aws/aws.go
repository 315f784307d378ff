// Package aws finds out region, endpoint and credentials for the adapters in
// its folders. It is the short way there, for a daemon on an instance: keys in
// the environment, a profile with keys or a credential_process, a container's
// credentials endpoint, the instance's role through IMDSv2. It stands in place
// of the SDK's own config package, whose SSO, OIDC and STS clients alone cost
// the agent 1.7 MB of binary and 4 MB of memory; an operator, who needs those,
// loads them with package profile and hands them in.
//
// It also holds what the adapters have in common against a bad day: the bounds
// of every step of a connection, what errors mean, renewal of credentials, the
// pace under throttling, and the service's clock.
//
// It may not know what is asked of AWS. Nothing here makes a request.
package aws

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go/logging"
)

// ErrNoRegion: nothing says which region to talk to.
var ErrNoRegion = errors.New("no AWS region: set region in the configuration or AWS_REGION")

// Options says where a service is. The zero value takes all of it from the
// environment.
type Options struct {
	Region   string
	Endpoint string
	Config   *sdk.Config // from package profile; nil: the short way
	Clock    *Clock      // hears the service's time; may be nil
}

// Resolve makes the configuration for a client of the service ("SQS", "S3").
// Its BaseEndpoint is set when any endpoint was given: by the options, by
// AWS_ENDPOINT_URL_<SERVICE> or by AWS_ENDPOINT_URL. The error is ErrNoRegion,
// or says which setting cannot be used.
func Resolve(o Options, service string) (sdk.Config, error) {
	var cfg sdk.Config
	if o.Config != nil {
		cfg = o.Config.Copy()
	} else if err := load(&cfg); err != nil {
		return cfg, err
	}
	if o.Region != "" {
		cfg.Region = o.Region
	}
	if cfg.Region == "" {
		return cfg, ErrNoRegion
	}
	endpoint := firstOf(o.Endpoint, endpointFor(service))
	if endpoint != "" {
		cfg.BaseEndpoint = &endpoint
	}
	// A bundle is a megabyte of parsing, for nothing where there is no TLS.
	if file := os.Getenv("AWS_CA_BUNDLE"); file != "" && o.Config == nil && !strings.HasPrefix(endpoint, "http://") {
		if err := trust(&cfg, file); err != nil {
			return cfg, err
		}
	}
	cfg.HTTPClient = newLine(cfg.HTTPClient, o.Clock)
	// What matters comes back as an error; the SDK's own lines would go to
	// stderr past the log.
	cfg.Logger = logging.Nop{}
	return cfg, nil
}

func endpointFor(service string) string {
	if ignore, _ := strconv.ParseBool(os.Getenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")); ignore {
		return ""
	}
	return firstOf(os.Getenv("AWS_ENDPOINT_URL_"+strings.ToUpper(service)), os.Getenv("AWS_ENDPOINT_URL"))
}

// load takes from the environment and the shared files what the agent uses of
// them.
func load(cfg *sdk.Config) error {
	p, err := loadProfile()
	if err != nil {
		return err
	}
	cfg.Region = firstOf(os.Getenv("AWS_REGION"), os.Getenv("AWS_DEFAULT_REGION"), p.values["region"])
	if cfg.Credentials, err = p.credentials(); err != nil {
		return err
	}
	if raw := os.Getenv("AWS_MAX_ATTEMPTS"); raw != "" {
		if cfg.RetryMaxAttempts, err = strconv.Atoi(raw); err != nil || cfg.RetryMaxAttempts < 1 {
			return fmt.Errorf("AWS_MAX_ATTEMPTS is %q: set it to a number from 1", raw)
		}
	}
	if raw := os.Getenv("AWS_RETRY_MODE"); raw != "" {
		if cfg.RetryMode, err = sdk.ParseRetryMode(raw); err != nil {
			return fmt.Errorf("AWS_RETRY_MODE is %q: set it to standard or adaptive", raw)
		}
	}
	return nil
}

// trust makes the certificates in the file the only ones trusted.
func trust(cfg *sdk.Config, file string) error {
	pem, err := readLimited(file)
	if err != nil {
		return fmt.Errorf("read AWS_CA_BUNDLE: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("AWS_CA_BUNDLE: %s holds no certificate", file)
	}
	cfg.HTTPClient = awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		if t.TLSClientConfig == nil {
			t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
		t.TLSClientConfig.RootCAs = pool
	})
	return nil
}

// Metadata is a client of the instance metadata service that never falls back
// to IMDSv1. An empty endpoint is the one of AWS_EC2_METADATA_SERVICE_ENDPOINT,
// or EC2's. A nil client is the SDK's own.
func Metadata(endpoint string, client imds.HTTPClient) *imds.Client {
	o := imds.Options{
		Endpoint:       firstOf(endpoint, os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")),
		EnableFallback: sdk.FalseTernary,
		HTTPClient:     client,
	}
	if off, _ := strconv.ParseBool(os.Getenv("AWS_EC2_METADATA_DISABLED")); off {
		o.ClientEnableState = imds.ClientDisabled
	}
	return imds.New(o)
}

// firstOf returns the first value that is not empty.
func firstOf(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
