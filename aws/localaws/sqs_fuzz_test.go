package localaws_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hostmanager/aws/localaws"
)

// hastyClock lets every wait pass at once.
type hastyClock struct{ *localaws.FakeClock }

func (c hastyClock) NewTimer(d time.Duration) localaws.Timer {
	t := c.FakeClock.NewTimer(d)
	c.Advance(d)
	return t
}

// FuzzSQS holds the decoding of requests to: an answer in JSON, never a 5xx,
// never a panic, whatever the operation is sent.
func FuzzSQS(f *testing.F) {
	const url = `"QueueUrl":"http://h/000000000000/q"`
	for _, seed := range [][2]string{
		{"CreateQueue", `{"QueueName":"q","Attributes":{"RedrivePolicy":"{\"maxReceiveCount\":[]}"}}`},
		{"SendMessage", `{` + url + `,"MessageBody":"x","MessageAttributes":{"a":{"DataType":"Binary","BinaryValue":"AA=="}}}`},
		{"SendMessageBatch", `{` + url + `,"Entries":[{"Id":"1","MessageBody":"x"}]}`},
		{"ReceiveMessage", `{` + url + `,"WaitTimeSeconds":20,"MaxNumberOfMessages":10}`},
		{"DeleteMessage", `{` + url + `,"ReceiptHandle":"bG9jYWxhd3MgMSAyIDMgeA=="}`},
		{"ChangeMessageVisibilityBatch", `{` + url + `,"Entries":[{"Id":"1","ReceiptHandle":"","VisibilityTimeout":0}]}`},
		{"ListQueues", `{"MaxResults":1,"NextToken":"cQ"}`},
		{"StartMessageMoveTask", `{"SourceArn":"arn:aws:sqs:us-east-1:000000000000:q"}`},
		{"AddPermission", `{` + url + `,"Label":"l","AWSAccountIds":["1"],"Actions":["*"]}`},
		{"SetQueueAttributes", `{` + url + `,"Attributes":{"Policy":"{\"Statement\":[7]}"}}`},
		{"TagQueue", `null`},
	} {
		f.Add(seed[0], []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, op string, body []byte) {
		if strings.ContainsAny(op, "\r\n\x00") {
			return
		}
		s := direct(t, localaws.Options{Clock: hastyClock{localaws.NewFakeClock(noon)}})
		client{t, s}.queue("q", nil)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, request(t.Context(), op, body))
		if w.Code >= http.StatusInternalServerError {
			t.Errorf("status %d", w.Code)
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("answer is not JSON: %q", w.Body)
		}
	})
}
