// Package queue is the SQS adapter: the few queue operations hostmanager and
// hmctl need, and the judgement of every error SQS or the network can give.
//
// It knows nothing of commands, results or environments: bodies are opaque
// strings. Types of the AWS SDK do not leave it. Retries of passing faults
// (throttling, 5xx, connection errors) are the SDK's; an error that comes out
// of here has already been retried, and says with Permanent whether trying
// again can ever help.
package queue

import (
	"context"
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
	// up, retries included.
	answerSlack = 20 * time.Second
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
}

// Client talks to SQS. It is safe for concurrent use.
type Client struct {
	sqs *sqs.Client
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
	return &Client{sqs: sqs.NewFromConfig(cfg)}, nil
}

// Receive takes up to limit (1 to MaxBatch) messages, waiting up to wait
// (whole seconds, at most MaxWait) for the first; with wait 0 the queue's own
// waiting time counts. No message is no error. When ctx ends while it waits,
// the error is ctx's. When no answer comes long after it was due, as on a
// connection that is dead without a sign, the error is ErrUnavailable.
func (c *Client) Receive(ctx context.Context, queueURL string, limit int, wait time.Duration) ([]Message, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, MaxWait+answerSlack, errNoAnswer)
	defer cancel()
	out, err := c.sqs.ReceiveMessage(bounded, &sqs.ReceiveMessageInput{
		QueueUrl:            &queueURL,
		MaxNumberOfMessages: int32(min(max(limit, 1), MaxBatch)),
		WaitTimeSeconds:     int32(min(max(wait, 0), MaxWait) / time.Second),
		MessageSystemAttributeNames: []types.MessageSystemAttributeName{
			types.MessageSystemAttributeNameApproximateReceiveCount,
			types.MessageSystemAttributeNameSentTimestamp,
		},
	})
	if err != nil && ctx.Err() == nil && bounded.Err() != nil {
		return nil, &Error{Op: "receive from", Queue: queueURL, Kind: ErrUnavailable, Reason: errNoAnswer}
	}
	if err != nil {
		return nil, wrap("receive from", queueURL, err)
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
	_, err := c.sqs.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &queueURL, ReceiptHandle: &receipt})
	return wrap("delete message from", queueURL, err)
}

// Hold makes a received message invisible for d from now (whole seconds, at
// most 12 hours in all). With d 0 it hands the message back at once.
func (c *Client) Hold(ctx context.Context, queueURL, receipt string, d time.Duration) error {
	_, err := c.sqs.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl: &queueURL, ReceiptHandle: &receipt, VisibilityTimeout: int32(d / time.Second),
	})
	return wrap("change visibility of message in", queueURL, err)
}

// Send puts body, 1 to MaxBody bytes, into the queue. When it returns an error
// the message may have been sent all the same.
func (c *Client) Send(ctx context.Context, queueURL, body string) error {
	_, err := c.sqs.SendMessage(ctx, &sqs.SendMessageInput{QueueUrl: &queueURL, MessageBody: &body})
	return wrap("send to", queueURL, err)
}

// Create makes the queue and returns its URL. Making it again with the same
// attributes (names and values as SQS spells them) is no error; with others it
// is ErrQueueExists.
func (c *Client) Create(ctx context.Context, name string, attrs map[string]string) (string, error) {
	out, err := c.sqs.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: attrs})
	if err != nil {
		return "", wrap("create queue", name, err)
	}
	return aws.ToString(out.QueueUrl), nil
}

// URL returns the URL of the named queue, or ErrQueueMissing.
func (c *Client) URL(ctx context.Context, name string) (string, error) {
	out, err := c.sqs.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &name})
	if err != nil {
		return "", wrap("look up queue", name, err)
	}
	return aws.ToString(out.QueueUrl), nil
}

// Attributes returns all attributes of the queue, as SQS spells them.
func (c *Client) Attributes(ctx context.Context, queueURL string) (map[string]string, error) {
	out, err := c.sqs.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: &queueURL, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll},
	})
	if err != nil {
		return nil, wrap("read attributes of", queueURL, err)
	}
	return out.Attributes, nil
}

// DeleteQueue removes the queue and everything in it. SQS may serve it for up
// to a minute more, and refuses to make it again for as long.
func (c *Client) DeleteQueue(ctx context.Context, queueURL string) error {
	_, err := c.sqs.DeleteQueue(ctx, &sqs.DeleteQueueInput{QueueUrl: &queueURL})
	return wrap("delete queue", queueURL, err)
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
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, wrap("list queues", prefix+"*", err)
		}
		urls = append(urls, page.QueueUrls...)
	}
	return urls, nil
}
