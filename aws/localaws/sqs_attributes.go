package localaws

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// redrivePolicy is where a message goes that was received too often.
type redrivePolicy struct {
	target string // ARN
	most   int    // receives
}

// attributeRange is the range of a numeric attribute and its default.
type attributeRange struct {
	low, high, normal int
}

func numericAttribute(name string) (attributeRange, bool) {
	switch name {
	case "VisibilityTimeout":
		return attributeRange{0, 43200, 30}, true
	case "DelaySeconds":
		return attributeRange{0, 900, 0}, true
	case "ReceiveMessageWaitTimeSeconds":
		return attributeRange{0, 20, 0}, true
	case "MessageRetentionPeriod":
		return attributeRange{60, 1_209_600, 345_600}, true
	case "MaximumMessageSize":
		return attributeRange{1024, maxMessage, maxMessage}, true
	case "KmsDataKeyReusePeriodSeconds":
		return attributeRange{60, 86400, 300}, true
	}
	return attributeRange{}, false
}

// choiceAttribute lists the values an attribute can have, the default first.
func choiceAttribute(name string) (choices []string, fifoOnly, ok bool) {
	switch name {
	case "ContentBasedDeduplication":
		return []string{"false", "true"}, true, true
	case "DeduplicationScope":
		return []string{"queue", "messageGroup"}, true, true
	case "FifoThroughputLimit":
		return []string{"perQueue", "perMessageGroupId"}, true, true
	case "SqsManagedSseEnabled":
		return []string{"true", "false"}, false, true
	}
	return nil, false, false
}

// freeAttribute names the attributes that may be unset with an empty value.
func freeAttribute(name string) bool {
	switch name {
	case "Policy", "RedrivePolicy", "RedriveAllowPolicy", "KmsMasterKeyId":
		return true
	}
	return false
}

// computedAttributes are told and never set.
func computedAttributes() []string {
	return []string{
		"ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible",
		"ApproximateNumberOfMessagesDelayed", "CreatedTimestamp", "LastModifiedTimestamp", "QueueArn",
	}
}

func knownAttribute(name string) bool {
	_, numeric := numericAttribute(name)
	_, _, choice := choiceAttribute(name)
	return numeric || choice || freeAttribute(name) || name == "FifoQueue" || name == "All" ||
		slices.Contains(computedAttributes(), name)
}

func defaultAttributes(fifo bool) map[string]string {
	out := map[string]string{"SqsManagedSseEnabled": "true"}
	for _, name := range []string{
		"VisibilityTimeout", "DelaySeconds", "ReceiveMessageWaitTimeSeconds",
		"MessageRetentionPeriod", "MaximumMessageSize",
	} {
		r, _ := numericAttribute(name)
		out[name] = strconv.Itoa(r.normal)
	}
	if fifo {
		out["FifoQueue"] = "true"
		for _, name := range []string{"ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"} {
			choices, _, _ := choiceAttribute(name)
			out[name] = choices[0]
		}
	}
	return out
}

// checkAttribute judges one attribute of a CreateQueue or SetQueueAttributes.
func checkAttribute(name, value string, fifo bool) error {
	if r, ok := numericAttribute(name); ok {
		n, err := strconv.Atoi(value)
		if err != nil || n < r.low || n > r.high {
			return errAttributeValue(name)
		}
		return nil
	}
	if choices, fifoOnly, ok := choiceAttribute(name); ok {
		if fifoOnly && !fifo {
			return errAttributeName(name)
		}
		if !slices.Contains(choices, value) {
			return errAttributeValue(name)
		}
		return nil
	}
	switch {
	case name == "FifoQueue":
		if !fifo {
			return errAttributeName(name)
		}
		if value != "true" {
			return errAttributeValue(name)
		}
		return nil
	case freeAttribute(name):
		if name != "KmsMasterKeyId" && value != "" && !json.Valid([]byte(value)) {
			return errAttributeValue(name)
		}
		return nil
	}
	return errAttributeName(name)
}

// setAttributes judges all of the attributes and then takes them over; s.mu is
// held.
func (s *sqsService) setAttributes(q *queue, attrs map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		if err := checkAttribute(name, attrs[name], q.fifo); err != nil {
			return err
		}
	}
	next := maps.Clone(q.attrs)
	for name, value := range attrs {
		if value == "" {
			delete(next, name)
			continue
		}
		next[name] = value
	}
	if next["FifoThroughputLimit"] == "perMessageGroupId" && next["DeduplicationScope"] != "messageGroup" {
		return errAttributeValue("FifoThroughputLimit")
	}
	redrive, err := s.parseRedrive(q, next["RedrivePolicy"])
	if err != nil {
		return err
	}
	if err := checkRedriveAllow(next["RedriveAllowPolicy"]); err != nil {
		return err
	}
	policy, err := parsePolicy(next["Policy"])
	if err != nil {
		return err
	}
	q.attrs, q.redrive, q.policy = next, redrive, policy
	q.applyNumbers()
	return nil
}

