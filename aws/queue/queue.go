// Package queue is the SQS adapter: the few queue operations hostmanager and
// hmctl need, and the judgement of every error SQS or the network can give.
//
// It knows nothing of commands, results or environments: bodies are opaque
// strings. Types of the AWS SDK do not leave it. Retries of passing faults
// (throttling, 5xx, connection errors) are the SDK's, but for Receive; an error
// that comes out of here says with Permanent whether trying again can ever
// help. Every call is bounded in time, and while SQS throttles all of them
// together keep to one pace.
package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	hostaws "hostmanager/aws"
)

// Limits of the service.
const (
	// MaxBatch is the most messages one Receive returns.
	MaxBatch = 10
	// MaxWait is the longest a Receive waits for a first message.
	MaxWait = 20 * time.Second
	// MaxBody is the largest message body, in bytes.
	MaxBody = 1 << 20

	// answerSlack is how long after its last moment a Receive gives its answer
	// up.
	answerSlack = 10 * time.Second
	// callTimeout bounds any other call, retries included.
	callTimeout = 30 * time.Second
)

// Options says which SQS a Client talks to. The zero value takes everything
// from the environment, the shared AWS files and the instance's role.
type Options struct {
	// Region of the queues. Empty: AWS_REGION or the shared configuration.
	Region string
	// Endpoint is the base URL of the service. Empty: AWS_ENDPOINT_URL_SQS,
	// AWS_ENDPOINT_URL, or AWS itself.
	Endpoint string
	// Config is what package aws/profile loaded. Nil: what package aws finds,
	// which is enough on an instance.
	Config *aws.Config
	// Clock hears the service's time; may be nil.
	Clock *hostaws.Clock
}

// Client talks to SQS. It is safe for concurrent use.
type Client struct {
	sqs         *sqs.Client
	credentials aws.CredentialsProvider
	pace        hostaws.Pace
}

// Message is one received message. Until its visibility timeout ends nobody
// else receives it.
type Message struct {
	ID   string
	Body string
	// Receipt is what Delete and Release want. It is good for this delivery
	// only.
	Receipt string
	// ReceiveCount is how many times the message has been received, this time
	// included.
	ReceiveCount int
	// Sent is when the message was sent, by the service's clock.
	Sent time.Time
}

// New builds a Client. It makes no call to SQS; credentials are looked up at
// the first operation. The error is ErrNoRegion when no region is known.
func New(_ context.Context, o Options) (*Client, error) {
	cfg, err := hostaws.Resolve(hostaws.Options(o), "SQS")
	if err != nil {
		return nil, fmt.Errorf("prepare SQS: %w", err)
	}
	return &Client{sqs: sqs.NewFromConfig(cfg), credentials: cfg.Credentials}, nil
}

// call makes one operation in its turn, within limit, with fresh credentials
// where those it had have expired.
func call[T any](ctx context.Context, c *Client, op, queue string, limit time.Duration, do func(context.Context) (T, error)) (T, error) {
	if err := c.pace.Wait(ctx); err != nil {
		var none T
		return none, wrap(op, queue, err)
	}
	bounded, cancel := context.WithTimeoutCause(ctx, limit, errNoAnswer)
	defer cancel()
	out, err := hostaws.Renewed(c.credentials, func() (T, error) { return do(bounded) })
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		err = &Error{Op: op, On: queue, Kind: ErrUnavailable, Reason: errNoAnswer}
	} else {
		err = wrap(op, queue, err)
	}
	c.pace.Done(errors.Is(err, ErrThrottled))
	return out, err
}

// Receive takes up to limit (1 to MaxBatch) messages, waiting up to wait
// (whole seconds, at most MaxWait) for the first; with wait 0 the queue's own
// waiting time counts. No message is no error. When ctx ends while it waits,
// the error is ctx's. When no answer comes long after it was due, as on a
// connection that is dead without a sign, the error is ErrUnavailable. It is
// tried once, unlike all other calls: who polls goes on polling.
func (c *Client) Receive(ctx context.Context, queueURL string, limit int, wait time.Duration) ([]Message, error) {
	in := &sqs.ReceiveMessageInput{
		QueueUrl:            &queueURL,
		MaxNumberOfMessages: int32(min(max(limit, 1), MaxBatch)),
		WaitTimeSeconds:     int32(min(max(wait, 0), MaxWait) / time.Second),
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameApproximateReceiveCount,
			types.MessageSystemAttributeNameSentTimestamp,
		},
	}
	longest := min(wait, MaxWait)
	if longest <= 0 {
		longest = MaxWait
	}
	out, err := call(ctx, c, "receive from", queueURL, longest+answerSlack, func(ctx context.Context) (*sqs.ReceiveMessageOutput, error) {
		return c.sqs.ReceiveMessage(ctx, in, func(o *sqs.Options) { o.RetryMaxAttempts = 1 })
	})
	if err != nil {
		return nil, err
	}
	messages := make([]Message, 0, len(out.Messages))
	for _, m := range out.Messages {
		messages = append(messages, message(m))
	}
	return messages, nil
}

