package localaws_test

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"hostmanager/aws/localaws"
)

func TestCreateQueue_IsIdempotentForTheSameAttributes(t *testing.T) {
	c, _ := frozen(t)
	first := c.queue("jobs", in{"VisibilityTimeout": "7"})
	if want := "http://127.0.0.1:4566/" + localaws.AccountID + "/jobs"; first != want {
		t.Errorf("URL %s, want %s", first, want)
	}
	if again := c.queue("jobs", in{"VisibilityTimeout": "7"}); again != first {
		t.Errorf("second URL %s, want %s", again, first)
	}
	if again := c.queue("jobs", nil); again != first {
		t.Errorf("URL without attributes %s, want %s", again, first)
	}
	c.do("CreateQueue", in{"QueueName": "jobs", "Attributes": in{"VisibilityTimeout": "8"}}).
		refused("QueueNameExists", "QueueAlreadyExists")
}

func TestCreateQueue_KnowsTheSignedRegion(t *testing.T) {
	c, _ := frozen(t)
	r := request(t.Context(), "CreateQueue", []byte(`{"QueueName":"q"}`))
	r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AK/20261121/eu-west-1/sqs/aws4_request, SignedHeaders=host, Signature=0")
	c.h.ServeHTTP(httptest.NewRecorder(), r)
	url := "http://h/" + localaws.AccountID + "/q"
	if got := c.arn(url); got != "arn:aws:sqs:eu-west-1:"+localaws.AccountID+":q" {
		t.Errorf("ARN %s", got)
	}
}