func (q *queue) applyNumbers() {
	number := func(name string) int {
		n, _ := strconv.Atoi(q.attrs[name]) // judged before
		return n
	}
	q.visibility = time.Duration(number("VisibilityTimeout")) * time.Second
	q.delay = time.Duration(number("DelaySeconds")) * time.Second
	q.retention = time.Duration(number("MessageRetentionPeriod")) * time.Second
	q.wait = time.Duration(number("ReceiveMessageWaitTimeSeconds")) * time.Second
	q.maxSize = number("MaximumMessageSize")
}

// parseRedrive reads a redrive policy and judges its target; s.mu is held.
func (s *sqsService) parseRedrive(q *queue, raw string) (*redrivePolicy, error) {
	if raw == "" {
		return nil, nil
	}
	var in struct {
		Target string          `json:"deadLetterTargetArn"`
		Most   json.RawMessage `json:"maxReceiveCount"`
	}
	refuse := func(reason string) error { return errValue(raw, "RedrivePolicy", "%s", reason) }
	if err := json.Unmarshal([]byte(raw), &in); err != nil {
		return nil, refuse("Redrive policy is not a valid JSON map")
	}
	if in.Target == "" {
		return nil, refuse("Redrive policy does not contain mandatory attribute: deadLetterTargetArn")
	}
	most, err := strconv.Atoi(strings.Trim(string(in.Most), `"`))
	switch {
	case len(in.Most) == 0:
		return nil, refuse("Redrive policy does not contain mandatory attribute: maxReceiveCount")
	case err != nil || most < 1 || most > 1000:
		return nil, refuse("Invalid value for maxReceiveCount: " + string(in.Most) + ", valid values are from 1 to 1000 both inclusive")
	}
	target := s.queueByARN(in.Target)
	switch {
	case target == nil:
		return nil, refuse("Dead letter target does not exist")
	case target.fifo != q.fifo:
		return nil, refuse("Dead letter queue must be same type of queue as the source queue")
	case !target.allowsSource(q.arn()):
		return nil, refuse("Source queue is not allowed by the redrive allow policy of the dead letter queue")
	}
	return &redrivePolicy{target: in.Target, most: most}, nil
}

type redriveAllow struct {
	Permission string   `json:"redrivePermission"`
	Sources    []string `json:"sourceQueueArns"`
}

func checkRedriveAllow(raw string) error {
	if raw == "" {
		return nil
	}
	var in redriveAllow
	if err := json.Unmarshal([]byte(raw), &in); err != nil {
		return errAttributeValue("RedriveAllowPolicy")
	}
	byQueue := in.Permission == "byQueue"
	if !byQueue && in.Permission != "allowAll" && in.Permission != "denyAll" {
		return errAttributeValue("RedriveAllowPolicy")
	}
	if byQueue != (len(in.Sources) > 0) || len(in.Sources) > 10 {
		return errAttributeValue("RedriveAllowPolicy")
	}
	return nil
}

// allowsSource tells whether the queue may be the dead-letter queue of another.
func (q *queue) allowsSource(arn string) bool {
	var in redriveAllow
	if json.Unmarshal([]byte(q.attrs["RedriveAllowPolicy"]), &in) != nil {
		return true
	}
	return in.Permission == "allowAll" || (in.Permission == "byQueue" && slices.Contains(in.Sources, arn))
}

// readAttributes returns the named attributes, or all of them.
func (q *queue) readAttributes(names []string) (map[string]string, error) {
	visible, invisible, waiting := q.counts()
	every := maps.Clone(q.attrs)
	every["ApproximateNumberOfMessages"] = strconv.Itoa(visible)
	every["ApproximateNumberOfMessagesNotVisible"] = strconv.Itoa(invisible)
	every["ApproximateNumberOfMessagesDelayed"] = strconv.Itoa(waiting)
	every["CreatedTimestamp"] = seconds(q.created)
	every["LastModifiedTimestamp"] = seconds(q.modified)
	every["QueueArn"] = q.arn()
	if slices.Contains(names, "All") {
		return every, nil
	}
	out := map[string]string{}
	for _, name := range names {
		if !knownAttribute(name) {
			return nil, errAttributeName(name)
		}
		if value, ok := every[name]; ok {
			out[name] = value
		}
	}
	return out, nil
}
