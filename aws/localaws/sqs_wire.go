package localaws

// The JSON of the operations. An empty response is an empty object.

type empty struct{}

type queueRef struct {
	QueueUrl string
}

type queueURL struct {
	QueueUrl string
}

type createQueueInput struct {
	QueueName  string
	Attributes map[string]string
	Tags       map[string]string `json:"tags"`
}

type getQueueURLInput struct {
	QueueName              string
	QueueOwnerAWSAccountId string
}

type page struct {
	MaxResults *int
	NextToken  string
}

type listQueuesInput struct {
	page
	QueueNamePrefix string
}

type listQueuesOutput struct {
	QueueUrls []string `json:",omitempty"`
	NextToken string   `json:",omitempty"`
}

type listSourcesInput struct {
	page
	QueueUrl string
}

type listSourcesOutput struct {
	QueueUrls []string `json:"queueUrls"`
	NextToken string   `json:",omitempty"`
}

type getAttributesInput struct {
	QueueUrl       string
	AttributeNames []string
}

type attributesOutput struct {
	Attributes map[string]string `json:",omitempty"`
}

type setAttributesInput struct {
	QueueUrl   string
	Attributes map[string]string
}

type tagInput struct {
	QueueUrl string
	Tags     map[string]string
}

type untagInput struct {
	QueueUrl string
	TagKeys  []string
}

type tagsOutput struct {
	Tags map[string]string `json:",omitempty"`
}

type addPermissionInput struct {
	QueueUrl      string
	Label         string
	AWSAccountIds []string
	Actions       []string
}

type removePermissionInput struct {
	QueueUrl string
	Label    string
}

type attributeValue struct {
	DataType         string
	StringValue      *string  `json:",omitempty"`
	BinaryValue      []byte   `json:",omitempty"`
	StringListValues []string `json:",omitempty"`
	BinaryListValues [][]byte `json:",omitempty"`
}

// outgoing is the message of a SendMessage or of one entry of a batch.
type outgoing struct {
	MessageBody             string
	DelaySeconds            *int
	MessageAttributes       map[string]attributeValue
	MessageSystemAttributes map[string]attributeValue
	MessageDeduplicationId  string
	MessageGroupId          string
}

type sendInput struct {
	outgoing
	QueueUrl string
}

type sendOutput struct {
	MessageId                    string
	MD5OfMessageBody             string
	MD5OfMessageAttributes       string `json:",omitempty"`
	MD5OfMessageSystemAttributes string `json:",omitempty"`
	SequenceNumber               string `json:",omitempty"`
}

type sendEntry struct {
	outgoing
	Id string
}

type sendBatchInput struct {
	QueueUrl string
	Entries  []sendEntry
}

type sendBatchResult struct {
	sendOutput
	Id string
}

type receiveInput struct {
	QueueUrl                    string
	AttributeNames              []string
	MessageSystemAttributeNames []string
	MessageAttributeNames       []string
	MaxNumberOfMessages         *int
	VisibilityTimeout           *int
	WaitTimeSeconds             *int
	ReceiveRequestAttemptId     string
}

type receiveOutput struct {
	Messages []receivedMessage `json:",omitempty"`
}

type receivedMessage struct {
	MessageId              string
	ReceiptHandle          string
	MD5OfBody              string
	Body                   string
	Attributes             map[string]string         `json:",omitempty"`
	MD5OfMessageAttributes string                    `json:",omitempty"`
	MessageAttributes      map[string]attributeValue `json:",omitempty"`
}

type deleteMessageInput struct {
	QueueUrl      string
	ReceiptHandle string
}

type visibilityInput struct {
	QueueUrl          string
	ReceiptHandle     string
	VisibilityTimeout *int
}

type receiptEntry struct {
	Id                string
	ReceiptHandle     string
	VisibilityTimeout *int
}

type receiptBatchInput struct {
	QueueUrl string
	Entries  []receiptEntry
}

type batchID struct {
	Id string
}

type batchFailure struct {
	Id          string
	SenderFault bool
	Code        string
	Message     string `json:",omitempty"`
}

type batchOutput[T any] struct {
	Successful []T
	Failed     []batchFailure
}

type startMoveInput struct {
	SourceArn                    string
	DestinationArn               string
	MaxNumberOfMessagesPerSecond *int
}

type moveHandle struct {
	TaskHandle string
}

type listMovesInput struct {
	SourceArn  string
	MaxResults *int
}

type listMovesOutput struct {
	Results []moveStatus
}

type moveStatus struct {
	TaskHandle                        string `json:",omitempty"`
	Status                            string
	SourceArn                         string
	DestinationArn                    string `json:",omitempty"`
	MaxNumberOfMessagesPerSecond      *int   `json:",omitempty"`
	ApproximateNumberOfMessagesMoved  int64
	ApproximateNumberOfMessagesToMove int64
	FailureReason                     string `json:",omitempty"`
	StartedTimestamp                  int64
}

type cancelMoveOutput struct {
	ApproximateNumberOfMessagesMoved int64
}