func message(m types.Message) Message {
	// A service that leaves a system attribute out, or garbles it, costs us the
	// figure and not the message.
	count, _ := strconv.Atoi(m.Attributes["ApproximateReceiveCount"])
	sent, _ := strconv.ParseInt(m.Attributes["SentTimestamp"], 10, 64)
	out := Message{
		ID:           aws.ToString(m.MessageId),
		Body:         aws.ToString(m.Body),
		Receipt:      aws.ToString(m.ReceiptHandle),
		ReceiveCount: count,
	}
	if sent > 0 {
		out.Sent = time.UnixMilli(sent)
	}
	return out
}

// Delete removes a received message for good. Deleting it twice is no error.
func (c *Client) Delete(ctx context.Context, queueURL, receipt string) error {
	_, err := call(ctx, c, "delete message from", queueURL, callTimeout, func(ctx context.Context) (*sqs.DeleteMessageOutput, error) {
		return c.sqs.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &queueURL, ReceiptHandle: &receipt})
	})
	return err
}

// Hold makes a received message invisible for d from now (whole seconds, at
// most 12 hours in all). With d 0 it hands the message back at once.
func (c *Client) Hold(ctx context.Context, queueURL, receipt string, d time.Duration) error {
	in := &sqs.ChangeMessageVisibilityInput{QueueUrl: &queueURL, ReceiptHandle: &receipt, VisibilityTimeout: int32(d / time.Second)}
	_, err := call(ctx, c, "change visibility of message in", queueURL, callTimeout, func(ctx context.Context) (*sqs.ChangeMessageVisibilityOutput, error) {
		return c.sqs.ChangeMessageVisibility(ctx, in)
	})
	return err
}

// Send puts body, 1 to MaxBody bytes, into the queue. When it returns an error
// the message may have been sent all the same.
func (c *Client) Send(ctx context.Context, queueURL, body string) error {
	_, err := call(ctx, c, "send to", queueURL, callTimeout, func(ctx context.Context) (*sqs.SendMessageOutput, error) {
		return c.sqs.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &queueURL, MessageBody: &body})
	})
	return err
}

// Create makes the queue and returns its URL. Making it again with the same
// attributes (names and values as SQS spells them) is no error; with others it
// is ErrQueueExists.
func (c *Client) Create(ctx context.Context, name string, attrs map[string]string) (string, error) {
	out, err := call(ctx, c, "create queue", name, callTimeout, func(ctx context.Context) (*sqs.CreateQueueOutput, error) {
		return c.sqs.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: attrs})
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.QueueUrl), nil
}

// URL returns the URL of the named queue, or ErrQueueMissing.
func (c *Client) URL(ctx context.Context, name string) (string, error) {
	out, err := call(ctx, c, "look up queue", name, callTimeout, func(ctx context.Context) (*sqs.GetQueueUrlOutput, error) {
		return c.sqs.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &name})
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.QueueUrl), nil
}

// Attributes returns all attributes of the queue, as SQS spells them.
func (c *Client) Attributes(ctx context.Context, queueURL string) (map[string]string, error) {
	in := &sqs.GetQueueAttributesInput{QueueUrl: &queueURL, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}}
	out, err := call(ctx, c, "read attributes of", queueURL, callTimeout, func(ctx context.Context) (*sqs.GetQueueAttributesOutput, error) {
		return c.sqs.GetQueueAttributes(ctx, in)
	})
	if err != nil {
		return nil, err
	}
	return out.Attributes, nil
}

// DeleteQueue removes the queue and everything in it. SQS may serve it for up
// to a minute more, and refuses to make it again for as long.
func (c *Client) DeleteQueue(ctx context.Context, queueURL string) error {
	_, err := call(ctx, c, "delete queue", queueURL, callTimeout, func(ctx context.Context) (*sqs.DeleteQueueOutput, error) {
		return c.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: &queueURL})
	})
	return err
}

// List returns the URLs of all queues whose name begins with prefix.
func (c *Client) List(ctx context.Context, prefix string) ([]string, error) {
	in := &sqs.ListQueuesInput{MaxResults: aws.Int32(1000)}
	if prefix != "" {
		in.QueueNamePrefix = &prefix
	}
	var urls []string
	pages := sqs.NewListQueuesPaginator(c.sqs, in)
	for pages.HasMorePages() {
		page, err := call(ctx, c, "list queues", prefix+"*", callTimeout, func(ctx context.Context) (*sqs.ListQueuesOutput, error) {
			return pages.NextPage(ctx)
		})
		if err != nil {
			return nil, err
		}
		urls = append(urls, page.QueueUrls...)
	}
	return urls, nil
}
