package aws_test

import (
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/aws"

	"hostmanager/aws"
)

// environment empties what the machine says of AWS and sets what the test
// says; files are written into a folder that stands for ~/.aws.
func environment(t *testing.T, env, files map[string]string) {
	t.Helper()
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	home := t.TempDir()
	t.Setenv("HOME", home)
	for name, text := range files {
		if err := os.MkdirAll(filepath.Join(home, ".aws"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(home, ".aws", name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, value := range env {
		t.Setenv(name, strings.ReplaceAll(value, "$HOME", home))
	}
}

type settings = map[string]string

const twoProfiles = `
# a comment
[default]
region = eu-west-1   # where we are
aws_access_key_id=DEFAULTKEY
s3 =
    max_concurrent_requests = 20
    region = nowhere
aws_secret_access_key = a=b/c+d

[profile other]
region=us-west-2
[profile one two]
`

func TestResolve_FindsKeysAndRegion(t *testing.T) {
	keys := settings{"AWS_ACCESS_KEY_ID": "ENVKEY", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}
	with := func(more settings) settings {
		out := settings{}
		for _, m := range []settings{keys, more} {
			for k, v := range m {
				out[k] = v
			}
		}
		return out
	}
	for name, tc := range map[string]struct {
		env, files          settings
		region, key, secret string
	}{
		"environment":              {with(settings{"AWS_REGION": "us-east-2"}), nil, "us-east-2", "ENVKEY", "s"},
		"default region variable":  {with(settings{"AWS_DEFAULT_REGION": "us-east-2"}), nil, "us-east-2", "ENVKEY", "s"},
		"region of the file":       {keys, settings{"config": twoProfiles}, "eu-west-1", "ENVKEY", "s"},
		"keys of the file":         {nil, settings{"config": twoProfiles}, "eu-west-1", "DEFAULTKEY", "a=b/c+d"},
		"credentials before it":    {nil, settings{"config": twoProfiles, "credentials": "[default]\naws_access_key_id = C\naws_secret_access_key = D\n"}, "eu-west-1", "C", "D"},
		"chosen profile":           {settings{"AWS_PROFILE": "other"}, settings{"config": twoProfiles, "credentials": "[other]\naws_access_key_id=O\naws_secret_access_key=P"}, "us-west-2", "O", "P"},
		"chosen before the keys":   {with(settings{"AWS_PROFILE": "other"}), settings{"config": twoProfiles, "credentials": "[other]\naws_access_key_id=O\naws_secret_access_key=P"}, "us-west-2", "O", "P"},
		"files named by variables": {settings{"AWS_CONFIG_FILE": "$HOME/.aws/x", "AWS_SHARED_CREDENTIALS_FILE": "$HOME/.aws/y"}, settings{"x": "[default]\nregion=r", "y": "[default]\naws_access_key_id=Y\naws_secret_access_key=Z"}, "r", "Y", "Z"},
		"a process":                {nil, settings{"config": "[default]\nregion=r\ncredential_process = cat $HOME/.aws/out\n", "out": `{"Version":1,"AccessKeyId":"PROC","SecretAccessKey":"X"}`}, "r", "PROC", "X"},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t, tc.env, tc.files)
			cfg, err := aws.Resolve(aws.Options{}, "SQS")
			if err != nil {
				t.Fatal(err)
			}
			got, err := cfg.Credentials.Retrieve(t.Context())
			if err != nil || cfg.Region != tc.region || got.AccessKeyID != tc.key || got.SecretAccessKey != tc.secret {
				t.Errorf("region %s, key %s, secret %s, %v; want %s, %s, %s", cfg.Region, got.AccessKeyID, got.SecretAccessKey, err, tc.region, tc.key, tc.secret)
			}
		})
	}
}

func TestResolve_SaysWhatCannotBeUsed(t *testing.T) {
	for name, tc := range map[string]struct {
		env, files settings
		want       error
		text       string
	}{
		"no region":       {nil, nil, aws.ErrNoRegion, "AWS_REGION"},
		"no such profile": {settings{"AWS_PROFILE": "gone"}, settings{"config": twoProfiles}, nil, "AWS_PROFILE"},
		"single sign-on":  {nil, settings{"config": "[default]\nregion=r\nsso_session=s"}, aws.ErrUnsupported, "sso_session"},
		"assumed role":    {settings{"AWS_PROFILE": "p"}, settings{"config": "[profile p]\nregion=r\nrole_arn=a\nsource_profile=default"}, aws.ErrUnsupported, "role_arn"},
		"web identity":    {settings{"AWS_WEB_IDENTITY_TOKEN_FILE": "/x"}, nil, aws.ErrUnsupported, "AWS_WEB_IDENTITY_TOKEN_FILE"},
		"attempts":        {settings{"AWS_MAX_ATTEMPTS": "many"}, nil, nil, "AWS_MAX_ATTEMPTS"},
		"retry mode":      {settings{"AWS_RETRY_MODE": "never"}, nil, nil, "AWS_RETRY_MODE"},
		"no bundle":       {settings{"AWS_CA_BUNDLE": "/nonexistent", "AWS_REGION": "r"}, nil, os.ErrNotExist, "AWS_CA_BUNDLE"},
		"empty bundle":    {settings{"AWS_CA_BUNDLE": "$HOME/.aws/ca", "AWS_REGION": "r"}, settings{"ca": "x"}, nil, "holds no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t, tc.env, tc.files)
			_, err := aws.Resolve(aws.Options{}, "SQS")
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestResolve_Endpoints(t *testing.T) {
	for name, tc := range map[string]struct {
		option string
		env    settings
		want   string
	}{
		"none":    {"", nil, ""},
		"option":  {"http://o", settings{"AWS_ENDPOINT_URL": "http://all"}, "http://o"},
		"service": {"", settings{"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_SQS": "http://sqs"}, "http://sqs"},
		"all":     {"", settings{"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://s3"}, "http://all"},
		"ignored": {"", settings{"AWS_ENDPOINT_URL": "http://all", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			environment(t, tc.env, nil)
			cfg, err := aws.Resolve(aws.Options{Region: "r", Endpoint: tc.option}, "SQS")
			if err != nil || sdk.ToString(cfg.BaseEndpoint) != tc.want {
				t.Errorf("endpoint %q, %v", sdk.ToString(cfg.BaseEndpoint), err)
			}
		})
	}
}

func TestResolve_TakesAnOperatorsConfiguration(t *testing.T) {
	environment(t, settings{"AWS_PROFILE": "gone", "AWS_ENDPOINT_URL": "http://all"}, nil)
	given := &sdk.Config{Region: "given"}
	cfg, err := aws.Resolve(aws.Options{Config: given}, "S3")
	if err != nil || cfg.Region != "given" || sdk.ToString(cfg.BaseEndpoint) != "http://all" || given.BaseEndpoint != nil {
		t.Errorf("%+v, %v", cfg, err)
	}
	cfg, err = aws.Resolve(aws.Options{Config: given, Region: "mine"}, "S3")
	if err != nil || cfg.Region != "mine" || given.Region != "given" {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestResolve_RetryAndTrust(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	bundle := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
	environment(t, settings{"AWS_MAX_ATTEMPTS": "7", "AWS_RETRY_MODE": "adaptive", "AWS_CA_BUNDLE": "$HOME/.aws/ca"}, settings{"ca": bundle})
	cfg, err := aws.Resolve(aws.Options{Region: "r"}, "SQS")
	if err != nil || cfg.RetryMaxAttempts != 7 || cfg.RetryMode != sdk.RetryModeAdaptive {
		t.Fatalf("%+v, %v", cfg, err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := cfg.HTTPClient.Do(r)
	if err != nil || resp.StatusCode != http.StatusNotFound {
		t.Fatalf("through the bundle: %v %v", resp, err)
	}
	_ = resp.Body.Close()
}

// metadata is an IMDS with a role, for those that bring a token.
func metadata(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
			fmt.Fprint(w, "token")
		case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "token":
			w.WriteHeader(http.StatusUnauthorized)
		case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
			fmt.Fprint(w, "role")
		default:
			fmt.Fprint(w, `{"Code":"Success","AccessKeyId":"ROLEKEY","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}`)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func TestCredentials_OfTheInstancesRole(t *testing.T) {
	environment(t, settings{"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata(t).URL}, nil)
	cfg, err := aws.Resolve(aws.Options{Region: "r"}, "SQS")
	if err != nil {
		t.Fatal(err)
	}
	got, err := cfg.Credentials.Retrieve(t.Context())
	if err != nil || got.AccessKeyID != "ROLEKEY" || got.SessionToken != "t" || !got.CanExpire {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestCredentials_OfAContainer(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"AccessKeyId":"%s","SecretAccessKey":"s","Token":"t","Expiration":"2099-01-01T00:00:00Z"}`, r.Header.Get("Authorization"))
	}))
	defer s.Close()
	environment(t, settings{
		"AWS_CONTAINER_CREDENTIALS_FULL_URI": s.URL, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "$HOME/.aws/token",
	}, settings{"token": "PERMIT\n"})
	cfg, err := aws.Resolve(aws.Options{Region: "r"}, "SQS")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := cfg.Credentials.Retrieve(t.Context()); err != nil || got.AccessKeyID != "PERMIT" {
		t.Errorf("%+v, %v", got, err)
	}
}
