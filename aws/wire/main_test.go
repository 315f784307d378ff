package wire_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hostmanager/aws/localaws"
	"hostmanager/aws/objects"
	"hostmanager/aws/queue"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run starts a localaws where no endpoint is named. The clients find either
// through the environment, as the binaries do.
func run(m *testing.M) int {
	if os.Getenv("AWS_ENDPOINT_URL") == "" {
		s, err := localaws.New(localaws.Options{})
		if err == nil {
			err = s.Start()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer s.Close()
		os.Setenv("AWS_ENDPOINT_URL", s.URL())
	}
	for name, value := range map[string]string{
		"AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		if os.Getenv(name) == "" {
			os.Setenv(name, value)
		}
	}
	return m.Run()
}

// names numbers what a run creates, so that runs do not meet.
var names = struct {
	run  int64
	next atomic.Int64
}{run: time.Now().UnixNano()}

func unique(t *testing.T) string {
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	return fmt.Sprintf("w%x-%d-%.24s", names.run, names.next.Add(1), name)
}

func queues(t *testing.T) *queue.Client {
	t.Helper()
	c, err := queue.New(t.Context(), queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// newQueue makes a queue for one test.
func newQueue(t *testing.T, c *queue.Client, attrs map[string]string) string {
	t.Helper()
	url, err := c.Create(t.Context(), unique(t), attrs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		_ = c.DeleteQueue(ctx, url) // may be gone already
	})
	return url
}

// newBucket makes a bucket for one test.
func newBucket(t *testing.T) (*objects.Client, string) {
	t.Helper()
	c, err := objects.New(t.Context(), objects.Options{})
	if err != nil {
		t.Fatal(err)
	}
	bucket := strings.TrimRight(unique(t), "-")
	if err := c.CreateBucket(t.Context(), bucket); err != nil {
		t.Fatal(err)
	}
	return c, bucket
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
