package profile_test

import (
	"os"
	"path/filepath"
	"testing"

	"hostmanager/aws/localaws"
	"hostmanager/aws/profile"
	"hostmanager/aws/queue"
)

func TestLoad_FollowsAProfile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(file, []byte("[profile ops]\nregion=eu-central-1\naws_access_key_id=OPS\naws_secret_access_key=s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", file+"-none")
	t.Setenv("AWS_PROFILE", "ops")
	cfg, err := profile.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := cfg.Credentials.Retrieve(t.Context())
	if err != nil || cfg.Region != "eu-central-1" || keys.AccessKeyID != "OPS" {
		t.Errorf("region %s, key %s, %v", cfg.Region, keys.AccessKeyID, err)
	}

	s, err := localaws.New(localaws.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := queue.New(t.Context(), queue.Options{Config: cfg, Endpoint: s.URL()})
	if err != nil {
		t.Fatal(err)
	}
	url, err := c.Create(t.Context(), "q", nil)
	if err != nil {
		t.Fatal(err)
	}
	attrs, err := c.Attributes(t.Context(), url)
	if err != nil || attrs["QueueArn"] != "arn:aws:sqs:eu-central-1:000000000000:q" {
		t.Errorf("attributes %v, %v", attrs, err)
	}
}
