package aws

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
	"github.com/aws/aws-sdk-go-v2/credentials/processcreds"
)

// ErrUnsupported: credentials are configured in a way only an operator's tools
// follow.
var ErrUnsupported = errors.New("credentials of this kind are not supported here: use keys, credential_process or the instance's role")

const (
	maxSettingsFile = 1 << 20
	// containerHost is where a container's relative credentials URI leads.
	containerHost = "http://169.254.170.2"
)

// profile is what the shared files say under one name.
type profile struct {
	name   string
	chosen bool // by AWS_PROFILE
	values map[string]string
}

// loadProfile reads the chosen profile, or the default one; keys in the
// credentials file come before those in the configuration.
func loadProfile() (profile, error) {
	p := profile{name: firstOf(os.Getenv("AWS_PROFILE"), "default"), chosen: os.Getenv("AWS_PROFILE") != "", values: map[string]string{}}
	home, _ := os.UserHomeDir() // a service may have none
	found := false
	for _, file := range []struct{ path, section string }{
		{firstOf(os.Getenv("AWS_CONFIG_FILE"), inHome(home, "config")), "profile " + p.name},
		{firstOf(os.Getenv("AWS_SHARED_CREDENTIALS_FILE"), inHome(home, "credentials")), p.name},
	} {
		data, err := readLimited(file.path)
		if file.path == "" || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return p, fmt.Errorf("read AWS profile: %w", err)
		}
		for _, section := range []string{file.section, p.name} {
			values, ok := parseSection(string(data), section)
			found = found || ok
			for k, v := range values {
				p.values[k] = v
			}
			if ok {
				break
			}
		}
	}
	if p.chosen && !found {
		return p, fmt.Errorf("AWS profile %q is in none of the shared files: correct AWS_PROFILE", p.name)
	}
	return p, nil
}

func inHome(home, name string) string {
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".aws", name)
}

func readLimited(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxSettingsFile))
}

// parseSection returns the settings of one section of a shared file. Indented
// lines belong to the setting above them and are not ours.
func parseSection(text, section string) (values map[string]string, found bool) {
	values = map[string]string{}
	inside := false
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "" || trimmed[0] == '#' || trimmed[0] == ';':
		case line[0] == '[':
			name, _, _ := strings.Cut(trimmed[1:], "]")
			inside = strings.Join(strings.Fields(name), " ") == section
			found = found || inside
		case inside && line[0] != ' ' && line[0] != '\t':
			if name, value, ok := strings.Cut(trimmed, "="); ok {
				values[strings.ToLower(strings.TrimSpace(name))] = setting(value)
			}
		}
	}
	return values, found
}

// setting is a value without its spaces and without a comment behind it.
func setting(raw string) string {
	for _, comment := range []string{" #", " ;", "\t#", "\t;"} {
		raw, _, _ = strings.Cut(raw, comment)
	}
	return strings.TrimSpace(raw)
}

// credentials chooses the first source there is. Nothing is fetched yet.
func (p profile) credentials() (sdk.CredentialsProvider, error) {
	key, secret := firstOf(os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_ACCESS_KEY")),
		firstOf(os.Getenv("AWS_SECRET_ACCESS_KEY"), os.Getenv("AWS_SECRET_KEY"))
	switch {
	case key != "" && secret != "" && !p.chosen:
		return credentials.NewStaticCredentialsProvider(key, secret, os.Getenv("AWS_SESSION_TOKEN")), nil
	case p.values["aws_access_key_id"] != "":
		return credentials.NewStaticCredentialsProvider(
			p.values["aws_access_key_id"], p.values["aws_secret_access_key"], p.values["aws_session_token"]), nil
	case p.values["credential_process"] != "":
		return cached(keeping{processcreds.NewProvider(p.values["credential_process"])}), nil
	}
	for _, name := range []string{"sso_session", "sso_start_url", "role_arn", "web_identity_token_file", "login_session"} {
		if p.values[name] != "" {
			return nil, fmt.Errorf("AWS profile %q has %s: %w", p.name, name, ErrUnsupported)
		}
	}
	switch {
	case key != "" && secret != "":
		return credentials.NewStaticCredentialsProvider(key, secret, os.Getenv("AWS_SESSION_TOKEN")), nil
	case os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE") != "":
		return nil, fmt.Errorf("AWS_WEB_IDENTITY_TOKEN_FILE is set: %w", ErrUnsupported)
	}
	if uri := containerURI(); uri != "" {
		return cached(keeping{endpointcreds.New(uri, containerToken)}), nil
	}
	return cached(ec2rolecreds.New(func(o *ec2rolecreds.Options) { o.Client = Metadata("", nil) })), nil
}

func containerURI() string {
	if path := os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"); path != "" {
		return containerHost + path
	}
	return os.Getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
}

// containerToken authenticates to the credentials endpoint. A token in a file
// is read each time, since it is renewed there.
func containerToken(o *endpointcreds.Options) {
	o.AuthorizationToken = os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN")
	if file := os.Getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"); file != "" {
		o.AuthorizationTokenProvider = endpointcreds.TokenProviderFunc(func() (string, error) {
			token, err := readLimited(file)
			return strings.TrimSpace(string(token)), err
		})
	}
}