func TestQueueAttributes_DefaultsAndChanges(t *testing.T) {
	c, clock := frozen(t)
	std, fifo := c.queue("std", nil), c.queue("f.fifo", in{"FifoQueue": "true"})
	for name, want := range map[string]string{
		"VisibilityTimeout": "30", "DelaySeconds": "0", "ReceiveMessageWaitTimeSeconds": "0",
		"MessageRetentionPeriod": "345600", "MaximumMessageSize": "1048576", "SqsManagedSseEnabled": "true",
		"CreatedTimestamp": fmt.Sprint(noon.Unix()), "LastModifiedTimestamp": fmt.Sprint(noon.Unix()),
		"ApproximateNumberOfMessages": "0", "FifoQueue": "",
	} {
		if got := c.attr(std, name); got != want {
			t.Errorf("standard %s = %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"FifoQueue": "true", "ContentBasedDeduplication": "false", "DeduplicationScope": "queue", "FifoThroughputLimit": "perQueue",
	} {
		if got := c.attr(fifo, name); got != want {
			t.Errorf("FIFO %s = %q, want %q", name, got, want)
		}
	}
	clock.Advance(5e9)
	c.do("SetQueueAttributes", in{"QueueUrl": std, "Attributes": in{"VisibilityTimeout": "99", "Policy": `{"Statement":[]}`}}).ok()
	if c.attr(std, "VisibilityTimeout") != "99" || c.attr(std, "LastModifiedTimestamp") != fmt.Sprint(noon.Unix()+5) {
		t.Error("SetQueueAttributes had no effect")
	}
	c.do("SetQueueAttributes", in{"QueueUrl": std, "Attributes": in{"Policy": ""}}).ok()
	if got := c.attr(std, "Policy"); got != "" {
		t.Errorf("policy is still %q", got)
	}
	some := c.do("GetQueueAttributes", in{"QueueUrl": std, "AttributeNames": []string{"DelaySeconds", "RedrivePolicy"}}).ok()
	if got := fmt.Sprint(some["Attributes"]); got != "map[DelaySeconds:0]" {
		t.Errorf("chosen attributes %s", got)
	}
}

// refusal is a call and the error it must give.
type refusal struct {
	name  string
	op    string
	body  in
	code  string
	query string // empty: same as code
}

const (
	badValue  = "InvalidParameterValueException"
	badValueQ = "InvalidParameterValue"
	missing   = "MissingRequiredParameterException"
	missingQ  = "MissingParameter"
	simpleQ   = "AWS.SimpleQueueService."
)

func queueRefusals(std, fifo, dlqARN string) []refusal {
	create := func(name string, attrs in) in { return in{"QueueName": name, "Attributes": attrs} }
	set := func(url string, attrs in) in { return in{"QueueUrl": url, "Attributes": attrs} }
	redrive := func(arn, most string) string {
		return `{"deadLetterTargetArn":"` + arn + `","maxReceiveCount":` + most + `}`
	}
	manyTags := in{}
	for i := range 51 {
		manyTags[fmt.Sprint("k", i)] = "v"
	}
	return []refusal{
		{"no name", "CreateQueue", create("", nil), missing, missingQ},
		{"bad characters", "CreateQueue", create("a b", nil), badValue, badValueQ},
		{"name too long", "CreateQueue", create(strings.Repeat("a", 81), nil), badValue, badValueQ},
		{"FIFO without suffix", "CreateQueue", create("a", in{"FifoQueue": "true"}), badValue, badValueQ},
		{"suffix without FIFO", "CreateQueue", create("a.fifo", nil), badValue, badValueQ},
		{"FifoQueue on standard", "CreateQueue", create("a", in{"FifoQueue": "false"}), "InvalidAttributeName", ""},
		{"FIFO attribute on standard", "CreateQueue", create("a", in{"ContentBasedDeduplication": "true"}), "InvalidAttributeName", ""},
		{"unknown attribute", "CreateQueue", create("a", in{"Color": "red"}), "InvalidAttributeName", ""},
		{"computed attribute", "CreateQueue", create("a", in{"QueueArn": "x"}), "InvalidAttributeName", ""},
		{"too many tags", "CreateQueue", in{"QueueName": "a", "tags": manyTags}, badValue, badValueQ},
		{"visibility", "CreateQueue", create("a", in{"VisibilityTimeout": "43201"}), "InvalidAttributeValue", ""},
		{"delay", "CreateQueue", create("a", in{"DelaySeconds": "901"}), "InvalidAttributeValue", ""},
		{"wait", "CreateQueue", create("a", in{"ReceiveMessageWaitTimeSeconds": "21"}), "InvalidAttributeValue", ""},
		{"retention low", "CreateQueue", create("a", in{"MessageRetentionPeriod": "59"}), "InvalidAttributeValue", ""},
		{"retention high", "CreateQueue", create("a", in{"MessageRetentionPeriod": "1209601"}), "InvalidAttributeValue", ""},
		{"size low", "CreateQueue", create("a", in{"MaximumMessageSize": "1023"}), "InvalidAttributeValue", ""},
		{"size high", "CreateQueue", create("a", in{"MaximumMessageSize": "1048577"}), "InvalidAttributeValue", ""},
		{"not a number", "CreateQueue", create("a", in{"DelaySeconds": "soon"}), "InvalidAttributeValue", ""},
		{"policy is no JSON", "CreateQueue", create("a", in{"Policy": "allow"}), "InvalidAttributeValue", ""},
		{"throughput without scope", "CreateQueue", create("a.fifo", in{"FifoQueue": "true", "FifoThroughputLimit": "perMessageGroupId"}), "InvalidAttributeValue", ""},
		{"redrive target missing", "CreateQueue", create("a", in{"RedrivePolicy": redrive(dlqARN+"x", "1")}), badValue, badValueQ},
		{"redrive count", "CreateQueue", create("a", in{"RedrivePolicy": redrive(dlqARN, "1001")}), badValue, badValueQ},
		{"redrive without count", "CreateQueue", create("a", in{"RedrivePolicy": `{"deadLetterTargetArn":"` + dlqARN + `"}`}), badValue, badValueQ},
		{"redrive without target", "CreateQueue", create("a", in{"RedrivePolicy": `{"maxReceiveCount":1}`}), badValue, badValueQ},
		{"redrive of other kind", "SetQueueAttributes", set(fifo, in{"RedrivePolicy": redrive(dlqARN, "1")}), badValue, badValueQ},
		{"redrive allow", "SetQueueAttributes", set(std, in{"RedriveAllowPolicy": `{"redrivePermission":"byQueue"}`}), "InvalidAttributeValue", ""},
		{"kind cannot change", "SetQueueAttributes", set(fifo, in{"FifoQueue": "true"}), "InvalidAttributeName", ""},
		{"nothing to set", "SetQueueAttributes", set(std, nil), missing, missingQ},
		{"unknown attribute read", "GetQueueAttributes", in{"QueueUrl": std, "AttributeNames": []string{"Color"}}, "InvalidAttributeName", ""},
		{"no URL", "PurgeQueue", in{}, missing, missingQ},
		{"address of nothing", "DeleteQueue", in{"QueueUrl": "http://h/"}, "InvalidAddress", ""},
		{"unknown queue", "DeleteQueue", in{"QueueUrl": std + "x"}, "QueueDoesNotExist", simpleQ + "NonExistentQueue"},
		{"other account", "PurgeQueue", in{"QueueUrl": "http://h/111111111111/std"}, "QueueDoesNotExist", simpleQ + "NonExistentQueue"},
		{"unknown name", "GetQueueUrl", in{"QueueName": "nobody"}, "QueueDoesNotExist", simpleQ + "NonExistentQueue"},
		{"other owner", "GetQueueUrl", in{"QueueName": "std", "QueueOwnerAWSAccountId": "111111111111"}, "QueueDoesNotExist", simpleQ + "NonExistentQueue"},
		{"no name to look up", "GetQueueUrl", in{}, missing, missingQ},
		{"page size", "ListQueues", in{"MaxResults": 1001}, badValue, badValueQ},
		{"token without size", "ListQueues", in{"NextToken": "eA"}, badValue, badValueQ},
		{"broken token", "ListQueues", in{"MaxResults": 1, "NextToken": "%"}, badValue, badValueQ},
		{"sources of nothing", "ListDeadLetterSourceQueues", in{"QueueUrl": std + "x"}, "QueueDoesNotExist", simpleQ + "NonExistentQueue"},
		{"no tags", "TagQueue", in{"QueueUrl": std}, missing, missingQ},
		{"reserved tag", "TagQueue", in{"QueueUrl": std, "Tags": in{"aws:x": "1"}}, badValue, badValueQ},
		{"long tag", "TagQueue", in{"QueueUrl": std, "Tags": in{"x": strings.Repeat("v", 257)}}, badValue, badValueQ},
		{"too many tags later", "TagQueue", in{"QueueUrl": std, "Tags": manyTags}, badValue, badValueQ},
		{"no tag keys", "UntagQueue", in{"QueueUrl": std}, missing, missingQ},
		{"tags of nothing", "ListQueueTags", in{"QueueUrl": std + "x"}, "QueueDoesNotExist", simpleQ + "NonExistentQueue"},
		{"permission label", "AddPermission", in{"QueueUrl": std, "Label": "a b", "AWSAccountIds": []string{"1"}, "Actions": []string{"*"}}, badValue, badValueQ},
		{"permission action", "AddPermission", in{"QueueUrl": std, "Label": "a", "AWSAccountIds": []string{"1"}, "Actions": []string{"CreateQueue"}}, badValue, badValueQ},
		{"permission for nobody", "AddPermission", in{"QueueUrl": std, "Label": "a", "Actions": []string{"*"}}, missing, missingQ},
		{"permission for nothing", "AddPermission", in{"QueueUrl": std, "Label": "a", "AWSAccountIds": []string{"1"}}, missing, missingQ},
		{"too many actions", "AddPermission", in{"QueueUrl": std, "Label": "a", "AWSAccountIds": []string{"1"}, "Actions": make([]string, 8)}, "OverLimit", ""},
		{"unknown label", "RemovePermission", in{"QueueUrl": std, "Label": "a"}, badValue, badValueQ},
		{"move from nowhere", "StartMessageMoveTask", in{"SourceArn": dlqARN + "x"}, "ResourceNotFoundException", ""},
		{"move without source", "StartMessageMoveTask", in{}, missing, missingQ},
		{"move from no dead-letter queue", "StartMessageMoveTask", in{"SourceArn": strings.Replace(dlqARN, "dlq", "std", 1)}, badValue, badValueQ},
		{"move to nowhere", "StartMessageMoveTask", in{"SourceArn": dlqARN, "DestinationArn": dlqARN + "x"}, "ResourceNotFoundException", ""},
		{"move rate", "StartMessageMoveTask", in{"SourceArn": dlqARN, "MaxNumberOfMessagesPerSecond": 501}, badValue, badValueQ},
		{"moves of nothing", "ListMessageMoveTasks", in{"SourceArn": dlqARN + "x"}, "ResourceNotFoundException", ""},
		{"moves listed", "ListMessageMoveTasks", in{"SourceArn": dlqARN, "MaxResults": 11}, badValue, badValueQ},
		{"no task", "CancelMessageMoveTask", in{}, missing, missingQ},
		{"unknown task", "CancelMessageMoveTask", in{"TaskHandle": "x"}, "ResourceNotFoundException", ""},
	}
}

func TestQueueOperations_Refuse(t *testing.T) {
	c, _ := frozen(t)
	dlq := c.arn(c.queue("dlq", nil))
	std := c.queue("std", nil)
	c.queue("src", in{"RedrivePolicy": `{"deadLetterTargetArn":"` + dlq + `","maxReceiveCount":"3"}`})
	fifo := c.queue("f.fifo", in{"FifoQueue": "true"})
	for _, tc := range queueRefusals(std, fifo, dlq) {
		t.Run(tc.name, func(t *testing.T) { client{t, c.h}.do(tc.op, tc.body).refused(tc.code, tc.query) })
	}
}

func messageRefusals(std, fifo, small string, held msg) []refusal {
	send := func(url string, more in) in {
		out := in{"QueueUrl": url, "MessageBody": "x"}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	with := func(name string, value in) in { return send(std, in{"MessageAttributes": in{name: value}}) }
	eleven := in{}
	for i := range 11 {
		eleven[fmt.Sprint("a", i)] = in{"DataType": "String", "StringValue": "v"}
	}
	text := in{"DataType": "String", "StringValue": "v"}
	return []refusal{
		{"no body", "SendMessage", send(std, in{"MessageBody": ""}), missing, missingQ},
		{"control character", "SendMessage", send(std, in{"MessageBody": "a\x01"}), "InvalidMessageContents", ""},
		{"U+FFFE", "SendMessage", send(std, in{"MessageBody": "\uFFFE"}), "InvalidMessageContents", ""},
		{"over 1 MiB", "SendMessage", send(std, in{"MessageBody": strings.Repeat("x", 1<<20+1)}), badValue, badValueQ},
		{"over 1 MiB with attributes", "SendMessage", send(std, in{"MessageBody": strings.Repeat("x", 1<<20-5), "MessageAttributes": in{"a": text}}), badValue, badValueQ},
		{"over the queue's size", "SendMessage", send(small, in{"MessageBody": strings.Repeat("x", 1025)}), badValue, badValueQ},
		{"delay", "SendMessage", send(std, in{"DelaySeconds": 901}), badValue, badValueQ},
		{"negative delay", "SendMessage", send(std, in{"DelaySeconds": -1}), badValue, badValueQ},
		{"eleven attributes", "SendMessage", send(std, in{"MessageAttributes": eleven}), badValue, badValueQ},
		{"attribute name", "SendMessage", with("AWS.x", text), badValue, badValueQ},
		{"attribute dots", "SendMessage", with("a..b", text), badValue, badValueQ},
		{"attribute without type", "SendMessage", with("a", in{"StringValue": "v"}), badValue, badValueQ},
		{"attribute of strange type", "SendMessage", with("a", in{"DataType": "Date", "StringValue": "v"}), badValue, badValueQ},
		{"attribute without value", "SendMessage", with("a", in{"DataType": "String"}), badValue, badValueQ},
		{"binary without value", "SendMessage", with("a", in{"DataType": "Binary", "StringValue": "v"}), badValue, badValueQ},
		{"number that is none", "SendMessage", with("a", in{"DataType": "Number", "StringValue": "1x"}), badValue, badValueQ},
		{"attribute's characters", "SendMessage", with("a", in{"DataType": "String", "StringValue": "\x02"}), "InvalidMessageContents", ""},
		{"attribute list", "SendMessage", with("a", in{"DataType": "String", "StringListValues": []string{"v"}}), "UnsupportedOperation", simpleQ + "UnsupportedOperation"},
		{"system attribute", "SendMessage", send(std, in{"MessageSystemAttributes": in{"Other": text}}), badValue, badValueQ},
		{"deduplication on standard", "SendMessage", send(std, in{"MessageDeduplicationId": "d"}), badValue, badValueQ},
		{"FIFO without group", "SendMessage", send(fifo, nil), missing, missingQ},
		{"FIFO without deduplication", "SendMessage", send(fifo, in{"MessageGroupId": "g"}), badValue, badValueQ},
		{"FIFO with delay", "SendMessage", send(fifo, in{"MessageGroupId": "g", "MessageDeduplicationId": "d", "DelaySeconds": 1}), badValue, badValueQ},
		{"group's characters", "SendMessage", send(fifo, in{"MessageGroupId": "a b", "MessageDeduplicationId": "d"}), badValue, badValueQ},
		{"deduplication too long", "SendMessage", send(fifo, in{"MessageGroupId": "g", "MessageDeduplicationId": strings.Repeat("d", 129)}), badValue, badValueQ},
		{"receive 0", "ReceiveMessage", in{"QueueUrl": std, "MaxNumberOfMessages": 0}, badValue, badValueQ},
		{"receive 11", "ReceiveMessage", in{"QueueUrl": std, "MaxNumberOfMessages": 11}, badValue, badValueQ},
		{"wait 21", "ReceiveMessage", in{"QueueUrl": std, "WaitTimeSeconds": 21}, badValue, badValueQ},
		{"visibility 43201", "ReceiveMessage", in{"QueueUrl": std, "VisibilityTimeout": 43201}, badValue, badValueQ},
		{"attempt on standard", "ReceiveMessage", in{"QueueUrl": std, "ReceiveRequestAttemptId": "a"}, badValue, badValueQ},
		{"attempt's characters", "ReceiveMessage", in{"QueueUrl": fifo, "ReceiveRequestAttemptId": "a b"}, badValue, badValueQ},
		{"delete without receipt", "DeleteMessage", in{"QueueUrl": std}, missing, missingQ},
		{"delete with bogus receipt", "DeleteMessage", in{"QueueUrl": std, "ReceiptHandle": "bogus"}, "ReceiptHandleIsInvalid", ""},
		{"delete with another queue's receipt", "DeleteMessage", in{"QueueUrl": small, "ReceiptHandle": held.ReceiptHandle}, "ReceiptHandleIsInvalid", ""},
		{"hold without time", "ChangeMessageVisibility", in{"QueueUrl": std, "ReceiptHandle": held.ReceiptHandle}, missing, missingQ},
		{"hold too long", "ChangeMessageVisibility", in{"QueueUrl": std, "ReceiptHandle": held.ReceiptHandle, "VisibilityTimeout": 43201}, badValue, badValueQ},
		{"hold with bogus receipt", "ChangeMessageVisibility", in{"QueueUrl": std, "ReceiptHandle": "bogus", "VisibilityTimeout": 1}, "ReceiptHandleIsInvalid", ""},
	}
}

func TestMessageOperations_Refuse(t *testing.T) {
	c, _ := frozen(t)
	std, fifo := c.queue("std", nil), c.queue("f.fifo", in{"FifoQueue": "true"})
	small := c.queue("small", in{"MaximumMessageSize": "1024"})
	c.send(std, "held")
	held := c.one(std)
	for _, tc := range messageRefusals(std, fifo, small, held) {
		t.Run(tc.name, func(t *testing.T) { client{t, c.h}.do(tc.op, tc.body).refused(tc.code, tc.query) })
	}
}

func TestBatches_RefuseAsAWhole(t *testing.T) {
	c, _ := frozen(t)
	url := c.queue("q", nil)
	entry := func(id, body string) in {
		return in{"Id": id, "MessageBody": body, "ReceiptHandle": "r", "VisibilityTimeout": 1}
	}
	eleven := []in{}
	for i := range 11 {
		eleven = append(eleven, entry(fmt.Sprint(i), "x"))
	}
	half := strings.Repeat("x", 1<<19)
	for _, op := range []string{"SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch"} {
		for _, tc := range []struct {
			entries []in
			code    string
		}{
			{[]in{}, "EmptyBatchRequest"},
			{eleven, "TooManyEntriesInBatchRequest"},
			{[]in{entry("a", "x"), entry("a", "y")}, "BatchEntryIdsNotDistinct"},
			{[]in{entry("a b", "x")}, "InvalidBatchEntryId"},
			{[]in{entry("", "x")}, "InvalidBatchEntryId"},
			{[]in{entry(strings.Repeat("a", 81), "x")}, "InvalidBatchEntryId"},
		} {
			c.do(op, in{"QueueUrl": url, "Entries": tc.entries}).refused(tc.code, simpleQ+tc.code)
		}
		c.do(op, in{"QueueUrl": url + "x", "Entries": eleven[:1]}).refused("QueueDoesNotExist", simpleQ+"NonExistentQueue")
	}
	c.do("SendMessageBatch", in{"QueueUrl": url, "Entries": []in{entry("a", half), entry("b", half+"x")}}).
		refused("BatchRequestTooLong", simpleQ+"BatchRequestTooLong")
	c.do("SendMessageBatch", in{"QueueUrl": url, "Entries": []in{entry("a", half), entry("b", half)}}).ok()
}

// ids lists the ids in one half of a batch's answer.
func ids(out in, half string) string {
	var got []string
	list, _ := out[half].([]any)
	for _, e := range list {
		got = append(got, fmt.Sprint(e.(map[string]any)["Id"]))
	}
	slices.Sort(got)
	return strings.Join(got, " ")
}

func TestBatches_FailEntryByEntry(t *testing.T) {
	c, _ := frozen(t)
	url := c.queue("q", nil)
	out := c.do("SendMessageBatch", in{"QueueUrl": url, "Entries": []in{
		{"Id": "good", "MessageBody": "1"},
		{"Id": "late", "MessageBody": "2", "DelaySeconds": 901},
		{"Id": "bad", "MessageBody": "\x01"},
		{"Id": "fine", "MessageBody": "3"},
	}}).ok()
	if ids(out, "Successful") != "fine good" || ids(out, "Failed") != "bad late" {
		t.Fatalf("send: %v", out)
	}
	failed := out["Failed"].([]any)[0].(map[string]any)
	if failed["SenderFault"] != true || failed["Code"] != "InvalidParameterValue" || failed["Message"] == "" {
		t.Errorf("failed entry %v", failed)
	}
	got := c.receive(url, 10)
	entries := []in{{"Id": "junk", "ReceiptHandle": "junk", "VisibilityTimeout": 5}}
	for i, m := range got {
		entries = append(entries, in{"Id": fmt.Sprint("m", i), "ReceiptHandle": m.ReceiptHandle, "VisibilityTimeout": 5})
	}
	for _, op := range []string{"ChangeMessageVisibilityBatch", "DeleteMessageBatch"} {
		out = c.do(op, in{"QueueUrl": url, "Entries": entries}).ok()
		if ids(out, "Successful") != "m0 m1" || ids(out, "Failed") != "junk" {
			t.Errorf("%s: %v", op, out)
		}
	}
	if n := c.attr(url, "ApproximateNumberOfMessagesNotVisible"); n != "0" {
		t.Errorf("%s messages are left in flight", n)
	}
}

func TestMessage_CarriesAttributesAndDigests(t *testing.T) {
	c, _ := frozen(t)
	url := c.queue("q", nil)
	sent := c.do("SendMessage", in{
		"QueueUrl": url, "MessageBody": "héllo", "MessageGroupId": "tenant",
		"MessageAttributes": in{
			"s": in{"DataType": "String", "StringValue": "v"}, "n.i": in{"DataType": "Number.int", "StringValue": "-7.5e3"},
			"b": in{"DataType": "Binary", "BinaryValue": []byte{0, 1, 255}},
		},
		"MessageSystemAttributes": in{"AWSTraceHeader": in{"DataType": "String", "StringValue": "Root=1"}},
	}).ok()
	m := c.one(url)
	if m.MessageId != sent["MessageId"] || m.MD5OfBody != sent["MD5OfMessageBody"] || m.MD5OfMessageAttributes != sent["MD5OfMessageAttributes"] {
		t.Errorf("sent %v, received %+v", sent, m)
	}
	// Digests as other implementations compute them.
	if m.MD5OfBody != "be50e8478cf24ff3595bc7307fb91b50" || m.MD5OfMessageAttributes != "9befe77ab3c291b7ecaf372bf128ae2a" {
		t.Errorf("digests %s and %s", m.MD5OfBody, m.MD5OfMessageAttributes)
	}
	if m.MessageAttributes["b"]["BinaryValue"] != "AAH/" || m.MessageAttributes["n.i"]["StringValue"] != "-7.5e3" {
		t.Errorf("attributes %v", m.MessageAttributes)
	}
	want := map[string]string{
		"ApproximateReceiveCount": "1", "SentTimestamp": fmt.Sprint(noon.UnixMilli()),
		"ApproximateFirstReceiveTimestamp": fmt.Sprint(noon.UnixMilli()), "AWSTraceHeader": "Root=1", "MessageGroupId": "tenant",
	}
	for name, value := range want {
		if m.Attributes[name] != value {
			t.Errorf("system attribute %s = %q, want %q", name, m.Attributes[name], value)
		}
	}
	c.hold(url, m, 0).ok()
	some := c.one(url, in{"MessageAttributeNames": []string{"n.*"}, "MessageSystemAttributeNames": []string{"SenderId"}, "AttributeNames": []string{"ApproximateReceiveCount"}})
	if len(some.MessageAttributes) != 1 || len(some.Attributes) != 2 || some.Attributes["ApproximateReceiveCount"] != "2" {
		t.Errorf("chosen attributes: %+v", some)
	}
}

func TestListQueues_PagesByPrefix(t *testing.T) {
	c, _ := frozen(t)
	for i := range 5 {
		c.queue(fmt.Sprint("a", i), nil)
	}
	c.queue("b", nil)
	var got []string
	token := ""
	for page := 0; page == 0 || token != ""; page++ {
		body := in{"QueueNamePrefix": "a", "MaxResults": 2}
		if token != "" {
			body["NextToken"] = token
		}
		out := c.do("ListQueues", body)
		for _, u := range out.ok()["QueueUrls"].([]any) {
			got = append(got, u.(string)[strings.LastIndex(u.(string), "/")+1:])
		}
		token = out.str("NextToken")
	}
	if strings.Join(got, " ") != "a0 a1 a2 a3 a4" {
		t.Errorf("listed %v", got)
	}
}

func TestTags_AreSetAndTakenAway(t *testing.T) {
	c, _ := frozen(t)
	c.do("CreateQueue", in{"QueueName": "q", "tags": in{"a": "1"}}).ok()
	url := "http://h/" + localaws.AccountID + "/q"
	c.do("TagQueue", in{"QueueUrl": url, "Tags": in{"b": "2", "c": "3"}}).ok()
	c.do("UntagQueue", in{"QueueUrl": url, "TagKeys": []string{"a", "zzz"}}).ok()
	if got := fmt.Sprint(c.do("ListQueueTags", in{"QueueUrl": url}).ok()["Tags"]); got != "map[b:2 c:3]" {
		t.Errorf("tags %s", got)
	}
}

func TestPermissions_StandInThePolicy(t *testing.T) {
	c, _ := frozen(t)
	url := c.queue("q", nil)
	add := in{"QueueUrl": url, "Label": "share", "AWSAccountIds": []string{"123456789012"}, "Actions": []string{"SendMessage", "ReceiveMessage"}}
	c.do("AddPermission", add).ok()
	policy := c.attr(url, "Policy")
	for _, part := range []string{`"Sid":"share"`, `arn:aws:iam::123456789012:root`, `"SQS:SendMessage"`, c.arn(url)} {
		if !strings.Contains(policy, part) {
			t.Errorf("policy %s has no %s", policy, part)
		}
	}
	c.do("AddPermission", add).refused(badValue, badValueQ)
	c.do("RemovePermission", in{"QueueUrl": url, "Label": "share"}).ok()
	if got := c.attr(url, "Policy"); got != "" {
		t.Errorf("policy is still %s", got)
	}
}

func TestProtocol_RefusesWhatIsNotARequest(t *testing.T) {
	c, _ := frozen(t)
	c.do("NoSuchThing", in{}).refused("UnknownOperationException", "")
	for name, body := range map[string]string{
		"broken JSON": `{"QueueName":`, "wrong type": `{"QueueName":7}`, "no object": `[]`, "no UTF-8": "{\"QueueName\":\"\xff\"}",
		"text for a number": `{"QueueUrl":"x","VisibilityTimeout":"30"}`,
	} {
		op := "CreateQueue"
		if strings.Contains(body, "Visibility") {
			op = "ChangeMessageVisibility"
		}
		w := httptest.NewRecorder()
		c.h.ServeHTTP(w, request(t.Context(), op, []byte(body)))
		if w.Code != 400 || !strings.Contains(w.Body.String(), "SerializationException") {
			t.Errorf("%s: status %d, %s", name, w.Code, w.Body)
		}
	}
	w := httptest.NewRecorder()
	c.h.ServeHTTP(w, request(t.Context(), "SendMessage", make([]byte, 9<<20)))
	if w.Code != 413 {
		t.Errorf("9 MiB request: status %d", w.Code)
	}
}

func TestSendMessage_TakesOneMebibyte(t *testing.T) {
	c, _ := frozen(t)
	url := c.queue("q", nil)
	body := strings.Repeat("é", 1<<19)
	c.send(url, body)
	if m := c.one(url); m.Body != body {
		t.Error("body differs")
	}
}
